"""What most charts are: panels below each other, one a step, with a row a case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil, floor, isfinite, log10
from typing import Any

import altair as alt
from pandas import DataFrame

from bench.labels import marked, with_shared
from bench.report.charts.base import Tables
from bench.report.palette import dress
from bench.speeds import in_order, in_words

# Altair warns of large data for the sake of notebooks; 200 curves are no problem for a page.
alt.data_transformers.disable_max_rows()

WIDTH = 560
"""Pixels of every panel's plot; a page may set another ``width``."""
ROW = 19
"""Pixels a case: charts of many cases grow in height, not in density."""
LABELS_APART = 6
"""Pixels between two numbers of an axis: closer, and they read as one."""
WIDE = 12.0
"""From this ratio of the largest to the smallest rate on, a logarithmic axis."""


def by_step(tables: Tables, table: DataFrame, panel: Callable[[str, DataFrame], Any]) -> Any:
    """A panel for each step that has rows, in the order of ``bench.speeds.steps``; None without rows.

    ``panel`` gets a heading and the step's rows of ``table``, and gives a chart (or None).
    """
    drawn = [
        panel(with_shared(in_words(step), tables.shared), table[table["step"] == step]) for step in in_order(table["step"])
    ]
    return stacked([chart for chart in drawn if chart is not None])


def stacked(panels: Sequence[Any]) -> Any:
    """Panels below each other, each with axes of its own; None without any."""
    if not panels:
        return None
    shared = alt.Resolve(scale=alt.ScaleResolveMap(color="shared", shape="shared"))
    return alt.vconcat(*panels, spacing=28, resolve=shared, config=dress())


def measured(tables: Tables, phase: str = "warm") -> DataFrame:
    """The rows of ``results`` of one phase that have a rate, fastest first, with ``label``: the case as a row names it."""
    results = tables.results
    found = results[(results["phase"] == phase) & results["images_per_s"].notna()].copy()
    found["label"] = [
        marked(tables.labels[case], status) for case, status in zip(found["case"], found["status"], strict=True)
    ]
    return found.sort_values("images_per_s", ascending=False, kind="stable")


def values(table: DataFrame, columns: Iterable[str]) -> DataFrame:
    """Some columns, once each; what is missing or infinite Altair writes as null, and a mark leaves it out."""
    return table[list(dict.fromkeys(columns))]


def rows(labels: Iterable[str], title: str | None = None) -> alt.Y:
    """The vertical axis: a row for each label, from the top in this order."""
    return alt.Y(
        "label:N", sort=list(dict.fromkeys(labels)), title=title, axis=alt.Axis(labelPadding=6, domain=False, ticks=False)
    )


def rate_scale(rates: Iterable[float], room: float = 1.12) -> alt.Scale:
    """For images/s shown as points: logarithmic where they are far apart. An interval without bounds stretches nothing."""
    found = [rate for rate in rates if rate > 0 and isfinite(rate)]
    low, high = min(found), max(found)
    if high / low >= WIDE:
        return alt.Scale(type="log", domain=[low / room, high * room], nice=False, clamp=True)
    spare = max(0.08 * (high - low), 0.01 * high)
    return alt.Scale(domain=[max(low - spare, 0), high + spare], nice=False, zero=False, clamp=True)


def number_axis(scale: alt.Scale | None = None) -> alt.Axis:
    """Ticks as plain numbers with thousands apart; on a logarithmic ``scale`` at 1, 2 and 5 of each power of ten."""
    if scale is None or scale.to_dict().get("type") != "log":
        return alt.Axis(format=",.6~r", labelOverlap=True, labelSeparation=LABELS_APART)
    low, high = scale.to_dict()["domain"]
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    digits = (1, 2, 5) if high / low < 2000 else (1,)
    found = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
    return alt.Axis(format=",.6~r", labelOverlap=True, labelSeparation=LABELS_APART, values=found)


def height(table: DataFrame, least: int = 2) -> int:
    """Pixels for as many rows as the table has labels."""
    return ROW * max(table["label"].nunique(), least)
