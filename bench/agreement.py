"""Whether two runs tell the same of the same cases: how many ratios of two cases agree between them, and what more would take."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, log, sqrt
from statistics import fmean

import numpy as np

from bench.compare import log_ratios
from bench.gate import Side
from storage.console import counted

WITHIN = 0.05
EXPECTED = 0.95
"""The share of pairs that two runs on a quiet machine agree on, at least."""


@dataclass(frozen=True)
class Agreement:
    """Of ``pairs`` pairs of cases, ``same`` have ratios in the two runs that lie within ``WITHIN`` of each other.

    ``sweeps`` is how many there were (in the run that has fewer), ``enough`` how many a run should have so that chance leaves
    ``EXPECTED`` of the pairs the same; None if no pair was measured twice in a run.
    """

    pairs: int
    same: int
    sweeps: int = 0
    enough: int | None = None

    @property
    def in_words(self) -> str:
        """Sentences for the terminal and the page; empty where there are no two cases to compare."""
        if not self.pairs:
            return ""
        share = self.same / self.pairs
        return (
            f"How fast one case is beside another is the same within {WITHIN:.0%} in both runs for {self.same} of "
            f"{counted(self.pairs, 'pair')} of cases ({share:.0%}).{self._needed(share < EXPECTED)}"
        )

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
    found = [[log_ratios(side.rates[one], side.rates[other]) for side in (a, b)] for one, other in combinations(common, 2)]
    pairs = [(in_a, in_b) for in_a, in_b in found if in_a and in_b]
    same = sum(abs(fmean(in_a) - fmean(in_b)) <= log(1 + WITHIN) for in_a, in_b in pairs)
    spreads = [_spread(both) for both in pairs if sum(map(len, both)) > len(both)]
    sweeps = min((max(map(len, logs)) for logs in zip(*pairs, strict=True)), default=0)
    return Agreement(len(pairs), same, sweeps, _enough(spreads) if spreads else None)


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
