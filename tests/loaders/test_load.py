"""``loaders.load``: one call, with a loader by name, by what a run found, or by default."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import loaders
from bench.choices import choices
from loaders.base import LoaderSpec
from loaders.sample import options_of
from loaders.tfdata import Options, TfdataFeed
from loaders.threaded_feeds import ThreadedDataset
from storage import FORMATS
from storage.base import PAYLOADS
from storage.errors import DataError, UsageError
from tests.bench.synthetic import matrix, synthetic_run
from tests.loaders.conftest import SIZE, Stored


def test_the_call_of_the_readme_trains_a_model(stored: Stored) -> None:
    feed = loaders.load(
        stored("hdf5", "raw"),
        loader="tfdata",
        split="train",
        batch_size=20,
        placement="model",
        augment=True,
        shuffle=True,
        seed=0,
    )
    try:
        assert len(feed) == 3
        head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5, "softmax")]
        model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *feed.layers, *head])
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        history = model.fit(feed, epochs=2, verbose=0, shuffle=False)
    finally:
        feed.close()
    assert np.isfinite(history.history["loss"]).all()
    assert loaders.load is not None
    assert callable(loaders.load), "importing the module behind it must not hide the function"


def test_raw_images_come_in_their_stored_size_and_another_split_by_name(stored: Stored) -> None:
    feed = loaders.load(stored("lmdb", "raw"), "tfdata", split="validation", placement="model", shuffle=False)
    try:
        images, labels = next(iter(feed.epoch(0)))
    finally:
        feed.close()
    assert images.shape == (12, SIZE, SIZE, 3)
    assert len(labels) == 12


def written(path: Path, entries: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "choices.json").write_text(json.dumps({"version": 1, "run": "r", "step": "none", "choices": entries}))
    return path


def test_takes_what_a_run_found_fastest_with_its_settings(stored: Stored, tmp_path: Path) -> None:
    entry = {"loader": "tfdata", "spec": {"workers": 1, "batch_size": 12}, "options": {"autotune": True}}
    results = written(tmp_path / "run", {"directory-encoded": entry})
    for named in (results, results / "choices.json"):
        feed = loaders.load(stored("directory", "encoded"), results=named, image_size=SIZE, workers=2)
        feed.close()
        assert isinstance(feed, TfdataFeed)
        assert feed.spec == LoaderSpec(workers=2, batch_size=12, image_size=(SIZE, SIZE), options=(("autotune", True),)), (
            "settings of the call come before those of the run"
        )


def test_reads_what_a_run_writes(stored: Stored, tmp_path: Path) -> None:
    cases = matrix(formats=("hdf5",), payloads=("raw",), loaders=("tfdata", "from_generator"), steps=("none",), cold=False)
    found = choices(synthetic_run(tmp_path / "run", cases=cases, most_batches=10))
    assert found["choices"]["hdf5-raw"]["loader"] == "tfdata"
    (tmp_path / "run" / "choices.json").write_text(json.dumps(found))
    feed = loaders.load(stored("hdf5", "raw"), results=tmp_path / "run")
    feed.close()
    assert isinstance(feed, TfdataFeed)


def test_takes_the_best_default_where_no_run_has_measured(stored: Stored, tmp_path: Path) -> None:
    results = written(tmp_path / "run", {"hdf5-encoded": {"loader": "from_generator", "spec": {}, "options": {}}})
    for format_name, payload in product(FORMATS, PAYLOADS):
        if (format_name, payload) != ("hdf5", "encoded"):
            feed = loaders.load(stored(format_name, payload), results=results, image_size=SIZE)
            feed.close()
            assert isinstance(feed, ThreadedDataset)
    tuned = loaders.load(stored("directory", "encoded"), image_size=SIZE, autotune=True)
    tuned.close()
    assert isinstance(tuned, TfdataFeed), "an option that only one loader has decides"


def test_falls_back_from_a_choice_that_cannot_serve(stored: Stored, tmp_path: Path) -> None:
    entry = {"loader": "image_dataset_from_directory", "spec": {}, "options": {}}
    results = written(tmp_path / "run", {"hdf5-raw": entry})
    feed = loaders.load(stored("hdf5", "raw"), results=results)
    feed.close()
    assert isinstance(feed, ThreadedDataset)
    written(results, {"hdf5-raw": {"loader": "installed-elsewhere", "spec": {}, "options": {}}})
    feed = loaders.load(stored("hdf5", "raw"), results=results)
    feed.close()
    assert isinstance(feed, ThreadedDataset)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loader": "tfdatta"}, "unknown loader 'tfdatta'; expected one of"),
        ({"loader": "tfdata", "batchsize": 3}, "tfdata: no setting 'batchsize'; did you mean 'batch_size'?"),
        ({"batchsize": 3}, "threaded, tfdata, from_generator: no setting 'batchsize'; did you mean 'batch_size'?"),
        ({"colour": 3}, "threaded, tfdata, from_generator: no setting 'colour'; there are: batch_size, image_size"),
        ({"windoww": 3}, "threaded, tfdata, from_generator: no setting 'windoww'; did you mean 'window'?"),
        ({"autotune": True, "image_size": 33}, "threaded, from_generator: no setting 'autotune'; tfdata: cannot serve"),
        ({"image_size": 33}, "threaded, tfdata, from_generator: cannot serve"),
        ({"loader": "tfdata", "batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"loader": "tfdata", "seed": 2**31}, "seed must be at most 2147483647, got 2147483648"),
        ({"loader": "tfdata", "buffer": "many"}, "buffer must be a whole number, got 'many'"),
        ({"loader": "tfdata", "buffer": True}, "buffer must be a whole number, got True"),
        ({"loader": "threaded", "hand_over": 1}, "hand_over must be text, got 1"),
        ({"loader": "tfdata", "image_size": 33}, "the stored images are"),
        ({"loader": "image_dataset_from_directory"}, "reads directories only"),
        ({"batch_size": 49, "drop_remainder": True}, "drop_remainder leaves no batch of 49: the split has 48"),
        ({"split": "test"}, "has no split 'test'"),
        ({"loader": "tfdata", "results": "run"}, 'results are for loader="auto"'),
    ],
)
def test_says_in_one_line_what_is_wrong(stored: Stored, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaders.load(stored("hdf5", "raw"), **settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [3, None, b"photos", ["photos"]])
def test_says_what_is_no_path_and_what_is_no_name(stored: Stored, wrong: Any) -> None:
    path = stored("hdf5", "raw")
    with pytest.raises(UsageError, match=r"^path must be text or a pathlib\.Path"):
        loaders.load(wrong)
    for name in ("loader", "split", *(["results"] if wrong is not None else [])):
        with pytest.raises(UsageError, match=f"{name} must be text"):
            loaders.load(path, **{name: wrong})


@pytest.mark.parametrize("size", [np.int64(96), (np.int32(96), np.int64(96))])
def test_what_is_numpys_becomes_pythons(size: Any) -> None:
    numbers: dict[str, Any] = {"image_size": size, "batch_size": np.int64(7), "options": {"buffer": np.int32(9)}}
    spec = LoaderSpec(**numbers, augment=np.False_, dtype=np.str_("float32"))  # type: ignore[arg-type]
    plain = {"image_size": [96, 96], "batch_size": 7, "options": [["buffer", 9]], "augment": False, "dtype": "float32"}
    assert json.loads(json.dumps(spec.changed())) == plain
    assert options_of(Options, spec).buffer == 9


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": 1}', '{"version": 1, "choices": {"hdf5-raw": {}}}', '{"version": 9}']
)
def test_refuses_results_that_are_none(stored: Stored, tmp_path: Path, content: str) -> None:
    (tmp_path / "choices.json").write_text(content)
    with pytest.raises(DataError, match=r"choices\.json"):
        loaders.load(stored("hdf5", "raw"), results=tmp_path)
    with pytest.raises(DataError, match="feedbench run"):
        loaders.load(stored("hdf5", "raw"), results=tmp_path / "nowhere")


def test_importing_it_imports_no_tensorflow() -> None:
    code = "import sys, loaders, loaders.loading; print('tensorflow' in sys.modules, callable(loaders.load))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
