"""A dataset that was touched is found out, whatever the format, and the sample or shard is named."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import storage
from storage import FORMATS, pixels
from storage.base import DatasetInfo, Layout, Payload, Planned, Sample
from storage.dataset import read_info
from storage.errors import DataError, UsageError
from storage.plain_source import PlainSource
from storage.verification import verify
from storage.verify import parse_share
from tests.storage.made import change_manifest
from tests.storage.odd import MAKERS


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small images of two classes."""
    root = tmp_path_factory.mktemp("source") / "photos"
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(pixels.encode_png(rng.integers(0, 255, (9, 11, 3), dtype=np.uint8)))
    return root


def stored(source: Path, name: str, out: Path, payload: str = "encoded") -> DatasetInfo:
    """``source`` in format ``name``, in several shards."""
    return storage.convert(source, to=name, out=out, payload=payload, image_size=8, shard_bytes=1500, workers=1)


@pytest.mark.parametrize("payload", ["encoded", "raw"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_sound_dataset_has_no_fault(name: str, payload: str, source: Path, tmp_path: Path) -> None:
    info = stored(source, name, tmp_path / "out", payload)
    seen: list[tuple[int, int]] = []
    faults = verify(tmp_path / "out", against=source, progress=lambda done, total: seen.append((done, total)))
    assert faults == []
    assert seen[-1] == (2 * info.stored_bytes, 2 * info.stored_bytes)
    assert verify(tmp_path / "out", share=0.3, workers=1) == []
    assert verify(tmp_path / "out", untrusted=True, workers=1) == []


@pytest.mark.parametrize("name", FORMATS)
def test_any_flipped_bit_is_found(name: str, source: Path, tmp_path: Path) -> None:
    stored(source, name, tmp_path / "out")
    files = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != "dataset.json")
    rng = np.random.default_rng(1)
    for file in [files[0], files[-1]]:
        sound = file.read_bytes()
        for place in [0, len(sound) - 1, *rng.integers(0, len(sound), 12).tolist()]:
            flipped = bytearray(sound)
            flipped[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            assert len(verify(tmp_path / "out", workers=1)) >= 1, f"bit flipped in byte {place} of {file}"
        file.write_bytes(sound)
    assert verify(tmp_path / "out", workers=1) == []


def test_any_flipped_bit_of_a_text_is_found(source: Path, tmp_path: Path) -> None:
    """A class or an image that was left out would have another name."""
    images = shutil.copytree(source, tmp_path / "photos")
    (images / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    storage.convert(images, to="lmdb", out=tmp_path / "out", on_error="skip", workers=1)
    rng = np.random.default_rng(2)
    for name, step in (("dataset.json", 1), ("skipped.csv", 5)):
        file = tmp_path / "out" / name
        sound = file.read_bytes()
        for place in range(0, len(sound), step):
            flipped = bytearray(sound)
            flipped[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            try:
                faults = verify(tmp_path / "out", workers=1)
            except DataError as error:
                faults = [str(error)]
            assert any(fault.startswith(f"{file}") for fault in faults), f"bit flipped in byte {place} of {name}"
        file.write_bytes(sound)
    assert verify(tmp_path / "out", workers=1) == []
    (tmp_path / "out" / "skipped.csv").unlink()
    assert verify(tmp_path / "out", workers=1) == [f"{tmp_path}/out/skipped.csv: the file is missing"]
    # Laid out anew it is still the same; one made before there was a digest is read.
    manifest = tmp_path / "out" / "dataset.json"
    content = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps(content, sort_keys=True))
    info = read_info(tmp_path / "out")
    del content["digest"], content["skipped_digest"]
    manifest.write_text(json.dumps(content))
    assert read_info(tmp_path / "out") == info.model_copy(update={"skipped_digest": None})
    assert verify(tmp_path / "out", workers=1) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_bad_sample_is_named(name: str, source: Path, tmp_path: Path) -> None:
    stored(source, name, tmp_path / "out")
    image = (source / "cat" / "4.png").read_bytes()
    hit = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and image in p.read_bytes()]
    assert len(hit) == 1
    whole = hit[0].read_bytes()
    hit[0].write_bytes(whole.replace(image, image[:-5] + bytes([image[-5] ^ 8]) + image[-4:]))
    faults = verify(tmp_path / "out")
    assert len(faults) == 1
    assert "cat/4.png" in faults[0]
    assert verify(tmp_path / "out", against=source) == faults, "it is named once"


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_or_truncated_shard_is_named(name: str, source: Path, tmp_path: Path) -> None:
    info = stored(source, name, tmp_path / "out")
    first, second = (tmp_path / "out" / shard.file for shard in info.splits["train"].shards[:2])
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    faults = verify(tmp_path / "out")
    assert any(fault.startswith(f"{first}: the shard is missing") for fault in faults)
    assert any(str(second) in fault for fault in faults)


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_shard_is_no_crash(name: str, source: Path, tmp_path: Path) -> None:
    """LMDB's engine takes a page beyond the end of its file for memory, and the process for one that may end."""
    out = tmp_path / "out"
    file = out / storage.convert(source, to=name, out=out, workers=1).splits["train"].shards[0].file
    os.truncate(file, file.stat().st_size // 2)
    with storage.open_dataset(out) as dataset, pytest.raises(DataError, match=re.escape(file.name)):
        list(dataset)


def test_a_strangers_images_are_held_to_the_limit_that_was_set(source: Path, tmp_path: Path) -> None:
    storage.convert(source, to="lmdb", out=tmp_path / "out", max_pixels=99, workers=1)
    assert verify(tmp_path / "out", untrusted=True, workers=1) == []
    change_manifest(tmp_path / "out", '"max_pixels": 99', '"max_pixels": 98')
    assert len(verify(tmp_path / "out", untrusted=True, workers=1)) == 12


@pytest.mark.parametrize("payload", ["encoded", "raw"])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "tfrecord"])
def test_a_damaged_sample_is_not_copied_as_a_sound_one(name: str, payload: str, source: Path, tmp_path: Path) -> None:
    """Another conversion would give it a new checksum, and nobody would ever know."""
    out = tmp_path / "out"
    stored(source, name, out, payload)
    with storage.open_dataset(out) as dataset:
        sample = dataset.sample(3)
    content = sample.image if isinstance(sample.image, bytes) else sample.image.tobytes()
    if (name, payload) == ("directory", "raw"):
        content = (out / "train" / f"{sample.key}.png").read_bytes()
    (file,) = (path for path in out.rglob("*") if path.is_file() and content in path.read_bytes())
    middle = len(content) // 2
    damaged = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    file.write_bytes(file.read_bytes().replace(content, damaged))
    again: dict[str, Any] = {"to": "lmdb", "payload": payload, "out": tmp_path / "again", "workers": 1}
    with pytest.raises(DataError, match=rf"{re.escape(sample.key)}: .* does not match its checksum"):
        storage.convert(out, **again)
    info = storage.convert(out, **again, on_error="skip")
    assert (info.stored_samples, info.skipped_samples) == (11, 1)
    assert info.image_size == (None if payload == "encoded" else (8, 8)), "raw images keep their size"
    assert sample.key in (tmp_path / "again" / "skipped.csv").read_text()


@pytest.mark.parametrize("payload", ["encoded", "raw"])
def test_missing_files_of_a_directory_are_named(payload: str, source: Path, tmp_path: Path) -> None:
    stored(source, "directory", tmp_path / "out", payload)
    missing = [tmp_path / "out" / "train" / name for name in ("cat/0.png", "cat/2.png", "dog/1.png")]
    missing = [path if payload == "encoded" else path.with_name(f"{path.name}.png") for path in missing]
    for path in missing:
        path.unlink()
    faults = verify(tmp_path / "out", workers=1)
    assert len(faults) == len(missing)
    assert all(any(f"{path}: the file is missing" in fault for fault in faults) for path in missing)
    assert verify(tmp_path / "out", workers=1, against=source) == faults, "each is named once"
    with storage.open_dataset(tmp_path / "out") as dataset, pytest.raises(DataError, match="png: the file is missing"):
        list(dataset)


def test_against_names_what_changed_in_the_source(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "photos")
    stored(tmp_path / "photos", "hdf5", tmp_path / "out")
    (tmp_path / "photos" / "cat" / "0.png").write_bytes((source / "cat" / "2.png").read_bytes())
    (tmp_path / "photos" / "dog" / "new.png").write_bytes((source / "cat" / "2.png").read_bytes())
    (tmp_path / "photos" / "dog" / "1.png").unlink()
    text = "\n".join(verify(tmp_path / "out", against=tmp_path / "photos"))
    assert "train/cat/0.png differs" in text
    assert "1 image of" in text
    assert "train/dog/new.png" in text
    assert "train/dog/1.png is not in" in text


@pytest.mark.parametrize("name", FORMATS)
def test_a_share_against_the_source_compares_that_share_only(name: str, source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "photos")
    stored(tmp_path / "photos", name, tmp_path / "out")
    for image in (tmp_path / "photos" / "cat").iterdir():
        image.write_bytes((source / "dog" / "1.png").read_bytes())
    (tmp_path / "photos" / "dog" / "new.png").write_bytes((source / "cat" / "2.png").read_bytes())
    whole = verify(tmp_path / "out", against=tmp_path / "photos", workers=1)
    assert any("neither stored nor skipped" in fault for fault in whole)
    changed = {fault for fault in whole if "differs" in fault}
    drawn = [verify(tmp_path / "out", against=tmp_path / "photos", share=0.3, seed=seed, workers=1) for seed in range(8)]
    assert all(changed.issuperset(faults) and len(faults) < len(changed) for faults in drawn)
    assert len(set(map(tuple, drawn))) > 1


def test_against_follows_split_and_max_side(source: Path, tmp_path: Path) -> None:
    import cv2

    image = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))[1].tobytes()
    for number in range(6):
        folder = tmp_path / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(image)
    storage.convert(tmp_path / "photos", to="lmdb", out=tmp_path / "out", split={"validation": 0.4}, max_side=30, workers=1)
    assert verify(tmp_path / "out", against=tmp_path / "photos") == []


def test_against_knows_what_was_skipped_and_what_limit_was_set(source: Path, tmp_path: Path) -> None:
    images = shutil.copytree(source, tmp_path / "photos")
    (images / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (images / "cat" / "large.png").write_bytes(pixels.encode_png(np.zeros((40, 40, 3), np.uint8)))
    info = storage.convert(images, to="tfrecord", out=tmp_path / "out", on_error="skip", max_pixels=300, workers=1)
    assert (info.skipped_samples, info.options) == (2, {"max_pixels": 300})
    assert verify(tmp_path / "out", against=images) == []
    (images / "dog" / "new.png").write_bytes((source / "cat" / "2.png").read_bytes())
    (fault,) = verify(tmp_path / "out", against=images)
    assert fault.endswith(f"neither stored nor skipped: 1 image of {images}: train/dog/new.png")


@pytest.mark.parametrize("name", FORMATS)
def test_a_digest_of_a_stranger_proves_nothing(name: str, source: Path, tmp_path: Path) -> None:
    """A shard whose sample was changed, and the digest in the manifest with it."""
    info = stored(source, name, tmp_path / "out")
    image = (source / "cat" / "4.png").read_bytes()
    (hit,) = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and image in p.read_bytes()]
    hit.write_bytes(hit.read_bytes().replace(image, image[:-5] + bytes([image[-5] ^ 8]) + image[-4:]))
    for shard in info.splits["train"].shards:
        if (digest := FORMATS[name].digest(tmp_path / "out" / shard.file, shard)) != shard.digest:
            change_manifest(tmp_path / "out", shard.digest, digest)
    assert verify(tmp_path / "out", workers=1) == []
    (fault,) = verify(tmp_path / "out", untrusted=True, workers=1)
    assert "cat/4.png" in fault


@pytest.mark.parametrize("payload", ["encoded", "raw"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_stranger_may_lie_about_a_sample(name: str, payload: Payload, source: Path, tmp_path: Path) -> None:
    """Every checksum is right: of a label without a class, a key of another class, an image that is none or of another size."""
    out = tmp_path / "out"
    shard = storage.convert(source, to=name, payload=payload, out=out, image_size=8, workers=1).splits["train"].shards[0]
    image: Any = (source / "cat" / "0.png").read_bytes() if payload == "encoded" else np.zeros((8, 8, 3), np.uint8)
    samples = [Sample("cat/0", 0, image), Sample("cat/1", 7, image), Sample("elsewhere/2", 0, image)]
    if payload == "raw":
        if name not in ("hdf5", "lmdb"):  # where one shape is said for all
            samples.append(Sample("cat/3", 0, np.zeros((9, 8, 3), np.uint8)))
    else:
        other = [MAKERS["webp alpha"](), b"no image"] if name != "tfrecord" else [MAKERS["webp alpha"]()]
        samples += [Sample(f"cat/{number}", 0, data) for number, data in enumerate(other, 3)]
    shutil.rmtree(out / "train", ignore_errors=True)
    layout = Layout(payload=payload, image_size=None if payload == "encoded" else (8, 8))
    lying = FORMATS[name].write_shard(Planned(samples, len(samples)), out / shard.file, layout)
    manifest, count = json.loads((out / "dataset.json").read_bytes()), len(samples)
    del manifest["digest"]
    shards = [lying.model_dump() | {"file": shard.file}]
    manifest |= {"splits": {"train": {"samples": count, "shards": shards}}, "stored_bytes": lying.bytes}
    manifest |= {"found_samples": count, "stored_samples": count}
    (out / "dataset.json").write_text(json.dumps(manifest))
    assert verify(out, workers=1) == []
    faults = verify(out, untrusted=True, workers=1)
    found = [re.match(rf"{out / shard.file}: sample (\d+)", fault) for fault in faults]
    assert [place and int(place[1]) for place in found] == list(range(1, count))
    said = ["has the label 7, but there are 2 classes", "the key 'elsewhere/2' is not cat/FILE"]
    said += ["is image/webp;alpha, which the manifest does not", "not a JPEG"] if payload == "encoded" else ["has the shape"]
    assert all(words in fault for words, fault in zip(said, faults, strict=False))
    with pytest.raises(UsageError, match="reads every sample: leave out --sample"):
        verify(out, untrusted=True, share=0.5)


def test_an_lmdb_of_a_stranger_is_checked_before_it_is_opened(source: Path, tmp_path: Path) -> None:
    info = stored(source, "lmdb", tmp_path / "out")
    shard = info.splits["train"].shards[0]
    file = tmp_path / "out" / shard.file
    pages = bytearray(file.read_bytes())
    pages[4096 * 2 + 16 : 4096 * 2 + 24] = b"\xff" * 8  # where the entries of the first page behind the two heads are
    file.write_bytes(pages)
    change_manifest(tmp_path / "out", shard.digest, FORMATS["lmdb"].digest(file, shard))
    assert verify(tmp_path / "out", workers=1) == []
    (fault,) = verify(tmp_path / "out", untrusted=True, against=source, workers=1)
    assert "must not open it" in fault


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_file_is_not_read(name: str, kind: str, source: Path, tmp_path: Path) -> None:
    """A device never ends, a pipe waits for its other end: in the place of a shard, or of an image in a directory."""
    info = stored(source, name, tmp_path / "out")
    places = [info.splits["train"].shards[0].file, *(["train/cat/0.png"] if name == "directory" else [])]
    for place in places:
        file = tmp_path / "out" / place
        sound = file.rename(tmp_path / "sound")
        if kind == "device":
            file.symlink_to("/dev/zero")
        else:
            os.mkfifo(file) if kind == "pipe" else file.mkdir()
        for untrusted in (False, True):
            (fault,) = verify(tmp_path / "out", untrusted=untrusted, workers=1)
            assert f"{file}: " in fault
        assert verify(tmp_path / "out", against=source, workers=1) != []
        with storage.open_dataset(tmp_path / "out") as dataset, pytest.raises(DataError, match=file.name):
            list(dataset)
        with storage.open_dataset(tmp_path / "out") as dataset, pytest.raises(DataError, match=file.name):
            list(map(PlainSource(dataset).fetch, range(len(dataset)), repeat(memoryview(bytearray(100)))))
        file.rmdir() if kind == "folder" else file.unlink()
        sound.rename(file)
    assert verify(tmp_path / "out", workers=1) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_strangers_dataset_holds_its_files_itself(name: str, source: Path, tmp_path: Path) -> None:
    """Whatever a link leads to, its bytes would be taken for the dataset's."""
    info = stored(source, name, tmp_path / "out")
    for place in (info.splits["train"].shards[0].file, *(["train/cat/0.png", "train/cat"] if name == "directory" else [])):
        file = tmp_path / "out" / place
        file.symlink_to(file.rename(tmp_path / "elsewhere"))
        assert verify(tmp_path / "out", workers=1) == []
        (fault,) = verify(tmp_path / "out", untrusted=True, workers=1)
        assert fault.startswith(f"{file}: a symbolic link")
        file.unlink()
        (tmp_path / "elsewhere").rename(file)


def test_a_stray_file_is_found(source: Path, tmp_path: Path) -> None:
    stored(source, "directory", tmp_path / "out")
    (tmp_path / "out" / "train" / "cat" / "stray.png").write_bytes(b"anything")
    (fault,) = verify(tmp_path / "out")
    assert fault.startswith(f"{tmp_path}/out/train/cat/stray.png: no index lists it")


def test_the_command(source: Path, tmp_path: Path) -> None:
    info = stored(source, "lmdb", tmp_path / "out")
    command = [sys.executable, "-m", "storage.verify", str(tmp_path / "out")]
    sound = subprocess.run([*command, "--sample", "50%"], capture_output=True, text=True)
    assert sound.returncode == 0
    assert re.fullmatch(rf"sound: 50% of 12 images, [\d.]+ s: {tmp_path}/out\n", sound.stdout), "no size: it would be of all"
    agrees = subprocess.run([*command, "--against", str(source)], capture_output=True, text=True)
    assert (agrees.returncode, agrees.stdout[: agrees.stdout.rindex(" images")]) == (
        0, f"sound, and agrees with {source}: all 12",
    )  # fmt: skip
    (tmp_path / "out" / info.splits["train"].shards[0].file).unlink()
    bad = subprocess.run(command, capture_output=True, text=True)
    assert bad.returncode == 1
    assert "train-00000.lmdb: the shard is missing" in bad.stderr
    assert "Traceback" not in bad.stderr
    none = subprocess.run([*command[:3], str(tmp_path)], capture_output=True, text=True)
    assert none.returncode == 1
    assert "dataset.json" in none.stderr


def test_a_name_from_elsewhere_cannot_command_the_terminal(source: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\x1b]0;owned\x07 \xff\nsound: \xe7\x8c\xab.png")
    image = tmp_path / "photos" / "cat" / odd
    image.parent.mkdir(parents=True)
    image.write_bytes((source / "cat" / "0.png").read_bytes())
    stored(tmp_path / "photos", "hdf5", tmp_path / "out")
    image.write_bytes((source / "dog" / "1.png").read_bytes())
    command = [sys.executable, "-m", "storage.verify", "--against", str(tmp_path / "photos"), str(tmp_path / "out")]
    bad = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert bad.returncode == 1
    named, last, *more = bad.stderr.splitlines()
    assert r"cat/\x1b]0;owned\x07 \xff\nsound: 猫.png differs" in named
    assert "1 fault" in last
    assert not more
    image.write_bytes(b"")
    stopped = subprocess.run(
        [sys.executable, "-m", "storage.convert", "--from", str(tmp_path / "photos"), "--to", "hdf5", "--out", str(tmp_path / "no")],
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert stopped.returncode == 1
    assert r"\x1b]0;owned\x07 \xff" in stopped.stderr
    assert not set("\x1b\x07") & set(stopped.stderr)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.5", 0.5), ("100%", 1.0)])
def test_a_share(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "101%", "many", "-1%"])
def test_no_share(text: str) -> None:
    with pytest.raises(UsageError, match="--sample"):
        parse_share(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"train-00000.h5"', '"../x.h5"'),
        ('"train-00000.h5"', '"/etc/passwd"'),
        ('"cat"', '"../cat"'),
        ('"train":', '"../t":'),
    ],
)
def test_a_manifest_that_leads_out_is_refused(old: str, new: str, source: Path, tmp_path: Path) -> None:
    stored(source, "hdf5", tmp_path / "out")
    manifest = tmp_path / "out" / "dataset.json"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=r"dataset\.json"):
        verify(tmp_path / "out")


@pytest.mark.parametrize("name", FORMATS)
def test_a_manifest_that_does_not_add_up_is_refused(name: str, source: Path, tmp_path: Path) -> None:
    """A flipped bit in any of its counts, of a shard, a split or all."""
    stored(source, name, tmp_path / "out")
    manifest = tmp_path / "out" / "dataset.json"
    text = manifest.read_text()
    counts = list(re.finditer(r'"(samples|bytes|\w+_samples|stored_bytes)": \d*(\d)', text))
    assert len(counts) > 8
    for count in counts:
        manifest.write_text(text[: count.start(2)] + str(int(count[2]) ^ 1) + text[count.end(2) :])
        with pytest.raises(DataError, match=r"dataset\.json.*but its"):
            verify(tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    "change", [{"image_size": [10**9, 10**9]}, {"image_size": [0, 8]}, {"image_size": None}, {"payload": "encoded"}]
)
def test_a_manifest_that_claims_another_size_of_image_is_refused(
    change: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    """Memory for a batch is taken by what it says."""
    stored(source, "hdf5", tmp_path / "out", "raw")
    manifest = tmp_path / "out" / "dataset.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(DataError, match=r"dataset\.json.*image_size"):
        storage.open_dataset(tmp_path / "out")
