"""What is special about the loader ``threaded``: memory that is used again, threads that end, two ways of handing over."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.equivalence import prove
from loaders import LOADERS
from loaders.augmentation import Draws, warp
from loaders.base import STAGES, Feed, LoaderSpec, Stage
from loaders.batch_memory import ALIGNMENT, BatchMemory
from loaders.recut import recut
from loaders.sample import scale
from loaders.stream import tensor_of
from loaders.threads import windows
from storage import open_dataset
from storage.dataset import read_info
from storage.errors import DataError, UsageError
from tests.loaders.conftest import SIZE, TRAIN, Stored

SPEC = LoaderSpec(image_size=(SIZE, SIZE), workers=3, batch_size=10, augment=False, placement="model")


def build(path: Path, spec: LoaderSpec, until: Stage = Stage.HAND_OVER) -> Any:
    return LOADERS["threaded"].build(open_dataset(path), spec, until=until)


def epoch(feed: Feed, n: int) -> list[tuple[NDArray[Any], NDArray[np.int64]]]:
    return [(np.array(images), np.array(labels)) for images, labels in feed.epoch(n)]


def threads() -> int:
    return sum("threaded" in thread.name for thread in threading.enumerate())


def test_a_batch_stays_as_it_is_while_anything_of_it_is_held(stored: Stored) -> None:
    with closing(build(stored("hdf5", "raw"), replace(SPEC, batch_size=4))) as feed:
        held, copies = [], []
        for number in range(3):
            for place, (images, _) in enumerate(feed.epoch(number)):
                views = (images, np.asarray(images)[1:], memoryview(images)[1:], images[1:])
                held.append(views[place % len(views)])
                copies.append(np.array(held[-1]))
                del images, views
        assert len(held) == 36
        for view, copy in zip(held, copies, strict=True):
            np.testing.assert_array_equal(np.asarray(view), copy)


@pytest.mark.parametrize("loader", ["threaded", "from_generator"])
def test_an_epoch_ends_with_its_last_batch(stored: Stored, loader: str) -> None:
    # A pipeline that tunes itself waits for its tuner, which sleeps up to as long again as the epoch took.
    with closing(LOADERS[loader].build(open_dataset(stored("hdf5", "encoded")), SPEC)) as feed:
        assert feed.options().autotune.enabled is False  # type: ignore[attr-defined]  # a tf.data.Dataset too


def test_what_nobody_holds_is_used_again(stored: Stored) -> None:
    with closing(build(stored("lmdb", "encoded"), SPEC)) as feed:
        addresses = Counter(np.asarray(images).ctypes.data for n in range(10) for images, _ in feed.epoch(n))
        assert addresses.total() == 50
        assert len(addresses) <= 10
        assert all(address % ALIGNMENT == 0 for address in addresses)


@pytest.mark.parametrize("loader", ["from_generator", "threaded"])
def test_a_feed_that_is_let_go_of_lets_go_of_its_batches(stored: Stored, loader: str) -> None:
    feed: Any = LOADERS[loader].build(open_dataset(stored("lmdb", "encoded")), SPEC)
    for batches in (feed, feed.epoch(0)):
        assert len(list(batches)) == len(feed)
    known = weakref.ref(feed)
    feed.close()
    del feed, batches
    # TensorFlow's threads let go of the last pass's generator a moment after its last batch.
    until = time.monotonic() + 60
    while known() is not None and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert known() is None


def test_what_is_made_of_a_feed_keeps_it(stored: Stored) -> None:
    expected = len(build(stored("lmdb", "encoded"), SPEC))
    mapped = build(stored("lmdb", "encoded"), SPEC).map(lambda images, labels: (images, labels))
    batches = iter(build(stored("lmdb", "encoded"), SPEC))
    gc.collect()
    assert len(list(mapped)) == len(list(batches)) == expected


def test_memory_is_free_only_when_the_last_view_is_gone() -> None:
    memory = BatchMemory((4, 3), "float32", keep=2)
    first = memory.take(4)
    part = first[1:]
    address = first.ctypes.data
    assert first.shape == (4, 3)
    assert address % ALIGNMENT == 0
    del first
    assert memory.take(4).ctypes.data != address
    del part
    assert memory.take(2).ctypes.data == address
    # More than is kept is given, but not kept.
    several = [memory.take(4) for _ in range(5)]
    assert len({array.ctypes.data for array in several}) == 5


def test_a_tensor_shares_aligned_memory_and_keeps_it() -> None:
    memory = BatchMemory((2, 64), "uint8", keep=1)
    array = memory.take(2)
    address = array.ctypes.data
    tensor = tensor_of(array)
    array[...] = 7
    del array
    assert int(tf.reduce_sum(tf.cast(tensor, tf.int32))) == 7 * 128
    assert memory.take(1).ctypes.data != address
    del tensor
    gc.collect()
    assert memory.take(1).ctypes.data == address
    odd = np.arange(65, dtype=np.uint8)[1:]
    np.testing.assert_array_equal(np.asarray(tensor_of(odd[odd.ctypes.data % 2 :])), odd[odd.ctypes.data % 2 :])


@pytest.mark.parametrize("format_name", ["lmdb", "tfrecord"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_every_sample_once_in_any_order_of_batches(stored: Stored, format_name: str, deterministic: bool) -> None:
    spec = replace(SPEC, deterministic=deterministic, workers=5, options={"task": 3}, prefetch=0)  # type: ignore[arg-type]
    path = stored(format_name, "encoded")
    for seed in range(3):
        assert prove(path, "train", "threaded", replace(spec, seed=seed)).samples_checked == TRAIN


def test_threads_and_tasks_change_nothing(stored: Stored) -> None:
    path = stored("tfrecord", "encoded")
    spec = replace(SPEC, augment=True, placement="pipeline")
    passes = []
    for workers, task in ((1, 0), (4, 1), (3, 100)):
        with closing(build(path, replace(spec, workers=workers, options={"task": task}))) as feed:  # type: ignore[arg-type]
            passes.append(epoch(feed, 4))
    for other in passes[1:]:
        for (images, labels), (same, also) in zip(passes[0], other, strict=True):
            np.testing.assert_array_equal(images, same)
            np.testing.assert_array_equal(labels, also)


@pytest.fixture
def broken(stored: Stored, tmp_path: Path) -> Path:
    """A directory two files of which are no images (any more)."""
    path = tmp_path / "broken"
    shutil.copytree(stored("directory", "encoded"), path)
    with open_dataset(path) as dataset:
        for index in (3, 30):
            (path / "train" / dataset.key(index)).write_bytes(b"no image")
    return path


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")  # fit's own default
@pytest.mark.filterwarnings(
    "ignore:Your input ran out of data:UserWarning"
)  # what Keras says of any length not known before
@pytest.mark.parametrize("drop", [False, True])
def test_skipped_samples_are_counted_and_batches_stay_whole(broken: Path, drop: bool) -> None:
    with closing(build(broken, replace(SPEC, on_error="skip", drop_remainder=drop))) as feed:
        sizes = [len(labels) for _, labels in epoch(feed, 0)]
        assert sizes == [10, 10, 10, 10] + [6] * (not drop)
        assert feed.skipped == 2
        model = keras.Sequential(
            [keras.Input((SIZE, SIZE, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
        )
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        model.fit(feed, epochs=2, verbose=0)
        assert feed.skipped == 6


@pytest.mark.parametrize("hand_over", ["tf.data", "pydataset"])
def test_an_unreadable_sample_ends_the_epoch_by_name(broken: Path, hand_over: str) -> None:
    with closing(build(broken, replace(SPEC, shuffle=False, options={"hand_over": hand_over}))) as feed:  # type: ignore[arg-type]
        with open_dataset(broken) as dataset:
            key = dataset.key(3)
        with pytest.raises(DataError, match=key):
            epoch(feed, 0)
        # The next pass is not harmed by the last.
        with pytest.raises(DataError, match=key):
            epoch(feed, 1)


def test_a_pydataset_hands_over_the_same_passes(stored: Stored) -> None:
    path = stored("hdf5", "encoded")
    options: Any = {"hand_over": "pydataset"}
    with (
        closing(build(path, replace(SPEC, options=options))) as sequence,
        closing(build(path, SPEC)) as dataset,
    ):
        assert isinstance(sequence, keras.utils.PyDataset)
        assert isinstance(dataset, tf.data.Dataset)
        for number in range(2):
            sequence.on_epoch_begin()
            wanted = epoch(dataset, number)
            for found in ([sequence[index] for index in range(len(sequence))], epoch(sequence, number)):
                for (images, labels), (same, also) in zip(found, wanted, strict=True):
                    np.testing.assert_array_equal(images, same)
                    np.testing.assert_array_equal(labels, also)
            sequence.on_epoch_end()


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")  # fit's own default
def test_fit_takes_a_pydataset(stored: Stored) -> None:
    options: Any = {"hand_over": "pydataset"}
    with closing(build(stored("lmdb", "encoded"), replace(SPEC, options=options))) as feed:
        steps = []
        model = keras.Sequential(
            [keras.Input((SIZE, SIZE, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
        )
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: steps.append(logs))
        model.fit(feed, epochs=2, verbose=0, callbacks=[count])
        assert len(steps) == 2 * len(feed) == 10


def test_a_pydataset_cannot_skip(stored: Stored) -> None:
    spec = replace(SPEC, on_error="skip", options={"hand_over": "pydataset"})  # type: ignore[arg-type]
    assert "tf.data" in (LOADERS["threaded"].unsupported(read_info(stored("lmdb", "encoded")), spec) or "")


def test_close_ends_the_threads_and_a_pass_that_goes_on(stored: Stored) -> None:
    before = threads()
    feed = build(stored("hdf5", "encoded"), replace(SPEC, batch_size=4))
    assert threads() == before + SPEC.workers
    begun = feed.epoch(0)
    next(begun)
    feed.close()
    feed.close()
    assert threads() == before
    with pytest.raises(UsageError, match="closed"):
        for _ in begun:
            pass
    with pytest.raises(UsageError, match="closed"):
        next(iter(feed.epoch(1)))


@pytest.mark.parametrize("hand_over", ["tf.data", "pydataset"])
def test_a_fork_is_told_that_the_feed_is_not_its_own(stored: Stored, hand_over: str) -> None:
    options: Any = {"hand_over": hand_over}
    with closing(build(stored("hdf5", "encoded"), replace(SPEC, options=options))) as feed:

        def use() -> None:
            with pytest.raises(UsageError, match="build another"):
                next(feed.epoch(0))
            if hand_over == "pydataset":
                with pytest.raises(UsageError, match="build another"):
                    feed[0]

        child = multiprocessing.get_context("fork").Process(target=use)
        child.start()
        child.join(30)
        child.kill()  # should it wait for ever
        child.join()
        assert child.exitcode == 0


def test_the_cache_needs_no_file_after_the_first_pass(stored: Stored, tmp_path: Path) -> None:
    path = tmp_path / "cached"
    shutil.copytree(stored("directory", "encoded"), path)
    spec = replace(SPEC, cache=True)
    with closing(build(path, spec)) as feed, closing(build(stored("directory", "encoded"), SPEC)) as plain:
        next(iter(feed.epoch(5)))  # a pass that was given up leaves what it made, and no more
        epoch(feed, 0)
        shutil.rmtree(path / "train")
        for number in (0, 1):
            for (images, labels), (same, also) in zip(epoch(feed, number), epoch(plain, number), strict=True):
                np.testing.assert_array_equal(images, same)
                np.testing.assert_array_equal(labels, also)


@pytest.mark.parametrize("payload", ["encoded", "raw"])
@pytest.mark.parametrize("stage", STAGES)
def test_is_cut_after_any_stage(stored: Stored, stage: Stage, payload: str) -> None:
    with closing(build(stored("hdf5", payload), replace(SPEC, placement="pipeline"), stage)) as feed:
        passed = list(feed.epoch(0))
    assert sum(len(labels) for _, labels in passed) == TRAIN
    whole = STAGES.index(stage) >= STAGES.index(Stage.BATCH)
    assert {len(np.asarray(images).shape) for images, _ in passed} == {4 if whole else 1}
    assert isinstance(passed[0][0], tf.Tensor) == (stage == Stage.HAND_OVER)


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 60), st.integers(0, 5))
@example([0, 2, 0, 0, 0, 14, 1, 1, 16], 2, 0)  # the window of shards 6 and 8 ends with shard 6: it could be cut before it
def test_windows_are_whole_shards_shuffled(sizes: list[int], window: int, seed: int) -> None:
    order = windows(sizes, window, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    shard = np.repeat(np.arange(len(sizes)), sizes)[order]
    # Where a window may end is not always plain from the order, so every way to cut it is tried.
    ends = {0}
    for start in range(len(shard)):
        for stop in range(start + 1, len(shard) + 1) if start in ends else ():
            seen = set(shard[start:stop].tolist())
            held = sum(sizes[number] for number in seen)
            # Whole shards; enough of them, unless they are the last; and not enough without one of them.
            enough = held >= window or stop == len(shard)
            if held == stop - start and enough and held - max(sizes[number] for number in seen) < window:
                ends.add(stop)
    assert len(shard) in ends


def test_samples_are_shuffled_within_a_window_and_shards_before() -> None:
    def order(seed: int) -> list[int]:
        return [int(number) for number in windows([100] * 4, 200, np.random.default_rng(seed))]

    assert order(0) == order(0) != order(1)
    shards = [[number // 100 for number in order(0)[half : half + 200]] for half in (0, 200)]
    assert all(shard != sorted(shard) and len(set(shard)) == 2 for shard in shards)
    assert len({frozenset(number // 100 for number in order(seed)[:200]) for seed in range(20)}) > 2


@given(st.lists(st.integers(0, 4), max_size=20), st.booleans())
def test_short_batches_are_cut_anew(sizes: list[int], drop: bool) -> None:
    numbers = iter(range(100))

    def batches() -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        for size in sizes:
            labels = np.array([next(numbers) for _ in range(size)], np.int64)
            yield labels[:, None], labels

    found = list(recut(batches(), 4, drop))
    whole, rest = divmod(sum(sizes), 4)
    assert [len(labels) for _, labels in found] == [4] * whole + [rest] * (rest > 0 and not drop)
    assert [int(i) for _, labels in found for i in labels] == list(range(sum(sizes) - (rest if drop else 0)))
    assert all((images[:, 0] == labels).all() for images, labels in found)


def test_flip_and_rotation_in_one_step_are_those_of_two() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 30, 3)).astype(np.float32)
    for flip, angle in ((False, 0.0), (True, 0.0), (False, 0.4), (True, -0.5)):
        out = np.empty_like(image)
        warp(image, flip, angle, out)
        flipped = image[:, ::-1] if flip else image
        turn = cv2.getRotationMatrix2D((14.5, 19.5), np.rad2deg(angle), 1.0)
        wanted = cv2.warpAffine(
            np.ascontiguousarray(flipped), turn, (30, 40), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        np.testing.assert_allclose(out, wanted, atol=0.6)


def test_draws_repeat_and_differ_between_epochs_and_from_the_order() -> None:
    one, same, other = Draws(3, 1, 1000), Draws(3, 1, 1000), Draws(3, 2, 1000)
    np.testing.assert_array_equal(one.angles, same.angles)
    assert not np.array_equal(one.angles, other.angles)
    assert 0.45 < one.flips.mean() < 0.55
    assert np.abs(one.angles).max() <= np.deg2rad(36)
    assert abs(np.rad2deg(one.angles.std()) - 36 / np.sqrt(3)) < 1


@pytest.mark.parametrize("scaling", ["tf", "torch", "caffe", "none"])
def test_scaling_by_a_table_is_scaling(stored: Stored, scaling: Any) -> None:
    path = stored("lmdb", "raw")
    with (
        closing(build(path, replace(SPEC, placement="pipeline", scaling=scaling))) as feed,
        closing(build(path, SPEC)) as bare,
    ):
        for (ready, _), (levels, _) in zip(epoch(feed, 0), epoch(bare, 0), strict=True):
            np.testing.assert_allclose(ready, scale(levels, scaling), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"hand_over": "numpy"}, "hand_over"), ({"task": -1}, "task"), ({"window": 0}, "window"), ({"threads": 2}, "threads")],
)
def test_an_option_without_meaning_is_refused(stored: Stored, options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(stored("lmdb", "encoded"), replace(SPEC, options=options))
