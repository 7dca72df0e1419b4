"""Which cases of a run ``--today`` means: by id, with or without the step, or by a beginning that no others share."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from bench.case import Case, StepSpec
from bench.report.verdict import verdict
from bench.schedule import run
from bench.today import todays
from loaders.base import LoaderSpec
from storage.errors import UsageError
from tests.bench.synthetic import matrix, synthetic_run
from tests.bench.test_schedule import Quiet, options

LARGE = [
    Case(format=format_, payload="encoded", loader=loader, spec=LoaderSpec(batch_size=64, workers=workers), step=StepSpec(step=step))
    for step, format_, loader, workers in product(
        ("feature_extraction", "none"), ("directory", "lmdb"), ("tfdata", "image_data_generator"), (1, 2)
    )
]  # fmt: skip
"""Whose ids all say more than format, payload, loader and placement."""
ONE = LARGE[4]


@pytest.mark.parametrize("name", [ONE.id, ONE.alone.id, "lmdb-encoded-tfdata-pipeline-batch_size=64-workers=1"])
def test_a_case_is_named_by_its_id_under_any_step_or_none(name: str, tmp_path: Path) -> None:
    measured = synthetic_run(tmp_path, cases=LARGE, sweeps=2)
    assert verdict(measured, name).today == ONE
    assert [todays(measured, step, name) for step in ("feature_extraction", "none")] == [ONE, ONE.alone]


def test_the_beginning_of_an_id_is_enough_where_no_other_case_begins_so(tmp_path: Path) -> None:
    measured = synthetic_run(tmp_path, cases=[case for case in LARGE if case.spec.workers == 1], sweeps=2)
    assert verdict(measured, "lmdb-encoded-tfdata").today == ONE
    for cut_off in ("lmdb-encoded-tf", "lmdb-encoded-tfdata-pipeline-batch_size=6"):
        with pytest.raises(UsageError, match=f"--today {cut_off}: there is no such pipeline here"):
            verdict(measured, cut_off)
    with pytest.raises(UsageError, match=f"--today lmdb means several cases: {ONE.id}, lmdb-.*; name one of them"):
        verdict(measured, "lmdb")


UNKNOWN = "there is no such pipeline here; name one, such as "
LIMIT = "a limit is no pipeline that one could have; name one, such as "


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-such-case", UNKNOWN),
        ("memory", UNKNOWN),
        ("lmdb-encoded-tfdatum", f"{UNKNOWN}lmdb-encoded-tfdata-"),
        ("limit:decode", LIMIT),
        ("memory-encoded-limit:decode-pipeline-step=none", LIMIT),
    ],
)
def test_what_is_no_pipeline_of_the_run_is_refused_before_anything_is_made(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        run(options(tmp_path, today=name), Quiet(), "test", planned=matrix())
    words = str(refused.value)
    assert words.startswith(f"--today {name}: {said}")
    assert words.endswith(", ...")
    assert "limit:" not in words.removeprefix(f"--today {name}:")
    assert not list(tmp_path.iterdir())
