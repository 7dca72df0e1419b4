"""Colours, shapes and type that all charts share: told apart by colour-blind readers, legible on white and on dark.

Colour never stands alone: what it says, a shape, a row or a label says too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import altair as alt

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1")
"""Okabe and Ito's, without yellow and black, which vanish on white and on dark; purple stands in."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
LIMIT = "#646464"
"""Limits are no contestants, and have no colour."""
FORMATS = ("directory", "hdf5", "lmdb", "tfrecord")
"""Always the same colours, whatever else is in the run."""
LOADERS = ("image_data_generator", "from_generator", "tfdata", "threaded", "image_dataset_from_directory", "tfdata_service")
LABEL_LIMIT = 420


def colours(names: Iterable[str], known: tuple[str, ...]) -> alt.Scale:
    """A colour for each name: fixed for known ones, then in turn for those of other packages; grey for limits."""
    places = _places(names, known)
    found = [LIMIT if place is None else COLOURS[place % len(COLOURS)] for place in places.values()]
    return alt.Scale(domain=list(places), range=found)


def shapes(names: Iterable[str], known: tuple[str, ...]) -> alt.Scale:
    """A shape for each name. Where colours come a second time, shapes are one further on: no pair of the two comes twice."""
    places = _places(names, known)
    found = [
        "stroke" if place is None else SHAPES[(place + place // len(COLOURS)) % len(SHAPES)] for place in places.values()
    ]
    return alt.Scale(domain=list(places), range=found)


def dress() -> alt.Config:
    """What a finished chart wears: type, ink and an opaque white ground, so that a file is legible wherever it is shown.

    A page with a ground of its own overrides it. Given to a chart as it is made: Altair's methods copy all of a chart each.
    """
    small: dict[str, Any] = {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"}
    return alt.Config(
        background="#ffffff",
        font="sans-serif",
        padding=12,
        axis=alt.AxisConfig(**small, labelLimit=LABEL_LIMIT, gridOpacity=0.6),
        legend=alt.LegendConfig(**small, labelLimit=300, symbolOpacity=1),
        title=alt.TitleConfig(fontSize=13, anchor="start"),
        view=alt.ViewConfig(strokeOpacity=0.4),
    )


def _places(names: Iterable[str], known: tuple[str, ...]) -> dict[str, int | None]:
    """Every name's place in the palette, in the order of the legend; None for a limit."""
    found = set(names)
    limits = {name for name in found if name == "memory" or name.startswith("limit:")}
    others = sorted(found - set(known) - limits)
    ordered = {name: place for place, name in enumerate((*known, *others)) if name in found}
    return {**ordered, **dict.fromkeys(sorted(limits))}
