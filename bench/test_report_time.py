"""How long a large run takes to become a report, in steps and as a whole, and its page to answer: 120 cases, 10 sweeps.

``pytest bench/test_report_time.py --benchmark-only``. It answers another question than the main job, so it runs only when it is named.
"""

from __future__ import annotations

from itertools import islice, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.case import Case, StepSpec
from bench.record import DatasetFacts, Measured, Run, RunInfo, RunRecord, append_records, load_run, write_info
from bench.replay import Replay
from bench.report.charts import CHARTS
from bench.report.derived import tables
from bench.report.drawing import drawing
from bench.report.page import write_page
from bench.report.pictures import write_charts
from bench.report.write import write_report
from loaders.base import LoaderSpec

CASES, SWEEPS, BATCHES = 120, 10, 80
FORMATS = ("directory", "hdf5", "lmdb", "tfrecord")
OPENINGS = 10
CLICKING = """
window.tasks = [];
new PerformanceObserver(list => window.tasks.push(...list.getEntries().map(task => [task.startTime, task.duration])))
  .observe({type: "longtask", buffered: true});
(function click() {
  const button = document.querySelector('#cases-table th[data-sort="images_per_s"] button');
  button?.click();
  if (button && button.closest("th").getAttribute("aria-sort") !== "none") window.sorted = performance.now();
  else setTimeout(click, 1);
})();
"""
"""Run before the page's own scripts: clicks until the table is sorted, and keeps when, in ms from the navigation's start."""
LOADERS = ("image_data_generator", "from_generator", "tfdata", "threaded")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A made-up run of that size: rates from 500 images/s on, each batch with noise of its own."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    cells = product(("none", "feature_extraction"), (32, 64), ("pipeline", "model"), ("encoded", "raw"), FORMATS, LOADERS)
    cases = [
        Case(format=format_, payload=payload, loader=loader, step=StepSpec(step=step),  # type: ignore[arg-type]
             spec=LoaderSpec(placement=placement, batch_size=size))  # type: ignore[arg-type]
        for step, size, placement, payload, format_, loader in islice(cells, CASES)
    ]  # fmt: skip
    facts = {
        f"{format_}-{payload}": DatasetFacts(
            name="made up",
            format=format_,
            payload=payload,
            samples=2000,
            classes=5,
            stored_bytes=number * 10**7,
            convert_s=number,
        )
        for number, (format_, payload) in enumerate(product(FORMATS, ("encoded", "raw")), 1)
    }
    write_info(folder, RunInfo(
        name="made up", command="feedbench run", started_at="2026-01-01T00:00:00Z", options={}, sweeps=SWEEPS,
        environments={"e": {}}, datasets=facts, cases=cases, finished=True,
    ))  # fmt: skip
    for sweep in range(SWEEPS):
        append_records(folder, [_record(case, sweep, number, rng) for number, case in enumerate(cases)])
    return load_run(folder)


def _record(case: Case, sweep: int, number: int, rng: np.random.Generator) -> RunRecord:
    wait = case.spec.batch_size / (500 * 1.03**number) * 1e9 * rng.lognormal(0, 0.05, BATCHES)
    outcome = Measured(
        images=[case.spec.batch_size] * BATCHES, wait_ns=[int(ns) for ns in wait], step_ns=[5000] * BATCHES,
        epochs=[batch // 20 for batch in range(BATCHES)], stages_ns={"read": 5e3, "decode": 4e5, "batch": 5e5},
        startup_ns=10**8, first_batch_ns=10**8, cpu_ns=10**9, anon_memory_bytes=10**8, resident_before=1.0,
    )  # fmt: skip
    return RunRecord(case=case, sweep=sweep, outcome=outcome, environment_id="e")


def test_tables(run: Run, benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(tables, args=(run,), rounds=3)  # type: ignore[no-untyped-call]


def test_charts_as_files(run: Run, benchmark: BenchmarkFixture) -> None:
    shown = tables(run)
    drawn = benchmark.pedantic(lambda: write_charts(drawing(shown), run.path / "charts"), rounds=3)  # type: ignore[no-untyped-call]
    assert set(drawn.charts) == set(CHARTS) - {"cold_warm"}


def test_page(run: Run, benchmark: BenchmarkFixture) -> None:
    """To be reached: under 5 s, from the records on."""
    page = benchmark.pedantic(lambda: write_page(load_run(run.path)), rounds=3, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert page.stat().st_size < 5_000_000


def test_whole_report(run: Run, benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(write_report, args=(Path(run.path),), rounds=3)  # type: ignore[no-untyped-call]


@pytest.mark.benchmark(timer=Replay())
def test_interactive(browser: Any, run: Run, benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    """To be reached: under 1 s, by the browser's clock, from opening the file to the first click that sorts the table.

    A sample is one opening in a context of its own. Beside them, what a later click may have to wait for: the longest task of
    the page from then until all charts are drawn, in each opening (s; 0 is under 50 ms, which a browser does not count).
    """
    page = write_page(load_run(run.path)).absolute().as_uri()
    taken = [_opened(browser, page) for _ in range(OPENINGS)]
    marker = request.node.get_closest_marker("benchmark")
    assert marker is not None
    clock: Replay = marker.kwargs["timer"]
    clock.samples = [seconds for seconds, _ in taken]
    benchmark.extra_info["longest_task_after_s"] = [longest for _, longest in taken]
    benchmark.pedantic(clock.step, rounds=OPENINGS)  # type: ignore[no-untyped-call]


def _opened(browser: Any, address: str) -> tuple[float, float]:
    """Seconds until a click sorts, and of the longest task after that."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    page.add_init_script(CLICKING)
    page.goto(address)
    page.wait_for_function("() => window.sorted")
    shown = page.eval_on_selector_all(
        '#cases-table tbody tr:not([hidden]) [data-column="images_per_s"]',
        "cells => cells.map(cell => Number(cell.dataset.value))",
    )
    # The click did its work, on the whole table.
    assert len(shown) == CASES
    assert all(above >= below for above, below in pairwise(shown))
    page.wait_for_function(
        "() => [...document.querySelectorAll('figure.chart')].every(chart => chart.dataset.state === 'drawn')"
    )
    at_ms: float = page.evaluate("window.sorted")
    after = [duration for start, duration in page.evaluate("window.tasks") if start + duration > at_ms]
    context.close()
    return at_ms / 1e3, max(after, default=0.0) / 1e3
