"""What a chart is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import altair
from pandas import DataFrame


@dataclass(frozen=True)
class Chart:
    """One picture of a run. ``draw`` takes a tidy table (see ``bench/report/table.py``) and reads nothing else."""

    name: str
    title: str
    draw: Callable[[DataFrame], altair.Chart]
