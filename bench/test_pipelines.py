"""The pytest-benchmark entry: one benchmark a case.

``pytest --benchmark-only`` measures all cases first, interleaved in worker processes (``schedule.py``), and then each test
replays its case's samples into pytest-benchmark: a sample is one sweep's seconds a batch. The numbers in its table, JSON,
comparison and histogram are exactly those. Plain ``pytest`` runs every case once on a few tiny images, as a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from rich.console import Console

from bench.case import Case
from bench.compare import rates
from bench.matrix import cases
from bench.options import RunOptions
from bench.progress import Bar
from bench.record import Failed, Run, Skipped, load_run
from bench.replay import Replay
from bench.run_output import options_of, print_run, wide
from bench.schedule import run
from storage.console import shown
from storage.errors import FeedbenchError


def options(config: pytest.Config) -> RunOptions:
    """The run that pytest's options name. Without --benchmark-only: a tiny one."""
    given: dict[str, Any] = {
        name: config.getoption(name)
        for name in ("images", "formats", "payloads", "loaders", "placements", "step", "batch_size", "image_size", "limit",
                     "results", "sweeps", "budget", "isolation", "turns", "cache", "seed", "model", "weights", "fine_tune_at",
                     "workers", "vary", "today")
    }  # fmt: skip
    for name in ("images", "results"):
        given[name] = Path(given[name]) if given[name] else given[name]  # An empty one is refused, as any empty text is.
    if not timed(config):
        given |= {"batch_size": 8, "image_size": "48", "limit": 24, "sweeps": 1, "tiny": True}
    try:
        return options_of(given)
    except FeedbenchError as error:
        raise pytest.Collector.CollectError(shown(str(error))) from error


def timed(config: pytest.Config) -> bool:
    """Whether this is a benchmark run, and not a test run."""
    return bool(config.getoption("benchmark_only", default=False))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case, by its id, with a clock of its own."""
    planned = cases(options(metafunc.config))
    # As a test, it takes half a minute for what the everyday tests of this command show with fewer cases.
    more = () if timed(metafunc.config) else (pytest.mark.slow,)
    metafunc.parametrize(
        "case",
        [
            pytest.param(case, id=case.id, marks=(pytest.mark.benchmark(timer=Replay(), group=case.step.step), *more))
            for case in planned
        ],
    )


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run behind all tests of the session, made when the first of them asks for it."""
    config = request.config
    asked = options(config)
    chosen = {item.name for item in request.session.items}
    planned = [case for case in cases(asked) if f"test_pipeline[{case.id}]" in chosen]
    if not timed(config):
        folder = tmp_path_factory.mktemp("results")
        asked = RunOptions(**{**vars(asked), "results": folder, "data": folder / "data"})
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        console = Console(stderr=True, quiet=not timed(config))
        console.print()
        try:
            with Bar(console) as bar:
                done = load_run(run(asked, bar, "pytest --benchmark-only", planned=planned))
        except FeedbenchError as error:
            if not timed(config):
                raise
            pytest.exit(shown(str(error)), error.exit_code)  # In one line, and not once a case.
        if timed(config):
            print_run(done, wide(stderr=True))
    return done


def test_pipeline(case: Case, measured: Run, benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    """The case was skipped, failed, or measured; its samples are seconds a batch, one a sweep."""
    records = measured.of(case.id)
    found = list(rates(records).values())
    for record in records:
        if isinstance(record.outcome, Failed):
            pytest.fail(record.outcome.reason, pytrace=False)
        if isinstance(record.outcome, Skipped) and not found:
            pytest.skip(record.outcome.reason)
    assert found, "neither measured, nor failed, nor skipped"
    marker = request.node.get_closest_marker("benchmark")
    assert marker is not None
    clock: Replay = marker.kwargs["timer"]
    clock.samples = [case.spec.batch_size / rate for rate in found]
    benchmark.disabled = benchmark.disabled or not timed(request.config)  # Nobody wants a table of next to nothing.
    benchmark.extra_info["case"] = case.fields()
    benchmark.extra_info["images_per_s"] = found
    benchmark.pedantic(clock.step, rounds=len(found))  # type: ignore[no-untyped-call]
