"""``report.html``: a run on one page that needs nothing but a browser. Sections and their order: ``sections.py``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.record import Run
from bench.report import digits, scripts
from bench.report.charts.base import Tables
from bench.report.derived import tables as derived
from bench.report.drawing import Drawing, drawing
from bench.report.files import put
from bench.report.sections import epochs_in_words, masthead, phase_in_words, sections, step_in_words

NAME = "report.html"


def write_page(
    run: Run,
    folder: Path | None = None,
    *,
    tables: Tables | None = None,
    drawn: Drawing | None = None,
    today: str | None = None,
) -> Path:
    """Write ``report.html`` into ``folder`` (the run's own, unless named), all or nothing, and return its path.

    ``tables`` are the run's, ``drawn`` its charts (both made here unless given); ``today`` is the id of the user's case.
    Raises UsageError if it was not measured.
    """
    folder = folder or run.path
    shown = tables or derived(run, today)
    scripts.vega_soon()
    parts = sections(run, shown, drawn or drawing(shown), today)
    charts = any(section.charts for section in parts)
    html = render("report.html.j2", charts=charts, sections=parts, **masthead(run), **_contexts(parts))
    return put(folder / NAME, html)


def render(template: str, *, charts: bool, **values: Any) -> str:
    """A page from a template that extends ``base.html.j2``: autoescaped, its scripts inlined and no others allowed."""
    inlined = {"table_script": scripts.as_script(scripts.template_text("table.js"))}
    if charts:
        inlined |= {"charts_script": scripts.as_script(scripts.template_text("charts.js")), "vega": scripts.vega()}
    page = _templates().get_template(template)
    return page.render(
        style=Markup(scripts.template_text("page.css")), policy=scripts.policy(*inlined.values()), charts=charts,
        version=_version(), **inlined, **values,
    )  # fmt: skip


def _contexts(parts: Sequence[Any]) -> dict[str, Any]:
    """What the sections' own templates read, by its name."""
    return {name: value for section in parts for name, value in section.context.items()}


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "full": lambda value: repr(float(value)), "json": scripts.as_json, "digits": digits.significant,
        "ratio": digits.ratio, "share": digits.share, "bytes": digits.in_bytes, "step": step_in_words,
        "phase": phase_in_words, "epochs": epochs_in_words, "hidden": digits.hidden, "options": _options,
    }  # fmt: skip
    environment.globals["show_bounds"] = _bounds
    return environment


def _options(text: str) -> Markup:
    """Text whose options stay whole at the end of a line: a browser breaks after any hyphen, and ``-`` and ``-step`` are none."""
    return Markup(re.sub(r"(?<![\w-])--[a-z-]+", r'<span class="option">\g<0></span>', str(escape(text))))


def _bounds(low: float, high: float, show: str) -> tuple[str, str]:
    """An interval's ends in words; where it bounds nothing, that instead of the first."""
    how = digits.ratio if show == "ratio" else digits.significant
    words = digits.bounds(low, high, how)
    return (words, "") if words == digits.NO_BOUNDS else (how(low), how(high))


def _version() -> str:
    try:
        return version("feedbench")
    except PackageNotFoundError:
        return ""
