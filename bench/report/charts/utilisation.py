"""How well each case would feed accelerators of any speed, and the fastest that it keeps busy."""

from __future__ import annotations

from typing import Any

import altair as alt
from pandas import DataFrame

from bench.report.charts.base import Chart, Tables
from bench.report.palette import LIMIT, LOADERS, colours, shapes
from bench.report.panels import WIDTH, height, number_axis, rows, stacked, values
from bench.starvation import PASS_AU

HEIGHT = 300


def draw(tables: Tables) -> Any:
    """AU over accelerator speed as curves; below it, on the same axis, the knee of each case in a row of its own."""
    if not len(tables.curve):
        return None
    facts = tables.results[tables.results["phase"] == "warm"][["case", "loader", "payload"]]
    curve, knees = tables.curve.merge(facts, on="case"), tables.knees.merge(facts, on="case")
    for table in (curve, knees):
        table["label"] = table["case"].map(tables.labels)
    knees = knees.sort_values("knee_images_per_s", ascending=False, kind="stable")
    speeds = [*curve["accelerator_images_per_s"], *tables.emulated["accelerator_images_per_s"]]
    scale = alt.Scale(type="log", domain=[min(speeds), max(speeds)], nice=False, clamp=True)
    # On the page panels are charts of their own: it brings these two back below each other.
    return stacked([_curves(curve, tables.emulated, scale), _knees(knees, scale)]).properties(usermeta={"aligned": True})


def _curves(curve: DataFrame, emulated: DataFrame, scale: alt.Scale) -> Any:
    x = alt.X("accelerator_images_per_s:Q", title="accelerator's speed, images/s", scale=scale, axis=number_axis(scale))
    y = alt.Y(
        "accelerator_utilisation:Q", title="AU: share of the time that it computes", scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format="%"),
    )  # fmt: skip
    columns = ["case", "loader", "payload", "accelerator_images_per_s", "accelerator_utilisation"]
    names = [*curve["loader"], *emulated["loader"]]
    color = alt.Color("loader:N", title="loader", scale=colours(names, LOADERS))
    shape = alt.Shape("loader:N", title="loader", scale=shapes(names, LOADERS))
    tooltip = [
        alt.Tooltip("case:N"),
        alt.Tooltip("accelerator_images_per_s:Q", title="accelerator, images/s", format=",.3r"),
        alt.Tooltip("accelerator_utilisation:Q", title="AU", format=".1%"),
    ]
    lines = (
        alt.Chart(values(curve, columns))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=x,
            y=y,
            detail="case:N",
            color=color,
            strokeDash=alt.StrokeDash(
                "payload:N", title="payload", scale=alt.Scale(domain=["encoded", "raw"], range=[[1, 0], [5, 3]])
            ),
            tooltip=tooltip,
        )
    )
    mark = (
        alt.Chart(DataFrame({"au": [PASS_AU]})).mark_rule(strokeDash=[4, 3], color=LIMIT).encode(y=alt.Y("au:Q", title=""))
    )
    points = alt.Chart(values(emulated, columns)).mark_point(size=50, opacity=1, strokeWidth=1.5)
    layers = [lines, mark, points.encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip)]
    return alt.layer(*layers, width=WIDTH, height=HEIGHT, title="utilisation, each case")


def _knees(knees: DataFrame, scale: alt.Scale) -> Any:
    rows_ = rows(knees["label"])
    color = alt.Color("loader:N", title="loader", scale=colours(knees["loader"], LOADERS))
    base = alt.Chart(values(knees, ["case", "label", "loader", "knee_images_per_s", "accelerator_utilisation"]))
    x = alt.X(
        "knee_images_per_s:Q",
        title=f"fastest accelerator fed with AU of {PASS_AU:.0%}, images/s",
        scale=scale,
        axis=number_axis(scale),
    )
    tooltip = [
        alt.Tooltip("case:N"),
        alt.Tooltip("knee_images_per_s:Q", title=f"fed at AU {PASS_AU:.0%} up to, images/s", format=",.3r"),
    ]
    shape = alt.Shape("loader:N", title="loader", scale=shapes(knees["loader"], LOADERS))
    marks = base.mark_point(size=60, filled=True, opacity=1).encode(x=x, y=rows_, color=color, shape=shape, tooltip=tooltip)
    names = base.mark_text(align="left", dx=9, fontSize=10, color=LIMIT).encode(
        x=x, y=rows_, text=alt.Text("knee_images_per_s:Q", format=",.3r")
    )
    return alt.layer(marks, names, width=WIDTH, height=height(knees), title="the knee of each case")


CHART = Chart(
    "utilisation",
    "Accelerators that you don't have",
    draw,
    "Computed from loading alone: the share of an epoch in which an accelerator of that speed would compute and not wait; as points, "
    "what emulated accelerators showed. The knee is the fastest accelerator that stays busy for 90% of the "
    "time, MLPerf Storage's pass mark: beyond it, the pipeline starves it.",
)
