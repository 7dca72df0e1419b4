"""Images/s of cases that took turns in blocks, evened: what a block's moment did to all of its members is taken out.

Cases of one block compare well; blocks have moments of their own, so cases of different blocks would not. Least squares split the logs
of all rates into what is the case's and what is the block's: the intra-block analysis of incomplete block designs (Yates, 1936).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import exp, log
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.compare import rates
from bench.record import RunRecord

K = TypeVar("K", bound=Hashable)


class _Seen(NamedTuple):
    """The log of a rate, of which case, in which sweep and block."""

    case: int
    sweep: int
    block: int
    value: float


def evened(cases: Mapping[K, Sequence[RunRecord]]) -> dict[K, dict[int, float]]:
    """Images/s by sweep of each case, comparable within sweeps with every other case.

    A case that took no turns keeps its rates. Of the others a sweep has a jackknife's pseudo-value: what it adds to the estimate
    that all sweeps together make (Tukey, 1958). So a paired t interval of these is right for the estimates, and where the block
    of a sweep holds all cases, they are the very rates. A sweep in which a case took no turn, though in others it did, is left out.
    """
    found = {case: rates(records) for case, records in cases.items()}
    blocks = {
        case: {record.sweep: record.block for record in records if record.block is not None and record.sweep in found[case]}
        for case, records in cases.items()
    }
    turned = [case for case in cases if blocks[case]]
    seen = [
        _Seen(number, sweep, block, log(found[case][sweep]))
        for number, case in enumerate(turned)
        for sweep, block in blocks[case].items()
    ]
    values = _pseudo_values(seen, len(turned))
    return found | {
        case: {sweep: exp(values[number, sweep]) for sweep in sorted(blocks[case])} for number, case in enumerate(turned)
    }


def _pseudo_values(seen: Sequence[_Seen], cases: int) -> dict[tuple[int, int], float]:
    """By case and sweep."""
    sweeps = sorted({one.sweep for one in seen})
    parts = {sweep: _equations([one for one in seen if one.sweep == sweep], cases) for sweep in sweeps}
    whole = _Equations(*(sum(values) for values in zip(*parts.values(), strict=True))) if parts else None
    found: dict[tuple[int, int], float] = {}
    if whole is None:
        return found
    estimates = whole.solved()
    for sweep, part in parts.items():
        others = _Equations(*(mine - its for mine, its in zip(whole, part, strict=True)))
        without = others.solved()
        for case in range(cases):
            if part.counts[case]:
                count = whole.counts[case]
                # A case of this sweep alone has nothing to be left without.
                rest = (count - 1) * without[case] if count > 1 else 0.0
                found[case, sweep] = float(count * estimates[case] - rest)
    return found


class _Equations(NamedTuple):
    """Normal equations of the cases, the blocks' share eliminated; they add up over sweeps.

    ``counts`` and ``sums`` are of each case's values, ``blocks`` shape (cases, cases) says who shared blocks with whom.
    """

    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]

    def solved(self) -> NDArray[np.float64]:
        """An estimate for each case. The level, which blocks alone cannot tell, is that of the values; so for each group of cases
        that share blocks with one another."""
        effects = np.array(np.linalg.lstsq(self.left, self.right, rcond=1e-9)[0], np.float64)
        for group in _groups(self.left):
            count = self.counts[group].sum()
            if count:
                effects[group] += (self.sums[group] - self.counts[group] * effects[group]).sum() / count
        return effects


def _equations(seen: Sequence[_Seen], cases: int) -> _Equations:
    """Of one sweep."""
    counts, sums, right = np.zeros(cases), np.zeros(cases), np.zeros(cases)
    left = np.zeros((cases, cases))
    members: dict[int, list[_Seen]] = {}
    for one in seen:
        members.setdefault(one.block, []).append(one)
    for block in members.values():
        places = [one.case for one in block]
        values = np.array([one.value for one in block])
        counts[places] += 1
        sums[places] += values
        left[np.ix_(places, places)] += np.eye(len(block)) - 1 / len(block)
        right[places] += values - values.mean()
    return _Equations(counts, sums, left, right)


def _groups(left: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Cases that blocks connect, directly or by others."""
    from scipy.sparse.csgraph import connected_components

    number, labels = connected_components(np.abs(left) > 1e-9, directed=False)
    return [np.flatnonzero(labels == group) for group in range(number)]
