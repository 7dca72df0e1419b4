"""Where the pipeline's time goes, stage by stage: microseconds an image, loading alone."""

from __future__ import annotations

from typing import Any

import altair as alt
from pandas import DataFrame

from bench.report.charts.base import Chart, Tables
from bench.report.palette import COLOURS
from bench.report.panels import WIDTH, height, number_axis, rows, stacked, values

STAGES = ("read", "decode", "resize", "augment", "batch", "hand_over")


def draw(tables: Tables) -> Any:
    """A panel for each payload, a row for each pipeline: what every further stage adds, the quickest pipeline first."""
    found = tables.stages.merge(tables.results[["case", "payload"]].drop_duplicates("case"), on="case")
    if not len(found):
        return None
    found["label"] = found["case"].map(tables.labels)
    # A pipeline cut later is now and then measured a little faster than cut earlier: such a stage adds nothing.
    found["upto"] = found.groupby("case")["total_us_per_image"].cummax()
    found["from"] = found.groupby("case")["upto"].shift(fill_value=0.0)
    found["share"] = (found["upto"] - found["from"]) / found.groupby("case")["upto"].transform("max")
    return stacked([_panel(str(payload), part) for payload, part in found.groupby("payload", sort=True)])


def _panel(payload: str, part: DataFrame) -> Any:
    labels = part.groupby("label")["upto"].max().sort_values(kind="stable").index
    bars = (
        alt.Chart(values(part, ["case", "label", "stage", "from", "upto", "share", "us_per_image", "total_us_per_image"]))
        .mark_bar(height={"band": 0.7})
        .encode(
            x=alt.X("from:Q", title="µs an image", axis=number_axis()),
            x2="upto:Q",
            y=rows(labels),
            color=alt.Color(
                "stage:N", title="stage", scale=alt.Scale(domain=list(STAGES), range=list(COLOURS[: len(STAGES)]))
            ),
            tooltip=[
                alt.Tooltip("case:N"),
                alt.Tooltip("stage:N"),
                alt.Tooltip("us_per_image:Q", title="µs an image that it adds", format=",.3r"),
                alt.Tooltip("share:Q", title="share of the whole pipeline", format=".0%"),
                alt.Tooltip("total_us_per_image:Q", title="µs an image up to it", format=",.3r"),
            ],
        )
    )
    return bars.properties(width=WIDTH, height=height(part), title=f"{payload}: the pipeline cut after each stage")


CHART = Chart(
    "stages",
    "Stage by stage",
    draw,
    "Loading alone, with the pipeline cut after each of its stages: what every stage adds to the time an image takes. All processors "
    "work, so a microsecond here is one of the clock, not of a processor. Each is a median of few "
    "rounds, without an interval: what is thin beside the whole may be noise.",
)
