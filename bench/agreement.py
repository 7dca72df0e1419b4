"""Whether two runs tell the same of the same cases: how many ratios of two cases agree between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import log
from statistics import fmean

from bench.compare import log_ratios
from bench.gate import Side
from storage.console import counted

WITHIN = 0.05
EXPECTED = 0.95
"""The share of pairs that two runs on a quiet machine agree on, at least."""


@dataclass(frozen=True)
class Agreement:
    """Of ``pairs`` pairs of cases, ``same`` have ratios in the two runs that lie within ``WITHIN`` of each other."""

    pairs: int
    same: int

    @property
    def in_words(self) -> str:
        """A sentence for the terminal and the page; empty where there are no two cases to compare."""
        if not self.pairs:
            return ""
        share = self.same / self.pairs
        said = (
            f"How fast one case is beside another is the same within {WITHIN:.0%} in both runs for {self.same} of "
            f"{counted(self.pairs, 'pair')} of cases ({share:.0%})."
        )
        hint = f" Below {EXPECTED:.0%}, look for flags in both reports, or raise --sweeps."
        return said + (hint if share < EXPECTED else "")


def agreement(a: Side, b: Side) -> Agreement:
    """Over all cases that both runs measured in steady state, limits too.

    A ratio is the one that a run's report states: paired within sweeps, the mean of the log ratios.
    """
    common = [row for row in a.rates if row in b.rates and row.phase == "warm"]
    found = (
        tuple(log_ratios(side.rates[one], side.rates[other]) for side in (a, b)) for one, other in combinations(common, 2)
    )
    apart = [abs(fmean(in_a) - fmean(in_b)) for in_a, in_b in found if in_a and in_b]
    return Agreement(len(apart), sum(difference <= log(1 + WITHIN) for difference in apart))
