"""Stored size against throughput: what speed costs in space. Pareto front and limits drawn."""

from __future__ import annotations

from collections.abc import Iterable
from math import log10
from typing import Any

import altair as alt
from pandas import DataFrame

from bench.report.charts.base import Chart, Tables
from bench.report.palette import LIMIT, LOADERS, colours, shapes
from bench.report.panels import WIDTH, by_step, measured, number_axis, rate_scale, values

HEIGHT = 320
FAR = 0.7
"""Of the way to the right: from there on a name stands left of its point, or a narrow page would cut it off."""
NEAR = 0.06
"""Of the plot's width and height: two names so close to each other could not be read."""
ABOVE = 0.07
"""Of the plot's height: a limit's line so little above a point would strike its name through, which then stands below."""


def draw(tables: Tables) -> Any:
    """A panel a step, a point a case; the front joins the cases that none beats in both."""
    found = measured(tables)
    stored = found[found["stored_bytes"].notna()].copy()
    if not len(stored):
        return None
    stored["stored_mb"] = stored["stored_bytes"].astype(float) / 1e6
    stored["stored"] = stored["format"] + " " + stored["payload"]
    limits = found[found["format"] == "memory"]
    return by_step(tables, stored, lambda words, part: _panel(words, part, limits[limits["step"] == part["step"].iloc[0]]))


def front(part: DataFrame) -> DataFrame:
    """The rows that no other row beats: none is at least as small and faster, or smaller and at least as fast."""
    ordered = part.sort_values(["stored_bytes", "images_per_s"], ascending=[True, False], kind="stable")
    best = ordered["images_per_s"].cummax().shift(fill_value=-1.0)
    return ordered[ordered["images_per_s"] > best]


def named(best: DataFrame, across: alt.Scale, up: alt.Scale) -> DataFrame:
    """The points of the front that get a name: of those that lie on top of each other, the fastest.

    With ``across``, where a point lies between the left end of its scale (0) and the right one (1).
    """
    placed = best.assign(across=_place(best["stored_mb"], across), up=_place(best["images_per_s"], up))
    near = (placed["across"].diff(-1).abs() < NEAR) & (placed["up"].diff(-1).abs() < NEAR)
    return placed[~near]


def _place(numbers: Iterable[float], scale: alt.Scale) -> list[float]:
    """Where numbers lie on a scale, from 0 to 1."""
    said = scale.to_dict()
    of = log10 if said.get("type") == "log" else float
    low, high = (of(end) for end in said["domain"])
    return [(of(number) - low) / (high - low) for number in numbers]


def _panel(words: str, part: DataFrame, limits: DataFrame) -> Any:
    best = front(part)
    sizes = part["stored_mb"]
    spread = float(sizes.max() / sizes.min())
    across = (
        alt.Scale(type="log", domain=[sizes.min() / 1.15, sizes.max() * 1.3], nice=False)
        if spread >= 8
        else alt.Scale(domain=[0, sizes.max() * 1.15], nice=False)
    )
    x = alt.X("stored_mb:Q", title="stored size, MB", scale=across, axis=number_axis(across))
    scale = rate_scale([*part["images_per_s"], *limits["images_per_s"]], room=1.4)
    y = alt.Y("images_per_s:Q", title="images/s", axis=number_axis(scale), scale=scale)
    line = alt.Chart(values(best, ["stored_mb", "images_per_s"])).mark_line(
        interpolate="step-after", strokeWidth=1.5, color=LIMIT
    )
    turns = named(best, across, scale)
    lines = _place(limits["images_per_s"], scale)
    below = turns["up"].map(lambda up: any(0 < line - up < ABOVE for line in lines)).astype(bool)
    far = turns["across"] > FAR
    names = [
        alt.Chart(values(some, ["stored_mb", "images_per_s", "stored"]))
        .mark_text(align="left" if dx > 0 else "right", dx=dx, dy=dy, fontSize=11, color=LIMIT)
        .encode(x=x, y=y, text="stored:N")
        for dx, side in ((8, ~far), (-8, far))
        for dy, height in ((-8, ~below), (10, below))
        if len(some := turns[side & height])
    ]
    bounds = alt.Chart(values(limits, ["label", "images_per_s"]))
    layers = [
        line.encode(x=x, y=y),
        bounds.mark_rule(color=LIMIT, strokeDash=[4, 3]).encode(y=y),
        bounds.mark_text(align="left", dx=4, dy=-6, fontSize=11, color=LIMIT).encode(x=alt.value(0), y=y, text="label:N"),
        alt.Chart(values(part, ["case", "loader", "stored", "stored_mb", "images_per_s"]))
        .mark_point(size=70, filled=False, strokeWidth=1.8, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color("loader:N", title="loader", scale=colours(part["loader"], LOADERS)),
            shape=alt.Shape("loader:N", title="loader", scale=shapes(part["loader"], LOADERS)),
            tooltip=[
                alt.Tooltip("case:N"),
                alt.Tooltip("stored_mb:Q", title="stored, MB", format=",.3r"),
                alt.Tooltip("images_per_s:Q", title="images/s", format=",.3r"),
            ],
        ),
        *names,
    ]
    return alt.layer(*layers, width=WIDTH, height=HEIGHT, title=words)


CHART = Chart(
    "size_throughput",
    "Stored size against throughput",
    draw,
    "What speed costs in space: one point a case. The line is the Pareto front, the cases that none beats in both; where it is named, "
    "the front turns. Dashed: limits, where only the unavoidable work was done.",
)
