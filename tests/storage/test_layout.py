"""docs/storage-layout.md, block by block: its code, which imports nothing of feedbench, finds every sample of every dataset."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import storage
from storage import FORMATS, pixels
from storage.base import PAYLOADS, Layout, Payload, Sample
from storage.dataset import read_info
from tests.storage.made import CLASSES, photos

PAGE = Path(__file__).parents[2] / "docs" / "storage-layout.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
MAY_IMPORT = {"json", "pathlib", "numpy", "h5py", "lmdb", "tensorflow", "google_crc32c", "xxhash"}
SIZE = (60, 90)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a source, and with datasets of every format and payload where the page has them."""
    home = tmp_path_factory.mktemp("layout")
    photos(home / "photos", 18, splits=("train", "validation"))
    for name in FORMATS:
        for payload in PAYLOADS:
            out = home / "data" / "photos" / f"{name}-{payload}"
            shard_bytes = 5000 if payload == "encoded" else 100_000
            storage.convert(
                home / "photos", to=name, payload=payload, out=out, image_size=SIZE, shard_bytes=shard_bytes, workers=1
            )
            assert len(read_info(out).splits["train"].shards) > 1
    return home


def check(found: dict[str, tuple[int, Any]], source: Path, payload: str) -> None:
    """``found`` is the training split, whole and right."""
    files = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in (source / "train").rglob("*.jpg")}
    assert set(found) == set(files)
    for key, (label, image) in found.items():
        assert CLASSES[label] == key.split("/")[0]
        if payload == "encoded":
            assert image == files[key]
        else:
            np.testing.assert_array_equal(image, pixels.resize(pixels.decode(files[key]), SIZE))


def test_every_block_reads_what_is_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    names: dict[str, Any] = {"__name__": "storage_layout"}
    checked: set[str] = set()
    for block in BLOCKS:
        names.pop("found", None)
        exec(compile(block, PAGE.name, "exec"), names)
        if "found" in names:
            dataset = names["root"].name
            check(names["found"], home / "photos", dataset.split("-")[1])
            checked.add(dataset)
    assert checked == {f"{name}-{payload}" for name in FORMATS for payload in PAYLOADS} - {"directory-raw"}


def test_the_blocks_import_nothing_of_feedbench() -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse("\n".join(BLOCKS))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert imported == MAY_IMPORT


def test_a_raw_directory_is_lossless_png(home: Path) -> None:
    from PIL import Image

    found: dict[str, tuple[int, Any]] = {}
    for path in (home / "data" / "photos" / "directory-raw" / "train").rglob("*.png"):
        with Image.open(path) as opened:
            found[f"{path.parent.name}/{path.stem}"] = CLASSES.index(path.parent.name), np.asarray(opened)
    check(found, home / "photos", "raw")


def test_every_field_of_the_manifest_is_described(home: Path) -> None:
    page = PAGE.read_text()
    for field in json.loads((home / "data" / "photos" / "lmdb-raw" / "dataset.json").read_bytes()):
        assert f"`{field}`" in page, f"docs/storage-layout.md says nothing of: {field}"


def test_hdf5_is_as_it_is_described(home: Path) -> None:
    for payload, arrays in (("encoded", {"data", "offsets"}), ("raw", {"images"})):
        root = home / "data" / "photos" / f"hdf5-{payload}"
        for shard in read_info(root).splits["train"].shards:
            with h5py.File(root / shard.file) as file:
                assert set(file) == arrays | {"labels", "keys", "key_offsets", "crc32c"}
                assert file.attrs["payload"] == payload
                for name in file:
                    assert h5py.check_vlen_dtype(file[name].dtype) is None
                    assert file[name].chunks is None
                if payload == "raw" and file["images"].nbytes >= 65536:
                    assert file["images"].id.get_offset() % 4096 == 0


def test_lmdb_is_in_the_version_that_every_lmdb_reads(home: Path) -> None:
    """By its bytes: behind the 16 bytes of a page's header, the magic number and the version of the format (lmdb.h, mdb.c)."""
    for payload in PAYLOADS:
        root = home / "data" / "photos" / f"lmdb-{payload}"
        for shard in read_info(root).splits["train"].shards:
            head = (root / shard.file).read_bytes()[16:24]
            assert head == (0xBEEFC0DE).to_bytes(4, "little") + (1).to_bytes(4, "little")
            assert (root / shard.file).stat().st_size % 4096 == 0
            assert not (root / f"{shard.file}-lock").exists()


def test_lmdb_files_are_hardly_larger_than_their_content(home: Path) -> None:
    """Values of several pages each waste up to one; the map's spare room is not in the file."""
    root = home / "data" / "photos" / "lmdb-raw"
    for shard in read_info(root).splits["train"].shards:
        pixels_ = shard.samples * SIZE[0] * SIZE[1] * 3
        assert shard.bytes < pixels_ + (shard.samples + 12) * 4096


def test_tfrecord_has_the_fields_that_other_parsers_ask_for(home: Path) -> None:
    """As TF-Slim's ImageNet, the Object Detection API and the Model Garden name them."""
    import tensorflow as tf

    root = home / "data" / "photos" / "tfrecord-encoded"
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/format": tf.io.FixedLenFeature([], tf.string, "jpeg"),
        "image/height": tf.io.FixedLenFeature([], tf.int64),
        "image/width": tf.io.FixedLenFeature([], tf.int64),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64, -1),
        "image/class/text": tf.io.FixedLenFeature([], tf.string, ""),
    }
    files = [str(root / shard.file) for shard in read_info(root).splits["train"].shards]
    count = 0
    for record in tf.data.TFRecordDataset(files):
        example = tf.io.parse_single_example(record, features)
        image = tf.io.decode_image(example["image/encoded"])
        assert image.shape[:2] == (example["image/height"], example["image/width"])
        assert example["image/format"].numpy() == b"jpeg"
        assert CLASSES[int(example["image/class/label"])] == example["image/class/text"].numpy().decode()
        count += 1
    assert count == 18


@pytest.mark.parametrize("payload", PAYLOADS)
def test_tfrecord_holds_what_protobuf_itself_would_serialize(payload: Payload, home: Path) -> None:
    """Byte for byte, with names that are no ASCII, and lengths and labels around a varint's second and third byte."""
    import tensorflow as tf

    size = (1, 43) if payload == "raw" else None  # 129 bytes
    image: Any = np.zeros((1, 43, 3), np.uint8) if payload == "raw" else pixels.encode_png(np.zeros((1, 43, 3), np.uint8))
    written = [Sample(f"Blüte {'n' * label}/1.png", label, image) for label in (0, 1, 100, 127, 128, 16383, 16384)]
    path = home / f"records-{payload}"
    FORMATS["tfrecord"].write_shard(written, path, Layout(payload=payload, image_size=size))
    stored = [str(home / "data/photos" / f"tfrecord-{payload}" / shard.file)
              for shard in read_info(home / "data/photos" / f"tfrecord-{payload}").splits["train"].shards]  # fmt: skip
    records = [record.numpy() for record in tf.data.TFRecordDataset([str(path), *stored])]
    assert len(records) == len(written) + 18
    for record in records:
        assert tf.train.Example.FromString(record).SerializeToString(deterministic=True) == record
