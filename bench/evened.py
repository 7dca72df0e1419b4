"""Images/s of cases that took turns in blocks, evened: what a block's moment did to all of its members is taken out.

Cases of one block compare well; blocks have moments of their own, so cases of different blocks would not. Generalized least squares
split the logs of rates into what is the case's, the sweep's and the block's: the analysis of incomplete block designs, with what is
known between blocks recovered (Yates, 1940). Where blocks turn out to have nothing of their own, nothing is taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from math import exp, log
from statistics import fmean
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.case import Case
from bench.compare import rates
from bench.record import Run, RunRecord

K = TypeVar("K", bound=Hashable)
Vector = NDArray[np.float64]

LEAST = 1e-10
"""Variance of a log that rounding alone would leave."""


class _Seen(NamedTuple):
    """The log of a rate, of which case, in which sweep and in which of its blocks."""

    case: int
    sweep: int
    block: int
    value: float


class _Equations(NamedTuple):
    """Normal equations of the cases: ``left`` (cases, cases), ``right`` (cases,); they add up over sweeps.

    ``counts`` (cases,) is how many values each case has, ``squares`` the sum of all squares that ``right`` would explain.
    """

    counts: Vector
    left: Vector
    right: Vector
    squares: float

    def effects(self) -> Vector:
        """An estimate for each case, but for a level that is left open."""
        return np.array(np.linalg.lstsq(self.left, self.right, rcond=1e-9)[0], np.float64)

    def without(self, part: _Equations) -> _Equations:
        """What is left without some of the values that were added up."""
        return _Equations(
            self.counts - part.counts, self.left - part.left, self.right - part.right, self.squares - part.squares
        )

    def residual(self) -> float:
        """The sum of squares that is left."""
        return float(self.squares - self.right @ self.effects())


def evened(cases: Mapping[K, Sequence[RunRecord]]) -> dict[K, dict[int, float]]:
    """Images/s by sweep of each case, comparable within sweeps with every other case of its step.

    A case that took no turns keeps its rates. Of the others a sweep has a jackknife's pseudo-value: what it adds to the estimate
    that all sweeps together make (Tukey, 1958). So a paired t interval of these is right for the estimates, and where every
    sweep is one block of all cases, they are the very rates. A sweep in which a case took no turn, though in others it did, is
    left out.
    """
    found = {case: rates(records) for case, records in cases.items()}
    by_step: dict[str, dict[K, dict[int, int]]] = {}
    for case, records in cases.items():
        blocks = {
            record.sweep: record.block for record in records if record.block is not None and record.sweep in found[case]
        }
        if blocks:
            by_step.setdefault(records[0].case.step.step, {})[case] = blocks
    for turned in by_step.values():
        seen = [
            _Seen(number, sweep, block, log(found[case][sweep]))
            for number, (case, blocks) in enumerate(turned.items())
            for sweep, block in blocks.items()
        ]
        values = _pseudo_values(seen, len(turned))
        found |= {case: {sweep: exp(values[number, sweep]) for sweep in turned[case]} for number, case in enumerate(turned)}
    return found


def evened_run(run: Run) -> dict[tuple[Case, str], dict[int, float]]:
    """``evened`` of all cases and phases of a run, whatever became of them: the same numbers for everyone."""
    return evened({(case, phase): records for case, phase, records in run.groups()})


def _pseudo_values(seen: Sequence[_Seen], cases: int) -> dict[tuple[int, int], float]:
    """By case and sweep."""
    share = _of_blocks(seen, cases)
    sweeps = _parted(seen, lambda one: one.sweep)
    parts = {sweep: _equations(members, cases, share) for sweep, members in sweeps.items()}
    whole = _sum(parts.values())
    estimates = whole.effects()
    found: dict[tuple[int, int], float] = {}
    for sweep, part in parts.items():
        others = whole.without(part)
        here = np.flatnonzero(part.counts)
        # Only differences are estimated. The level is this sweep's own, over cases that other sweeps have, too.
        known = others.counts[here] > 0
        again, without = (here[known], others.effects()) if known.any() else (here, estimates)
        count = whole.counts[here]
        differ = count * (estimates[here] - estimates[again].mean()) - (count - 1) * (without[here] - without[again].mean())
        level = fmean(one.value for one in sweeps[sweep])
        found |= {(int(case), sweep): float(value) for case, value in zip(here, differ + level, strict=True)}
    return found


def _of_blocks(seen: Sequence[_Seen], cases: int) -> float:
    """Variance of what blocks have of their own, as a multiple of a single value's: Henderson's third method.

    How much less is left when blocks are told apart and not only sweeps has an expectation that is linear in both variances; its
    coefficient of the blocks' is exact where every sweep has every case.
    """
    sweeps = _parted(seen, lambda one: one.sweep)
    blocks = _parted(seen, lambda one: (one.sweep, one.block))
    plain, told = (_sum(_equations(members, cases, 0.0) for members in parts.values()) for parts in (sweeps, blocks))
    left = len(seen) - len(blocks) - int(np.linalg.matrix_rank(told.left))
    more = len(seen) - len(sweeps) - int(np.linalg.matrix_rank(plain.left)) - left
    weight = sum(
        len(members) * (1 - 1 / len(sweeps)) * (1 - len(members) / len(sweeps[sweep]))
        for (sweep, _), members in blocks.items()
    )
    if left <= 0 or weight <= 0:
        return 0.0
    own = max(told.residual() / left, LEAST)
    return max(0.0, (plain.residual() - told.residual() - more * own) / weight) / own


def _equations(seen: Sequence[_Seen], cases: int, share: float) -> _Equations:
    """Of one sweep, or of anything else that has a level of its own. Values of a block have ``share`` of a single one's variance
    in common."""
    places = np.array([one.case for one in seen])
    values = np.array([one.value for one in seen])
    blocks = np.array([one.block for one in seen])
    same = blocks[:, np.newaxis] == blocks
    # The inverse of I + share * same, block by block; and then off with the sweep's level.
    inverse = np.eye(len(seen)) - same * (share / (1 + share * same.sum(axis=1)))
    level = inverse.sum(axis=0)
    inverse -= np.outer(level, level) / level.sum()
    counts, right, left = np.zeros(cases), np.zeros(cases), np.zeros((cases, cases))
    counts[places], right[places] = 1, inverse @ values
    left[np.ix_(places, places)] = inverse
    return _Equations(counts, left, right, float(values @ inverse @ values))


def _sum(parts: Iterable[_Equations]) -> _Equations:
    return _Equations(*(sum(values) for values in zip(*parts, strict=True)))


def _parted(seen: Iterable[_Seen], key: Callable[[_Seen], K]) -> dict[K, list[_Seen]]:
    found: dict[K, list[_Seen]] = {}
    for one in seen:
        found.setdefault(key(one), []).append(one)
    return found
