"""The verdict on a first epoch from the disk: which case is through it first, and what ties with it. Only of what was proven cold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median

from bench.case import Case
from bench.choices import best, decisive, over_today, rivals
from bench.labels import alike
from bench.phases import UNPROVEN, phase_name
from bench.record import Run, measured
from bench.report.digits import significant
from bench.report.verdict import Words, times
from bench.speeds import by_rate, epoch_images, first_epochs, in_order
from bench.today import todays_if_any
from storage.console import counted


@dataclass(frozen=True)
class Standing:
    """First epochs under one step. ``rates`` are images/s by sweep over the whole epoch (see ``first_epochs``).

    ``ties`` are the cases that the run cannot tell from the fastest seen, the fastest of them first; ``now`` is today's case.
    """

    step: str
    rates: Mapping[Case, Mapping[int, float]]
    group: tuple[Case, ...]
    fastest: Case
    ties: tuple[Case, ...]
    now: Case | None


def standings(run: Run, today: str | None = None) -> list[Standing]:
    """One for each step under which some first epoch was proven cold."""
    rates = first_epochs(run)
    found = []
    for step in in_order(case.step.step for case in rates):
        now = todays_if_any(run, step, today)
        now = replace(now, cache="cold") if now and replace(now, cache="cold") in rates else None
        group = rivals(rates, step, now)
        _, (fastest, *ties) = best(rates, group, now)
        found.append(Standing(step, rates, tuple(group), fastest, by_rate(rates, ties), now))
    return found


def first_epoch(run: Run, today: str | None = None) -> tuple[str, ...]:
    """In words, under the step that decides. Empty where no pipeline was asked to begin from the disk."""
    asked = [case for case in run.cases if case.cache == "cold" and case.format != "memory"]
    if not asked:
        return ()
    found = {one.step: one for one in standings(run, today)}
    step = decisive(found)
    if step is None:
        return ("Of the first epoch, from the disk, nothing can be said: none was proven cold.",)
    unproven = sum(
        case.step.step == step and phase_name(phase, records) == UNPROVEN for case, phase, records in run.groups()
    )
    left_out = [f"Not proven cold, and left out: {counted(unproven, 'case')}."] if unproven else []
    return (" ".join([*_sentences(run, found[step]), *left_out]),)


def _sentences(run: Run, one: Standing) -> list[str]:
    words = Words(one.rates, one.step, alike(run.info.cases), said=())
    images = epoch_images(measured(run.of(one.fastest.id, "cold_epoch"))[0])
    seconds = significant(images / median(one.rates[one.fastest].values()))
    took = f"{counted(images, 'image')} in {seconds} s {words.under()}, from opening the dataset to the last batch"
    what = f"{'what you have, ' if one.fastest == one.now else ''}{words.named(one.fastest)}"
    only = "" if len(one.group) > 1 else " and the only one measured so"
    first = f"In the first epoch, from the disk, {what}, is the fastest seen{only}: {took}"
    found = over_today(one.rates, one.group, one.now)
    if one.now in one.ties:
        first += f", which is not told apart from today's {words.named(one.now)}"
    elif one.now and one.fastest in found:
        first += f", {times(found[one.fastest])} as fast as today's {words.named(one.now)}"
    faster = by_rate(one.rates, [case for case, over in found.items() if over.verdict == "faster"])
    surer = faster[:1] if one.fastest not in faster else ()
    told = [f"Established to be faster than today's: {words.named(case)}, {times(found[case])} as fast." for case in surer]
    return [f"{first}.", *told, *words.ties([case for case in one.ties if case != one.now])]
