"""Where a batch's time goes: waiting for data, and stepping on it."""

from __future__ import annotations

from typing import Any

import altair as alt
from pandas import DataFrame

from bench.report.charts.base import Chart, Tables
from bench.report.panels import WIDTH, by_step, height, measured, number_axis, rows, values

PARTS = {"waiting": "#D55E00", "stepping": "#56B4E9"}


def draw(tables: Tables) -> Any:
    """A panel a step, a row a case: a bar of milliseconds a batch in two parts, the shortest first."""
    found = measured(tables)
    found = found[found["wait_share"].notna() & found["step_ms"].notna() & (found["format"] != "memory")]
    found["batch_ms"] = 1000 * found["batch_size"] / found["images_per_s"]
    found["wait_ms"] = found["batch_ms"] * found["wait_share"]
    return by_step(tables, found, _panel) if len(found) else None


def _panel(words: str, part: DataFrame) -> Any:
    shared = ["case", "label", "batch_ms", "wait_share", "batch_size"]
    long = part.melt(shared, ["wait_ms", "step_ms"], "part", "ms")
    long["part"] = long["part"].map({"wait_ms": "waiting", "step_ms": "stepping"})
    long["order"] = long["part"].map({"waiting": 0, "stepping": 1})
    labels = part.sort_values("batch_ms", kind="stable")["label"]
    bars = (
        alt.Chart(values(long, [*shared, "part", "order", "ms"]))
        .mark_bar(height={"band": 0.7})
        .encode(
            x=alt.X("ms:Q", title="milliseconds a batch", axis=number_axis(), stack="zero"),
            y=rows(labels),
            color=alt.Color(
                "part:N", title="a batch's time", scale=alt.Scale(domain=list(PARTS), range=list(PARTS.values()))
            ),
            order="order:Q",
            tooltip=[
                alt.Tooltip("case:N"),
                alt.Tooltip("part:N"),
                alt.Tooltip("ms:Q", title="ms a batch", format=",.3r"),
                alt.Tooltip("wait_share:Q", title="share spent waiting", format=".1%"),
                alt.Tooltip("batch_size:Q", title="images a batch"),
            ],
        )
    )
    return bars.properties(width=WIDTH, height=height(part), title=words)


CHART = Chart(
    "waiting",
    "Waiting and stepping",
    draw,
    "How long a batch takes in steady state, and how much of it the training step spends waiting for data. A case without an orange "
    "part feeds this step as fast as it can compute; where pipeline and step share processors, the step itself takes longer.",
)
