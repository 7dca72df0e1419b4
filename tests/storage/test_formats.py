"""One conformance suite over FORMATS: what goes in comes out, whatever the format; a broken format fails it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import storage
from storage import FORMATS, pixels
from storage.base import PAYLOADS, DatasetInfo, Layout, Payload, Sample, ShardInfo
from storage.errors import DataError, FeedbenchError, UsageError
from storage.tfrecord import TfRecord


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small source: two splits, three classes, one of them in one split only; names in several scripts."""
    root = tmp_path_factory.mktemp("source") / "photos"
    rng = np.random.default_rng(0)
    names = {"train": ("ёж", "cat", "z z"), "validation": ("cat", "z z")}
    for split, classes in names.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(5):
                image = rng.integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
                (folder / f"画像 {number}.png").write_bytes(pixels.encode_png(image))
    return root


def check_round_trip(name: str, payload: Payload, source: Path, out: Path) -> DatasetInfo:
    """Write ``source`` as format ``name``, and compare what comes out with the files themselves."""
    info = storage.convert(source, to=name, payload=payload, out=out, image_size=(8, 12), shard_bytes=2000, workers=1)
    assert info.class_names == ("cat", "z z", "ёж")
    assert (info.found_samples, info.stored_samples, info.skipped_samples) == (25, 25, 0)
    for split in ("train", "validation"):
        files = {
            f"{p.parent.name}/{p.name}": (p.parent.name, p.read_bytes()) for p in (source / split).rglob("*") if p.is_file()
        }
        with storage.open_dataset(out, split) as dataset:
            samples = list(dataset)
            assert len(dataset) == len(samples) == len(files)
            assert dataset.shards > 1
            assert {sample.key for sample in samples} == set(files)
            for sample in samples:
                class_name, data = files[sample.key]
                assert info.class_names[sample.label] == class_name
                if payload == "encoded":
                    assert sample.image == data
                else:
                    expected = pixels.resize(pixels.decode(data), (8, 12))
                    np.testing.assert_array_equal(np.asarray(sample.image), expected)
            if dataset.supports_random_access:
                order = np.random.default_rng(1).permutation(len(dataset))
                batch = dataset.read(order)
                assert [dataset.key(int(index)) for index in order] == [samples[index].key for index in order]
                assert batch.labels.tolist() == [samples[index].label for index in order] == dataset.labels[order].tolist()
                for image, index in zip(batch.images, order, strict=True):
                    assert np.array_equal(image, samples[index].image)
    return info


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(name: str, payload: Payload, photos: Path, tmp_path: Path) -> None:
    check_round_trip(name, payload, photos, tmp_path / "out")


class Lossy(TfRecord):
    """A broken format: it drops the last sample of every shard."""

    name = "lossy"

    def write_shard(self, samples: Iterable[Sample], path: Path, layout: Layout) -> ShardInfo:
        return super().write_shard(list(samples)[:-1], path, layout)


def test_a_broken_format_fails_the_suite(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS._loaded, "lossy", Lossy())
    monkeypatch.setitem(FORMATS.built_in, "lossy", "unused:unused")
    with pytest.raises((AssertionError, FeedbenchError)):
        check_round_trip("lossy", "encoded", photos, tmp_path / "out")


@pytest.mark.parametrize("wrong", [np.zeros((9, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32), b"a file"])
@pytest.mark.parametrize("name", ["hdf5", "lmdb"])
def test_an_image_of_another_layout_is_refused(name: str, wrong: Any, tmp_path: Path) -> None:
    """It would shift all that follow it, where images lie one behind the other."""
    samples = [Sample(f"cat/{n}.png", 0, image) for n, image in enumerate([np.ones((8, 8, 3), np.uint8), wrong])]
    with pytest.raises(DataError, match=r"cat/1.png: expected uint8 \(8, 8, 3\), got"):
        FORMATS[name].write_shard(
            samples, tmp_path / f"train-00000{FORMATS[name].suffix}", Layout(payload="raw", image_size=(8, 8))
        )


@pytest.mark.parametrize("name", FORMATS)
def test_workers_and_resume_change_no_byte(name: str, photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"to": name, "shard_bytes": 3000}
    storage.convert(photos, out=tmp_path / "one", workers=1, **options)
    storage.convert(photos, out=tmp_path / "two", workers=2, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")

    def stop(progress: Any) -> None:
        if progress.images > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.convert(photos, out=tmp_path / "three", workers=1, progress=stop, **options)
    assert not (tmp_path / "three").exists()
    storage.convert(photos, out=tmp_path / "three", workers=1, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a dataset but its manifest (which says how long writing took)."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "dataset.json"
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_or_foreign_shard_is_a_clear_error(name: str, photos: Path, tmp_path: Path) -> None:
    info = storage.convert(photos, to=name, out=tmp_path / "out", workers=1)
    shard = tmp_path / "out" / info.splits["train"].shards[0].file
    shard.write_bytes(b"not a shard at all" * 100)
    with pytest.raises(DataError, match=shard.name), storage.open_dataset(tmp_path / "out") as dataset:
        list(dataset)
    shard.unlink()
    with pytest.raises(DataError, match=shard.name), storage.open_dataset(tmp_path / "out") as dataset:
        list(dataset)


def test_round_all_formats_and_back(photos: Path, tmp_path: Path) -> None:
    """Every file comes back byte for byte, with its name and class, after a tour through all formats."""
    source = photos
    for number, name in enumerate([*FORMATS, "directory"]):
        out = tmp_path / f"{number}-{name}"
        storage.convert(source, to=name, out=out, workers=1)
        source = out
    for split in ("train", "validation"):
        assert contents(photos / split) == contents(source / split)


def test_an_earlier_dataset_is_kept_until_the_new_one_is_whole(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    storage.convert(photos, to="hdf5", out=out, workers=1)
    before = contents(out)
    with pytest.raises(UsageError, match="--overwrite"):
        storage.convert(photos, to="hdf5", out=out, workers=1)
    broken = tmp_path / "broken"
    shutil.copytree(photos, broken)
    (broken / "train" / "cat" / "画像 0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"画像 0\.png.*--on-error skip"):
        storage.convert(broken, to="hdf5", out=out, overwrite=True, workers=1)
    assert contents(out) == before
    info = storage.convert(broken, to="hdf5", out=out, overwrite=True, on_error="skip", workers=1)
    assert (info.found_samples, info.stored_samples, info.skipped_samples) == (25, 24, 1)
    assert "cat/画像 0.png" in (out / "skipped.csv").read_text()
