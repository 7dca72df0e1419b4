"""``python -m storage.convert`` as a user runs it: what each option does, what each mistake is answered with."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import storage
from storage import FORMATS, console, pixels
from storage.base import DatasetInfo
from storage.convert import app
from storage.dataset import read_info
from storage.demo import draw
from storage.errors import UsageError
from storage.recipe import COMPRESSIONS
from storage.verification import verify
from tests.storage.made import CLASSES, contents, photos
from tests.storage.odd import MAKERS, picture, save


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, from the folder ``cwd``."""
    command = [sys.executable, "-m", "storage.convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def converted(*arguments: str | Path, cwd: Path, out: str = "out") -> DatasetInfo:
    """The manifest of what the command line wrote to ``cwd / out``; it must have said nothing but its one line."""
    done = run(*arguments, "--out", out, "--workers", "1", cwd=cwd)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1), done.stderr
    info = read_info(cwd / out)
    assert done.stdout.startswith(f"{info.stored_samples:,} images")
    assert done.stdout.endswith(f" s: {out}\n")
    assert not list(cwd.glob(f"*{out}.*"))
    return info


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of three classes, without splits."""
    return photos(tmp_path_factory.mktemp("convert") / "photos", 30)


def test_with_no_source_the_demo_images_are_drawn_once_and_converted(tmp_path: Path) -> None:
    drawn = tmp_path / "data" / "demo" / "images"
    times: set[int] = set()
    for name in ("lmdb", "tfrecord"):
        done = run("--to", name, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(rf"1,000 images, \d+\.\d MB, \d+\.\d s: data/demo/{name}-encoded\n", done.stdout)
        times.add(drawn.stat().st_ctime_ns)
        info = read_info(tmp_path / "data" / "demo" / f"{name}-encoded")
        assert (info.name, info.format, info.payload) == ("demo", name, "encoded")
        assert info.class_names == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
        assert {split: stored.samples for split, stored in info.splits.items()} == {"train": 800, "validation": 200}
        assert info.media_types == {"image/jpeg": 1000}
        assert (info.found_samples, info.stored_samples, info.skipped_samples) == (1000, 1000, 0)
    assert len(times) == 1
    assert verify(tmp_path / "data" / "demo" / "lmdb-encoded", against=drawn, workers=1) == []


def test_round_all_formats_and_back_by_default_names(tmp_path: Path) -> None:
    """Every file comes back byte for byte, with its name and class; each dataset stands where it is said to stand."""
    original = photos(tmp_path / "photos", 12, splits=("train", "validation"))
    source = "photos"
    for name in FORMATS:
        done = run("--from", source, "--to", name, "--workers", "1", cwd=tmp_path)
        source = f"data/photos/{name}-encoded"
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(f": {source}\n")
    assert converted("--from", source, "--to", "directory", cwd=tmp_path, out="back").class_names == CLASSES
    for split in ("train", "validation"):
        assert contents(original / split) == contents(tmp_path / "back" / split)


@pytest.mark.parametrize("name", FORMATS)
def test_raw(name: str, source: Path, tmp_path: Path) -> None:
    info = converted(
        "--from", source, "--to", name, "--payload", "raw", "--image-size", "12x16", "--resize", "area", cwd=tmp_path
    )
    assert (info.payload, info.image_size, info.resize) == ("raw", (12, 16), "area")
    assert info.media_types == {"image/jpeg": 30}
    with storage.open_dataset(tmp_path / "out") as reader:
        for sample in reader:
            expected = pixels.resize(pixels.decode((source / sample.key).read_bytes()), (12, 16), "area")
            np.testing.assert_array_equal(np.asarray(sample.image), expected)


def test_skipping_is_written_down_and_adds_up(source: Path, tmp_path: Path) -> None:
    images = shutil.copytree(source, tmp_path / "photos")
    (images / "cat" / "half.jpg").write_bytes(MAKERS["jpeg truncated"]())
    (images / "dog" / "notes.txt").write_text("not an image")
    (images / "dog" / "fake, or not.jpg").write_text("not an image")
    info = converted("--from", images, "--to", "tfrecord", "--on-error", "skip", cwd=tmp_path)
    assert (info.found_samples, info.stored_samples, info.skipped_samples) == (33, 30, 3)
    assert sum(split.samples for split in info.splits.values()) == 30
    with (tmp_path / "out" / "skipped.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert sorted(rows) == ["cat/half.jpg", "dog/fake, or not.jpg", "dog/notes.txt"]
    assert "truncated JPEG" in rows["cat/half.jpg"]
    assert "not an image by its name" in rows["dog/notes.txt"]
    again = run("--from", images, "--to", "tfrecord", "--on-error", "skip", "--out", "two", "--workers", "1", cwd=tmp_path)
    assert again.stdout.startswith("30 images, 3 skipped (see two/skipped.csv), ")


def test_overwrite(source: Path, tmp_path: Path) -> None:
    converted("--from", source, "--to", "hdf5", cwd=tmp_path)
    refused = run("--from", source, "--to", "lmdb", "--out", "out", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == (
        "storage.convert: out exists. Choose another --out, or give --overwrite to replace it once the new one is whole.\n"
    )
    assert read_info(tmp_path / "out").format == "hdf5"
    assert converted("--from", source, "--to", "lmdb", "--overwrite", cwd=tmp_path).format == "lmdb"
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".lmdb"]


def test_shard_size(source: Path, tmp_path: Path) -> None:
    info = converted("--from", source, "--to", "tfrecord", "--shard-size", "4kB", cwd=tmp_path)
    stored = 0
    with storage.open_dataset(tmp_path / "out") as reader:
        for number, shard in enumerate(reader.split_info.shards):
            sizes = [len(sample.image) for sample in reader.shard(number)]
            assert len(sizes) == shard.samples
            assert sum(sizes) <= 4000
            stored += sum(sizes)
    assert len(info.splits["train"].shards) < 2 * stored / 4000 + 1  # and no more of them than there must be


def test_order_and_seed(source: Path, tmp_path: Path) -> None:
    keys: dict[str, list[str]] = {}
    for out, options in {"source": ["--order", "source"], "mixed": [], "again": [], "seed": ["--seed", "1"]}.items():
        info = converted("--from", source, "--to", "tfrecord", *options, cwd=tmp_path, out=out)
        assert info.order == ("source" if out == "source" else "mixed")
        with storage.open_dataset(tmp_path / out) as reader:
            keys[out] = [sample.key for sample in reader]
    assert keys["source"] == sorted(f"{path.parent.name}/{path.name}" for path in source.rglob("*.jpg"))
    assert keys["mixed"] == keys["again"]
    assert sorted(keys["mixed"]) == sorted(keys["seed"]) == keys["source"]
    assert len({tuple(order) for order in keys.values()}) == 3
    first_third = Counter(key.split("/")[0] for key in keys["mixed"][:10])
    assert len(first_third) == 3, "the stream is mixed: each class comes soon"


def test_split_is_stratified(source: Path, tmp_path: Path) -> None:
    info = converted("--from", source, "--to", "lmdb", "--split", "validation=0.2", "--split", "test=0.1", cwd=tmp_path)
    assert {name: split.samples for name, split in info.splits.items()} == {"test": 3, "train": 21, "validation": 6}
    seen: set[str] = set()
    for split, count in (("train", 7), ("validation", 2), ("test", 1)):
        with storage.open_dataset(tmp_path / "out", split) as reader:
            assert Counter(reader.labels.tolist()) == {0: count, 1: count, 2: count}
            seen |= {sample.key for sample in reader}
    assert len(seen) == 30


def test_large_photographs_are_encoded_again(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "all"
    folder.mkdir(parents=True)
    large = picture().resize((300, 200))
    for name, kind in (("one.jpg", "JPEG"), ("two.webp", "WEBP"), ("three.png", "PNG")):
        (folder / name).write_bytes(save(large, kind))
    (folder / "small.jpg").write_bytes(save(picture(), "JPEG"))
    info = converted("--from", "photos", "--to", "hdf5", "--max-side", "120", "--quality", "70", cwd=tmp_path)
    assert info.options == {"max_side": 120, "quality": 70}
    assert info.media_types == {"image/jpeg": 2, "image/png": 1, "image/webp": 1}
    finer = converted("--from", "photos", "--to", "hdf5", "--max-side", "120", cwd=tmp_path, out="finer")
    assert finer.options == {"max_side": 120, "quality": 90}
    assert finer.stored_bytes > info.stored_bytes
    with storage.open_dataset(tmp_path / "out") as reader:
        images = {sample.key: bytes(sample.image) for sample in reader}
    for name in ("one.jpg", "two.webp"):
        assert pixels.decode(images[f"all/{name}"]).shape == (80, 120, 3)
    for name in ("three.png", "small.jpg"):
        assert images[f"all/{name}"] == (folder / name).read_bytes()


def test_the_function_is_there_although_a_module_has_its_name(source: Path, tmp_path: Path) -> None:
    module: object = sys.modules["storage.convert"]
    assert storage.convert is module
    assert storage.convert(source, to="lmdb", out=tmp_path / "out", workers=1).stored_samples == 30


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("shard_size", "1MiB", r"takes no shard_size; .* shard_bytes"),
        ("image_size", "big", "got 'big'"),
        ("image_size", (8, 8, 3), r"got \(8, 8, 3\)"),
        ("workers", -4, "got -4"),
    ],
)
def test_what_the_function_does_not_take(name: str, value: Any, said: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        storage.convert(source, to="lmdb", out=tmp_path / "out", **{name: value})


def test_what_is_encoded_again_is_counted_as_what_it_then_is(tmp_path: Path) -> None:
    (tmp_path / "photos" / "all").mkdir(parents=True)
    (tmp_path / "photos" / "all" / "clear.webp").write_bytes(MAKERS["webp alpha"]())
    info = storage.convert(tmp_path / "photos", to="hdf5", out=tmp_path / "out", max_side=12, workers=1)
    assert info.media_types == {"image/webp": 1}


_READ_ELSEWHERE = """
import sys, storage
with storage.open_dataset(sys.argv[1]) as reader:
    print(sum(int(sample.image.sum()) for sample in reader))
"""


FILTERS = {"none": [], "lzf": [32000], "gzip": [1], "blosc2": [32026], "zstd": [32015]}
"""Numbers by which HDF5 knows its filters."""


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compression(compression: str, source: Path, tmp_path: Path) -> None:
    """A process that did not write it reads it."""
    import h5py

    options = ["--to", "hdf5", "--payload", "raw", "--image-size", "40", "--compression", compression]
    info = converted("--from", source, *options, cwd=tmp_path)
    assert info.options == ({} if compression == "none" else {"compression": compression})
    with h5py.File(tmp_path / "out" / info.splits["train"].shards[0].file) as file:
        creation = file["images"].id.get_create_plist()
        assert [creation.get_filter(n)[0] for n in range(creation.get_nfilters())] == FILTERS[compression]
    read = subprocess.run([sys.executable, "-c", _READ_ELSEWHERE, str(tmp_path / "out")], capture_output=True, text=True)
    expected = sum(int(pixels.resize(pixels.decode(p.read_bytes()), (40, 40)).sum()) for p in source.rglob("*.jpg"))
    assert (read.stderr, int(read.stdout or 0)) == ("", expected)


def sources_at_fault(root: Path) -> None:
    """Folders that no dataset can be made of, each by its own name; and things that are in a target's way."""
    for folder in ("empty", "loose", "hollow/cat", "hollow/dog", "text/cat", "half/cat", "nested/cat/kittens"):
        (root / folder).mkdir(parents=True)
    jpeg = MAKERS["jpeg"]()
    for name in ("loose/1.jpg", "hollow/cat/1.jpg", "text/cat/0.jpg", "half/cat/0.jpg", "nested/cat/kittens/1.jpg"):
        (root / name).write_bytes(jpeg)
    (root / "text/cat/1.jpg").write_text("no image")
    (root / "half/cat/1.jpg").write_bytes(MAKERS["jpeg truncated"]())
    (root / "file").write_text("no folder")
    (root / "mine").mkdir()
    (root / "mine" / "diary.txt").write_text("not a dataset")


DATA_AT_FAULT = {
    "--from nowhere": r"nowhere is not a folder. Expected CLASS/FILE or SPLIT/CLASS/FILE below it\.",
    "--from file": r"file is neither a folder nor a table of images .*",
    "--from empty": r"empty has no class folders\. Expected CLASS/FILE or SPLIT/CLASS/FILE\.",
    "--from loose": r"loose has no class folders\. Expected CLASS/FILE .*\. Found 1\.jpg outside any class folder\.",
    "--from hollow": r"hollow: class folder 'dog' is empty\. Remove it, or put images into it\.",
    "--from nested": r"nested/cat/kittens is a folder inside a class\. .*",
    "--from text": r"text/cat/1\.jpg: not a JPEG, PNG, .* Mend or remove it, or give --on-error skip\.",
    "--from half": r"half/cat/1\.jpg: truncated JPEG: .* Mend or remove it, or give --on-error skip\.",
    "--from good --out file/x": r"file/x cannot be written: File exists \(file\)",
    "--from good --out /proc/x": r"/proc/x cannot be written: No such file or directory \(/proc/\.x\.lock\)",
}
CALL_AT_FAULT = {
    "--from good --to zarr": r"--to must be one of directory, hdf5, lmdb, tfrecord; got 'zarr'",
    "--from good --to": r"Option '--to' requires an argument \(see --help\)",
    "--from=": r"Invalid value for '--from': it is empty; expected a path, such as \. for the current folder \(see --help\)",
    "--from good --out=": r"Invalid value for '--out': it is empty; .*",
    "--from good --colour": r"No such option: --colour.* \(see --help\)",
    "--from good --payload cooked": r"--payload must be one of encoded, raw; got 'cooked'",
    "--from good --image-size big": r"--image-size takes N or HEIGHTxWIDTH in pixels, .*; got 'big'",
    "--from good --payload raw --resize cubic": r"--resize must be one of bilinear, area, nearest, antialias; got 'cubic'",
    "--from good --on-error cry": r"--on-error must be one of stop, skip; got 'cry'",
    "--from good --order none": r"--order must be one of mixed, source; got 'none'",
    "--from good --shard-size big": r"--shard-size takes a size such as 64MiB, 1GB or 500000; got 'big'",
    "--from good --seed -1": r"--seed must be at least 0; got -1",
    "--from good --split validation": r"--split takes NAME=SHARE, such as validation=0\.2; got 'validation'",
    "--from good --split validation=2": r"--split takes shares between 0 and 1, .*",
    "--from good --split validation=0.01": r"--split validation=0\.01 leaves no image for validation: each class has too few",
    "--from good --split some=0.2": r"--split takes one of train, .* as a name; got some",
    "--from good --workers -1": r"Invalid value for '--workers': .* \(see --help\)",
    "--from good --quality 101": r"Invalid value for '--quality': .* \(see --help\)",
    "--from good --max-side 9 --payload raw": r"--max-side encodes files again, so it needs --payload encoded; .*",
    "--from good --compression gzip": r"--compression is for --to hdf5 --payload raw; got --to lmdb --payload encoded",
    "--from good --compression zip": r"--compression must be one of none, lzf, gzip, blosc2, zstd; got 'zip'",
    "--from good --quality 80": r"--quality changes nothing without --max-side: give both, or neither",
    "--from good --image-size 96": r"--image-size changes nothing without --payload raw: give both, or neither",
    "--from good --resize area": r"--resize changes nothing without --payload raw: give both, or neither",
    "--from good --address tcp://here:1": r"--address changes nothing without --backend dask: give both, or neither",
    "--from good --backend spark": r"--backend must be one of local, dask; got 'spark'",
    "--from good --backend dask": r"--backend dask needs --address, such as tcp://scheduler:8786",
    "--from good --out mine": r"mine exists and is not a stored dataset\. Move it, or choose another --out\.",
    "--from good --out good/stored": r"good/stored is inside the source good\. Choose an --out elsewhere\.",
    "--from good --out .": r"/.*/faulty0 exists and is not a stored dataset\. Move it, or choose another --out\.",
    "--from raw --payload raw --image-size 9 --resize area --out new": r"raw holds raw images of 8x8, resized by bilinear: leave out "
    r"--image-size and --resize, or convert from the original images",
    "--from raw": r"raw holds raw images: their files are gone\. Convert from the original images instead\.",
}


@pytest.fixture(scope="module")
def faulty(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with sources at fault, and a good one."""
    root = tmp_path_factory.mktemp("faulty")
    sources_at_fault(root)
    shutil.copytree(source, root / "good")
    storage.convert(source, to="lmdb", payload="raw", image_size=8, out=root / "raw", workers=1)
    return root


@pytest.mark.parametrize(("arguments", "message"), DATA_AT_FAULT.items(), ids=DATA_AT_FAULT)
def test_data_at_fault_is_answered_in_one_line(arguments: str, message: str, faulty: Path) -> None:
    before = sorted(faulty.rglob("*"))
    done = run("--to", "lmdb", *arguments.split(), cwd=faulty)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert re.fullmatch(rf"storage\.convert: {message}\n", done.stderr)
    assert sorted(faulty.rglob("*")) == before


@pytest.mark.parametrize(("arguments", "message"), CALL_AT_FAULT.items(), ids=CALL_AT_FAULT)
def test_a_call_at_fault_is_answered_in_one_line(
    arguments: str, message: str, faulty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, as ``__main__`` would: there are many, and starting Python for each takes most of the time."""
    before = sorted(faulty.rglob("*"))
    monkeypatch.chdir(faulty)
    to = [] if "--to" in arguments else ["--to", "lmdb"]
    monkeypatch.setattr(sys, "argv", ["storage.convert", *to, *arguments.split()])
    with pytest.raises(SystemExit) as exit_:
        console.run(app, "storage.convert")
    said = capsys.readouterr()
    assert (exit_.value.code, said.out) == (2, ""), said.err
    assert re.fullmatch(rf"storage\.convert: {message}\n", said.err)
    assert sorted(faulty.rglob("*")) == before


def test_a_wrong_option_from_the_shell(tmp_path: Path) -> None:
    done = run("--colour", "red", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_no_image_can_be_stored(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.jpg").write_text("no image")
    done = run("--from", "photos", "--to", "hdf5", "--on-error", "skip", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("storage.convert: no image of photos could be stored; the first reason: cat/1.jpg: ")
    assert not list(tmp_path.rglob("dataset.json"))


def test_help_and_conversion_import_nothing_they_do_not_need(source: Path, tmp_path: Path) -> None:
    def imported(*arguments: str | Path) -> set[str]:
        command = [sys.executable, "-X", "importtime", "-m", "storage.convert", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0
        return {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}

    helped = imported("--help")
    assert "typer" in helped
    assert not helped & {"tensorflow", "h5py", "lmdb", "cv2", "numpy", "pandas", "joblib", "pydantic"}
    written = imported("--from", source, "--to", "tfrecord", "--out", tmp_path / "out", "--workers", "1")
    assert "numpy" in written
    assert not written & {"tensorflow", "h5py", "lmdb", "cv2", "pandas"}


def test_a_caller_who_goes_to_another_folder_takes_the_workers_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("here", 20), ("there", 30)):
        draw(tmp_path / name / "photos", count=count)
        monkeypatch.chdir(tmp_path / name)
        info = storage.convert("photos", to="hdf5", out="stored", workers=2)
        assert sum(split.samples for split in info.splits.values()) == count


@pytest.mark.parametrize(("splits", "count"), [((".",), "1 file"), (("train", "val"), "3 files")])
def test_files_beside_the_class_folders_are_counted(splits: tuple[str, ...], count: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for split in splits:
        folder = tmp_path / "mine" / split / "cat"
        folder.mkdir(parents=True)
        (folder / "1.jpg").write_bytes(save(picture(), "JPEG"))
        (folder.parent / "loose.jpg").write_bytes(b"")
    (tmp_path / "mine" / "loose.jpg").write_bytes(b"")
    done = run("--from", "mine", "--to", "hdf5", "--out", "out", cwd=tmp_path)
    assert f"ignored: {count} beside the class folders" in done.stderr
    assert storage.open_dataset(tmp_path / "out", splits[0].strip(".") or "train").info.ignored_files == int(
        count.split()[0]
    )
