"""The verdict: what to use, how much faster it is than what one has, and what ties with it. The page and ``summary.md`` say the same.

The case to take is chosen as in ``choices.json``: the fastest under the step that decides, and among those that the run cannot tell
from it the one that loads fastest alone. Today's case stays where nothing is established to beat it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from bench.case import Case
from bench.choices import best, decisive_step
from bench.compare import Comparison, against, compare
from bench.record import Run
from bench.report.digits import NO_BOUNDS, bounds, ratio, share, significant
from bench.report.labels import named, shared, with_shared
from bench.speeds import contenders, in_words, outcome, speeds
from bench.today import todays

Speeds: TypeAlias = Mapping[Case, Mapping[int, float]]

NAMED_TIES = 3
"""So many ties are named in a sentence; the rest are counted."""
MOST_HIDDEN = 1.0
"""A tie that could hide more than doubling says nothing, and no figure makes it say more."""


@dataclass(frozen=True)
class Verdict:
    """What a run says, in words and as what the words are made of.

    ``best`` is today's case where nothing is established to be faster; ``comparison`` is then that of the case that comes closest,
    else of the best, over today's (None without today's case, or without any other). ``ties`` are the cases that the run cannot
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
    group = contenders(measured, step) if step else []
    now = todays(run, step, today) if step else None
    if not group or step is None:
        return Verdict((_nothing(run),), step, today=now)
    group = list(dict.fromkeys([*group, *([now] if now else [])]))
    chosen, tied = best(measured, group)
    words = _Words(measured, step, shared(run.info.cases))
    if now is None:
        others = _by_rate(measured, [case for case in tied if case != chosen])
        return Verdict((words.use(chosen), *words.ties(others)), step, chosen, None, None, others)
    # Today's case was named before anybody looked, so each of the others is compared with it, and all of that at once.
    found = against(now.id, {case.id: measured[case] for case in group})
    faster = [case for case in group if case != now and found[case.id].verdict == "faster"]
    if faster and chosen not in faster:
        chosen = max(faster, key=lambda case: median(measured[case].values()))
    others = _by_rate(measured, [case for case in tied if case not in (chosen, now)])
    if faster:
        lines = (words.faster(found[chosen.id], chosen, now), *words.alone(chosen, now), *words.ties(others))
        return Verdict(lines, step, chosen, now, found[chosen.id], others)
    if chosen == now:
        chosen = next(iter(others), now)
    compared = found.get(chosen.id)
    rest = [case for case in others if case != chosen]
    return Verdict((words.keep(compared, chosen, now), *words.ties(rest)), step, now, now, compared, others)


@dataclass(frozen=True)
class _Words:
    """Sentences about cases. ``dropped`` is what all cases share, and need not be said of each."""

    measured: Speeds
    step: str
    dropped: tuple[str, ...]

    def use(self, chosen: Case) -> str:
        return (
            f"Use {self._named(chosen)}: {self._rate(chosen)}. Today's case was not measured, so there is nothing to compare it "
            "with; name yours with --today."
        )

    def faster(self, compared: Comparison, chosen: Case, now: Case) -> str:
        return f"Use {self._named(chosen)}: {self._rate(chosen)}, {_times(compared)} as fast as today's {self._named(now)}."

    def keep(self, compared: Comparison | None, chosen: Case, now: Case) -> str:
        first = f"Keep what you have, {self._named(now)}: {self._rate(now)}, and nothing is established to be faster."
        if compared is None:
            return first
        hides = compared.sweeps > 1 and compared.smallest_effect < MOST_HIDDEN
        hidden = f"; a gain below {share(compared.smallest_effect)} could hide in that" if hides else ""
        return f"{first} What comes closest, {self._named(chosen)}, is {_times(compared)} as fast{hidden}."

    def alone(self, chosen: Case, now: Case) -> list[str]:
        """The same two cases without a step: what is left once the accelerator is no longer the bottleneck."""
        first, second = chosen.alone, now.alone
        if first == chosen or first not in self.measured or second not in self.measured:
            return []
        compared = compare(self.measured[first], self.measured[second], case_a=first.id, case_b=second.id)
        return [f"Loading alone, it is {_times(compared)} as fast."]

    def ties(self, others: Sequence[Case]) -> list[str]:
        if not others:
            return []
        listed = "; ".join(self._named(case) for case in others[:NAMED_TIES])
        more = f"; and {len(others) - NAMED_TIES} more" if len(others) > NAMED_TIES else ""
        return [f"Not told apart from the fastest: {listed}{more}."]

    def _named(self, case: Case) -> str:
        return named(case, self.dropped)

    def _rate(self, case: Case) -> str:
        under = in_words(self.step) if self.step == "none" else f"with {in_words(self.step)}"
        return f"{significant(median(self.measured[case].values()))} images/s {with_shared(under, self.dropped)}"


def _by_rate(measured: Speeds, cases: Sequence[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: -median(measured[case].values())))


def _times(compared: Comparison) -> str:
    if compared.sweeps < 2:
        return f"{ratio(compared.ratio)} times (one sweep, so no interval)"
    between = bounds(compared.low, compared.high, ratio)
    if between == NO_BOUNDS:
        return f"{ratio(compared.ratio)} times ({compared.sweeps} sweeps are too few, or too wild, to bound it)"
    return f"{ratio(compared.ratio)} times ({between})"


def _nothing(run: Run) -> str:
    if not run.info.cases:
        return "This run has no cases."
    found = Counter(outcome([record for record in run.records if record.case.id == case.id])[0] for case in run.info.cases)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(found.items()))
    return f"Nothing can be said: no case was measured without a failure ({counts} of {len(run.info.cases)} cases)."
