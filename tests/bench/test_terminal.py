"""What a run shows on a terminal: a table while it goes on and at its end, the page's path, and plain lines without a terminal."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench.case import Case, StepSpec
from bench.compare import interval, rates
from bench.progress import Bar
from bench.record import Run, Skipped
from bench.report.digits import bounds, significant
from bench.run_output import print_run
from bench.run_table import run_table
from tests.bench.synthetic import matrix, synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("run"), sweeps=3)


def terminal(height: int = 30, *, real: bool = True, width: int = 140) -> Console:
    return Console(file=io.StringIO(), force_terminal=real, width=width, height=height, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def feedbench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bench.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_measured_case_has_a_line_with_its_numbers(run: Run) -> None:
    console = terminal()
    console.print(run_table(run.info.cases, run.records, console.width))
    lines = {line.split()[0] + str(number): line for number, line in enumerate(written(console).splitlines())}
    shown = [line for line in lines.values() if re.search(r"\d,?\d* to \d", line)]
    measured = [
        (case, found)
        for case in run.info.cases
        for phase in ("warm", "cold_epoch")
        if len(found := rates(run.of(case.id, phase))) > 1
    ]
    assert len(shown) == len(measured)
    for case, found in measured:
        rate = interval(list(found.values()))
        cells = [significant(rate.value), bounds(rate.low, rate.high), str(rate.sweeps)]
        assert any(re.search(r"\s+".join(map(re.escape, cells)), line) for line in shown), case.id


def test_fastest_first_within_a_step_and_only_the_first_few_if_asked(run: Run) -> None:
    console = terminal()
    console.print(run_table(run.info.cases, run.records, console.width, most=2))
    lines = [line.split("  ")[0].strip() for line in written(console).splitlines()]
    assert lines == [
        "case", "loading alone", "limit:gather", lines[3], f"… and {alone(run, 'none') - 2} more",
        "the real step (feature_extraction)", lines[6], lines[7], f"… and {alone(run, 'feature_extraction') - 2} more",
    ]  # fmt: skip


def alone(run: Run, step: str) -> int:
    lines = [(case, phase) for case in run.info.cases for phase in ("warm", "cold_epoch")]
    return sum(case.step.step == step and bool(rates(run.of(case.id, phase))) for case, phase in lines)


def test_a_cold_case_has_a_line_for_its_first_epoch_and_one_for_the_warm_ones(tmp_path: Path) -> None:
    """Nobody could prove the synthetic LMDB cold, so its first epoch is not called so."""
    run = synthetic_run(tmp_path, cases=[case for case in matrix() if case.cache == "cold"], sweeps=2)
    console = terminal()
    console.print(run_table(run.info.cases, run.records, console.width))
    lines = [line for line in written(console).splitlines() if re.search(r"\d to \d", line)]
    phases = {form: sorted(re.findall(rf"^{form}\S* \((\w+)\)", "\n".join(lines), re.M)) for form in ("directory", "lmdb")}
    assert phases == {"directory": ["cold_epoch", "warm"], "lmdb": ["first_epoch", "warm"]}
    for case in run.info.cases:
        slow, fast = (interval(list(rates(run.of(case.id, phase)).values())).value for phase in ("cold_epoch", "warm"))
        ours = [line for line in lines if line.startswith(case.format)]
        assert [significant(rate) in line for line, rate in zip(ours, (fast, slow), strict=True)] == [True, True]


def test_the_table_of_a_run_under_way_fits_the_terminal(run: Run) -> None:
    console = terminal(height=24)
    bar = Bar(console)
    with bar:
        bar.plan(len(run.records))
        for number, record in enumerate(run.records, 1):
            bar.now(f"sweep {record.sweep + 1}: {record.case.id}")
            bar.measured(record)
            bar.done()
            if number % 20 == 0 or number == len(run.records):
                lines = console.render_lines(bar._shown())
                assert len(lines) <= 24
    assert "lmdb-raw-tfdata-model" in "".join(segment.text for line in lines for segment in line)
    assert f"{len(run.records)}/{len(run.records)}" in "".join(segment.text for line in lines for segment in line)


def test_a_narrow_terminal_shows_what_decides_and_how_far_it_is(run: Run) -> None:
    console = terminal(width=80)
    console.print(run_table(run.info.cases, run.records, console.width))
    lines = written(console).splitlines()
    assert lines[0].split() == ["case", "images/s", "95%", "interval", "sweeps", "waiting"]
    folded = [line for line in lines[1:] if line.strip() and not re.search(r" to |more|alone|step", line)]
    assert len(folded) <= len([line for line in lines if " to " in line])  # no name takes three lines
    bar = Bar(console)
    bar.plan(200)
    bar.now("sweep 1 of 5: directory-encoded-image_dataset_from_directory-pipeline-step=feature_extraction")
    (line,) = ("".join(segment.text for segment in line) for line in console.render_lines(bar._shown()))
    assert re.search(r" 0/200 0:00:00 left \S+ sweep 1 of 5: .*…", line)


def test_without_a_terminal_there_are_a_few_plain_lines(run: Run) -> None:
    console = terminal(real=False)
    with Bar(console) as bar:
        bar.plan(60)
        for record in run.records[:60]:
            bar.now(f"sweep 1: {record.case.id} [red]")
            bar.measured(record)
            bar.done()
    lines = written(console).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["0/60", "12/60", "24/60", "36/60", "48/60"]
    assert re.search(r"^48/60 \(\d:\d\d:\d\d left\) sweep 1: ", lines[-1])
    assert all(line.endswith(" [red]") for line in lines)


def test_names_in_square_brackets_are_names(tmp_path: Path) -> None:
    odd = replace(Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none")), name="[red]x[/red]")
    run = synthetic_run(tmp_path, cases=[odd, replace(odd, format="lmdb", name="[/nothing]")], sweeps=2)
    console = terminal()
    print_run(run, console)
    assert "[red]x[/red]" in written(console)
    assert "[/nothing]" in written(console)


def test_failures_are_said_once_and_the_page_is_named_if_it_is_there(run: Run) -> None:
    console = terminal()
    print_run(run, console)
    assert written(console).count("failed: lmdb-raw-from_generator-model: the worker was killed by signal 9") == 1
    assert "Skipped: 40; their reasons are in the report." in written(console)
    assert "report.html" not in written(console)


def test_what_deserves_no_trust_is_said_where_it_is_first_read(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "five", sweeps=5)
    console = terminal()
    print_run(run, console)
    said = written(console)
    raced = {r.case.id for r in run.records if isinstance(r.outcome, Skipped) and "racing" in r.outcome.reason}
    assert raced
    assert f"Stopped by racing, far below the leader: {len(raced)}; the report says why." in said
    assert re.search(r"Flagged cases: .*bimodal \(\d+\).*; the report says what to do\.", said)
    quiet = Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none"))
    console = terminal()
    print_run(synthetic_run(tmp_path / "quiet", cases=[quiet]), console)
    assert not re.search("Flagged|racing|budget", written(console))


def test_a_budget_that_three_sweeps_do_not_fit_into_is_said(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=[Case(format="hdf5", payload="raw", loader="tfdata")], sweeps=3)
    info = run.info.model_copy(update={"options": {"budget_s": 60.0}, "spent_s": 1234.5})
    console = terminal()
    print_run(replace(run, info=info), console)
    assert "Over its budget of 60 s: 3 sweeps are measured whatever it is. It took 1,234 s." in written(console)
    assert "Flagged cases: not enough sweeps (1)" in written(console)


def test_report_makes_all_again_and_says_where_the_page_is(tmp_path: Path) -> None:
    synthetic_run(tmp_path, cases=matrix(formats=("directory",), payloads=("encoded",), cold=False), sweeps=2)
    done = feedbench("report", tmp_path, "--today", "directory-encoded-tfdata-pipeline")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"The report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").is_file()
    assert (
        "today's tfdata on directory encoded" in (tmp_path / "summary.md").read_text()
        or "Keep what you have, tfdata" in (tmp_path / "summary.md").read_text()
    )


def test_report_refuses_in_one_line(tmp_path: Path) -> None:
    done = feedbench("report", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    synthetic_run(tmp_path, cases=3, sweeps=2)
    done = feedbench("report", tmp_path, "--today=nobody")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--today nobody: there is no such pipeline here" in done.stderr


def test_compare_writes_a_page_into_the_folder_of_the_run_that_is_judged(tmp_path: Path) -> None:
    for name in ("before", "after"):
        synthetic_run(tmp_path / name, cases=4, sweeps=3, seed=len(name))
    done = feedbench("compare", tmp_path / "before", tmp_path / "after", "--html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"The page: {tmp_path / 'after' / 'compare.html'}"
    assert "<title>" in (tmp_path / "after" / "compare.html").read_text()
