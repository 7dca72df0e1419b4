"""The instrument against known answers, in the size that continuous integration affords."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import selfcheck_loop, selfcheck_output
from bench.case import Case, StepSpec
from bench.run import ticks
from bench.selfcheck import CHECKS, foretold, known_rates, selfcheck
from bench.selfcheck_bench import Bench, Check
from bench.selfcheck_loop import clockwork
from bench.selfcheck_workers import failures
from bench.visit import Request, Visitor
from loaders.base import LoaderSpec
from tests.bench.test_schedule import Quiet


@pytest.mark.slow  # test_schedule.py has a quick one
def test_misbehaving_workers_become_rows(tmp_path: Path) -> None:
    checks = list(failures(Bench(tmp_path, Quiet(), small=True)))
    assert len(checks) == 4
    assert all(check.passed for check in checks), checks


def test_known_rates_are_never_exceeded(tmp_path: Path) -> None:
    """A busy machine makes a measurement slower; nothing may make it faster than what the loader can do."""
    checks = list(known_rates(Bench(tmp_path, Quiet(), small=True)))
    for check, promised in zip(checks, (1000, 1500, 1500, 720), strict=True):
        assert 0 < float(check.seen.split(",")[0]) < 1.02 * promised, check


def test_utilisation_told_from_loading_alone_is_never_above_what_the_loader_can_do(tmp_path: Path) -> None:
    checks = list(foretold(Bench(tmp_path, Quiet(), small=True)))
    assert len(checks) == 2
    for told in (checks[1].expected, checks[1].seen):
        assert 0 < float(told.partition("%")[0]) < 51, "2,000 images/s in front of 4,000"


def test_the_clockwork_is_cheap(tmp_path: Path) -> None:
    (check,) = clockwork(Bench(tmp_path, Quiet(), small=True))
    assert float(check.seen.split()[0]) < 50, "microseconds a batch"


def test_a_slow_clockwork_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 us more a batch are over 1% of any batch that a machine can copy from memory in less than 10 ms."""

    def slow(*given: Any) -> Iterator[Any]:
        for tick in ticks(*given):
            ends = time.perf_counter_ns() + 100_000
            while time.perf_counter_ns() < ends:
                pass
            yield tick

    monkeypatch.setattr(selfcheck_loop, "ticks", slow)
    monkeypatch.setattr(selfcheck_loop, "_copied_batch_ns", lambda: 1e6)
    (check,) = clockwork(Bench(tmp_path, Quiet(), small=True))
    assert not check.passed, check


def test_fit_and_the_loop_train_by_turns(tmp_path: Path) -> None:
    import keras

    base = tmp_path / "base.keras"
    keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, strides=4)]).save(base)
    spec = LoaderSpec(batch_size=5, image_size=(32, 32))
    case = Case(format="memory", payload="raw", loader="known:null", spec=spec, step=StepSpec(model=str(base)))
    answer = Visitor().answer(Request(do="fit", case=case))
    assert not answer.error
    assert set(answer.stages_ns) == {"fit", "loop"}
    assert min(answer.stages_ns.values()) > 0


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_a_wrong_answer_is_loud(
    passed: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check("null loader: utilisation", "at least 99%", "99.9%", True), Check("a hang", "a row", "no row", passed)]
    monkeypatch.setattr(selfcheck_output, "selfcheck", lambda *_, **__: iter(checks))
    assert selfcheck_output.check_and_print(small=True) == code
    said = capsys.readouterr()
    assert f"{1 + passed} of 2 checks passed" in said.out
    assert ("FAILED  a hang" in said.out) != passed
    assert ("The instrument cannot be trusted" in said.err) != passed


@pytest.mark.slow
def test_all_of_it() -> None:
    """Every question has an answer. Whether it is a good one depends on the machine at this moment, and here others run beside it."""
    checks: list[Check] = list(selfcheck(Quiet(), small=True))
    assert len(checks) >= len(CHECKS)
    assert all(check.question and check.expected and check.seen for check in checks), checks
