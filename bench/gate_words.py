"""What a comparison of two runs says in words: the same on a terminal and on its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.agreement import agreement
from bench.gate import (
    Change,
    Rule,
    Side,
    apart,
    broken,
    changes,
    design_differences,
    environment_differences,
    fails,
    other_images,
    slowdowns_seen,
)

WORST_SEEN = 0.5
"""A gate that would miss a case at half its speed sees nothing worth a number."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two runs, compared once: what is shown case by case, and sentences about all of it (empty where there is nothing to say).

    ``a`` and ``b`` are their names; ``apart`` are cases that were not compared, ``broken`` those that failed in B only, each with
    the reason; ``gate`` says whether the rules hold, ``failed`` that one does not.
    """

    a: str
    b: str
    changes: list[Change]
    apart: list[tuple[str, str]]
    broken: dict[str, str]
    failed: bool
    gate: list[str]
    warning: str
    summary: str
    method: str
    agreement: str


def compared(a: Side, b: Side, rules: Sequence[Rule] = ()) -> Compared:
    """B beside A, and whether a gate with these ``rules`` passes."""
    found, missing, broke = changes(a, b), apart(a, b), broken(a, b)
    reasons = fails(rules, found, broke)
    return Compared(
        a=a.name,
        b=b.name,
        changes=found,
        apart=missing,
        broken=broke,
        failed=bool(reasons),
        gate=result(rules, found, reasons),
        warning=warning(a, b),
        summary=summary(found, len(missing)),
        method=method(found) if found else "",
        agreement=agreement(a, b).in_words,
    )


def warning(a: Side, b: Side) -> str:
    """What the images, the machine and the way of measuring may have to do with it; empty if all were the same."""
    return " ".join(filter(None, (_images(a, b), _machine(a, b), _design(a, b))))


def _images(a: Side, b: Side) -> str:
    found = other_images(a, b)
    if not found:
        return ""
    one, other = found[0]
    counts = f"{one.samples:,} of {one.name} and {other.samples:,} of {other.name}"
    return f"These runs measured different images ({counts}): a change may be the images'."


def _machine(a: Side, b: Side) -> str:
    differences = environment_differences(a, b)
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        named = "; ".join(differences[:5])
        return f"These runs come from different environments ({named}{more}): a change may be the machine's."
    if a.environment is None or b.environment is None:
        return "A sweeps.csv does not say what it ran on: a change may be the machine's."
    return ""


def _design(a: Side, b: Side) -> str:
    differences = design_differences(a, b)
    if not differences:
        return ""
    return f"These runs measured in different ways ({'; '.join(differences)}): a change may be the measurement's."


def summary(found: Sequence[Change], missing: int) -> str:
    """How many became faster or slower, and how many could not be compared."""
    counts = Counter(change.verdict for change in found)
    others = f" {missing} could not be compared." if missing else ""
    return (
        f"Of {len(found)} cases that both runs measured, {counts['faster']} are established to be faster in B, "
        f"{counts['slower']} slower, and {counts['tie']} tie.{others}"
    )


def method(found: Sequence[Change]) -> str:
    """What the columns are, and what the intervals hold for."""
    relative = any(change.against_limit for change in found)
    ratio = (
        " B / A is of each case relative to limit:decode in the same sweeps, so that a machine that became faster or slower "
        "as a whole is no change; it need not be the quotient of the two columns."
    )
    return (
        f"A and B are medians over sweeps.{ratio if relative else ''} Intervals hold for all {len(found)} cases at once; faster "
        "or slower is said only where the whole interval lies on that side of 1."
    )


def result(rules: Sequence[Rule], found: Sequence[Change], reasons: Sequence[str]) -> list[str]:
    """Whether the gate passes, and why not (``reasons``), or what it would have seen. Empty without rules."""
    if reasons:
        return [f"FAILED: {reason}" for reason in reasons]
    if not rules:
        return []
    power = [_power(seen) for rule in rules if (seen := slowdowns_seen(rule, found))]
    return [f"Passed: {', and '.join(rule.kept for rule in rules)}.", *power]


def _power(seen: Sequence[float]) -> str:
    """What a gate that passed would have found: one that can't see anything passes too."""
    enough = [share for share in seen if share <= WORST_SEEN]
    blind = (
        f"{len(seen) - len(enough)} of {len(seen)} cases had too few sweeps to establish even half the speed: "
        "raise --sweeps or --budget."
    )
    if not enough:
        return blind
    said = (
        f"It would have failed, with a probability of 80%, for a case that is {median(enough):.0%} slower (the median of "
        f"{len(enough)} cases; {max(enough):.0%} where it sees least)."
    )
    return said if len(enough) == len(seen) else f"{said} {blind}"
