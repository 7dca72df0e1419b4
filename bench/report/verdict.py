"""The verdict: what to use, how much faster it is than what one has, and what ties with it. The page and ``summary.md`` say the same.

The case to take is chosen as in ``choices.json``: the fastest under the step that decides, and among those that the run cannot tell
from it, and that are nearly as fast, the one that loads fastest alone. Today's case stays where nothing is established to beat it.
It is of steady state from the page cache; the first epoch from the disk has a paragraph of its own (``first_epoch.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from bench.case import Case
from bench.choices import best, decisive_step, over_today, rivals
from bench.compare import Comparison, compare
from bench.labels import alike, named, shared, with_shared
from bench.record import Run
from bench.report.digits import NO_BOUNDS, bounds, ratio, share, significant
from bench.speeds import by_rate, in_words, only_cold, outcome, speeds
from bench.today import todays
from storage.console import counted

Speeds: TypeAlias = Mapping[Case, Mapping[int, float]]

NAMED_TIES = 3
"""So many ties are named in a sentence; the rest are counted."""
MOST_HIDDEN = 1.0
"""A tie that could hide more than doubling says nothing, and no figure makes it say more."""


@dataclass(frozen=True)
class Verdict:
    """What a run says, in words and as what the words are made of.

    ``best`` is today's case where nothing is established to be faster; ``comparison`` is then that of the fastest of the others, else
    of the best, over today's (None without today's case, or without any other). ``ties`` are the cases that the run cannot
    tell from the fastest, without the best and today's.
    """

    lines: tuple[str, ...]
    step: str | None = None
    best: Case | None = None
    today: Case | None = None
    comparison: Comparison | None = None
    ties: tuple[Case, ...] = ()

    @property
    def change(self) -> bool:
        """Whether to change anything: something is established to be faster than today's case."""
        return self.comparison is not None and self.best != self.today


def verdict(run: Run, today: str | None = None) -> Verdict:
    """The verdict of a run. ``today`` is the id of the user's case, with or without its step.

    Raises UsageError if that case was not measured under the step that decides.
    """
    measured = speeds(run)
    step = decisive_step(run)
    now = todays(run, step, today) if step else None
    group = rivals(measured, step, now) if step else []
    if not group or step is None:
        return Verdict((_nothing(run),), step, today=now)
    chosen, tied = best(measured, group, now)
    words = Words(measured, step, alike(run.info.cases), shared(run.info.cases), later=only_cold(run))
    if now is None:
        others = by_rate(measured, [case for case in tied if case != chosen])
        return Verdict((words.use(chosen), *words.ties(others)), step, chosen, None, None, others)
    found = over_today(measured, group, now)
    faster = [case for case, one in found.items() if one.verdict == "faster"]
    if faster and chosen not in faster:
        chosen = max(faster, key=lambda case: median(measured[case].values()))
    if faster:
        others = by_rate(measured, [case for case in tied if case not in (chosen, now)])
        lines = (words.faster(found[chosen], chosen, now), *words.alone(chosen, now), *words.ties(others))
        return Verdict(lines, step, chosen, now, found[chosen], others)
    others = by_rate(measured, [case for case in tied if case != now])
    fastest = next(iter(by_rate(measured, list(found))), None)
    rest = [case for case in others if case != fastest]
    compared = found[fastest] if fastest else None
    return Verdict((words.keep(compared, fastest, now), *words.ties(rest)), step, now, now, compared, others)


@dataclass(frozen=True)
class Words:
    """Sentences about cases under one step. ``measured`` are images/s by case and sweep.

    ``dropped`` is all that the cases share, which no sentence says of each (``labels.alike``); ``said`` is what of it is said once,
    beside the step (``labels.shared``, or nothing).
    ``later``: what was measured are the epochs after the first, whose own speed is another.
    """

    measured: Speeds
    step: str
    dropped: tuple[str, ...]
    said: tuple[str, ...]
    later: bool = False

    def use(self, chosen: Case) -> str:
        """What to use where today's case was not measured."""
        use = f"{self._begin('Use')} {self.named(chosen)}: {self._rate(chosen)}"
        return f"{use}. Today's case was not measured, so there is nothing to compare it with; name yours with --today."

    def faster(self, compared: Comparison, chosen: Case, now: Case) -> str:
        """What to use instead of today's case, and how much faster it is."""
        use = f"{self._begin('Use')} {self.named(chosen)}: {self._rate(chosen)}"
        return f"{use}, {times(compared)} as fast as today's {self.named(now)}."

    def keep(self, compared: Comparison | None, fastest: Case | None, now: Case) -> str:
        """To keep today's case; ``fastest`` of the others, with how it compares, if there are any."""
        keep = f"{self._begin('Keep')} what you have, {self.named(now)}: {self._rate(now)}"
        first = f"{keep}, and nothing is established to be faster."
        if compared is None or fastest is None:
            return first
        hides = compared.sweeps > 1 and compared.smallest_effect < MOST_HIDDEN
        hidden = f"; a gain below {share(compared.smallest_effect)} could hide in that" if hides else ""
        return f"{first} The fastest of the others, {self.named(fastest)}, is {times(compared)} as fast{hidden}."

    def alone(self, chosen: Case, now: Case) -> list[str]:
        """The same two cases without a step: what is left once the accelerator is no longer the bottleneck."""
        first, second = chosen.alone, now.alone
        if first == chosen or first not in self.measured or second not in self.measured:
            return []
        compared = compare(self.measured[first], self.measured[second], case_a=first.id, case_b=second.id)
        return [f"Loading alone, it is {times(compared)} as fast."]

    def ties(self, others: Sequence[Case]) -> list[str]:
        """What is not told apart from the fastest; no sentence without any."""
        if not others:
            return []
        listed = "; ".join(self.named(case) for case in others[:NAMED_TIES])
        more = f"; and {len(others) - NAMED_TIES} more" if len(others) > NAMED_TIES else ""
        return [f"Not told apart from the fastest: {listed}{more}."]

    def named(self, case: Case) -> str:
        """A case within a sentence."""
        return named(case, self.dropped)

    def under(self) -> str:
        """The step, and what all cases share."""
        return with_shared(in_words(self.step) if self.step == "none" else f"with {in_words(self.step)}", self.said)

    def _begin(self, verb: str) -> str:
        return f"After the first epoch, from the page cache, {verb.lower()}" if self.later else verb

    def _rate(self, case: Case) -> str:
        return f"{significant(median(self.measured[case].values()))} images/s {self.under()}"


def times(compared: Comparison) -> str:
    """A ratio with its interval, in words; of pairs within sweeps, so that it need not be that of two medians."""
    if compared.sweeps < 2:
        return f"{ratio(compared.ratio)} times (one sweep, so no interval)"
    between = bounds(compared.low, compared.high, ratio)
    if between == NO_BOUNDS:
        return f"{ratio(compared.ratio)} times ({compared.sweeps} sweeps are too few, or too wild, to bound it)"
    return f"{ratio(compared.ratio)} times ({between})"


def _nothing(run: Run) -> str:
    if not run.info.cases:
        return "This run has no cases."
    pipelines = [case for case in run.info.cases if case.format != "memory"]
    if not pipelines:
        return "Nothing can be said: this run has nothing to choose from, only limits and known loaders."
    found = Counter(outcome([record for record in run.records if record.case.id == case.id])[0] for case in pipelines)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(found.items()))
    return f"Nothing can be said: no case was measured without a failure ({counts} of {counted(len(pipelines), 'case')})."
