"""Whether two runs tell the same of the same cases: how many ratios of two cases agree between them, and what more would take."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, log, sqrt
from statistics import fmean
from typing import NamedTuple

import numpy as np

from bench.compare import log_ratios
from bench.gate import Side
from storage.console import counted

WITHIN = 0.05
EXPECTED = 0.95
"""The share of pairs that two runs on a quiet machine agree on, at least."""


class Share(NamedTuple):
    """Of ``pairs`` pairs of cases, ``same`` have ratios in two runs that lie within ``WITHIN`` of each other."""

    pairs: int
    same: int

    def __str__(self) -> str:
        return f"{self.same} of {counted(self.pairs, 'pair')} of cases"

    @property
    def percent(self) -> str:
        """Such as ``95%``."""
        return f"{self.same / self.pairs:.0%}"


NONE = Share(0, 0)


@dataclass(frozen=True)
class Agreement:
    """How many pairs of cases that feed the same step agree, and how many of different steps (``across``).

    No report sets cases of different steps against each other: what slows the machine's memory slows a training step by more
    than decoding. ``sweeps`` is how many there were (in the run that has fewer), ``enough`` how many a run should have so that
    chance leaves ``EXPECTED`` of the pairs of the same step the same; None if no such pair was measured twice in a run.
    """

    alike: Share
    across: Share = NONE
    sweeps: int = 0
    enough: int | None = None

    @property
    def in_words(self) -> str:
        """Sentences for the terminal and the page; empty where no two cases feed the same step."""
        if not self.alike.pairs:
            return ""
        which = f"{self.alike} ({self.alike.percent})"
        if self.across.pairs:
            which = (
                f"{self.alike} with the same step ({self.alike.percent}) and "
                f"{self.across} with different steps ({self.across.percent})"
            )
        said = f"How fast one case is beside another is the same within {WITHIN:.0%} in both runs for {which}."
        return said + self._needed(self.alike.same < EXPECTED * self.alike.pairs)

    def _needed(self, too_few: bool) -> str:
        """How many sweeps would be enough, and what to do where too few pairs agree."""
        if self.enough is None:
            return f" Below {EXPECTED:.0%}, raise --sweeps or --budget." if too_few else ""
        needed = (
            f" By how much sweeps vary within either run, {EXPECTED:.0%} of pairs are to be expected from "
            f"{counted(self.enough, 'sweep')} a run on; there were {self.sweeps}."
        )
        if not too_few:
            return needed
        do = "Raise --sweeps or --budget" if self.enough > self.sweeps else "Look for what else differs"
        return f"{needed} {do}, and look for flags in both reports."


def agreement(a: Side, b: Side) -> Agreement:
    """Over all cases that both runs measured in steady state, limits too.

    A ratio is the one that a run's report states: paired within sweeps, the mean of the log ratios.
    """
    common = [row for row in a.rates if row in b.rates and row.phase == "warm"]
    steps = {**b.steps, **a.steps}
    alike: list[list[list[float]]] = []
    across: list[list[list[float]]] = []
    for one, other in combinations(common, 2):
        logs = [log_ratios(side.rates[one], side.rates[other]) for side in (a, b)]
        if all(logs):
            (alike if steps.get(one.case) == steps.get(other.case) else across).append(logs)
    spreads = [_spread(both) for both in alike if sum(map(len, both)) > len(both)]
    sweeps = min((max(map(len, logs)) for logs in zip(*alike, strict=True)), default=0)
    return Agreement(_same(alike), _same(across), sweeps, _enough(spreads) if spreads else None)


def _same(pairs: Sequence[Sequence[Sequence[float]]]) -> Share:
    """Of the log ratios of each pair in either run."""
    return Share(len(pairs), sum(abs(fmean(in_a) - fmean(in_b)) <= log(1 + WITHIN) for in_a, in_b in pairs))


def _spread(runs: Sequence[Sequence[float]]) -> float:
    """The standard deviation within runs of one pair's log ratios, pooled over the runs."""
    squares = sum((value - fmean(logs)) ** 2 for logs in runs for value in logs)
    return sqrt(squares / sum(len(logs) - 1 for logs in runs))


def _enough(spreads: Sequence[float]) -> int:
    """The fewest sweeps a run with which ``EXPECTED`` of all pairs agree: means of n sweeps differ by N(0, 2 spread² / n)."""
    from scipy.special import erf, erfinv

    # N(0, sd²) lies within ±reach with a probability of erf(reach / (sd √2)), here erf(√n / width).
    widths = np.maximum(2 * np.array(spreads) / log(1 + WITHIN), 1e-9)
    most = ceil((widths.max() * erfinv(EXPECTED)) ** 2)
    return bisect_left(range(1, most), EXPECTED, key=lambda n: float(np.mean(erf(sqrt(n) / widths)))) + 1
