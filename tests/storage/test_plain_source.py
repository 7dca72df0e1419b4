"""Reading into memory that is there gives what the formats' own readers give, whatever the shard and the scratch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import storage
from storage import FORMATS, open_dataset
from storage.base import PAYLOADS
from storage.demo import draw
from storage.errors import DataError
from storage.pixels import decode
from storage.plain_source import PlainSource

SIZE = 32
IMAGES = 30


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "demo"
    draw(folder, count=IMAGES)
    return folder


def stored(pictures: Path, folder: Path, format_name: str, payload: str, **options: str) -> Path:
    shard_bytes = SIZE * SIZE * 3 * 10 if payload == "raw" else 200_000
    out = folder / f"{format_name}-{payload}"
    storage.convert(
        pictures,
        to=format_name,
        out=out,
        payload=payload,
        image_size=SIZE,
        shard_bytes=shard_bytes,
        workers=1,
        **({"options": options} if options else {}),
    )
    return out


@pytest.mark.parametrize("room", [64, 1 << 20], ids=["small", "ample"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_fetches_the_stored_file_and_its_label(pictures: Path, tmp_path: Path, format_name: str, room: int) -> None:
    with open_dataset(stored(pictures, tmp_path, format_name, "encoded")) as dataset:
        assert dataset.shards > 1
        source, scratch = PlainSource(dataset), memoryview(bytearray(room))
        for _ in range(2):  # A TFRecord's places are learnt in the first round and used in the second.
            for index in np.random.default_rng(0).permutation(len(dataset)).tolist():
                wanted = dataset.sample(index)
                content, label = source.fetch(index, scratch)
                assert bytes(content) == wanted.image
                assert label == wanted.label
        source.close()


@pytest.mark.parametrize("format_name", FORMATS)
def test_gathers_raw_images_in_the_order_asked_for(pictures: Path, tmp_path: Path, format_name: str) -> None:
    with open_dataset(stored(pictures, tmp_path, format_name, "raw")) as dataset:
        assert dataset.shards > 1
        source = PlainSource(dataset)
        indices = np.random.default_rng(1).permutation(len(dataset))
        out = np.zeros((len(indices), SIZE, SIZE, 3), np.uint8)
        labels = source.gather(indices, out)
        wanted = [dataset.sample(int(index)) for index in indices]
        np.testing.assert_array_equal(out, np.stack([np.asarray(sample.image) for sample in wanted]))
        assert labels.tolist() == [sample.label for sample in wanted]
        source.close()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_damaged_record_is_named_and_the_others_are_found(pictures: Path, tmp_path: Path, payload: str) -> None:
    path = stored(pictures, tmp_path, "tfrecord", payload)
    with open_dataset(path) as dataset:
        shard = path / dataset.split_info.shards[0].file
        image = dataset.sample(1).image
    content = bytearray(shard.read_bytes())
    pixels = image if isinstance(image, bytes) else image.tobytes()
    content[content.index(pixels) + len(pixels) // 2] ^= 1
    shard.write_bytes(content)
    with open_dataset(path) as dataset:
        source, scratch = PlainSource(dataset), memoryview(bytearray(1 << 20))
        with pytest.raises(DataError, match="record 1 does not match its checksum"):
            source.fetch(1, scratch)
        expected = dataset.sample(2).image
        found = bytes(source.fetch(2, scratch)[0])
        assert found == (expected if isinstance(expected, bytes) else expected.tobytes())


def test_a_missing_file_is_named(pictures: Path, tmp_path: Path) -> None:
    with open_dataset(stored(pictures, tmp_path, "directory", "encoded")) as dataset:
        key = dataset.key(3)
        (dataset.path / dataset.split / key).unlink()
        with pytest.raises(DataError, match=key):
            PlainSource(dataset).fetch(3, memoryview(bytearray(100)))


@pytest.mark.parametrize("change", [-7, 5])
def test_a_file_that_changed_since_is_read_to_its_end(pictures: Path, tmp_path: Path, change: int) -> None:
    with open_dataset(stored(pictures, tmp_path, "directory", "encoded")) as dataset:
        file = dataset.path / dataset.split / dataset.key(3)
        content = (file.read_bytes() + b"stray")[: file.stat().st_size + change]
        file.write_bytes(content)
        for room in (64, len(content), 1 << 20):
            assert bytes(PlainSource(dataset).fetch(3, memoryview(bytearray(room)))[0]) == content


def test_compressed_hdf5_goes_through_its_library(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "lzf"
    storage.convert(pictures, to="hdf5", out=out, payload="raw", image_size=SIZE, workers=1, compression="lzf")
    with open_dataset(out) as dataset:
        rows = np.zeros((3, SIZE, SIZE, 3), np.uint8)
        PlainSource(dataset).gather(np.array([5, 0, 9]), rows)
        np.testing.assert_array_equal(rows[0], np.asarray(dataset.sample(5).image))


def test_a_view_decodes_like_the_bytes(pictures: Path, tmp_path: Path) -> None:
    from storage.pixels import decoder

    with open_dataset(stored(pictures, tmp_path, "lmdb", "encoded")) as dataset:
        content, _ = PlainSource(dataset).fetch(0, memoryview(b""))
        for scratch in (np.empty(1 << 20, np.uint8), np.empty(10, np.uint8)):
            np.testing.assert_array_equal(decoder()(content, scratch), decode(bytes(content)))
