"""Every chart of a run, drawn once for its file and for the page. One that cannot be drawn is left out, with its reason.

Charts come from other packages too, and no chart is worth a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.labels import with_shared
from bench.report.charts import CHARTS
from bench.report.charts.base import Tables
from bench.report.scripts import as_json
from bench.speeds import in_order, in_words

LONGEST = 300
"""Characters of a reason; what is longer is no sentence."""


@dataclass(frozen=True)
class Drawn:
    """A chart as the page holds it: its Vega-Lite spec, and what to see in it.

    ``first`` is the title of the panel that is shown first, where there is a panel for each step; else all are shown.
    """

    name: str
    title: str
    caption: str
    spec: Mapping[str, Any]
    first: str = ""


@dataclass(frozen=True)
class Drawing:
    """The charts that have something to show, and those that failed, each with its reason in a sentence; both by name."""

    charts: Mapping[str, Drawn]
    left_out: Mapping[str, str]


def drawing(tables: Tables) -> Drawing:
    """Draw all rows of CHARTS."""
    charts: dict[str, Drawn] = {}
    left_out: dict[str, str] = {}
    for name in CHARTS:
        try:
            drawn = _drawn(tables, name)
        except Exception as error:  # Whatever a chart of another package raises.
            left_out[name] = reason(error)
        else:
            if drawn is not None:
                charts[name] = drawn
    return Drawing(charts, left_out)


def reason(error: Exception) -> str:
    """What an exception says, in one line, with its kind."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(error)).split())
    said = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


def _drawn(tables: Tables, name: str) -> Drawn | None:
    chart = CHARTS[name]
    picture = chart.draw(tables)
    if picture is None:
        return None
    # Charts are validated by their tests; here it would only take time.
    spec = picture.to_dict(validate=False)
    spec |= {"description": f"{chart.title}. {chart.about}"}
    if name not in CHARTS.built_in:
        as_json(spec)  # What the page cannot hold must fail here.
    return Drawn(name, chart.title, chart.about, spec, _first(tables, spec))


def _first(tables: Tables, spec: Mapping[str, Any]) -> str:
    """The heading of the panel of the step that decides, if the chart has a panel for each of several steps."""
    titles = [panel.get("title") for panel in spec.get("vconcat", ())]
    named = [with_shared(in_words(step), tables.shared) for step in in_order(tables.results["step"])]
    if len(titles) < 2 or not all(title in named for title in titles):
        return ""
    # Loading alone comes first in order, and decides only where nothing else was measured.
    return next(title for title in [*named[1:], *named] if title in titles)
