"""Throughput by case: the interval, every sweep's point, and each epoch of a case that has two states."""

from __future__ import annotations

from typing import Any

import altair as alt
from pandas import DataFrame

from bench.report.charts.base import Chart, Tables
from bench.report.palette import FORMATS, LIMIT, colours
from bench.report.panels import WIDTH, by_step, height, measured, number_axis, rate_scale, rows, values

TOOLTIP = [
    alt.Tooltip("case:N"),
    alt.Tooltip("images_per_s:Q", title="images/s (median)", format=",.3r"),
    alt.Tooltip("images_per_s_low:Q", title="from", format=",.3r"),
    alt.Tooltip("images_per_s_high:Q", title="to", format=",.3r"),
    alt.Tooltip("sweeps:Q"),
    alt.Tooltip("warnings:N"),
]
TOLD = ["case", "images_per_s", "images_per_s_low", "images_per_s_high", "sweeps", "warnings"]
"""The columns that TOOLTIP shows."""


def draw(tables: Tables) -> Any:
    """A panel a step, a row a case."""
    found = measured(tables)
    return by_step(tables, found, lambda words, part: _panel(words, part, tables)) if len(found) else None


def _panel(words: str, part: DataFrame, tables: Tables) -> Any:
    sweeps = _of(tables.sweeps, part)
    epochs = _of(tables.epochs, part)
    scale = rate_scale([*part["images_per_s"], *sweeps["images_per_s"], *epochs["images_per_s"]])
    colour = alt.Color("format:N", title="stored as", scale=colours(part["format"], FORMATS))
    x = alt.X("images_per_s:Q", title="images/s", scale=scale, axis=number_axis(scale))
    y = rows(part["label"])
    cases = alt.Chart(
        values(
            part, ["case", "label", "format", "images_per_s", "images_per_s_low", "images_per_s_high", "sweeps", "warnings"]
        )
    )
    limits = part[part["format"] == "memory"]
    ends = cut(part, *scale.to_dict()["domain"])
    layers = [
        alt.Chart(values(limits, ["label", "images_per_s"])).mark_rule(color=LIMIT, strokeDash=[4, 3]).encode(x=x),
        cases.mark_rule(strokeWidth=5, strokeOpacity=0.35).encode(
            x=alt.X("images_per_s_low:Q", scale=scale), x2="images_per_s_high:Q", y=y, color=colour, tooltip=TOOLTIP
        ),
        alt.Chart(values(epochs, ["label", "sweep", "epoch", "images_per_s"]))
        .mark_tick(height=15, thickness=1, opacity=1, color=LIMIT)
        .encode(x=x, y=y, tooltip=["sweep:Q", "epoch:Q", alt.Tooltip("images_per_s:Q", title="images/s", format=",.3r")]),
        alt.Chart(values(sweeps, ["label", "format", "sweep", "images_per_s"]))
        .mark_point(size=22, strokeWidth=1.1, opacity=1)
        .encode(x=x, y=y, color=colour, tooltip=["sweep:Q", alt.Tooltip("images_per_s:Q", title="images/s", format=",.3r")]),
        cases.mark_tick(height=13, thickness=2.5, opacity=1).encode(x=x, y=y, color=colour, tooltip=TOOLTIP),
        *(
            alt.Chart(values(some, [*TOLD, "label", "format", "end"]))
            .mark_point(shape=shape, filled=True, size=60, opacity=1)
            .encode(x=alt.X("end:Q", scale=scale), y=y, color=colour, tooltip=TOOLTIP)
            for shape, some in ends.items()
            if len(some)
        ),
    ]
    return alt.layer(*layers, width=WIDTH, height=height(part), title=words)


def cut(part: DataFrame, low: float, high: float) -> dict[str, DataFrame]:
    """The cases whose interval goes on beyond ``low`` or ``high``, images/s at the frame, by the triangle that points there.

    ``end`` is where the triangle stands.
    """
    return {
        "triangle-left": part[part["images_per_s_low"].astype(float) < low].assign(end=low),
        "triangle-right": part[part["images_per_s_high"].astype(float) > high].assign(end=high),
    }


def _of(table: DataFrame, part: DataFrame) -> DataFrame:
    """The warm rows of a table that belong to the cases of a panel, named as they are there."""
    found = table[(table["phase"] == "warm") & table["case"].isin(part["case"]) & table["images_per_s"].notna()]
    return found.merge(part[["case", "label"]].assign(format_=part["format"]), on="case").assign(
        format=lambda t: t["format_"]
    )


CHART = Chart(
    "throughput",
    "Throughput",
    draw,
    "Each case's rate in steady state: the line is the median over sweeps, the bar its 95% interval, and every circle one sweep. "
    "A triangle at the frame: the interval goes on beyond it. "
    "Cases with two states show each epoch as a thin line. Dashed: limits, where only the unavoidable work was done.",
)
