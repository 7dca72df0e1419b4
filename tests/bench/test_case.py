"""A case's id: what is always there, and what differs from the defaults."""

from __future__ import annotations

import pytest

from bench.case import Case, StepSpec
from loaders.base import LoaderSpec
from storage.errors import UsageError


def test_default_case_has_the_short_id() -> None:
    assert Case(format="hdf5", payload="raw", loader="tfdata").id == "hdf5-raw-tfdata-pipeline"


def test_what_differs_is_in_the_id() -> None:
    case = Case(
        format="lmdb",
        payload="encoded",
        loader="tfdata",
        spec=LoaderSpec(placement="model", batch_size=64, image_size=(96, 128), options=(("autotune", True),)),
        step=StepSpec(step="none"),
        cache="cold",
    )
    assert case.id == ("lmdb-encoded-tfdata-model-batch_size=64-image_size=96x128-autotune=on-step=none-cache_state=cold")


def test_cases_are_equal_exactly_if_their_ids_are() -> None:
    usual, named, other = (
        Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="fine_tune", fine_tune_at=layer))
        for layer in (None, 100, 55)
    )
    assert usual.id == "hdf5-raw-tfdata-pipeline-step=fine_tune"
    assert len({usual, named, other}) == len({case.id for case in (usual, named, other)}) == 3
    assert [case.fields()["fine_tune_at"] for case in (usual, named, other)] == [100, 100, 55]


@pytest.mark.parametrize("step", ["emulated", "emulated:-1", "emulated:x", "emulated:inf", "none:3", "gpu"])
def test_bad_steps_are_refused(step: str) -> None:
    with pytest.raises(UsageError, match="step"):
        StepSpec(step=step)


def test_bad_spec_says_what_came() -> None:
    with pytest.raises(UsageError, match="batch_size must be a whole number of at least 1, got 0"):
        LoaderSpec(batch_size=0)
    with pytest.raises(UsageError, match="placement must be one of pipeline, model; got 'gpu'"):
        LoaderSpec(placement="gpu")  # type: ignore[arg-type]
