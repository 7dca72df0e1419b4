"""What is varied: names of every kind, the product, rows for what a loader lacks, and files by their bare names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.case import Case
from bench.matrix import Stored, cases, skip_reason
from bench.run_output import options_of
from bench.vary import Setting, files_by_name, settings, variations
from storage.base import DatasetInfo, SplitInfo
from storage.errors import DataError, UsageError

LOADERS = ("tfdata", "image_data_generator")


def planned(**given: object) -> list[Case]:
    """The pipelines of a matrix of one format, payload and placement, loading alone unless it says otherwise."""
    small = {"formats": "hdf5", "payloads": "encoded", "placements": "pipeline", "step": "none", "loaders": "tfdata"}
    return [case for case in cases(options_of({**small, **given})) if case.format != "memory"]


def changes(found: list[Case]) -> list[str]:
    return [case.id.partition("pipeline")[2].replace("-step=none", "").lstrip("-") for case in found]


def test_values_are_what_the_fields_hold() -> None:
    texts = ["workers=1,2", "image-size=96,120x160", "cache=on,off", "resize=area", "jit_compile=on", "fine_tune_at=50,80",
             "buffer=16,32", "autotune=on", "model=MobileNet"]  # fmt: skip
    found = {one.name: (one.values, one.of) for one in variations(texts, LOADERS)}
    assert found == {
        "workers": ((1, 2), "spec"),
        "image_size": (((96, 96), (120, 160)), "spec"),
        "cache": ((True, False), "spec"),
        "resize": (("area",), "spec"),
        "jit_compile": ((True,), "step"),
        "fine_tune_at": ((50, 80), "step"),
        "buffer": ((16, 32), "option"),
        "autotune": ((True,), "option"),
        "model": (("MobileNet",), "step"),
    }


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (
            ["colour=red"],
            "unknown name 'colour'; expected one of: batch_size, .*workers.*, jit_compile.*, autotune, buffer$",
        ),
        (["workers"], "--vary takes NAME=VALUE,VALUE, such as workers=1,2; got 'workers'"),
        (["workers="], "--vary takes NAME=VALUE"),
        (["workers=1", "workers=2"], "workers is given twice"),
        (["workers=many"], "^--vary: workers must be a whole number; got 'many'"),
        (["workers=-1"], "^--vary: workers must be a whole number of at least 0"),
        (["resize=cubic"], "resize must be one of bilinear.*; got 'cubic'"),
        (["cache=perhaps"], "cache must be on or off"),
        (["image_size=0"], "^--vary: image_size must be N or HEIGHTxWIDTH"),
        (["buffer=0"], "^--vary: buffer must be at least 1"),
        (["step=gpu"], "step must be none"),
    ],
)
def test_what_means_nothing_is_said_in_one_line(texts: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        variations(texts, LOADERS)


def test_options_of_loaders_that_are_not_measured_are_unknown() -> None:
    with pytest.raises(UsageError, match="unknown name 'autotune'"):
        variations(["autotune=on"], ["image_data_generator"])


def test_the_product() -> None:
    assert settings([]) == [Setting({}, {}, {})]
    found = settings(variations(["workers=1,2", "jit_compile=on,off", "buffer=8"], LOADERS))
    assert found[:2] == [
        Setting({"workers": 1}, {"jit_compile": True}, {"buffer": 8}),
        Setting({"workers": 1}, {"jit_compile": False}, {"buffer": 8}),
    ]
    assert len(found) == 4


def test_the_matrix_gets_the_product() -> None:
    assert changes(planned(vary=["workers=1,2", "prefetch=2,4"])) == [
        "workers=1", "workers=1-prefetch=4", "workers=2", "workers=2-prefetch=4",
    ]  # fmt: skip
    assert changes(planned(workers="3", prefetch="1")) == ["workers=3-prefetch=1"]


def test_what_only_a_model_knows_does_not_multiply_loading_alone() -> None:
    found = planned(step="none,full,emulated:100", vary=["mixed_precision=on,off"])
    assert changes(found) == ["", "step=full-mixed_precision=on", "step=full", "step=emulated:100"]


def test_a_loader_without_an_option_has_a_row_that_says_so_and_one_as_it_is() -> None:
    found = planned(loaders="tfdata,image_data_generator", vary=["autotune=on,off"])
    assert [(case.loader, dict(case.spec.options)) for case in found] == [
        ("tfdata", {"autotune": True}), ("tfdata", {"autotune": False}),
        ("image_data_generator", {"autotune": True}), ("image_data_generator", {}), ("image_data_generator", {"autotune": False}),
    ]  # fmt: skip
    splits = {"train": SplitInfo.model_construct(samples=100, shards=())}
    info = DatasetInfo.model_construct(
        format="hdf5",
        payload="encoded",
        media_types={"image/jpeg": 1},
        image_size=None,
        splits=splits,
        class_names=("a", "b"),
    )
    stored = {"hdf5-encoded": Stored(Path("d"), "train", info)}
    assert [skip_reason(case, stored) for case in found] == [
        None, None, "image_data_generator has no option autotune", None, "image_data_generator has no option autotune",
    ]  # fmt: skip
    one_class = {"hdf5-encoded": Stored(Path("d"), "train", info.model_copy(update={"class_names": ("a",)}))}
    alone, trained = planned(loaders="tfdata", formats="hdf5", payloads="encoded", placements="pipeline", step="none,full")
    assert skip_reason(alone, one_class) is None
    assert skip_reason(trained, one_class) == "a model needs at least two classes to tell apart, and the dataset has one"


def test_a_model_decides_how_pixels_are_scaled() -> None:
    found = planned(step="feature_extraction,none", model="MobileNetV2,VGG16")
    assert [(case.step.model, case.spec.scaling) for case in found] == [
        ("MobileNetV2", "tf"), ("VGG16", "caffe"), ("MobileNetV2", "tf"), ("MobileNetV2", "caffe"),
    ]  # fmt: skip
    assert found[1].alone == found[3]


def test_the_step_without_input_is_that_of_the_run() -> None:
    found = cases(options_of({"step": "calibrate,fine_tune", "fine_tune_at": "50", "formats": "hdf5"}))
    (calibrated,) = [case for case in found if case.loader == "limit:step"]
    assert (calibrated.step.step, calibrated.step.fine_tune_at) == ("fine_tune", 50)


def test_the_layer_of_fine_tuning_is_part_of_a_case_only_where_it_changes_something() -> None:
    """Layer 100 is the usual one of MobileNetV2; what is usual in MobileNet, of 86 layers, is another."""
    usual, named = (planned(step="fine_tune", **layer) for layer in ({}, {"fine_tune_at": "100"}))
    assert usual == named
    varied = planned(step="fine_tune", vary=["model=MobileNetV2,MobileNet", "fine_tune_at=55,100"])
    assert [case.id.partition("-step=fine_tune")[2] for case in varied] == [
        "-fine_tune_at=55", "", "-model=MobileNet-fine_tune_at=55", "-model=MobileNet-fine_tune_at=100",
    ]  # fmt: skip
    several = planned(step="feature_extraction,full,none,fine_tune", vary=["fine_tune_at=55,80"])
    assert [case.step.fine_tune_at for case in several] == [None, None, None, 55, 80]


def test_records_know_files_by_name_only(tmp_path: Path) -> None:
    (tmp_path / "mine.weights.h5").write_bytes(b"")
    asked = options_of({"weights": f"none,{tmp_path / 'mine.weights.h5'}", "step": "full"})
    assert asked.files == (tmp_path / "mine.weights.h5",)
    assert {case.step.weights for case in cases(asked) if case.step.trains} == {"none", "mine.weights.h5"}
    assert str(tmp_path) not in str(asked.stored())
    with pytest.raises(DataError, match=r"--model: there is no file .*no\.keras"):
        options_of({"model": str(tmp_path / "no.keras")})


def test_an_unknown_model_is_said_before_anything_is_measured() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'MobileNetV9': expected .* such as MobileNetV"):
        options_of({"model": "MobileNetV9"})


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.h5").write_bytes(b"")
    with pytest.raises(UsageError, match=r"two files are named w\.h5"):
        files_by_name(variations([f"weights={tmp_path}/a/w.h5,{tmp_path}/b/w.h5"], LOADERS))
