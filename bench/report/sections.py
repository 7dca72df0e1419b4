"""The eleven sections of the page, in the order in which a reader decides: what to use first, how we know last.

A section without data says in one line which command would fill it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from bench.choices import decisive_step
from bench.record import Run
from bench.report import method
from bench.report.answers import blocks
from bench.report.cases import cases
from bench.report.charts import CHARTS
from bench.report.charts.base import Tables
from bench.report.digits import significant
from bench.report.drawing import Drawing, Drawn
from bench.report.first_epoch import first_epoch
from bench.report.gallery import gallery
from bench.report.verdict import verdict
from bench.speeds import in_words, only_cold


@dataclass(frozen=True)
class Missing:
    """Why a section lacks something, and the command that would fill it, if one would."""

    sentence: str
    command: str = ""


@dataclass(frozen=True)
class Section:
    """``short`` stands in the contents; ``template`` draws what is no chart, from ``context``."""

    id: str
    short: str
    title: str
    lead: str = ""
    template: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    charts: Sequence[Drawn] = ()
    missing: Missing | None = None
    wide: bool = False


def masthead(run: Run) -> dict[str, str]:
    """The page's name and the line below it."""
    facts = next(iter(run.info.datasets.values()), None)
    environment = next(iter(run.info.environments.values()), {})
    parts = [
        f"run {run.info.name}", run.info.started_at.replace("T", " ")[:16] + " UTC" if run.info.started_at else "",
        f"{facts.samples:,} images" if facts else "", run.info.left_out, f"{len(run.info.cases)} cases", f"{run.info.sweeps} sweeps",
        str(environment.get("cpu_model", "")), "" if run.info.finished else "not finished",
    ]  # fmt: skip
    return {"name": method.name(run), "summary": " · ".join(part for part in parts if part)}


def sections(run: Run, tables: Tables, drawn: Drawing, today: str | None) -> list[Section]:
    """All of them, with the charts that were drawn."""
    said = [*verdict(run, today).lines, *first_epoch(run, today)]
    return [
        Section("verdict", "Verdict", "What to use", template="verdict.html.j2", context={"verdict": said}),
        Section("cases", "All cases", "All cases", template="cases.html.j2", wide=True,
                context={"cases": cases(tables, decisive_step(run)), "labels": tables.labels, "all_share": tables.shared}),
        _charts(drawn, "throughput", "Throughput", "Throughput, with every sweep",
                Missing("Nothing was measured. To go on:", "feedbench run --resume RUN")),
        _time(run, drawn),
        _charts(drawn, "utilisation", "Accelerators", "How fast an accelerator each case can feed",
                Missing("Loading alone was not measured. To measure it:", method.command(run, "--step none"))),
        _charts(drawn, "size_throughput", "Size", "Stored size against throughput",
                Missing("No stored dataset was measured. To measure some:", method.command(run))),
        _break_even(run, tables, drawn),
        _charts(drawn, "cold_warm", "Cold and warm", "Cold against warm",
                Missing("No cold epoch was measured. To measure them:", method.command(run, "--cache cold"))),
        Section("claims", "Claims", "Three claims, answered by this run", template="claims.html.j2",
                context={"claims": blocks(run), "later_epochs": only_cold(run)}),
        *_further(drawn),
        _samples(run),
        _method(run),
    ]  # fmt: skip


def _charts(drawn: Drawing, name: str, short: str, title: str, missing: Missing) -> Section:
    """A section that is one chart: its heading is the section's, what to see in it the section's first words."""
    if name not in drawn.charts:
        return Section(name, short, title, missing=_left_out(drawn, name) or missing)
    chart = drawn.charts[name]
    return Section(name, short, title, lead=chart.caption, charts=[replace(chart, title="", caption="")])


def _left_out(drawn: Drawing, *names: str) -> Missing | None:
    """Which of these charts could not be drawn, and why; None if none failed."""
    failed = [f"{name} ({drawn.left_out[name]})" for name in names if name in drawn.left_out]
    return Missing(f"Left out, because it could not be drawn: {'; '.join(failed)}.") if failed else None


def _time(run: Run, drawn: Drawing) -> Section:
    names = ("waiting", "stages")
    missing = Missing("The stages of the pipelines were not timed. To time them:", method.command(run, "--stages"))
    return Section(
        "stages", "Stages", "Where the time goes", charts=[drawn.charts[name] for name in names if name in drawn.charts],
        missing=_left_out(drawn, *names) or (None if "stages" in drawn.charts else missing),
    )  # fmt: skip


def _further(drawn: Drawing) -> list[Section]:
    """Charts that other packages add to CHARTS."""
    names = [name for name in CHARTS if name not in CHARTS.built_in]
    charts, missing = [drawn.charts[name] for name in names if name in drawn.charts], _left_out(drawn, *names)
    return [Section("further", "More charts", "More charts", charts=charts, missing=missing)] if charts or missing else []


def _break_even(run: Run, tables: Tables, drawn: Drawing) -> Section:
    frame = tables.break_even
    groups: list[dict[str, Any]] = [
        {"step": in_words(str(step)), "today": rows.iloc[0]["today"], "rows": rows.to_dict("records")}
        for step, rows in (frame.groupby("step", sort=False) if len(frame) else [])
    ]
    missing = Missing(
        "Today's case was not measured, so nothing can pay for itself. To measure it:",
        method.command(run, "--loaders image_data_generator,tfdata"),
    )
    chart = drawn.charts.get("break_even")
    return Section(
        "break_even", "Break-even", "When a conversion has paid for itself", lead=chart.caption if chart else "",
        template="breakeven.html.j2", context={"breakeven": groups},
        charts=[replace(chart, title="", caption="")] if chart else [],
        missing=_left_out(drawn, "break_even") or (None if groups else missing),
    )  # fmt: skip


def _samples(run: Run) -> Section:
    found = gallery(run.path)
    return Section(
        "samples", "Images", "What loaders delivered",
        lead="One image for each distinct result, beside the independent reference. A difference has a named cause, or the "
        "case fails.",
        template="gallery.html.j2" if found else "", context={"gallery": found},
        missing=None if found else Missing("This run kept no images. To keep some:", method.command(run)),
    )  # fmt: skip


def _method(run: Run) -> Section:
    context = {
        "again": method.again(run), "sweeps": run.info.sweeps, "workers": method.workers(run),
        "dataset": method.dataset(run), "stored": method.stored(run),
        "in_memory": method.in_memory(run), "machine": method.machine(run), "options": method.options(run),
    }  # fmt: skip
    return Section(
        "method", "Method", "How it was measured, and on what", template="method.html.j2", context={"method": context}
    )


def step_in_words(step: str) -> str:
    """A step as short as a cell needs it."""
    kind, _, rate = step.partition(":")
    return {"none": "loading alone", "emulated": f"emulated, {rate}/s"}.get(kind, step.replace("_", " "))


def phase_in_words(phase: str) -> str:
    """Which epochs of a cold case a row is of."""
    return {
        "cold_epoch": "first epoch, cold",
        "first_epoch": "first epoch, not proven cold",
        "warm": "later epochs",
    }.get(phase, phase)


def epochs_in_words(row: Mapping[str, Any]) -> str:
    """After how many epochs, with what bounds it; in words where there is no number."""
    epochs, low, high = (float(row[name]) for name in ("epochs", "epochs_low", "epochs_high"))
    if epochs == 0:
        return "nothing to write"
    if not isfinite(epochs):
        return "never: no gain established"
    return f"{significant(epochs, 2)} ({significant(low, 2)} to {significant(high, 2)})"
