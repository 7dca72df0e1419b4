"""Two runs against each other, case by case, and whether the second is *established* to be slower: a gate for CI.

Runs at different times share no sweep, so they are compared unpaired, and a machine that has become slower meanwhile
would look like a regression of every case. Where both hold a limit (``limit:decode``, which runs none of the code under
test), each case is compared once more relative to it, within sweeps, and only what both comparisons establish counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.compare import Comparison, unpaired
from bench.evened import evened_run
from bench.labels import label
from bench.phases import UNPROVEN, of_all, phase_name
from bench.record import DatasetFacts, load_run
from bench.speeds import outcome
from storage.errors import DataError, UsageError

PASSING = re.compile(r"load|free|available|started|time|git|revision|mhz|steal|throttl|pressure|boot|uptime", re.IGNORECASE)
"""Parts of an environment that differ from run to run on one machine, or are meant to differ."""
DESIGN = ("isolation", "turns", "pace")
"""Options of a run that are about how it measures, not what."""


class Row(NamedTuple):
    """What is compared: a case, by its id, in one phase as it may be printed. A first epoch from the disk is a row of its own."""

    case: str
    phase: str = "warm"

    @property
    def name(self) -> str:
        """The id, or a limit's name as reports have it; a first epoch says so: ``CASE (cold_epoch)``."""
        case = label(self.case, "none") if self.is_limit else self.case
        return case if self.phase == "warm" else f"{case} ({self.phase})"

    @property
    def is_limit(self) -> bool:
        """A limit runs nothing that a change could have made slower: it speaks of the machine."""
        return "limit:" in self.case


@dataclass(frozen=True)
class Side:
    """One of the two: images/s by row and sweep (``evened``), which cases failed and why, what it ran on (None: nobody wrote it
    down), over which images, by ``FORMAT-PAYLOAD``, which step each case feeds, and how all were measured (None: nobody wrote it
    down).
    """

    name: str
    rates: Mapping[Row, Mapping[int, float]]
    failed: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] | None = None
    datasets: Mapping[str, DatasetFacts] = field(default_factory=dict)
    steps: Mapping[str, str] = field(default_factory=dict)
    design: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Change:
    """One row of both runs, ``case`` being how it is called, rates their medians over sweeps.

    ``comparison`` is B over A; ``against_limit`` the same relative to a limit, if both have one. ``gated``: whether a rule may
    fail for it. Limits and what may not have been cold are only shown.
    """

    case: str
    a_images_per_s: float
    b_images_per_s: float
    comparison: Comparison
    against_limit: Comparison | None
    gated: bool = True

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
        return cls(float(match[1]) / 100)

    @property
    def kept(self) -> str:
        """What is so of a gate that it does not fail."""
        if self.slower is None:
            return "none that A measured failed in B"
        return f"no case is established to be slower by more than {self.slower:.1%}"


def read_side(path: Path) -> Side:
    """A run's folder, or a stored baseline: the ``sweeps.csv`` of one. Raises DataError for anything else."""
    if os.path.isfile(path):  # noqa: PTH113 - Path's methods raise below a folder that may not be entered.
        return _read_csv(path)
    run = load_run(path)
    results = {case.id: outcome(run.of(case.id)) for case in run.info.cases}
    failed = {case: reason for case, (status, reason) in results.items() if status == "failed"}
    environment = _over_time(list(run.info.environments.values())) if run.info.environments else None
    speeds = evened_run(run)
    found = {
        Row(case.id, phase_name(phase, records)): by_sweep
        for case, phase, records in run.groups()
        if case.id not in failed and (by_sweep := speeds[case, phase])
    }
    steps = {case.id: case.step.step for case in run.info.cases}
    design = {name: run.info.options.get(name) for name in DESIGN}
    return Side(path.resolve().name, found, failed, environment, run.info.datasets, steps, design)


def changes(a: Side, b: Side) -> list[Change]:
    """Every row that both measured, in A's order; intervals hold for all of them at once."""
    common = [row for row in a.rates if row in b.rates]
    limit = next((row for row in common if "limit:decode" in row.case), None)
    return [_change(row, a, b, limit if row != limit else None, len(common)) for row in common]


def broken(a: Side, b: Side) -> dict[str, str]:
    """Cases that A measured and that failed in B, as they are called, with the reason."""
    measured = {row.case for row in a.rates}
    return {Row(case).name: reason for case, reason in b.failed.items() if case in measured}


def apart(a: Side, b: Side) -> list[tuple[str, str]]:
    """What was not compared, as it is called, with the reason: what failed, and each row that only one side measured."""
    only_a = {_missing(row, b, "A", "B") for row in a.rates.keys() - b.rates.keys()}
    only_b = {_missing(row, a, "B", "A") for row in b.rates.keys() - a.rates.keys()}
    measured = {row.case for row in a.rates.keys() | b.rates.keys()}
    return sorted(only_a | only_b | {_failed(case, a, b) for case in (a.failed.keys() | b.failed.keys()) - measured})


def environment_differences(a: Side, b: Side) -> list[str]:
    """What differs between the machines, in words; empty if nothing that matters does, or if nobody wrote it down."""
    return [line for key, line in _differing(a.environment, b.environment) if not PASSING.search(key)]


def other_images(a: Side, b: Side) -> list[tuple[DatasetFacts, DatasetFacts]]:
    """What both stored alike, but of different images; told by how many there are where nobody kept their digest."""
    both = [(a.datasets[name], b.datasets[name]) for name in a.datasets if name in b.datasets]
    return [
        (one, other)
        for one, other in both
        if (one.samples, one.class_names) != (other.samples, other.class_names)
        or (one.source_digest and other.source_digest and one.source_digest != other.source_digest)
    ]


def fails(rules: Sequence[Rule], found: Sequence[Change], failed: Mapping[str, str]) -> list[str]:
    """Why the gate fails, a line a case; empty if it passes."""
    lines = [
        f"{change.case} is slower by more than {rule.slower:.1%}: {change.decisive.ratio - 1:+.1%}, "
        f"at the very best {change.decisive.high - 1:+.1%}"
        for rule in rules
        if rule.slower is not None
        for change in found
        if change.gated and change.slower_by(rule.slower)
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
    return [1 - (1 - rule.slower) / (1 + change.decisive.smallest_effect) for change in found if change.gated]


def _missing(row: Row, other: Side, here: str, there: str) -> tuple[str, str]:
    """A row of one side, called ``here``, that the ``other`` lacks: how it is called, and why it is not compared."""
    if row.case in other.failed:
        return row.name, f"failed in {there}: {other.failed[row.case]}"
    unproven = Row(row.case, UNPROVEN)
    if row.phase == "cold_epoch" and unproven in other.rates:
        return unproven.name, f"proven cold only in {here}"
    if row == unproven and Row(row.case, "cold_epoch") in other.rates:
        return row.name, f"proven cold only in {there}"
    return row.name, f"measured only in {here}"


def _failed(case: str, a: Side, b: Side) -> tuple[str, str]:
    """A case that no side can be relied on for, since it failed."""
    one, other = a.failed.get(case), b.failed.get(case)
    if one and other:
        return Row(case).name, f"failed in both: {one}" if one == other else f"failed in A: {one}; and in B: {other}"
    return Row(case).name, f"failed in A: {one}" if one else f"failed in B: {other}"


def _change(row: Row, a: Side, b: Side, limit: Row | None, stated: int) -> Change:
    names = {"case_a": b.name, "case_b": a.name, "compared": stated}
    rates_a, rates_b = list(a.rates[row].values()), list(b.rates[row].values())
    plain = unpaired(rates_b, rates_a, **names)  # type: ignore[arg-type]
    relative = None
    if limit is not None:
        one, other = _relative(a, row, limit), _relative(b, row, limit)
        if len(one) > 1 and len(other) > 1:
            relative = unpaired(other, one, **names, neighbours=0.0)  # type: ignore[arg-type]
    gated = not row.is_limit and row.phase != UNPROVEN
    return Change(row.name, median(rates_a), median(rates_b), plain, relative, gated)


def _relative(side: Side, row: Row, limit: Row) -> list[float]:
    limits = side.rates[limit]
    return [value / limits[sweep] for sweep, value in side.rates[row].items() if sweep in limits]


def _read_csv(path: Path) -> Side:
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} is not a run's sweeps.csv: {error}") from error
    missing = {"case", "phase", "sweep", "images_per_s", "status", "reason"} - set(table.columns)
    if missing:
        raise DataError(f"{path} is not a run's sweeps.csv: it has no column {', '.join(sorted(missing))}")
    if "evened_images_per_s" in table:  # Older ones have none, and nothing to even.
        table["images_per_s"] = table["evened_images_per_s"]
    broke = table[table["status"] == "failed"]
    failed = {str(case): str(reason) for case, reason in zip(broke["case"], broke["reason"], strict=True)}
    kept = table[(table["status"] == "ok") & ~table["case"].isin(failed.keys())].dropna(subset=["images_per_s"])
    for name in ("sweep", "images_per_s"):
        numbers = pd.to_numeric(kept[name], errors="coerce")
        wrong = ~((numbers >= 0) & (numbers < inf))
        if wrong.any():
            got = str(kept[name][wrong].iloc[0])
            raise DataError(f"{path} is not a run's sweeps.csv: {name} should be a number from 0 on, got {got!r}")
        kept = kept.assign(**{name: numbers})
    kept = kept[kept["images_per_s"] > 0]
    found = {}
    for (case, _), rows in kept.groupby(["case", kept["phase"] == "warm"], sort=False):
        row = Row(str(case), of_all([str(phase) for phase in rows["phase"]]))
        found[row] = {int(n): float(rate) for n, rate in zip(rows["sweep"], rows["images_per_s"], strict=True)}
    steps = dict(zip(kept["case"].map(str), kept["step"].map(str), strict=True)) if "step" in kept else {}
    return Side(path.name, found, failed, steps=steps)


def design_differences(a: Side, b: Side) -> list[str]:
    """What the two runs measured in different ways, in words; empty if nothing is, or if nobody wrote it down."""
    return [line for _, line in _differing(a.design, b.design)]


def _differing(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Each name that has another value on either side, in order, and a line with both; none if a side is not known."""
    if one is None or other is None:
        return
    ours, theirs = _flat(one), _flat(other)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield key, f"{key}: {ours.get(key)} and {theirs.get(key)}"


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
