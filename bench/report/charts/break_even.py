"""After how many epochs writing a format has paid for itself against today's case."""

from __future__ import annotations

from math import isfinite
from typing import Any

import altair as alt
from pandas import DataFrame

from bench.report.charts.base import Chart, Tables
from bench.report.digits import significant
from bench.report.palette import FORMATS, LIMIT, colours
from bench.report.panels import WIDTH, by_step, height, number_axis, rows, values


def draw(tables: Tables) -> Any:
    """A panel a step, a row a stored format: epochs, with what bounds them; in words where there is no number."""
    return by_step(tables, tables.break_even, _panel) if len(tables.break_even) else None


def _panel(words: str, part: DataFrame) -> Any:
    part = part.assign(
        label=part["stored"].str.replace("-", " "),
        format=part["stored"].str.partition("-")[0],
        said=[_said(row) for row in part.to_dict("records")],
    ).sort_values("epochs", kind="stable")
    ends = [end for name in ("epochs", "epochs_high") for end in part[name] if isfinite(end)]
    pays = any(ends)
    most = max(ends) if pays else 1.0
    part["shown_high"] = part["epochs_high"].clip(upper=most * 1.1)
    # What never pays has words, and no mark that could be read as a number.
    part["shown"] = part["epochs"].where(part["epochs"].map(isfinite))
    part["epochs_low"] = part["epochs_low"].where(part["shown"].notna())
    part["end"] = part["shown_high"].where(part["shown"].notna(), 0)
    y, scale = (
        rows(part["label"]),
        alt.Scale(domain=[0, most * (1.3 if len(ends) == 2 * len(part) else 1.7)], nice=False, clamp=True),
    )
    color = alt.Color("format:N", title="stored as", scale=colours(part["format"], FORMATS))
    tooltip = [
        alt.Tooltip("case:N", title="best case"),
        alt.Tooltip("said:N", title="paid for after"),
        alt.Tooltip("convert_s:Q", title="writing it, s", format=",.3r"),
        alt.Tooltip("saved_s:Q", title="saved an epoch, s", format=",.3r"),
        alt.Tooltip("today:N", title="against"),
    ]
    base = alt.Chart(
        values(
            part,
            ["label", "format", "case", "today", "said", "shown", "epochs_low", "shown_high", "end", "convert_s", "saved_s"],
        )
    )
    # Where nothing takes a number of epochs, an axis would measure nothing.
    axis = number_axis() if pays else None
    x = alt.X("shown:Q", title="epochs until the conversion has paid for itself" if pays else None, scale=scale, axis=axis)
    layers = [
        base.mark_rule(strokeWidth=5, strokeOpacity=0.35).encode(
            x=alt.X("epochs_low:Q", scale=scale, axis=axis), x2="shown_high:Q", y=y, color=color, tooltip=tooltip
        ),
        base.mark_point(size=70, filled=True, opacity=1).encode(x=x, y=y, color=color, tooltip=tooltip),
        base.mark_text(align="left", dx=9, fontSize=11, color=LIMIT).encode(
            x=alt.X("end:Q", scale=scale, axis=axis), y=y, text="said:N", tooltip=tooltip
        ),
    ]
    return alt.layer(*layers, width=WIDTH, height=height(part), title=words)


def _said(row: dict[Any, Any]) -> str:
    if row["epochs"] == 0:
        return "nothing to write"
    if row["epochs"] == float("inf"):
        return "never: no gain is established"
    return f"{significant(row['epochs'], 2)} epochs"


CHART = Chart(
    "break_even",
    "Break-even",
    draw,
    "Writing a dataset in another format takes time once, and saves some in every epoch: after so many epochs it has paid for itself, "
    "by each format's fastest case against today's. The bar follows the interval of the gain.",
)
