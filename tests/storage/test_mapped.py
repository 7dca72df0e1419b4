"""Mapped files: TensorFlow sees what is stored, whatever lies where, and nothing beside it."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import storage
from storage import lmdb_pages, open_dataset, pixels
from storage.base import SupportsPlaces
from storage.errors import DataError
from storage.graph_source import _Cut, _Python, _Raw
from storage.mapped import GraphRows, MappedBytes, MappedRows, Places, Region, check_places, cut
from storage.packed import leads_out, pack

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Datasets of 90 noisy images, in several shards."""
    root = tmp_path_factory.mktemp("mapped")
    rng = np.random.default_rng(0)
    for number in range(90):
        folder = root / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        size = (5 + number, 40, 3)
        (folder / f"{number}.png").write_bytes(pixels.encode_png(rng.integers(0, 255, size, dtype=np.uint8)))

    def make(format_name: str, payload: str, **options: Any) -> Path:
        out = root / "-".join(map(str, (format_name, payload, *options.values())))
        if not out.exists():
            shard_bytes = 200_000 if payload == "raw" else 100_000
            given = {"image_size": 48, "shard_bytes": shard_bytes, **options}
            storage.convert(root / "photos", to=format_name, payload=payload, out=out, workers=1, **given)
        return out

    return make


@pytest.mark.parametrize(("format_name", "payload"), [(f, p) for f in ("hdf5", "lmdb") for p in ("encoded", "raw")])
def test_the_graph_reads_what_the_library_reads(make: Make, format_name: str, payload: str) -> None:
    with open_dataset(make(format_name, payload)) as dataset:
        assert dataset.shards > 1
        indices = np.random.default_rng(1).permutation(len(dataset))
        expected = dataset.read(indices)
        images, labels = tf.function(dataset.graph_read)(tf.constant(indices))
        if payload == "raw":
            assert isinstance(dataset._source, _Raw)
            assert np.array_equal(images, expected.images)
        else:
            assert isinstance(dataset._source, _Cut)
            assert [dataset.graph_fetch(where).numpy() for where in images] == list(expected.images)
        assert np.array_equal(labels, expected.labels)


def test_what_cannot_be_mapped_is_read_by_its_library(make: Make) -> None:
    with open_dataset(make("hdf5", "raw", compression="gzip")) as dataset:
        indices = np.arange(len(dataset))[::-1].copy()
        images, labels = tf.function(dataset.graph_read)(tf.constant(indices))
        assert isinstance(dataset._source, _Python)
        expected = dataset.read(indices)
        assert np.array_equal(images, expected.images)
        assert np.array_equal(labels, expected.labels)


@pytest.mark.parametrize("size", [31, 40, 47])
@pytest.mark.parametrize("format_name", ["hdf5", "lmdb"])
def test_odd_sizes_are_read_too(make: Make, format_name: str, size: int) -> None:
    with open_dataset(make(format_name, "raw", image_size=size, shard_bytes=150_000)) as dataset:
        indices = np.arange(len(dataset))
        images, _ = dataset.graph_read(tf.constant(indices))
        assert np.array_equal(images, dataset.read(indices).images)


def test_files_with_long_names_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    for number, name in enumerate(("a" * 251, "b" * 20, "c" * 200)):
        (folder / f"{name}.png").write_bytes(pixels.encode_png(np.full((4, 4, 3), number, np.uint8)))
    storage.convert(tmp_path / "photos", to="directory", payload="raw", image_size=8, out=tmp_path / "stored", workers=1)
    with open_dataset(tmp_path / "stored") as dataset:
        where, _ = dataset.graph_read(tf.constant([0, 1, 2], tf.int64))
        found = [pixels.decode(dataset.graph_fetch(one).numpy()) for one in where]
        assert np.array_equal(found, dataset.read(np.arange(3)).images)


def test_small_values_inside_lmdb_pages_are_found(tmp_path: Path) -> None:
    for number in range(300):
        folder = tmp_path / "photos" / "dots"
        folder.mkdir(parents=True, exist_ok=True)
        pixel = np.full((1 + number % 40, 1 + number % 7, 3), number % 251, np.uint8)
        (folder / f"{number}.png").write_bytes(pixels.encode_png(pixel))
    storage.convert(tmp_path / "photos", to="lmdb", out=tmp_path / "stored", workers=1)
    with open_dataset(tmp_path / "stored") as dataset:
        reader = dataset.shard(0)
        assert isinstance(reader, SupportsPlaces)
        places = reader.places()
        assert places is not None
        content = places.path.read_bytes()
        expected = dataset.read(np.arange(len(dataset))).images
        found = [content[start : start + size] for start, size in zip(places.starts, places.sizes, strict=True)]
        assert found == expected


def test_pages_of_another_layout_are_left_to_the_engine(tmp_path: Path, make: Make) -> None:
    path = make("lmdb", "encoded") / "train-00000.lmdb"
    whole = path.read_bytes()
    count = int(open_dataset(make("lmdb", "encoded")).split_info.shards[0].samples)
    assert lmdb_pages.places(path, count) is not None
    assert lmdb_pages.places(path, count + 1) is None
    other = tmp_path / "other.lmdb"
    for damaged in (whole[:5000], whole[:4096] + bytes(len(whole) - 4096), b"\0" * len(whole)):
        other.write_bytes(damaged)
        assert lmdb_pages.places(other, count) is None


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(at=st.integers(0, 120_000), noise=st.binary(min_size=1, max_size=24))
def test_damaged_pages_lead_nowhere_beside_the_file(
    make: Make, tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    path = make("lmdb", "encoded") / "train-00000.lmdb"
    content = bytearray(path.read_bytes())
    at %= len(content) - len(noise)
    content[at : at + len(noise)] = noise
    damaged = tmp_path_factory.getbasetemp() / "damaged.lmdb"
    damaged.write_bytes(content)
    try:
        places = lmdb_pages.places(damaged, 5)
    except DataError:
        return
    if places is not None:
        assert (places.starts >= 0).all()
        assert (places.starts + places.sizes <= len(content)).all()


def test_hostile_places_are_refused(tmp_path: Path, make: Make) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    for start, size in ((-1, 5), (996, 5), (0, 1001), (2**63 - 3, 5), (5, -1), (2**62, 2**62)):
        with pytest.raises(DataError, match="the file has 1000 bytes"):
            check_places(Places(file, np.array([0, start]), np.array([9, size])))


@pytest.mark.parametrize("payload", ["encoded", "raw"])
def test_hdf5_images_beyond_the_end_of_the_file_are_not_mapped(tmp_path: Path, make: Make, payload: str) -> None:
    folder = tmp_path / "stored"
    shutil.copytree(make("hdf5", payload, shard_bytes=10_000_000), folder)
    path = folder / "train-00000.h5"
    with open_dataset(folder) as dataset:
        reader = dataset.shard(0)
        assert isinstance(reader, SupportsPlaces)
        places = reader.places()
        assert places is not None
        end = int(places.starts[0]) + 1000
        os.truncate(path, end)
        with pytest.raises(DataError, match=f"the file has {end}; damaged or hostile"):
            dataset.graph_read(tf.constant([0], tf.int64))


@pytest.mark.parametrize("payload", ["encoded", "raw"])
def test_a_header_that_lies_about_the_end_of_the_file_is_found_out(tmp_path: Path, make: Make, payload: str) -> None:
    folder = tmp_path / "stored"
    shutil.copytree(make("hdf5", payload, shard_bytes=10_000_000), folder)
    path = folder / "train-00000.h5"
    name = "images" if payload == "raw" else "data"
    with h5py.File(path) as file:
        arrays = {key: array[...] for key, array in file.items()}
    with h5py.File(path, "w", libver="earliest") as file:  # A header without a checksum.
        for key in sorted(arrays, key=lambda key: key == name):
            file[key] = arrays[key]
        end = file[name].id.get_offset() + 1000
    with path.open("r+b") as raw:
        assert raw.read(48)[40:] == path.stat().st_size.to_bytes(8, "little")
        raw.seek(40)
        raw.write(end.to_bytes(8, "little"))
        raw.truncate(end)
    with open_dataset(folder) as dataset, pytest.raises(DataError):
        dataset.graph_read(tf.constant([0], tf.int64))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(row=st.integers(1, 9000), counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), headers=st.integers(0, 3))
def test_rows_of_several_files_fall_into_step(
    tmp_path_factory: pytest.TempPathFactory, row: int, counts: list[int], headers: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    rng = np.random.default_rng(row)
    shards, expected = [], []
    for number, count in enumerate(counts):
        start = 4096 * ((number * headers) % 3)
        images = rng.integers(0, 255, (count, row), dtype=np.uint8)
        path = folder / f"rows-{number}"
        path.write_bytes(bytes(start) + images.tobytes() + bytes(number))
        shards.append(Places(path, start + row * np.arange(count), np.full(count, row)))
        expected.append(images)
    assert MappedRows.fit(shards, row)
    indices = rng.permutation(sum(counts))
    rows, images = MappedRows(shards, row), np.concatenate(expected)[indices]
    assert np.array_equal(GraphRows(rows).gather(tf.constant(indices)), images)
    taken = np.zeros_like(images)
    rows.take(indices, taken)
    assert np.array_equal(taken, images)


def test_rows_out_of_step_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(9000))
    whole = Places(path, np.array([0, 100]), np.array([100, 100]))
    assert MappedRows.fit([whole], 100)
    assert not MappedRows.fit([Places(path, np.array([0, 101]), np.array([100, 100]))], 100)
    assert not MappedRows.fit([Places(path, np.array([8, 108]), np.array([100, 100]))], 100)
    assert not MappedRows.fit([whole, Places(path, np.array([1, 101]), np.array([100, 100]))], 100)
    assert not MappedRows.fit([], 100)
    assert not MappedBytes.fit([Places(path, np.array([16, 4096 + 17]), np.array([100, 100]))], 100)


@pytest.mark.parametrize(("start", "size"), [(0, 0), (0, 1), (5, 63), (63, 2), (64, 64), (999, 1), (0, 1000)])
def test_bytes_are_cut_out_as_a_string(start: int, size: int) -> None:
    content = np.random.default_rng(0).integers(0, 255, 1000, dtype=np.uint8)
    found = tf.function(cut)(tf.constant(content), tf.constant(start, tf.int64), tf.constant(size, tf.int64))
    assert found.numpy() == content[start : start + size].tobytes()


def test_a_region_goes_with_its_last_tensor(tmp_path: Path) -> None:
    path = tmp_path / "mapped file"
    path.write_bytes(bytes(range(256)) * 100)

    def maps() -> int:
        gc.collect()
        return Path("/proc/self/maps").read_text().count("mapped file")

    region = Region([(path, 0)], 25_600)
    tensor = region.tensor(64, (3,))
    del region
    assert maps() == 1
    assert tensor.numpy().tolist() == [64, 65, 66]
    del tensor
    assert maps() == 0


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["a/b.jpg", "c/..d", "e/f.", "...", "a/.b"], None),
        (["a/b", "../c"], 1),
        (["a/b", "c", "d/..", "e"], 2),
        (["./a"], 0),
        (["a//b"], 0),
        (["a", "/b"], 1),
        (["a", "b/"], 1),
        (["a", "b\0c"], 1),
        (["a", "..", "b"], 1),
        ([], None),
    ],
)
def test_names_that_lead_out_are_found(names: list[str], wrong: int | None) -> None:
    assert leads_out(*pack(names)) == wrong


def test_an_empty_name_leads_out() -> None:
    assert leads_out(*pack(["a", "", "b"])) is not None
