"""The conformance suite is tried on broken loaders: each breaks one promise, and each must be caught with its own reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from bench.equivalence import NotEquivalentError, prove
from loaders import LOADERS
from loaders.base import LoaderSpec, Placement, Stage
from storage.base import DatasetInfo
from storage.dataset import StoredDataset
from tests.loaders.conftest import SIZE, Stored

Batches = list[tuple[NDArray[Any], NDArray[np.int64]]]
SPEC = LoaderSpec(image_size=(SIZE, SIZE), workers=1, batch_size=20)


@dataclass
class BrokenFeed:
    whole: Any
    breaks: Callable[[Batches], Batches]
    layers: Sequence[Any]
    since: int

    def __len__(self) -> int:
        return len(self.whole)

    def epoch(self, n: int) -> Iterator[Any]:
        batches = [(np.array(images), np.array(labels)) for images, labels in self.whole.epoch(n)]
        yield from self.breaks(batches) if n >= self.since else batches

    def close(self) -> None:
        self.whole.close()


@dataclass
class BrokenLoader:
    breaks: Callable[[Batches], Batches]
    changes: dict[str, Any]
    beneath: str = "image_data_generator"
    layers: Sequence[Any] = ()
    since: int = 0
    name: str = "broken"
    stages: tuple[Stage, ...] = ()

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        return None

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> Any:
        beneath = LOADERS[self.beneath].build(dataset, replace(spec, **self.changes))
        return BrokenFeed(beneath, self.breaks, self.layers, self.since)


def whole(batches: Batches) -> Batches:
    return batches


def drops_a_sample(batches: Batches) -> Batches:
    images, labels = batches[-1]
    return [*batches[:-1], (images[:-1], labels[:-1])]


def drops_the_last_batch(batches: Batches) -> Batches:
    return batches[:-1]


def repeats_a_sample(batches: Batches) -> Batches:
    images, _ = batches[0]
    labels = batches[0][1]
    where = np.flatnonzero(labels == labels[0])
    images[where[1]] = images[where[0]]
    return batches


def swaps_two_labels(batches: Batches) -> Batches:
    labels = batches[0][1]
    other = int(np.flatnonzero(labels != labels[0])[0])
    labels[[0, other]] = labels[[other, 0]]
    return batches


def one_epoch_and_a_bit(batches: Batches) -> Batches:
    return [*batches, batches[0]]


def wrong_range(batches: Batches) -> Batches:
    return [(images * 2, labels) for images, labels in batches]


def wrong_dtype(batches: Batches) -> Batches:
    return [(images.astype(np.float64), labels) for images, labels in batches]


def float_labels(batches: Batches) -> Batches:
    return [(images, labels.astype(np.float32)) for images, labels in batches]


def wrong_shape(batches: Batches) -> Batches:
    return [(images[:, :-1], labels) for images, labels in batches]


def blue_first(batches: Batches) -> Batches:
    return [(images[..., ::-1], labels) for images, labels in batches]


def noise_for_an_image(batches: Batches) -> Batches:
    batches[0][0][5] = np.random.default_rng(0).uniform(-1, 1, batches[0][0][5].shape)
    return batches


def a_shifted_image(batches: Batches) -> Batches:
    batches[0][0][5] = np.roll(batches[0][0][5], 1, axis=1)
    return batches


def a_flipped_image(batches: Batches) -> Batches:
    batches[0][0][5] = batches[0][0][5][:, ::-1].copy()
    return batches


def an_image_upside_down(batches: Batches) -> Batches:
    batches[0][0][5] = batches[0][0][5][::-1].copy()
    return batches


def one_value_three_levels_off(batches: Batches) -> Batches:
    value = batches[0][0][5, 20, 20, 1]
    batches[0][0][5, 20, 20, 1] = value + (3 if value < 0 else -3) / np.float32(127.5)
    return batches


def blurred(batches: Batches) -> Batches:
    return [(np.stack([np.rint((cv2.blur(i, (3, 3)) + 1) * 127.5) / 127.5 - 1 for i in images]), y) for images, y in batches]


def unrounded(batches: Batches) -> Batches:
    return [(images * np.float32(0.998), labels) for images, labels in batches]


def flips_only(batches: Batches) -> Batches:
    random = np.random.default_rng(0)
    return [
        (np.stack([image[:, ::-1] if random.random() < 0.5 else image for image in images]), labels)
        for images, labels in batches
    ]


@pytest.mark.parametrize(
    ("breaks", "changes", "reason"),
    [
        (drops_a_sample, {}, "47 samples in an epoch; expected 48"),
        (drops_the_last_batch, {}, "40 samples in an epoch; expected 48"),
        (repeats_a_sample, {}, r"came 2 times in an epoch, expected 1; missing: \w+/"),
        (swaps_two_labels, {}, "came with label"),
        (one_epoch_and_a_bit, {}, "more than 48 samples"),
        (wrong_range, {}, "expected 0 to 255"),
        (wrong_dtype, {}, "expected float32"),
        (float_labels, {}, "expected int64"),
        (wrong_shape, {}, "expected float32"),
        (blue_first, {}, "is no stored image"),
        (noise_for_an_image, {}, "is no stored image"),
        (blue_first, {"augment": False}, "with its channels in reverse order, it is "),
        (a_flipped_image, {"augment": False}, "flipped, it is "),
        (an_image_upside_down, {"augment": False}, "upside down, it is "),
        (one_value_three_levels_off, {"augment": False}, "differs by up to [34] levels"),
        (a_shifted_image, {"augment": False}, "is no stored image|have a named cause"),
        (blurred, {"augment": False}, "is no stored image|have a named cause"),
        (unrounded, {"augment": False}, "not rounded"),
        (whole, {"resize": "nearest"}, "have a named cause"),
        (whole, {"batch_size": 50}, "at most 20 of them|batches"),
        (whole, {"augment": False}, "augmentation is not as asked"),
        (flips_only, {"augment": False}, "augmentation is not as asked"),
        (whole, {"shuffle": False}, "one epoch comes in the order of the one before"),
    ],
)
def test_a_broken_loader_is_not_equivalent(
    stored: Stored,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[[Batches], Batches],
    changes: dict[str, Any],
    reason: str,
) -> None:
    monkeypatch.setitem(LOADERS._loaded, "broken", BrokenLoader(breaks, changes))
    augmented = breaks in (whole, flips_only) and "resize" not in changes
    spec = replace(SPEC, augment=augmented or "augment" not in changes, resize="antialias")
    with pytest.raises(NotEquivalentError, match=reason):
        prove(stored("lmdb", "encoded"), "train", "broken", spec)


def test_one_wrong_image_is_caught_where_all_may_differ(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOADERS._loaded, "broken", BrokenLoader(a_shifted_image, {}, "tfdata"))
    spec = replace(SPEC, augment=False, decode="fast")
    with pytest.raises(NotEquivalentError, match=r"differs by a PSNR of 1\d\.\d dB"):
        prove(stored("lmdb", "encoded"), "train", "broken", spec)
    assert prove(stored("lmdb", "encoded"), "train", "tfdata", spec).cause == "fast decoding"


@pytest.mark.parametrize(
    ("breaks", "cache", "reason"),
    [(drops_a_sample, True, "47 samples in an epoch"), (swaps_two_labels, False, "came with label")],
)
def test_a_later_epoch_is_proven_too(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, breaks: Callable[[Batches], Batches], cache: bool, reason: str
) -> None:
    monkeypatch.setitem(LOADERS._loaded, "broken", BrokenLoader(breaks, {}, "threaded", since=1))
    with pytest.raises(NotEquivalentError, match=reason):
        prove(stored("lmdb", "encoded"), "train", "broken", replace(SPEC, augment=False, cache=cache))


@pytest.mark.parametrize(
    ("placement", "layers", "reason"),
    [
        ("model", [], "feed.layers scale otherwise than 'tf'"),
        ("model", [keras.layers.Rescaling(1 / 127.5, -1)], "feed.layers: augmentation is not as asked: 0% flipped"),
        ("pipeline", [keras.layers.Rescaling(1 / 127.5, -1)], "leaves nothing to the model, but feed.layers has 1"),
    ],
)
def test_what_is_left_to_the_model_is_proven_too(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, placement: Placement, layers: list[Any], reason: str
) -> None:
    monkeypatch.setitem(LOADERS._loaded, "broken", BrokenLoader(whole, {}, "threaded", layers))
    with pytest.raises(NotEquivalentError, match=reason):
        prove(stored("lmdb", "encoded"), "train", "broken", replace(SPEC, placement=placement))


@pytest.mark.parametrize("augment", [True, False])
def test_the_loader_beneath_is_whole(stored: Stored, monkeypatch: pytest.MonkeyPatch, augment: bool) -> None:
    monkeypatch.setitem(LOADERS._loaded, "broken", BrokenLoader(whole, {}))
    pixels = prove(stored("lmdb", "encoded"), "train", "broken", replace(SPEC, augment=augment, resize="antialias"))
    assert pixels.verdict == "identical"
