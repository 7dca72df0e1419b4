"""The phases of a case: as they are recorded, and as they may be printed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bench.record import RunRecord, measured

PHASES = ("cold_epoch", "warm")
"""As records have them, in the order in which they are measured."""
UNPROVEN = "first_epoch"
"""A cold epoch whose coldness nobody proved."""


def phase_name(phase: str, records: Sequence[RunRecord]) -> str:
    """The phase as it may be printed: a cold epoch whose coldness nobody proved is only a ``first_epoch``."""
    unproven = phase == "cold_epoch" and not all(one.cold_proven for one in measured(records))
    return UNPROVEN if unproven else phase


def of_all(names: Collection[str]) -> str:
    """The name of several sweeps' epochs together, from that of each: one that was not proven cold makes all of them so."""
    return UNPROVEN if UNPROVEN in names else next(iter(names))
