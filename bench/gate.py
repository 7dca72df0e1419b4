"""Two runs against each other, case by case, and whether the second is *established* to be slower: a gate for CI.

Runs at different times share no sweep, so they are compared unpaired, and a machine that has become slower meanwhile
would look like a regression of every case. Where both hold a limit (``limit:decode``, which runs none of the code under
test), each case is compared once more relative to it, within sweeps, and only what both comparisons establish counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.compare import Comparison, rates, unpaired
from bench.phases import UNPROVEN, phase_name
from bench.record import Run, load_run
from bench.speeds import outcome
from storage.errors import DataError, UsageError

PASSING = re.compile(r"load|free|available|started|time|git|revision|mhz|steal|throttl|pressure|boot|uptime", re.IGNORECASE)
"""Parts of an environment that differ from run to run on one machine, or are meant to differ."""


@dataclass(frozen=True)
class Side:
    """One of the two: images/s by case and sweep, what failed, and what it ran on (None if nobody wrote it down).

    A case's first epoch from the disk is a case of its own here: ``CASE (cold_epoch)``, or ``(first_epoch)`` if unproven.
    """

    name: str
    rates: Mapping[str, Mapping[int, float]]
    failed: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Change:
    """One case in both runs. ``comparison`` is B over A; ``against_limit`` the same relative to a limit, if both have one."""

    case: str
    a_images_per_s: float
    b_images_per_s: float
    comparison: Comparison
    against_limit: Comparison | None

    @property
    def decisive(self) -> Comparison:
        """The comparison whose interval counts: relative to the limit where there is one."""
        return self.against_limit or self.comparison

    def slower_by(self, share: float) -> bool:
        """Whether B is established to be slower by more than that share (0.05 for 5%), and not only because the limit is faster."""
        return self.decisive.high < 1 - share and self.comparison.ratio < 1 - share

    @property
    def verdict(self) -> str:
        """*faster* or *slower* where it is established, and the plain ratio says so too; else *tie*."""
        verdict, plain = self.decisive.verdict, self.comparison.ratio
        return "tie" if (verdict == "faster" and plain <= 1) or (verdict == "slower" and plain >= 1) else verdict


@dataclass(frozen=True)
class Rule:
    """What makes the gate fail: ``slower:5%``, or ``failed`` (a case that ran in A and failed in B)."""

    slower: float | None = None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Raises UsageError for anything else."""
        if text == "failed":
            return cls()
        match = re.fullmatch(r"slower:(\d+(?:\.\d+)?)%", text)
        if not match or not 0 <= float(match[1]) < 100:
            raise UsageError(f"--fail-if takes slower:PERCENT%, such as slower:5%, or failed; got {text!r}")
        return cls(slower=float(match[1]) / 100)


def read_side(path: Path) -> Side:
    """A run's folder, or a stored baseline: the ``sweeps.csv`` of one. Raises DataError for anything else."""
    if path.is_file():
        return _read_csv(path)
    run = load_run(path)
    results = {case.id: outcome(run.of(case.id)) for case in run.info.cases}
    failed = {case: reason for case, (status, reason) in results.items() if status == "failed"}
    environment = _over_time(list(run.info.environments.values())) if run.info.environments else None
    return Side(path.name or str(path), _by_name(_rows(run), failed), failed, environment)


def is_steady(name: str) -> bool:
    """Whether a name in ``Side.rates`` stands for a case's steady state and not for its first epoch."""
    return _parts(name)[1] == "warm"


def changes(a: Side, b: Side) -> list[Change]:
    """Every case that both measured, in A's order; intervals hold for all of them at once."""
    common = [case for case in a.rates if case in b.rates]
    limit = next((case for case in common if "limit:decode" in case), None)
    return [_change(case, a, b, limit if case != limit else None, len(common)) for case in common]


def broken(a: Side, b: Side) -> dict[str, str]:
    """Cases that A measured and that failed in B, with the reason."""
    return {case: reason for case, reason in b.failed.items() if case in a.rates}


def apart(a: Side, b: Side) -> list[tuple[str, str]]:
    """What was not compared, by name, with the reason: what failed, and each case or first epoch that only one side measured."""
    only_a = {_missing(name, b, "A", "B") for name in a.rates.keys() - b.rates.keys()}
    only_b = {_missing(name, a, "B", "A") for name in b.rates.keys() - a.rates.keys()}
    neither = (a.failed.keys() | b.failed.keys()) - a.rates.keys() - b.rates.keys()
    return sorted(only_a | only_b | {_failed(case, a, b) for case in neither})


def environment_differences(a: Side, b: Side) -> list[str]:
    """What differs between the machines, in words; empty if nothing that matters does, or if nobody wrote it down."""
    if a.environment is None or b.environment is None:
        return []
    one, other = _flat(a.environment), _flat(b.environment)
    keys = [key for key in sorted(one.keys() | other.keys()) if not PASSING.search(key)]
    return [f"{key}: {one.get(key)} and {other.get(key)}" for key in keys if one.get(key) != other.get(key)]


def fails(rules: Sequence[Rule], found: Sequence[Change], failed: Mapping[str, str]) -> list[str]:
    """Why the gate fails, a line a case; empty if it passes."""
    lines = [
        f"{change.case} is slower by more than {rule.slower:.1%}: {change.decisive.ratio - 1:+.1%}, "
        f"at the very best {change.decisive.high - 1:+.1%}"
        for rule in rules
        if rule.slower is not None
        for change in found
        if _can_fail(change) and change.slower_by(rule.slower)
    ]
    if any(rule.slower is None for rule in rules):
        lines += [f"{case} failed: {reason}" for case, reason in failed.items()]
    return lines


def slowdowns_seen(rule: Rule, found: Sequence[Change]) -> list[float]:
    """For each case that could fail a rule, the slowdown (0.09 for 9%) that would have failed it with a probability of 80%.

    1.0 where there were too few sweeps to establish any; empty for a rule about failures.
    """
    if rule.slower is None:
        return []
    return [1 - (1 - rule.slower) / (1 + change.decisive.smallest_effect) for change in found if _can_fail(change)]


def _missing(name: str, other: Side, here: str, there: str) -> tuple[str, str]:
    """A row of one side, called ``here``, that the ``other`` lacks: how it is called, and why it is not compared."""
    case, phase = _parts(name)
    if case in other.failed:
        return name, f"failed in {there}: {other.failed[case]}"
    if phase == "cold_epoch" and _named(case, UNPROVEN) in other.rates:
        return _named(case, UNPROVEN), f"proven cold only in {here}"
    if phase == UNPROVEN and _named(case, "cold_epoch") in other.rates:
        return name, f"proven cold only in {there}"
    return name, f"measured only in {here}"


def _failed(case: str, a: Side, b: Side) -> tuple[str, str]:
    """A case that no side can be relied on for, since it failed."""
    both = case in a.failed and case in b.failed
    where = "both, in B" if both else "A" if case in a.failed else "B"
    return case, f"failed in {where}: {b.failed.get(case) or a.failed[case]}"


def _named(case: str, phase: str) -> str:
    """A case in one phase; a first epoch is a case of its own."""
    return case if phase == "warm" else f"{case} ({phase})"


def _parts(name: str) -> tuple[str, str]:
    """The case and the phase that ``_named`` joined."""
    first = re.fullmatch(rf"(.*) \((cold_epoch|{UNPROVEN})\)", name, re.DOTALL)
    return (first[1], first[2]) if first else (name, "warm")


def _can_fail(change: Change) -> bool:
    """A limit runs nothing that a change could have made slower: it speaks of the machine. What may not be cold is only shown."""
    return "limit:" not in change.case and _parts(change.case)[1] != UNPROVEN


def _change(case: str, a: Side, b: Side, limit: str | None, stated: int) -> Change:
    names = {"case_a": b.name, "case_b": a.name, "compared": stated}
    plain = unpaired(list(b.rates[case].values()), list(a.rates[case].values()), **names)  # type: ignore[arg-type]
    relative = None
    if limit is not None:
        one, other = _relative(a, case, limit), _relative(b, case, limit)
        if len(one) > 1 and len(other) > 1:
            relative = unpaired(other, one, **names, neighbours=0.0)  # type: ignore[arg-type]
    return Change(case, median(a.rates[case].values()), median(b.rates[case].values()), plain, relative)


def _relative(side: Side, case: str, limit: str) -> list[float]:
    limits = side.rates[limit]
    return [value / limits[sweep] for sweep, value in side.rates[case].items() if sweep in limits]


def _read_csv(path: Path) -> Side:
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} is not a run's sweeps.csv: {error}") from error
    missing = {"case", "phase", "sweep", "images_per_s", "status", "reason"} - set(table.columns)
    if missing:
        raise DataError(f"{path} is not a run's sweeps.csv: it has no column {', '.join(sorted(missing))}")
    failed = {str(row["case"]): str(row["reason"]) for _, row in table[table["status"] == "failed"].iterrows()}
    measured = table[table["status"] == "ok"].dropna(subset=["images_per_s"])
    rows = [
        (str(row["case"]), str(row["phase"]), int(row["sweep"]), float(row["images_per_s"]))
        for _, row in measured.iterrows()
    ]
    return Side(path.name, _by_name(rows, failed), failed)


def _rows(run: Run) -> Iterable[tuple[str, str, int, float]]:
    """(case, phase, sweep, images/s) of all that was measured, in the order in which it was planned."""
    for case, phase, records in run.groups():
        for record in records:
            for sweep, images_per_s in rates([record]).items():
                yield case.id, phase_name(phase, [record]), sweep, images_per_s


def _by_name(rows: Iterable[tuple[str, str, int, float]], failed: Mapping[str, str]) -> dict[str, dict[int, float]]:
    """Images/s by sweep of what can be relied on. One sweep that was not proven cold makes all of a case's so."""
    kept = [row for row in rows if row[0] not in failed]
    unproven = {case for case, phase, _, _ in kept if phase == UNPROVEN}
    found: dict[str, dict[int, float]] = {}
    for case, phase, sweep, images_per_s in kept:
        name = _named(case, UNPROVEN if phase != "warm" and case in unproven else phase)
        found.setdefault(name, {})[sweep] = images_per_s
    return found


def _over_time(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The environment of a run that may have been resumed in another: what then differed is named with both."""
    flat = [_flat(one) for one in environments]
    seen = {key: list(dict.fromkeys(str(one.get(key)) for one in flat)) for one in flat for key in one}
    return {key: flat[0].get(key) if len(values) == 1 else ", then ".join(values) for key, values in seen.items()}


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat
