"""What a metric is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.record import RunRecord


@dataclass(frozen=True)
class Metric:
    """A number made of the records of one case in one phase (all its sweeps, or one of them).

    ``name`` carries the unit, as a column does (``first_batch_s``). ``compute`` gives None where there is nothing to
    compute from, and never reads a clock, a file or the machine.
    """

    name: str
    unit: str
    higher_is_better: bool
    compute: Callable[[Sequence[RunRecord]], float | None]
