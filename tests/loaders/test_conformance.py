"""What every loader must do, over LOADERS x FORMATS x payloads x placements. The proof itself is ``bench.equivalence``."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import storage
from bench.equivalence import prove
from bench.identity import Rings, align
from loaders import LOADERS
from loaders.base import PLACEMENTS, Feed, LoaderSpec, Placement
from storage import FORMATS, open_dataset
from storage.base import PAYLOADS, RESIZES, Resize
from storage.dataset import read_info
from storage.errors import DataError, UsageError
from tests.loaders.conftest import SIZE, TRAIN, Options, Stored

SPEC = LoaderSpec(image_size=(SIZE, SIZE), workers=2, batch_size=20)
"""Two whole batches and a ragged one."""
PLAIN = replace(SPEC, augment=False)

UNREPEATABLE_AUGMENTATION = {
    "image_dataset_from_directory": "Keras' layers draw from a state that parallel calls share",
}
"""Their order repeats for a seed, their augmentation does not; the loader's page says so."""


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("loader", LOADERS)
def test_delivers_every_sample_once_with_its_label_and_pixels(
    stored: Stored, options: Options, loader: str, format_name: str, payload: str, placement: Placement
) -> None:
    path = stored(format_name, payload)
    spec = replace(SPEC, placement=placement)
    reason = LOADERS[loader].unsupported(read_info(path), spec)
    if reason:
        assert len(reason) > 20
        pytest.skip(reason)
    pixels = prove(path, "train", loader, replace(spec, options=options(loader)))
    assert pixels.samples_checked == TRAIN
    assert payload == "encoded" or pixels.verdict == "identical"


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("loader", LOADERS)
def test_every_filter_is_proven(stored: Stored, options: Options, loader: str, resize: Resize) -> None:
    spec = replace(PLAIN, image_size=(100, 96), resize=resize, placement="model", options=options(loader))
    for format_name in FORMATS:
        path = stored(format_name, "encoded")
        if LOADERS[loader].unsupported(read_info(path), spec) is None:
            assert prove(path, "train", loader, spec).samples_checked == TRAIN
            return
    pytest.skip(f"{loader} serves no format with {resize}")


def supported(stored: Stored, loader: str, spec: LoaderSpec) -> Any:
    """The first dataset that a loader can serve under a spec. Each serves one, or it would be no loader."""
    reasons = []
    for format_name in FORMATS:
        path = stored(format_name, "encoded")
        reason = LOADERS[loader].unsupported(read_info(path), spec)
        if reason is None:
            return path
        reasons.append(reason)
    if any("pip install" in reason for reason in reasons):
        pytest.skip(reasons[0])
    raise AssertionError(f"{loader} serves no format: {reasons}")


def build(stored: Stored, loader: str, spec: LoaderSpec) -> Feed:
    return LOADERS[loader].build(open_dataset(supported(stored, loader, spec)), spec)


Epoch = list[tuple[NDArray[Any], NDArray[np.int64]]]


def epoch(feed: Feed, n: int) -> Epoch:
    return [(np.asarray(images), np.asarray(labels)) for images, labels in feed.epoch(n)]


def same(one: Epoch, other: Epoch) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and np.allclose(a, b, atol=1e-4) and np.array_equal(y, z)
        for (a, y), (b, z) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("loader", LOADERS)
def test_a_seed_repeats_order_and_augmentation(stored: Stored, options: Options, loader: str) -> None:
    spec = replace(SPEC, augment=loader not in UNREPEATABLE_AUGMENTATION, workers=1, options=options(loader))
    first, again = build(stored, loader, spec), build(stored, loader, spec)
    other = build(stored, loader, replace(spec, seed=7))
    try:
        zero, one, two = epoch(first, 0), epoch(first, 1), epoch(first, 2)
        assert not same(zero, one)
        assert not same(one, two)
        # Whatever ran before: backwards, and with a pass given up in the middle.
        assert same(epoch(again, 2), two)
        next(iter(again.epoch(1)))
        assert same(epoch(again, 0), zero)
        assert not same(epoch(other, 0), zero)
    finally:
        first.close()
        again.close()
        other.close()


@pytest.mark.parametrize("loader", LOADERS)
def test_without_shuffling_every_pass_is_the_same_and_placements_agree(
    stored: Stored, options: Options, loader: str
) -> None:
    spec = replace(PLAIN, shuffle=False, options=options(loader))
    outside, inside = build(stored, loader, spec), build(stored, loader, replace(spec, placement="model"))
    try:
        ready, bare = epoch(outside, 0), epoch(inside, 0)
        assert same(ready, epoch(outside, 1))
        entered = []
        for images, labels in bare:
            tensor = images
            for layer in inside.layers:
                tensor = layer(tensor)
            entered.append((np.asarray(tensor), labels))
        assert same(ready, entered)
        assert [images.dtype for images, _ in bare] == ["uint8"] * len(bare)
    finally:
        outside.close()
        inside.close()


@pytest.mark.parametrize("loader", LOADERS)
def test_drops_a_short_last_batch_if_asked(stored: Stored, options: Options, loader: str) -> None:
    spec = replace(SPEC, drop_remainder=True, placement="model", options=options(loader))
    prove(supported(stored, loader, spec), "train", loader, spec)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")  # fit's own default
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("loader", LOADERS)
def test_fit_takes_it_as_it_stands(stored: Stored, options: Options, loader: str, placement: Placement) -> None:
    feed = build(stored, loader, replace(SPEC, placement=placement, options=options(loader)))
    seen: list[float] = []
    model = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), *feed.layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: seen.append(logs["loss"]))
    try:
        model.fit(feed, epochs=2, verbose=0, callbacks=[count])
    finally:
        feed.close()
    assert len(seen) == 2 * len(feed) == 6
    assert np.isfinite(seen).all()
    with pytest.raises(UsageError, match="closed"):
        model.fit(feed, verbose=0)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_closed_feed_begins_no_pass(stored: Stored, options: Options, loader: str) -> None:
    feed: Any = build(stored, loader, replace(SPEC, options=options(loader)))
    with feed as entered:
        assert entered is feed
        next(iter(feed.epoch(0)))
        for wrong, words in (
            (-1, "a whole number of at least 0"),
            (None, "a whole number of at least 0"),
            (2**31, "at most"),
        ):
            with pytest.raises(UsageError, match=f"the number of a pass must be {words}.*, got {wrong}"):
                list(feed.epoch(wrong))
    with pytest.raises(UsageError, match="closed"):
        list(feed.epoch(1))
    with pytest.raises(UsageError, match="closed"):
        list(feed)
    feed.close()


class Sees(keras.Model):  # type: ignore[misc]  # Keras ships no types
    """Learns nothing, and remembers each batch that ``fit`` gives it: its labels, and the mean of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.batches: list[tuple[tuple[int, ...], float]] = []

    def call(self, images: Any) -> Any:
        return self.dense(keras.ops.mean(images, axis=(1, 2)))

    def train_step(self, data: Any) -> dict[str, Any]:
        images, labels = data
        self.batches.append(seen(images, labels))
        return {"loss": 0.0}


def seen(images: Any, labels: Any) -> tuple[tuple[int, ...], float]:
    return tuple(np.asarray(labels).tolist()), round(float(np.asarray(images, np.float64).mean()), 3)


@pytest.mark.parametrize("loader", LOADERS)
def test_the_passes_of_fit_are_the_numbered_ones_whatever_ran_before(stored: Stored, options: Options, loader: str) -> None:
    spec = replace(PLAIN, placement="model", options=options(loader))
    feed: Any = build(stored, loader, spec)
    other: Any = build(stored, loader, spec)
    model = Sees()
    model.compile(run_eagerly=True)
    try:
        numbered = [[seen(*batch) for batch in feed.epoch(n)] for n in range(5)]
        assert numbered[0] != numbered[1]
        # fit would shuffle the batches of a PyDataset by Python's own generator.
        model.fit(other, epochs=3, verbose=0, shuffle=False)
        model.fit(other, epochs=1, verbose=0, shuffle=False)
        count = len(feed)
        assert [model.batches[n * count : (n + 1) * count] for n in range(4)] == numbered[:4]
        assert [seen(*batch) for batch in other] == numbered[4], "a plain loop is the next pass too"
        assert [seen(*batch) for batch in other] != numbered[4]
        if hasattr(other, "map"):
            assert len(list(other.map(lambda images, labels: (images, labels)))) == count
        for n in (0, 2, 1):
            assert [seen(*batch) for batch in other.epoch(n)] == numbered[n]
    finally:
        feed.close()
        other.close()


def test_passes_that_several_threads_begin_at_once_are_the_numbered_ones(stored: Stored) -> None:
    feed: Any = build(stored, "image_dataset_from_directory", replace(PLAIN, placement="model"))

    def labels(n: int) -> list[int]:
        return [int(label) for _, labels in feed.epoch(n) for label in labels]

    with closing(feed), ThreadPoolExecutor(4) as threads:
        assert list(threads.map(labels, (3, 0, 2, 1))) == [labels(n) for n in (3, 0, 2, 1)]


def test_the_model_augments_as_the_pipeline_is_proven_to(stored: Stored) -> None:
    feed = build(stored, "image_data_generator", replace(SPEC, placement="model", scaling="none"))
    rings = Rings((SIZE, SIZE))
    found = []
    try:
        for images, _ in epoch(feed, 0) + epoch(feed, 1):
            tensor = images
            for layer in feed.layers:
                tensor = layer(tensor, training=True)
            found += [align(*pair) for pair in zip(rings.unroll(np.asarray(tensor)), rings.unroll(images), strict=True)]
    finally:
        feed.close()
    angles = np.array([alignment.angle for alignment in found])
    assert np.abs(angles).max() <= 39
    assert 16 < angles.std() < 26
    assert 0.3 < np.mean([alignment.flipped for alignment in found]) < 0.7


@pytest.mark.parametrize("loader", ["image_data_generator", "image_dataset_from_directory"])
def test_keras_takes_the_files_of_the_dataset_and_no_others(stored: Stored, tmp_path: Path, loader: str) -> None:
    path = tmp_path / "changed"
    shutil.copytree(stored("directory", "encoded"), path)
    with open_dataset(path) as dataset:
        file = path / "train" / dataset.key(3)
    moved = file.rename(file.with_name("moved.jpg"))
    with pytest.raises(DataError, match=f"{file}: the file is missing"):
        LOADERS[loader].build(open_dataset(path), SPEC)
    shutil.copy(moved, file)
    with pytest.raises(DataError, match=f"{moved}: no index lists it"):
        LOADERS[loader].build(open_dataset(path), SPEC)
    shutil.rmtree(path / "train" / "daisy")
    with pytest.raises(DataError, match=r"daisy-0.*: the file is missing"):
        LOADERS[loader].build(open_dataset(path), SPEC)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_class_that_a_split_lacks_shifts_no_label(pictures: Path, tmp_path: Path, options: Options, loader: str) -> None:
    source = tmp_path / "source"
    for name in ("train/daisy", "train/roses", "train/tulips", "validation/daisy", "validation/tulips"):
        file = next((pictures / name).iterdir())
        (source / name).mkdir(parents=True)
        shutil.copy(file, source / name)
    for format_name in FORMATS:
        storage.convert(source, to=format_name, out=tmp_path / format_name, workers=1)
        if LOADERS[loader].unsupported(read_info(tmp_path / format_name), SPEC) is None:
            feed = LOADERS[loader].build(
                open_dataset(tmp_path / format_name, "validation"), replace(SPEC, options=options(loader))
            )
            with closing(feed):
                assert sorted(label for _, labels in epoch(feed, 0) for label in labels.tolist()) == [0, 2]
            return
    pytest.skip(f"{loader} is not installed")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"on_error": "skip"}, "skip"),
        ({"jpeg_scale": "auto"}, "JPEG"),
        ({"cache": True}, "cache"),
    ],
)
@pytest.mark.parametrize("loader", ["image_data_generator", "from_generator", "image_dataset_from_directory"])
def test_keras_says_what_it_cannot_do(stored: Stored, loader: str, changes: dict[str, Any], words: str) -> None:
    info = read_info(stored("directory", "encoded"))
    assert words in (LOADERS[loader].unsupported(info, replace(SPEC, **changes)) or "")
