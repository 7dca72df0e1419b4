"""What is special about the loader ``tfdata``: nothing in Python, orders and augmentation without state, errors that name."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from numpy.typing import NDArray

import storage
from bench.equivalence import prove
from loaders import LOADERS, graph
from loaders.base import PLACEMENTS, STAGES, LoaderSpec, Placement, Stage
from loaders.preprocess import augment_and_scale
from loaders.tfdata import Options, TfdataFeed
from storage import open_dataset
from storage.base import RESIZES
from storage.dataset import read_info
from storage.errors import DataError, UsageError
from storage.graph_source import _Python
from tests.loaders.conftest import SIZE, TRAIN, Stored, damaged_shard

SPEC = LoaderSpec(image_size=(SIZE, SIZE), workers=4, batch_size=10, placement="model")


def build(path: Path, spec: LoaderSpec, until: Stage = Stage.HAND_OVER) -> TfdataFeed:
    feed = LOADERS["tfdata"].build(open_dataset(path), spec, until=until)
    assert isinstance(feed, TfdataFeed)
    return feed


Epoch = list[tuple[NDArray[Any], NDArray[np.int64]]]


def arrays(batches: Any) -> Epoch:
    return [(np.array(images), np.array(labels)) for images, labels in batches]


def same(one: Epoch, other: Epoch) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a, b) and np.array_equal(y, z) for (a, y), (b, z) in zip(one, other, strict=True)
    )


def labels_of(batches: Any) -> Counter[int]:
    return Counter(int(label) for _, labels in batches for label in np.asarray(labels))


def test_autotuning_is_off_unless_asked_for(stored: Stored) -> None:
    path = stored("hdf5", "encoded")
    with closing(build(path, SPEC)) as off, closing(build(path, replace(SPEC, options=(("autotune", True),)))) as on:
        assert off.options().autotune.enabled is False
        assert on.options().autotune.enabled is not False
        assert same(arrays(off.epoch(3)), arrays(on.epoch(3)))
    with pytest.raises(UsageError, match="autotune must be true or false"):
        build(path, replace(SPEC, options=(("autotune", "sometimes"),)))
    with pytest.raises(UsageError, match="unknown option 'autotone'; this loader has: autotune, buffer"):
        build(path, replace(SPEC, options=(("autotone", True),)))


@pytest.mark.parametrize(("format_name", "payload"), [("directory", "encoded"), ("hdf5", "raw"), ("tfrecord", "encoded")])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_threads_change_nothing(stored: Stored, format_name: str, payload: str, placement: Placement) -> None:
    path = stored(format_name, payload)
    spec = replace(SPEC, placement=placement)
    with closing(build(path, replace(spec, workers=1))) as one, closing(build(path, replace(spec, workers=7))) as many:
        for number in (4, 0):
            assert same(arrays(one.epoch(number)), arrays(many.epoch(number)))


def test_each_iteration_is_the_next_epoch_whoever_iterates(stored: Stored) -> None:
    with closing(build(stored("hdf5", "raw"), SPEC)) as feed:
        zero, one, two = (arrays(feed.epoch(n)) for n in range(3))
        assert same(arrays(feed), zero)
        next(iter(feed))  # given up in the middle
        assert same(arrays(feed.epoch(0)), zero), "whatever ran before"
        assert same(arrays(feed.map(lambda images, labels: (images, labels))), two), "tf.data itself counts"
        first, other = feed.epoch(0), feed.epoch(1)
        mixed = [batch for pair in zip(first, other, strict=True) for batch in pair]
        assert same(arrays(mixed[::2]), zero)
        assert same(arrays(mixed[1::2]), one)
        assert feed.cardinality() == len(feed) == 5


def test_the_order_is_over_all_shards(stored: Stored) -> None:
    path = stored("lmdb", "raw")
    with open_dataset(path) as dataset:
        assert dataset.shards > 1
        first = dataset.split_info.shards[0].samples
        stored_images = dataset.read(np.arange(len(dataset))).images
        assert not isinstance(stored_images, list)
    with closing(build(path, SPEC)) as feed:
        images, _ = next(feed.epoch(0))
    numbers = [int(np.flatnonzero((stored_images == image).all(axis=(1, 2, 3)))[0]) for image in np.asarray(images)]
    assert min(numbers) < first <= max(numbers)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 31, 1000])
def test_an_order_is_a_permutation(count: int) -> None:
    positions = tf.range(count, dtype=tf.int64)
    orders = [graph.permuted(positions, count, seed, tf.constant(epoch)).numpy() for seed in (0, 1) for epoch in (0, 1, 2)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    if count > 4:
        assert len({tuple(order) for order in orders}) == 6


def test_orders_are_fair() -> None:
    """Each sample is as likely at each place, and neighbours do not stay neighbours."""
    count, epochs = 12, 3000
    order = partial(graph.permuted, tf.range(count, dtype=tf.int64), count, 5)
    mapped = tf.function(lambda numbers: tf.map_fn(order, numbers, fn_output_signature=tf.int64))
    orders = mapped(tf.range(epochs)).numpy()
    assert all((orders[epoch] == order(tf.constant(epoch)).numpy()).all() for epoch in (0, 1, epochs - 1))
    counts = np.array([np.bincount(orders[:, place], minlength=count) for place in range(count)])
    expected = epochs / count
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected)).all()
    following = (orders[:, 1:] == orders[:, :-1] + 1).sum() / epochs
    assert abs(following - (count - 1) / count) < 0.1


def test_draws_are_uniform_and_depend_on_all_they_should() -> None:
    numbers = tf.range(100_000, dtype=tf.int64)
    draws = [graph.uniform(numbers, tf.constant(e, tf.int64), s, t).numpy() for s in (0, 1) for e in (0, 1) for t in (0, 1)]
    for drawn in draws:
        assert 0 <= drawn.min() < drawn.max() < 1
        assert np.abs(np.bincount((drawn * 20).astype(int)) / 5000 - 1).max() < 0.07
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 0.02
    assert np.abs(np.corrcoef(draws[0][:-1], draws[0][1:])[0, 1]) < 0.02


def test_augmentation_is_that_of_keras_layers() -> None:
    """Given the angle and the flip, the pixels are those of RandomFlip and RandomRotation."""
    spec = LoaderSpec(image_size=(40, 56), scaling="none")
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (6, 40, 56, 3)).astype(np.float32))
    epoch = tf.constant(2, tf.int64)
    found = graph.augment(images, tf.range(6, dtype=tf.int64), epoch, spec).numpy()
    flips = graph.uniform(tf.range(6, dtype=tf.int64), epoch, 0, 0).numpy() < 0.5
    turns = graph.uniform(tf.range(6, dtype=tf.int64), epoch, 0, 1).numpy() * 2 - 1
    assert flips.any()
    assert not flips.all()
    for place in range(6):
        image = images[place : place + 1]
        image = image[:, :, ::-1] if flips[place] else image
        turn = float(turns[place]) * graph.TURN
        layer = keras.layers.RandomRotation((turn, turn))
        assert np.abs(layer(image, training=True).numpy()[0] - found[place]).max() < 0.6


@pytest.mark.parametrize("scaling", ["tf", "torch", "caffe", "none"])
def test_scaling_is_that_of_the_layers(scaling: Any) -> None:
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32))
    tensor = images
    for layer in augment_and_scale(LoaderSpec(scaling=scaling, augment=False)):
        tensor = layer(tensor)
    assert np.abs(graph.scale(images, scaling) - tensor).max() < 1e-4


@pytest.mark.parametrize("resize", RESIZES)
def test_every_filter_is_proven(stored: Stored, resize: Any) -> None:
    pixels = prove(stored("directory", "encoded"), "train", "tfdata", replace(SPEC, resize=resize, image_size=(90, 70)))
    assert pixels.verdict == "identical"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"decode": "fast"}, "fast decoding"),
        ({"jpeg_scale": "auto"}, "scaled decoding"),
        ({"decode": "fast", "jpeg_scale": "auto"}, "; "),
    ],
)
def test_what_may_differ_differs_by_its_cause(stored: Stored, changes: dict[str, Any], cause: str) -> None:
    pixels = prove(stored("lmdb", "encoded"), "train", "tfdata", replace(SPEC, **changes))
    assert pixels.verdict == "differs"
    assert cause in pixels.cause
    assert pixels.psnr_db is not None


def test_scaled_decoding_never_falls_below_the_target(stored: Stored) -> None:
    with open_dataset(stored("directory", "encoded")) as dataset:
        data = dataset.sample(0).image
        shapes = {}
        for size in ((240, 320), (100, 100), (60, 80), (30, 40), (8, 8), (200, 8)):
            spec = replace(SPEC, jpeg_scale="auto", image_size=size)
            shapes[size] = tuple(graph.decoder(dataset.info, spec)(data).shape[:2])
        full = tuple(graph.decoder(dataset.info, SPEC)(data).shape[:2])
    for size, shape in shapes.items():
        ratio = next(r for r in (8, 4, 2, 1) if r == 1 or (full[0] // r >= size[0] and full[1] // r >= size[1]))
        assert shape == (-(-full[0] // ratio), -(-full[1] // ratio)), size


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_types(stored: Stored, dtype: Any) -> None:
    with closing(build(stored("hdf5", "raw"), replace(SPEC, dtype=dtype))) as feed:
        images, labels = next(feed.epoch(0))
        assert (images.dtype, labels.dtype) == (dtype, "int64")
        assert feed.element_spec[0].shape.as_list() == [None, SIZE, SIZE, 3]


@pytest.mark.parametrize("format_name", ["directory", "lmdb", "tfrecord"])
def test_a_cache_decodes_each_image_once(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, format_name: str, tmp_path: Path
) -> None:
    path = tmp_path / "copy"
    shutil.copytree(stored(format_name, "encoded"), path)
    with closing(build(path, replace(SPEC, cache=True))) as feed, closing(build(path, SPEC)) as plain:
        assert same(arrays(feed.epoch(0)), arrays(plain.epoch(0)))
        assert same(arrays(feed.epoch(1)), arrays(plain.epoch(1)))
        expected = arrays(plain.epoch(2))
        if format_name == "directory":
            for file in (path / "train").rglob("*.jpg"):
                file.write_bytes(b"no image any more")
        assert same(arrays(feed.epoch(2)), expected)


def test_a_cache_given_up_in_the_middle_fills_up_later(stored: Stored) -> None:
    path = stored("hdf5", "encoded")
    with closing(build(path, replace(SPEC, cache=True))) as feed, closing(build(path, SPEC)) as plain:
        next(feed.epoch(0))
        for number in (5, 6, 7):
            assert same(arrays(feed.epoch(number)), arrays(plain.epoch(number)))


def test_a_feed_that_is_let_go_of_lets_go_of_its_cache(stored: Stored) -> None:
    feed = build(stored("hdf5", "encoded"), replace(SPEC, cache=True))
    for _ in feed.epoch(0):
        pass
    cache = weakref.ref(feed._pipeline._cache)
    feed.close()
    del feed
    gc.collect()
    assert cache() is None


def test_an_iterator_outlives_its_feed(stored: Stored) -> None:
    feed = build(stored("hdf5", "encoded"), replace(SPEC, cache=True, shuffle=False))
    with closing(build(stored("hdf5", "encoded"), replace(SPEC, shuffle=False))) as plain:
        batches = iter(feed)
        del feed
        gc.collect()
        assert same(arrays(batches), arrays(plain.epoch(0)))
    del batches
    gc.collect()  # a file that says it was never closed fails this test, not whichever runs next


def test_a_cache_that_no_machine_has(stored: Stored) -> None:
    with pytest.raises(UsageError, match="cache=True needs"):
        build(stored("hdf5", "encoded"), replace(SPEC, cache=True, image_size=(2_000_000_000, 20_000_000)))


def test_what_is_mapped_is_not_copied(tmp_path: Path) -> None:
    """75 MB of pixels: what TensorFlow optimizes, it copies with all that was captured."""
    path = tmp_path / "stored"
    rows = np.random.default_rng(0).integers(0, 255, (24, 1024, 1024, 3), np.uint8)
    source = tmp_path / "source"
    for number, row in enumerate(rows):
        (source / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(source / "ab"[number % 2] / f"{number}.bmp", row, scale=False)
    for kind, payload, size in (("hdf5", "raw", 1024), ("lmdb", "encoded", None)):
        storage.convert(source, to=kind, out=path / kind, payload=payload, image_size=size)
        spec = LoaderSpec(image_size=(1024, 1024), batch_size=1, workers=1, prefetch=1, placement="model", augment=False)
        with build(path / kind, spec) as feed:
            batches = feed.epoch(0)
            before = psutil.Process().memory_info()
            next(iter(batches))
            after = psutil.Process().memory_info()
            assert (after.rss - after.shared) - (before.rss - before.shared) < rows.nbytes / 2, kind


@pytest.fixture
def broken(stored: Stored, tmp_path: Path) -> Path:
    path = tmp_path / "broken"
    shutil.copytree(stored("directory", "encoded"), path)
    with open_dataset(path) as dataset:
        for number in (7, 30):
            (path / "train" / dataset.key(number)).write_bytes(b"\xff\xd8\xff no image")
        (path / "train" / dataset.key(44)).unlink()
    return path


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")  # fit's own default
def test_an_error_names_the_sample_in_fit_too(broken: Path) -> None:
    with open_dataset(broken) as dataset:
        key = dataset.key(7)
    with closing(build(broken, replace(SPEC, shuffle=False))) as feed:
        with pytest.raises(DataError, match=key):
            list(feed.epoch(0))
        with pytest.raises(tf.errors.OpError, match=rf"DataError: .*{key}\) does not match its checksum"):
            list(feed)
        model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        with pytest.raises(tf.errors.OpError, match=rf"{key}\) does not match its checksum"):
            model.fit(feed, verbose=0)


def test_a_file_that_is_gone_is_named_with_its_reason(broken: Path) -> None:
    with open_dataset(broken) as dataset:
        key = dataset.key(44)
        for number in (7, 30):
            shutil.copy(broken / "train" / dataset.key(0), broken / "train" / dataset.key(number))
    with (
        closing(build(broken, replace(SPEC, shuffle=False))) as feed,
        pytest.raises(DataError, match=f"{key}: the file is missing"),
    ):
        list(feed.epoch(0))


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_damaged_record_of_a_shard_is_named_by_its_file(stored: Stored, tmp_path: Path, shuffle: bool) -> None:
    path, shard = damaged_shard(stored("tfrecord", "raw"), tmp_path / "damaged")
    with closing(build(path, replace(SPEC, shuffle=shuffle))) as feed:
        for number in range(4):
            with pytest.raises(DataError, match=rf"{shard}: record \d+ does not match its checksum.*storage\.verify"):
                list(feed.epoch(number))
    shard.unlink()
    with (
        closing(build(path, replace(SPEC, shuffle=shuffle))) as feed,
        pytest.raises(DataError, match=f"{shard}: the shard is missing"),
    ):
        list(feed.epoch(0))


def test_skipped_samples_are_counted(broken: Path) -> None:
    with closing(build(broken, replace(SPEC, on_error="skip"))) as feed:
        sizes = [len(labels) for _, labels in feed.epoch(0)]
        assert feed.skipped == 3
        assert sizes == [10, 10, 10, 10, TRAIN - 43], "only the last is short"
        assert labels_of(feed).total() == TRAIN - 3
        assert feed.skipped == 6, "whoever took the pass"
    with closing(build(broken, replace(SPEC, on_error="skip", batch_size=1))) as feed:
        assert len(list(feed.epoch(0))) == TRAIN - 3, "a batch that is lost whole is no batch"
    with closing(build(broken, replace(SPEC, on_error="skip", drop_remainder=True))) as feed:
        assert [len(labels) for _, labels in feed.epoch(0)] == [10] * 4
        assert feed.skipped == 3


def test_stages_end_where_they_say(stored: Stored) -> None:
    assert LOADERS["tfdata"].stages == STAGES
    for format_name, payload in (("directory", "encoded"), ("tfrecord", "raw"), ("hdf5", "raw")):
        for stage in STAGES:
            with closing(build(stored(format_name, payload), SPEC, stage)) as feed:
                batches = list(feed.epoch(0))
            assert sum(len(labels) for _, labels in batches) == TRAIN
            whole = payload == "raw" or stage in STAGES[3:]
            assert all(images.shape[1:] == ((SIZE, SIZE, 3) if whole else ()) for images, _ in batches), stage


def test_read_reads_and_decode_decodes(stored: Stored) -> None:
    path = stored("hdf5", "encoded")
    with open_dataset(path) as dataset, closing(build(path, replace(SPEC, shuffle=False), Stage.READ)) as feed:
        lengths = np.concatenate([np.asarray(images) for images, _ in feed.epoch(0)])
        assert lengths.tolist() == [len(sample.image) for sample in dataset]
    with open_dataset(path) as dataset, closing(build(path, replace(SPEC, shuffle=False), Stage.DECODE)) as feed:
        corners = np.concatenate([np.asarray(images) for images, _ in feed.epoch(0)])
        assert corners.tolist() == [storage.pixels.decode(bytes(sample.image))[0, 0, 0] for sample in dataset]


@pytest.mark.parametrize("payload", ["encoded", "raw"])
def test_tfrecord_is_shuffled_through_a_stated_buffer(stored: Stored, payload: str) -> None:
    path = stored("tfrecord", payload)
    with open_dataset(path) as dataset:
        in_order = [int(sample.label) for sample in dataset]
        ends = np.cumsum([shard.samples for shard in dataset.split_info.shards])
    with closing(build(path, replace(SPEC, shuffle=False))) as feed:
        assert [label for _, labels in feed.epoch(5) for label in np.asarray(labels)] == in_order
    shards = [in_order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    with closing(build(path, replace(SPEC, options=(("buffer", 1),)))) as feed:
        seen = {tuple(int(label) for _, labels in feed.epoch(n) for label in np.asarray(labels)) for n in range(8)}
    assert len(seen) > 1, "shards come in another order"
    for order in seen:
        assert any(list(order[: len(shard)]) == shard for shard in shards), "and whole, without a buffer"
    with pytest.raises(UsageError, match="buffer must be at least 1"):
        Options(buffer=0)


def test_compressed_hdf5_is_read_by_one_call_a_batch(pictures: Path, tmp_path: Path) -> None:
    storage.convert(pictures, to="hdf5", out=tmp_path / "lzf", payload="raw", image_size=SIZE, compression="lzf", workers=1)
    with closing(build(tmp_path / "lzf", SPEC)) as feed:
        assert isinstance(feed._stored._source, _Python)
    assert prove(tmp_path / "lzf", "train", "tfdata", SPEC).verdict == "identical"


def test_says_what_it_cannot_serve(stored: Stored) -> None:
    raw = read_info(stored("hdf5", "raw"))
    encoded = read_info(stored("hdf5", "encoded"))
    animated = encoded.model_copy(update={"media_types": {"image/webp;animated": 1, "image/jpeg": 2}})
    assert "image/webp;animated" in (LOADERS["tfdata"].unsupported(animated, SPEC) or "")
    assert "image_size is (50, 50)" in (LOADERS["tfdata"].unsupported(raw, replace(SPEC, image_size=(50, 50))) or "")
    assert LOADERS["tfdata"].unsupported(encoded, SPEC) is None


def test_all_that_tensorflow_decodes_is_decoded_alike(tmp_path: Path) -> None:
    """JPEG, PNG, GIF, BMP and WebP in one dataset: each by what it is, not by its name."""
    from PIL import Image

    rng = np.random.default_rng(3)
    kinds = [("JPEG", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
    for number in range(20):
        kind, options = kinds[number % 5]
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
        small.save(folder / f"{number}.{kind.lower()}", kind, **options)
    for format_name in ("directory", "tfrecord", "lmdb"):
        storage.convert(tmp_path / "photos", to=format_name, out=tmp_path / format_name, workers=1)
        assert prove(tmp_path / format_name, "train", "tfdata", SPEC).verdict == "identical"


def test_a_feed_built_inside_a_strategy_counts_its_passes(stored: Stored) -> None:
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        feed = build(stored("hdf5", "raw"), SPEC)
    with closing(feed):
        assert not same(arrays(feed), arrays(feed))


def test_what_closing_leaves_alone(stored: Stored) -> None:
    """An iterator that is still held when its feed is closed reads on from what it holds; there is no new one."""
    feed = build(stored("hdf5", "raw"), replace(SPEC, prefetch=0, workers=1))
    expected = arrays(feed.epoch(0))
    batches: Iterator[Any] = feed.epoch(0)
    first = next(batches)
    feed.close()
    assert same(arrays([first, *batches]), expected)
    with pytest.raises(UsageError, match="this feed is closed"):
        next(feed.epoch(1))


def test_tensorflow_warns_of_nothing(stored: Stored, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("hdf5", "tfrecord"):
        with closing(build(stored(name, "encoded"), SPEC)) as feed:
            assert len(arrays(feed.epoch(0))) == len(feed)
    assert [record.getMessage() for record in caplog.records] == []
