"""The speed switches that people use, measured as any case is: each is in the case's id, and what took effect in the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.case import Case, StepSpec
from bench.metrics import METRICS
from bench.record import Measured, RunRecord
from bench.steady import Pace
from bench.visit import Request, Visitor
from loaders.base import LoaderSpec, Placement
from storage.errors import UsageError

SIZE = (32, 32)
PACE = Pace(window_batches=1, window_s=0, warmup_max_s=0.05, measure_s=0, measure_batches=12)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    import keras

    path = tmp_path_factory.mktemp("model") / "base.keras"
    keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Conv2D(4, 3, strides=4)]).save(path)
    return str(path)


def measured(step: StepSpec, placement: Placement = "pipeline") -> tuple[Case, Measured]:
    spec = LoaderSpec(batch_size=5, image_size=SIZE, placement=placement)
    case = Case(format="memory", payload="raw", loader="known:null", spec=spec, step=step)
    answer = Visitor().answer(Request(do="measure", case=case, path=None, pace=PACE))
    assert not answer.error
    assert answer.warm is not None
    return case, answer.warm


def test_without_switches(base: str) -> None:
    case, seen = measured(StepSpec(model=base))
    assert (seen.jit_compile, seen.precision) == (False, "float32")
    assert set(seen.images) == {5}
    assert "jit_compile" not in case.id


def test_steps_per_execution_is_measured_group_by_group(base: str) -> None:
    case, seen = measured(StepSpec(model=base, steps_per_execution=4))
    assert "steps_per_execution=4" in case.id
    assert set(seen.images) == {20}
    assert METRICS["step_ms"].compute([RunRecord(case=case, sweep=0, environment_id="", outcome=seen)])
    assert min(seen.step_ns) > 0


def test_an_epoch_must_hold_two_groups(base: str) -> None:
    spec = LoaderSpec(batch_size=5, image_size=SIZE)
    step = StepSpec(model=base, steps_per_execution=21)
    case = Case(format="memory", payload="raw", loader="known:null", spec=spec, step=step)
    answer = Visitor().answer(Request(do="measure", case=case, path=None, pace=PACE))
    assert "an epoch of 40 batches holds no steady state with steps_per_execution 21" in answer.error


def test_steps_that_train_nothing_take_batches_one_by_one() -> None:
    _, seen = measured(StepSpec(step="none", steps_per_execution=4))
    assert set(seen.images) == {5}
    assert seen.precision is None
    assert StepSpec(step="emulated:100", steps_per_execution=4).group == 1


def test_jit_compile_took_effect(base: str) -> None:
    case, seen = measured(StepSpec(model=base, jit_compile=True))
    assert "jit_compile=on" in case.id
    assert seen.jit_compile is True


def test_mixed_precision_took_effect() -> None:
    case, seen = measured(StepSpec(model="MobileNet", mixed_precision=True), placement="model")
    assert "mixed_precision=on" in case.id
    assert seen.precision in ("mixed_bfloat16", "mixed_float16")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"steps_per_execution": 0}, "steps_per_execution must be at least 1"),
        ({"step": "fast"}, "step must be none, .* or full; got 'fast'"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        StepSpec(**changes)


def test_old_records_are_read_without_the_precision(tmp_path: Path) -> None:
    seen = Measured(images=[1], wait_ns=[1], step_ns=[1], epochs=[0])
    stored = seen.model_dump()
    del stored["precision"]
    assert Measured.model_validate(stored) == seen
