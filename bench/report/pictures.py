"""Charts as files: ``charts/NAME.svg`` and ``charts/NAME.png``, by vl-convert, without a browser or a network."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

from bench.report.charts import CHARTS
from bench.report.drawing import Drawing, reason
from bench.report.files import put

LARGEST = 6_000_000
"""Pixels: a chart of 120 cases is drawn at less than twice its size, so that it stays a picture to attach."""
COLOURS = 128
"""Of a PNG: a tenth of the bytes, and nothing that an eye would see in a chart."""


def write_charts(drawn: Drawing, folder: Path) -> Drawing:
    """Write every chart as two files, and remove those that an earlier report left of the others.

    Gives back what was drawn, without the charts that make no picture: those are left out too.
    """
    folder.mkdir(exist_ok=True)
    charts, left_out = dict(drawn.charts), dict(drawn.left_out)
    for name, chart in drawn.charts.items():
        try:
            svg = as_svg(chart.spec)
            png = as_png(svg)
        except Exception as error:  # Also what the renderer says of another package's spec.
            left_out[name] = reason(error)
            del charts[name]
        else:
            put(folder / f"{name}.svg", svg)
            put(folder / f"{name}.png", png)
    for name in CHARTS:
        if name not in charts:
            for suffix in (".svg", ".png"):
                (folder / f"{name}{suffix}").unlink(missing_ok=True)
    return Drawing(charts, left_out)


def as_svg(spec: Mapping[str, Any]) -> str:
    """A Vega-Lite spec as SVG text."""
    import altair
    import vl_convert

    version = "_".join(altair.SCHEMA_VERSION.split(".")[:2])
    return str(vl_convert.vegalite_to_svg(dict(spec), vl_version=version))


def as_png(svg: str) -> bytes:
    """An SVG picture as PNG, at twice its size unless that would be very large."""
    import vl_convert
    from PIL import Image

    size = re.search(r'<svg[^>]*? width="([\d.]+)"[^>]*? height="([\d.]+)"', svg)
    area = float(size[1]) * float(size[2]) if size else LARGEST / 4
    png = vl_convert.svg_to_png(svg, scale=min(2.0, max(1.0, sqrt(LARGEST / area))))
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    few.save(out, "PNG")  # With optimize, a seventh of the bytes less for seven times the time.
    return out.getvalue()
