"""The first epoch from the disk against steady state from memory."""

from __future__ import annotations

from typing import Any

import altair as alt
from pandas import DataFrame

from bench.report.charts.base import Chart, Tables
from bench.report.palette import LIMIT
from bench.report.panels import WIDTH, by_step, height, measured, number_axis, rate_scale, rows, values

NAMES = {"cold_epoch": "cold, proven", "first_epoch": "first epoch, coldness not proven", "warm": "warm"}
MARKS = {
    "cold, proven": ("#0072B2", "circle"),
    "first epoch, coldness not proven": ("#CC79A7", "diamond"),
    "warm": ("#D55E00", "square"),
}


def draw(tables: Tables) -> Any:
    """A panel a step, a row for each case that was measured cold: its first epoch and its steady state, joined."""
    cold = [phase for phase in NAMES if phase != "warm"]
    cases = set(tables.results[tables.results["phase"].isin(cold)]["case"])
    parts = [measured(tables, phase) for phase in NAMES]
    found = [part[part["case"].isin(cases)] for part in parts if len(part)]
    if not cases or not found:
        return None
    import pandas as pd

    return by_step(tables, pd.concat(found), _panel)


def _panel(words: str, part: DataFrame) -> Any:
    part = part.assign(state=part["phase"].map(NAMES), label=part["label"].str.replace("-cache_state=cold", ""))
    scale = rate_scale(part["images_per_s"])
    x = alt.X("images_per_s:Q", title="images/s", scale=scale, axis=number_axis(scale))
    y = rows(part["label"])
    present = [name for name in MARKS if name in set(part["state"])]
    base = alt.Chart(
        values(
            part, ["case", "label", "state", "images_per_s", "images_per_s_low", "images_per_s_high", "device_read_bytes"]
        )
    )
    tooltip = [
        alt.Tooltip("case:N"),
        alt.Tooltip("state:N"),
        alt.Tooltip("images_per_s:Q", title="images/s", format=",.3r"),
        alt.Tooltip("images_per_s_low:Q", title="from", format=",.3r"),
        alt.Tooltip("images_per_s_high:Q", title="to", format=",.3r"),
        alt.Tooltip("device_read_bytes:Q", title="bytes from the device", format=",.3s"),
    ]
    color = alt.Color(
        "state:N", title="page cache", scale=alt.Scale(domain=present, range=[MARKS[name][0] for name in present])
    )
    shape = alt.Shape(
        "state:N", title="page cache", scale=alt.Scale(domain=present, range=[MARKS[name][1] for name in present])
    )
    layers = [
        base.mark_line(color=LIMIT, strokeWidth=1.2).encode(x=x, y=y, detail="label:N"),
        base.mark_rule(strokeWidth=5, strokeOpacity=0.35).encode(
            x=alt.X("images_per_s_low:Q", scale=scale), x2="images_per_s_high:Q", y=y, color=color, tooltip=tooltip
        ),
        base.mark_point(size=70, filled=True, opacity=1).encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip),
    ]
    return alt.layer(*layers, width=WIDTH, height=height(part), title=words)


CHART = Chart(
    "cold_warm",
    "Cold against warm",
    draw,
    "The first epoch after the files were dropped from the page cache, and steady state with all of them in memory. An epoch is "
    "called cold only where it was shown that none of the files was in memory when it began; its rate is over all of it, the first "
    "batch too.",
)
