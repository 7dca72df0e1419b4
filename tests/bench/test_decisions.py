"""Claims, break-even, choices and starvation, on runs whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from bench.breakeven import break_even
from bench.case import Case, StepSpec
from bench.choices import best, choices
from bench.claims import Answer, claims
from bench.metrics import METRICS
from bench.record import Measured, Run, measured
from bench.report.derived import tables
from bench.starvation import Loading, curve, kept_ready, knee, loading, utilisation
from bench.today import todays
from loaders.base import LoaderSpec
from storage.errors import UsageError
from tests.bench.synthetic import matrix, synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    steps = ("feature_extraction", "none", "emulated:1800")
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", cases=matrix(steps=steps))


def answered(run: Run) -> dict[tuple[str, str], Answer]:
    return {(answer.claim.name, answer.step): answer for answer in claims(run)}


def test_claims_find_the_planted_truth(run: Run) -> None:
    found = answered(run)
    assert [step for name, step in found if name == "hdf5"] == ["none", "feature_extraction", "emulated:1800"]
    wrapped = found["wrapped_generator", "none"]
    assert wrapped.answer == "yes"
    # The truth is 580/520 for encoded and 1050/900 for raw, and equally many pairs of each.
    assert wrapped.comparison.low < ((580 / 520) * (1050 / 900)) ** 0.5 < wrapped.comparison.high
    assert "12 pairs of cases that differ only in loader, 5 sweeps" in wrapped.compared
    assert ("model_placement", "none") not in found, "nothing runs inside the model there"
    assert found["lmdb", "none"].answer == "yes"
    assert found["hdf5", "none"].comparison.low < 1.04 < found["hdf5", "none"].comparison.high
    assert {answer.comparison.compared for answer in found.values()} == {11}


def test_an_equal_pair_is_a_tie(tmp_path: Path) -> None:
    cases = [Case(format="directory", payload="raw", loader="tfdata"), Case(format="hdf5", payload="raw", loader="tfdata")]
    answer = answered(synthetic_run(tmp_path, cases=cases, seed=3))["hdf5", "feature_extraction"]
    assert (answer.answer, len(answer.pairs), answer.split) == ("tie", 1, False)


def test_claims_without_a_pair_are_not_answered(tmp_path: Path) -> None:
    assert claims(synthetic_run(tmp_path, cases=[Case(format="hdf5", payload="raw", loader="tfdata")])) == []


def test_racing_leaves_the_sweeps_that_all_pairs_share(run: Run) -> None:
    assert answered(run)["wrapped_generator", "feature_extraction"].comparison.sweeps == 3


def test_break_even_by_hand(run: Run) -> None:
    found = {row.stored: row for row in break_even(run, "none")}
    raw = found["hdf5-raw"]
    saved = (2000 / METRICS["images_per_s"].compute(run.of(raw.today))) - (2000 / METRICS["images_per_s"].compute(run.of(raw.case)))  # type: ignore[operator]  # fmt: skip
    # Turnarounds are equal in the synthetic run but for a fraction of a millisecond; the ratio is a mean of sweeps.
    assert raw.epochs == pytest.approx(1.32 / saved, rel=0.02)
    assert raw.epochs_low <= raw.epochs <= raw.epochs_high
    assert raw.today == "directory-encoded-image_data_generator-pipeline-step=none"
    assert found["directory-encoded"].epochs == 0
    # Half of the images are for validation: an epoch saves half as much.
    fed = {name: facts.model_copy(update={"fed_samples": 1000}) for name, facts in run.info.datasets.items()}
    half = replace(run, info=run.info.model_copy(update={"datasets": fed}))
    assert next(row for row in break_even(half, "none") if row.stored == "hdf5-raw").epochs == pytest.approx(
        2 * raw.epochs, rel=0.02
    )


def test_no_established_gain_never_pays(tmp_path: Path) -> None:
    today = Case(format="directory", payload="raw", loader="tfdata")
    run = synthetic_run(tmp_path, cases=[today, Case(format="hdf5", payload="raw", loader="tfdata")])
    row = next(row for row in break_even(run, "feature_extraction", today.id) if row.stored == "hdf5-raw")
    assert (row.comparison.verdict, row.epochs, row.epochs_high) == ("tie", inf, inf)
    with pytest.raises(UsageError, match="--today nonsense: there is no such pipeline here"):
        todays(run, "feature_extraction", "nonsense")
    assert break_even(run, "feature_extraction") == []


def test_choices_are_one_a_format_and_payload_and_plain_json(run: Run) -> None:
    made = json.loads(json.dumps(choices(run)))
    assert made["step"] == "feature_extraction"
    assert set(made["choices"]) == set(run.info.datasets)
    entry = made["choices"]["directory-encoded"]
    assert (entry["loader"], entry["spec"], entry["options"]) == ("tfdata", {"placement": "model"}, {})
    assert "directory-encoded-tfdata-pipeline" in entry["ties"]


def test_of_ties_the_one_that_does_the_same_work_fastest_is_taken() -> None:
    """Loading alone, preprocessing inside the model is not done: a rate without it says nothing against one with it."""
    inside, outside = LoaderSpec(placement="model"), LoaderSpec(placement="pipeline")
    directory, hdf5 = (
        Case(format=name, payload="encoded", loader="threaded", spec=spec, step=StepSpec(step="feature_extraction"))
        for name, spec in (("directory", inside), ("hdf5", outside))
    )
    rates = {
        directory: (100.0, 102.0, 101.0), directory.alone: (2780.0,) * 3, replace(directory.alone, spec=outside): (1500.0,) * 3,
        hdf5: (101.0, 100.0, 101.5), hdf5.alone: (1680.0,) * 3,
    }  # fmt: skip
    speeds = {case: dict(enumerate(by_sweep)) for case, by_sweep in rates.items()}
    assert best(speeds, [directory, hdf5])[0] == hdf5


STEADY = Loading(made_s=(0.01,) * 50, images=(10,) * 50, turnaround_s=0.5, images_per_s=1000.0)


@pytest.mark.parametrize(("speed", "au"), [(100, 1.0), (999, 1.0), (2000, 0.5), (4000, 0.25)])
def test_a_steady_pipeline_starves_what_is_faster(speed: float, au: float) -> None:
    assert utilisation(STEADY, speed) == pytest.approx(au, abs=0.01)


def test_the_knee_of_a_steady_pipeline_and_its_turnaround() -> None:
    assert knee(STEADY) == pytest.approx(1000 / 0.9, rel=0.03)
    # 1000 images at 500/s take 2 s, and 0.5 s of turnaround: 80%.
    assert utilisation(STEADY, 500, epoch_images=1000) == pytest.approx(0.8)
    assert knee(STEADY, epoch_images=1000) == pytest.approx(1000 / 0.5 / 9, rel=0.01)


def test_jitter_costs_near_the_knee_and_a_deeper_buffer_buys_it_back() -> None:
    jumpy = Loading((0.002, 0.018) * 40, (10,) * 80, 0.0, 1000.0)
    shallow, deep = (utilisation(jumpy, 950, ready=ready) for ready in (1, 4))
    assert shallow < 0.85
    assert deep > 0.98
    falling = [au for _, au in curve(jumpy, [200, 950, 3000])]
    assert falling == sorted(falling, reverse=True)


def test_nothing_kept_ready_means_no_overlap() -> None:
    # Each batch takes 10 ms and only then is stepped on for 20 ms; with one kept ready, making hides behind stepping.
    assert utilisation(STEADY, 500, ready=0) == pytest.approx(20 / 30)
    assert utilisation(STEADY, 500, ready=1) == pytest.approx(1.0)


def test_a_step_waits_for_a_batch_to_be_handed_over_however_early_it_is_ready() -> None:
    one = Measured(images=[10] * 50, wait_ns=[10_000_000] * 50, step_ns=[0] * 50, epochs=[0] * 50)
    seen = loading(one.model_copy(update={"hand_over_ns": [9_000_000, 900_000, 1_000_000, 4_000_000]}))
    unseen = loading(one)
    assert seen is not None
    assert unseen is not None
    # Ten images are stepped on for 20 ms, then for 4 ms: what is beyond the pipeline's own 10 ms hides handing over.
    assert [utilisation(feed, 500) for feed in (unseen, seen)] == pytest.approx([1.0, 20 / 21])
    assert [utilisation(feed, 2500) for feed in (unseen, seen)] == pytest.approx([0.4, 0.4], abs=0.01)
    assert knee(seen) == pytest.approx(1000 / 0.9, rel=0.03)


def test_a_pipeline_without_prefetch_has_a_batch_in_hand_unless_it_waits_to_be_asked(tmp_path: Path) -> None:
    found = [
        kept_ready(Case(format="hdf5", payload="encoded", loader=loader, spec=LoaderSpec(prefetch=prefetch)))
        for loader in ("tfdata", "threaded", "grain", "dali")
        for prefetch in (0, 1, 3)
    ]
    assert found == [1, 1, 3, 0, 1, 3, 0, 1, 3, 0, 0, 2]
    alone = Case(format="hdf5", payload="encoded", loader="tfdata", spec=LoaderSpec(prefetch=0), step=StepSpec(step="none"))
    slowest = tables(synthetic_run(tmp_path, cases=[alone], sweeps=1)).curve.iloc[0]  # a quarter of the pipeline's speed
    assert slowest["accelerator_utilisation"] > 0.95


def test_prediction_meets_the_emulated_points(run: Run) -> None:
    """One loading measurement predicts what the emulated accelerator measured, where the model of the two is the same."""
    for case in ("directory-encoded-image_dataset_from_directory-pipeline", "hdf5-encoded-tfdata-pipeline"):
        feed = loading(measured(run.of(f"{case}-step=none"))[0])
        assert feed is not None
        emulated = METRICS["accelerator_utilisation"].compute(run.of(f"{case}-step=emulated:1800"))
        assert utilisation(feed, 1800) == pytest.approx(emulated, abs=0.05)


def test_what_a_buffer_held_is_counted_out() -> None:
    one = Measured(images=[10] * 10, wait_ns=[10_000_000] * 10, step_ns=[0] * 10, epochs=[0] * 10, buffered_images=20)
    feed = loading(one)
    assert feed is not None
    assert feed.images_per_s == pytest.approx(800)
    assert sum(feed.made_s) == pytest.approx(100 / 800)
    assert loading(Measured(images=[], wait_ns=[], step_ns=[], epochs=[])) is None
