"""The notes' claim about convolutions, measured: ``pytest bench/test_convolutions.py --benchmark-only``, only when named.

Standard, grouped, 1x1, depthwise and depthwise separable convolution at equal input and output (``convolutions.py``). All are
timed first, in interleaved rounds; then each test replays its samples into pytest-benchmark: a sample is one round's
seconds a batch. Leaves ``convolutions.csv``, ``.svg`` and ``.png`` in ``--results`` (by default ``results/convolutions``).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.convolutions import KINDS, Shape, measure, save
from bench.replay import Replay

ROUNDS = 15
ROUND_S = 0.5
TINY = Shape(size=6, channels=8, batch=2)


@pytest.fixture(scope="module")
def measured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Shape, dict[str, list[float]]]:
    """Seconds a batch by kind and round; the chart is written when they are there."""
    if not request.config.getoption("benchmark_only"):
        shape, taken, folder = TINY, measure(TINY, rounds=1, seconds=0), tmp_path_factory.mktemp("results")
    else:
        shape = Shape()
        taken = measure(shape, rounds=ROUNDS, seconds=ROUND_S)
        folder = Path(request.config.getoption("results") or "results/convolutions")
    paths = save(shape, taken, folder)
    capture = request.config.pluginmanager.getplugin("terminalreporter")
    capture.write_line(f"\n{', '.join(map(str, paths))}")
    return shape, taken


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.benchmark(timer=Replay(), group="convolutions")) for name in KINDS]
)
def test_convolution(
    name: str, measured: tuple[Shape, dict[str, list[float]]], benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> None:
    """One kind: its samples, with its parameters and multiply-adds beside them."""
    shape, taken = measured
    marker = request.node.get_closest_marker("benchmark")
    assert marker is not None
    clock: Replay = marker.kwargs["timer"]
    clock.samples = list(taken[name])
    benchmark.extra_info.update(parameters=KINDS[name].weights(shape), multiply_adds=KINDS[name].multiply_adds(shape))
    benchmark.pedantic(clock.step, rounds=len(taken[name]))  # type: ignore[no-untyped-call]
