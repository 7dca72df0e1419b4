"""A stored dataset as a library: what ``open_dataset`` gives, and what it answers to what it has not."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import storage
from storage import FORMATS
from storage.base import PAYLOADS
from storage.errors import DataError, UsageError
from tests.storage.made import CLASSES, change_manifest, photos

RANDOM = [name for name in FORMATS if name != "tfrecord"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of datasets, ``FORMAT-PAYLOAD``, of several shards."""
    home = tmp_path_factory.mktemp("reading")
    source = photos(home / "photos", 24, splits=("train", "validation"))
    for name in FORMATS:
        for payload in PAYLOADS:
            out = home / f"{name}-{payload}"
            storage.convert(source, to=name, payload=payload, out=out, image_size=16, shard_bytes=5000, workers=1)
    return home


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", FORMATS)
def test_it_reads_well(name: str, payload: str, home: Path) -> None:
    with storage.open_dataset(home / f"{name}-{payload}", split="validation") as reader:
        assert (reader.info.format, reader.info.payload) == (name, payload)
        assert len(reader) == 24
        samples = list(reader)
        assert [sample.key for sample in samples] == [sample.key for sample in reader]
        assert {CLASSES[sample.label] for sample in samples} == {sample.key.split("/")[0] for sample in samples}
        assert np.array_equal(reader.sample(23).image, samples[23].image)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", RANDOM)
def test_a_batch_a_call(name: str, payload: str, home: Path) -> None:
    with storage.open_dataset(home / f"{name}-{payload}") as reader:
        samples = list(reader)
        batch = reader.read([20, 3, 3, 0])
        assert batch.labels.tolist() == [samples[index].label for index in (20, 3, 3, 0)]
        for image, index in zip(batch.images, (20, 3, 3, 0), strict=True):
            assert np.array_equal(image, samples[index].image)
        nothing = reader.read([])
        assert len(nothing.images) == len(nothing.labels) == 0
        assert payload == "encoded" or nothing.images.shape == (0, 16, 16, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", RANDOM)
def test_several_threads_may_read_and_open(name: str, home: Path) -> None:
    with storage.open_dataset(home / f"{name}-raw") as reader:
        orders = [np.random.default_rng(seed).permutation(len(reader)) for seed in range(32)]
        with ThreadPoolExecutor(8) as pool:
            batches = list(pool.map(reader.read, orders))
        expected = [sample.image for sample in reader]
    for order, batch in zip(orders, batches, strict=True):
        for index, image in zip(order.tolist(), batch.images, strict=True):
            assert np.array_equal(image, expected[index])


@pytest.mark.parametrize("indices", [[0.5], 3, [True, False], [[1]], ["1"], [[1], [2, 3]], [None], np.ones(2)])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_list_of_whole_numbers(name: str, indices: Any, home: Path) -> None:
    with storage.open_dataset(home / f"{name}-encoded") as reader:
        with pytest.raises(UsageError, match=r"whole numbers, such as \[3, 0, 7\]; got"):
            reader.read(indices)
        with pytest.raises(TypeError, match="integer"):
            reader.sample(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 24])
@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_that_is_not_there(name: str, index: int, home: Path) -> None:
    with storage.open_dataset(home / f"{name}-encoded") as reader:
        with pytest.raises(IndexError, match=rf"no sample {index}; train has 24"):
            reader.read([0, index])
        with pytest.raises(IndexError, match=f"no sample {index}"):
            reader.key(index)
        with pytest.raises(IndexError, match=f"no sample {index}"):
            reader.sample(index)


def test_a_stream_has_no_random_access_and_says_so(home: Path) -> None:
    with storage.open_dataset(home / "tfrecord-encoded") as reader:
        assert not reader.supports_random_access
        with pytest.raises(UsageError, match="tfrecord has no random access: iterate over it, or convert it"):
            reader.read([0])


def test_what_is_not_there_is_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no split 'test'; it has: train, validation"):
        storage.open_dataset(home / "hdf5-raw", "test")
    with pytest.raises(DataError, match=r"photos is not a stored dataset: it has no dataset\.json\. Make one with"):
        storage.open_dataset(home / "photos")
    (tmp_path / "dataset.json").write_text((home / "hdf5-raw" / "dataset.json").read_text().replace('"hdf5"', '"zarr"'))
    with pytest.raises(DataError, match=r"dataset\.json: unknown format 'zarr'; expected one of: directory, hdf5"):
        storage.open_dataset(tmp_path)


def test_an_index_outside_its_folder_reads_nothing(home: Path, tmp_path: Path) -> None:
    """The index names the place of its files by its own: one that lies elsewhere would lead out of the dataset."""
    shutil.copytree(home / "directory-encoded", tmp_path / "data", ignore=shutil.ignore_patterns("index"))
    change_manifest(tmp_path / "data", "index/train-00000.npz", "train-00000.npz")
    (tmp_path / "data" / "train-00000.npz").write_bytes((home / "directory-encoded/index/train-00000.npz").read_bytes())
    with storage.open_dataset(tmp_path / "data") as reader, pytest.raises(DataError, match=r"has to lie in .* 'index'"):
        next(iter(reader))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_hdf5_file_stays_open(payload: str, home: Path) -> None:
    # The library takes half a megabyte for each file that it has open: hundreds of gigabytes are thousands of shards.
    h5f = pytest.importorskip("h5py").h5f
    with storage.open_dataset(home / f"hdf5-{payload}") as reader:
        assert len(list(reader)) == 24
        assert reader.shards > 1
        assert h5f.get_obj_count(h5f.OBJ_ALL, h5f.OBJ_FILE) == 0


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", ["hdf5", "lmdb", "tfrecord"])
def test_nothing_is_read_once_it_is_closed(name: str, payload: str, home: Path, tmp_path: Path) -> None:
    # The system gives the number of a closed file to the next that is opened: its bytes must not be taken for an image.
    other = tmp_path / "other"
    other.write_bytes(bytes(1 << 20))
    dataset = storage.open_dataset(home / f"{name}-{payload}")
    reader = dataset.shard(0)
    one = reader.at if name == "tfrecord" else lambda index: reader.read(np.array([index]))  # type: ignore[attr-defined]
    one(0)
    dataset.close()
    with other.open("rb"), pytest.raises((DataError, ValueError), match="closed"):
        one(1)


@pytest.mark.parametrize("name", FORMATS)
def test_a_closed_dataset_opens_nothing_again(name: str, home: Path) -> None:
    dataset = storage.open_dataset(home / f"{name}-encoded")
    under_way = iter(dataset)
    next(under_way)
    dataset.close()
    for samples in (under_way, iter(dataset), map(dataset.sample, [1])):
        with pytest.raises(UsageError, match=f"{name}-encoded is closed: open it again"):
            next(samples)
