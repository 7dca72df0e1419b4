"""The two curves of a training, accuracy and loss: training and validation, with the start of fine-tuning marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import pandas as pd

from bench.history import Epoch

TRAINING, VALIDATION = "training", "validation"
COLOURS = {TRAINING: "#4269d0", VALIDATION: "#ff725c"}
TICKS = 16
"""At most so many epochs are named below a curve."""


def draw(rows: Sequence[Epoch], what: str) -> alt.LayerChart | alt.FacetChart:
    """The curve of ``what``: ``accuracy`` or ``loss``."""
    long = pd.DataFrame(
        [
            {"epoch": row.epoch, "split": split, what: getattr(row, column)}
            for row in rows
            for split, column in ((TRAINING, what), (VALIDATION, f"val_{what}"))
        ]
    ).dropna()
    accuracy = what == "accuracy"
    y = alt.Y(
        what,
        title="accuracy (share of images)" if accuracy else "loss (cross-entropy)",
        scale=alt.Scale(domain=[0, 1]) if accuracy else alt.Scale(zero=True),
        axis=alt.Axis(format="%") if accuracy else alt.Axis(),
    )
    # Ticks by name: a smallest step of 1 does not hold where layers share an axis, and half epochs would be rounded.
    epochs = [row.epoch for row in rows]
    ticks = epochs[:: -(-len(epochs) // TICKS)]
    x = alt.X("epoch", title="epoch", scale=alt.Scale(nice=False), axis=alt.Axis(values=ticks, format="d", grid=False))
    colour = alt.Color(
        "split",
        title=None,
        scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
        legend=alt.Legend(orient="top", symbolType="stroke"),
    )
    lines = alt.Chart(long).mark_line(point=True).encode(x, y, colour)
    layers: list[alt.Chart] = [lines]
    tuned = [row.epoch for row in rows if row.regime == "fine_tune"]
    if tuned and rows[0].regime != "fine_tune":
        # Between the last epoch before and the first of it: an epoch's point stands at its end.
        start = pd.DataFrame({"epoch": [tuned[0] - 0.5], "text": ["fine-tuning starts"]})
        layers.append(alt.Chart(start).mark_rule(strokeDash=[4, 3], color="#555").encode(x))
        layers.append(
            alt.Chart(start).mark_text(align="left", baseline="bottom", dx=5, dy=-4, color="#555")
            .encode(x, alt.Text("text"), y=alt.value(300))
        )  # fmt: skip
    return alt.layer(*layers).properties(width=480, height=300)


def save(rows: Sequence[Epoch], folder: Path) -> None:
    """Write ``accuracy`` and ``loss``, each as SVG and as PNG."""
    for what in ("accuracy", "loss"):
        chart = draw(rows, what)
        chart.save(folder / f"{what}.svg")
        chart.save(folder / f"{what}.png", scale_factor=2)
