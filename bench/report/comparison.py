"""``feedbench compare A B --html``: two runs side by side on one page, case by case, with the machine's part in it said first."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite, log, log10
from pathlib import Path
from typing import Any

import altair as alt

from bench.compare import Comparison
from bench.gate import Change
from bench.gate_words import Compared
from bench.report.digits import NO_BOUNDS, bounds
from bench.report.drawing import Drawn
from bench.report.files import put
from bench.report.page import render
from bench.report.palette import LIMIT, dress
from bench.report.panels import ROW, rows, values

VERDICTS = {"faster": "#009E73", "slower": "#D55E00", "tie": LIMIT}
SHAPES = {"faster": "triangle-right", "slower": "triangle-left", "tie": "circle"}


def write_comparison(made: Compared, path: Path) -> Path:
    """Write the page to ``path``, all or nothing, and return it: what ``bench.gate_words.compared`` made of two runs."""
    chart = _drawn(made.changes) if made.changes else None
    return put(path, render("comparison.html.j2", charts=chart is not None, chart=chart, **vars(made)))


def _drawn(found: Sequence[Change]) -> Drawn:
    about = (
        "B / A of every case with its interval: what lies wholly right of the line is faster in B. "
        "A bar from frame to frame has no bounds."
    )
    spec = _chart(found).to_dict()
    return Drawn("ratios", "", about, spec | {"description": about})


def ticks(reach: float) -> list[float]:
    """Round ratios from ``1 / reach`` to ``reach``, from 1 outwards, so far apart that about four fit on either side."""
    powers = range(ceil(log10(reach)) + 1)
    up = [*(1.01, 1.02, 1.03, 1.04, 1.05, 1.1, 1.2, 1.3, 1.5), *(n * 10.0**power for power in powers for n in (2, 5, 10))]
    down = [*(0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.8, 0.7), *(n / 10 ** (power + 1) for power in powers for n in (5, 2, 1))]
    found = [1.0]
    for side in (up, down):
        last = 1.0
        for ratio in side:
            if abs(log(ratio / last)) >= log(reach) / 5 and 1 / reach <= ratio <= reach:
                last = ratio
                found.append(ratio)
    return sorted(found)


def _shown(one: Comparison) -> tuple[float, ...]:
    """The ratios that the axis must reach: an interval that bounds nothing would squeeze all others into a point.

    A ratio itself gets some room, since a point on the frame is cut in half.
    """
    ends = () if bounds(one.low, one.high) == NO_BOUNDS else (one.low, one.high)
    return (one.ratio**1.05, *ends)


def _chart(found: Sequence[Change]) -> Any:
    import pandas as pd

    columns = ["label", "ratio", "low", "high", "verdict", "a_images_per_s", "b_images_per_s"]
    ordered = sorted(found, key=lambda change: -change.decisive.ratio)
    table = pd.DataFrame(
        [
            (c.case, c.decisive.ratio, c.decisive.low, c.decisive.high, c.verdict, c.a_images_per_s, c.b_images_per_s)
            for c in ordered
        ],
        columns=columns,
    )
    ends = [end for c in found for end in _shown(c.decisive) if end > 0 and isfinite(end)]
    reach = max([1.05, *ends, *(1 / end for end in ends)])
    scale = alt.Scale(type="log", domain=[1 / reach, reach], nice=False, clamp=True)
    x = alt.X("ratio:Q", title="B / A, images/s", scale=scale, axis=alt.Axis(values=ticks(reach), format=",.6~r"))
    y = rows(table["label"])
    colour = alt.Color("verdict:N", scale=alt.Scale(domain=list(VERDICTS), range=list(VERDICTS.values())))
    shape = alt.Shape("verdict:N", scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())))
    tooltip = ["label:N", "verdict:N"] + [
        alt.Tooltip(f"{name}:Q", format=",.4r") for name in columns if name not in ("label", "verdict")
    ]
    base = alt.Chart(values(table, columns))
    layers = [
        alt.Chart(alt.InlineData(values=[{"one": 1}])).mark_rule(color=LIMIT).encode(x=alt.X("one:Q", scale=scale)),
        base.mark_rule(strokeWidth=4, opacity=0.4, clip=True).encode(
            x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=colour, tooltip=tooltip
        ),
        base.mark_point(filled=True, size=55, opacity=1, clip=True).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=tooltip
        ),
    ]
    return alt.layer(*layers, width=560, height=ROW * max(len(table), 2), config=dress())
