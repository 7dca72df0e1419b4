"""``feedbench run`` on a terminal: the options from their texts, progress, and a table at the end."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bench.flags import warnings, word
from bench.model import application, image_size_of, is_own
from bench.options import DEFAULT_LOADERS, RunOptions, names, seconds
from bench.phases import PHASES
from bench.progress import Bar
from bench.quiet import load_tensorflow
from bench.racing import LEAST_SWEEPS
from bench.record import Measured, Run, load_info, load_run
from bench.run_folder import RESUME, go_on
from bench.run_table import run_table
from bench.schedule import report, resume, run
from bench.speeds import outcome
from bench.vary import files_by_name, size, variations
from bench.writing import writing
from loaders import LOADERS
from loaders.sample import not_installed
from storage.console import counted
from storage.errors import UsageError, option

NAMED_REASONS = 3
SETTINGS = (
    "model",
    "weights",
    "fine_tune_at",
    "mixed_precision",
    "jit_compile",
    "steps_per_execution",
    "workers",
    "prefetch",
)
"""What ``--vary`` can set too, but has an option of its own."""


def options_of(given: dict[str, Any]) -> RunOptions:
    """The options from what a command line gives: texts, some with commas; None where nothing was given."""
    out: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for key, value in out.items():
        if isinstance(value, str) and not names(value):
            raise UsageError(f"{option(key)} is empty: give a value, or leave the option out")
    for key in ("formats", "payloads", "loaders", "placements"):
        out[key] = names(out.get(key))
    _installed(out["loaders"])
    out["steps"] = names(out.pop("step", None))
    single = {name: f"{name}={_text(out.pop(name))}" for name in SETTINGS if name in out}
    for name, text in single.items():
        variations([text], (), option(name))
    varied = variations([*out.pop("vary", ()), *single.values()], out["loaders"] or DEFAULT_LOADERS)
    out["vary"], out["files"] = files_by_name(varied)
    for name in (value for one in out["vary"] if one.name == "model" for value in one.values):
        if not is_own(str(name)):
            load_tensorflow()
            application(str(name))  # Said now, in one line, and not by every case.
    wanted = {image_size_of(str(path)) for path in out["files"]} - {None}
    if "image_size" not in out and len(wanted) == 1:
        out["image_size"] = wanted.pop()
    else:
        out["image_size"] = size(out.get("image_size"))
    out["budget_s"] = seconds(out.pop("budget", None))
    return RunOptions(**out)


def _installed(loaders: Iterable[str]) -> None:
    """UsageError if loaders that were named need a library that is not there: said now, before anything is converted."""
    lacking: dict[str, list[str]] = {}
    for name in (name for name in loaders if name in LOADERS):
        load_tensorflow()  # Quietly: loaders import it.
        if missing := [library for library in getattr(LOADERS[name], "libraries", ()) if not_installed(library)]:
            lacking[name] = missing
    if lacking:
        raise UsageError(f"--loaders {','.join(lacking)}: {not_installed(*chain(*lacking.values()))}")


def command() -> str:
    """The command line, for the record: as typed, but without the paths before names."""
    return shlex.join([Path(sys.argv[0]).name, *(_nameless(argument) for argument in sys.argv[1:])])


def run_and_print(given: dict[str, Any], resumed: Path | None) -> int:
    """Run, or go on; print the table and where the report is. Exit code 130 after an interrupt."""
    console = Console(stderr=True)
    results = Path(given.get("results") or "results")
    earlier = _resumable(results)
    try:
        with Bar(console) as bar:
            folder = resume(resumed, bar) if resumed else run(options_of(given), bar, command())
    except KeyboardInterrupt:
        console.print(Text(_how_to_go_on({resumed} if resumed else _resumable(results) - earlier)), soft_wrap=True)
        return 130
    stored = load_run(folder)
    print_run(stored, wide())
    return 0 if any(isinstance(record.outcome, Measured) for record in stored.records) else _nothing(stored, console)


def _nothing(stored: Run, console: Console) -> int:
    """Nothing was measured: say why, and return the exit code of that."""
    reasons = Counter(outcome(stored.of(case.id))[1] for case in stored.info.cases)
    for reason, number in reasons.most_common(NAMED_REASONS):
        console.print(Text(f"Nothing was measured. {counted(number, 'case')}: {reason}"), soft_wrap=True, style="red")
    return 1


def _resumable(results: Path) -> set[Path]:
    """The runs there that are not finished."""
    if not os.path.isdir(results):  # noqa: PTH112 - Path's methods raise below a folder that may not be entered.
        return set()
    return {options.parent for options in results.glob(f"*/{RESUME}") if not options.parent.is_symlink()}


def _how_to_go_on(begun: Iterable[Path]) -> str:
    """What to type after an interrupt. ``begun`` is the run's folder, if it had one yet."""
    folder = next(iter(sorted(begun, reverse=True)), None)
    if folder is None:
        return "interrupted before anything was measured. To start again, give the same command."
    if load_info(folder).finished:
        return f"interrupted; all is measured, and the report is to be made: {go_on(folder)}"
    return f"interrupted; what was measured is kept. Go on with: {go_on(folder)}"


def report_and_print(folder: Path, today: str | None) -> None:
    """Make a run's report again; print its table and where the page is.

    Raises DataError if the folder is no run, UsageError if ``today`` was not measured in it.
    """
    from bench.report.write import write_report

    stored = load_run(folder)
    with writing(folder):
        if today is None:
            report(folder, stored.info.options.get("today"))
        else:
            write_report(folder, today)
    print_run(stored, wide())


def wide(*, stderr: bool = False) -> Console:
    """A console that does not squeeze a table where there is no terminal to fit it into."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=160)


def print_run(stored: Run, console: Console) -> None:
    """A line a case, fastest first within its step; then what failed or deserves no trust, and where the report lies."""
    console.print(run_table(stored.info.cases, stored.records, console.width))
    outcomes = {case.id: outcome(stored.of(case.id)) for case in stored.info.cases}
    for case, (status, reason) in outcomes.items():
        if status == "failed":
            console.print(Text(f"failed: {case}: {reason}"), soft_wrap=True, style="red")
    if left_out := stored.info.left_out:
        console.print(Text(f"Careful: {left_out}."), soft_wrap=True, style="yellow")
    skipped = sum(status == "skipped" for status, _ in outcomes.values())
    if skipped:
        console.print(f"Skipped: {skipped}; their reasons are in the report.", highlight=False)
    raced = sum(status == "ok" and bool(reason) for status, reason in outcomes.values())
    if raced:
        console.print(f"Stopped by racing, far below the leader: {raced}; the report says why.", highlight=False)
    flagged = Counter(
        flag
        for case in stored.info.cases
        for flag in {word(said) for phase in PHASES for said in warnings(stored.of(case.id, phase))}
    )
    if flagged:
        named = ", ".join(f"{flag} ({number})" for flag, number in flagged.most_common())
        console.print(Text(f"Flagged cases: {named}; the report says what to do."), soft_wrap=True, style="yellow")
    budget_s, spent_s = stored.info.options.get("budget_s"), stored.info.spent_s
    if budget_s and spent_s > budget_s and stored.info.sweeps <= LEAST_SWEEPS:
        said = f"Over its budget of {budget_s:g} s: {LEAST_SWEEPS} sweeps are measured whatever it is. It took {spent_s:,.0f} s."
        console.print(Text(said), soft_wrap=True, style="yellow")
    page = stored.path / "report.html"
    if page.is_file():
        console.print(Text(f"The report: {page}"), soft_wrap=True)


def _text(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _nameless(argument: str) -> str:
    """A path's last part only: where somebody keeps their photographs is nobody's business."""
    option, equals, value = argument.partition("=")
    return (
        f"{option}{equals}{Path(value).name}"
        if equals and "/" in value
        else Path(argument).name
        if argument.startswith("/")
        else argument
    )
