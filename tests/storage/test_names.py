"""Names as people have them: any script, any length, alike in two classes, no UTF-8, links. All come back, or are refused."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

import storage
from storage import FORMATS, console
from storage.base import PAYLOADS
from storage.convert import app
from storage.errors import DataError
from storage.verification import verify
from storage.verify import app as verify_app
from tests.storage.odd import picture, save

JPEG = save(picture(), "JPEG")
NAMES = [
    "same.jpg", "spaces  in it .jpg", "ёж.JPG", "画像.jpeg", "صورة.jpg", "🌻.jpg", "a,b;\"c'.jpg", "tab\there.jpg", "new\nline.jpg",
    "e\N{COMBINING ACUTE ACCENT}.jpg", "\N{LATIN SMALL LETTER E WITH ACUTE}.jpg", "..jpg", "%2e%2e.jpg", "x" * 251 + ".jpg",
    "ж" * 125 + "y.jpg",
]  # fmt: skip
CLASSES = ["cat", "two words", "ж" * 127]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every name in every class; no two files are alike."""
    root = tmp_path_factory.mktemp("names") / "photos"
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for number, file in enumerate(NAMES):
            (root / name / file).write_bytes(JPEG + f"{name}{number}".encode())
    assert max(len(os.fsencode(file)) for file in NAMES) == 255
    (root / "cat" / ".hidden.jpg").write_bytes(JPEG)
    return root


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_name_comes_back(name: str, payload: str, source: Path, tmp_path: Path) -> None:
    listed = [name for name in NAMES if not name.startswith(".")]
    info = storage.convert(source, to=name, payload=payload, image_size=8, out=tmp_path / "out", workers=1)
    assert info.class_names == tuple(sorted(CLASSES))
    with storage.open_dataset(tmp_path / "out") as reader:
        found = {sample.key: sample for sample in reader}
    assert set(found) == {f"{class_name}/{file}" for class_name in CLASSES for file in listed}
    for key, sample in found.items():
        assert info.class_names[sample.label] == key.split("/")[0]
        assert payload == "raw" or sample.image == (source / key).read_bytes()
    assert verify(tmp_path / "out", against=source, workers=1) == []


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_that_are_no_utf_8_come_back_too(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(JPEG)
    (folder / os.fsdecode(b"broken \xe9.jpg")).write_bytes(b"no image")
    info = storage.convert(tmp_path / "photos", to=name, out=tmp_path / "out", on_error="skip", workers=1)
    assert (info.stored_samples, info.skipped_samples) == (1, 1)
    with (tmp_path / "out" / "skipped.csv").open(newline="", encoding="utf-8") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["cat/broken \\xe9.jpg"]
    storage.convert(tmp_path / "out", to="directory", out=tmp_path / "back", workers=1)
    (file_,) = (tmp_path / "back" / "train" / "cat").iterdir()
    assert os.fsencode(file_.name) == b"caf\xe9.jpg"
    assert file_.read_bytes() == JPEG


def test_a_name_that_commands_a_terminal_is_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, name = tmp_path / "photos" / "cat", 'a\x1b[2J\r\nstorage.convert: "done",.jpg'
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"no image")
    (folder / "good.jpg").write_bytes(JPEG)
    monkeypatch.chdir(tmp_path)
    command = ["storage.convert", "--from", "photos", "--to", "hdf5", "--workers", "1", "--out", "o\x1b[2J\nut"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit):
        console.run(app, "storage.convert")
    written = capsys.readouterr().err
    assert "a\\x1b[2J\\r\\nstorage.convert: " in written
    assert (written.count("\n"), "\x1b" in written) == (1, False)
    monkeypatch.setattr("sys.argv", [*command, "--on-error", "skip"])
    with pytest.raises(SystemExit):
        console.run(app, "storage.convert")
    written = capsys.readouterr().out
    assert "o\\x1b[2J\\nut" in written
    assert (written.count("\n"), "\x1b" in written) == (1, False)
    with (tmp_path / "o\x1b[2J\nut" / "skipped.csv").open(newline="", encoding="utf-8") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [f"cat/{name}"]


def test_a_class_has_to_be_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(JPEG)
    with pytest.raises(DataError, match=r"caf\\xe9.*UTF-8.*Rename it"):
        storage.convert(tmp_path / "photos", to="hdf5", out=tmp_path / "out", workers=1)


def test_links_inside_the_root_are_followed(tmp_path: Path) -> None:
    for place in ("photos/cat", "photos/dog"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.jpg").write_bytes(JPEG)
    (tmp_path / "photos" / "dog" / "2.jpg").symlink_to("../cat/1.jpg")
    (tmp_path / "photos" / "wolf").symlink_to("dog")
    info = storage.convert(tmp_path / "photos", to="lmdb", out=tmp_path / "out", workers=1)
    assert (info.class_names, info.stored_samples) == (("cat", "dog", "wolf"), 3)
    with storage.open_dataset(tmp_path / "out") as reader:
        assert {bytes(sample.image) for sample in reader} == {JPEG}


@pytest.mark.parametrize("link", ["cat/link.jpg", "link"])
def test_links_out_of_the_root_are_refused(link: str, tmp_path: Path) -> None:
    """A class that is silently left out would be worse than an error."""
    for place in ("photos/cat", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.jpg").write_bytes(JPEG)
    (tmp_path / "elsewhere" / "2.jpg").write_bytes(JPEG)
    target = tmp_path / "elsewhere" if link == "link" else tmp_path / "elsewhere" / "2.jpg"
    (tmp_path / "photos" / link).symlink_to(target)
    with pytest.raises(DataError, match=f"{link} is a symbolic link out of .*photos"):
        storage.convert(tmp_path / "photos", to="lmdb", out=tmp_path / "out", workers=1)


@pytest.mark.parametrize("points_to", ["nowhere", "loop.jpg"])
def test_links_that_lead_nowhere_are_refused(points_to: str, tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.jpg").write_bytes(JPEG)
    (tmp_path / "photos" / "cat" / "loop.jpg").symlink_to(points_to)
    with pytest.raises(DataError, match=r"loop\.jpg"):
        storage.convert(tmp_path / "photos", to="lmdb", out=tmp_path / "out", workers=1)


def test_links_that_are_skipped_are_not_followed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "train" / "cat").mkdir(parents=True)
    (photos / "validation" / "cat").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (photos / "train" / "cat" / "1.jpg").write_bytes(JPEG)
    (photos / "train" / "cat" / "lost.jpg").symlink_to("nowhere")
    (photos / "train" / "cat" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (photos / "validation" / "cat" / "in.jpg").symlink_to("../../train/cat/1.jpg")
    info = storage.convert(photos, to="lmdb", out=tmp_path / "out", on_error="skip", workers=1)
    assert (info.found_samples, info.stored_samples, info.skipped_samples) == (4, 2, 2)
    with (tmp_path / "out" / "skipped.csv").open(newline="", encoding="utf-8") as file:
        assert sorted(csv.reader(file))[1:] == [
            ["train", "cat/lost.jpg", "No such file or directory"],
            ["train", "cat/out.jpg", "a symbolic link out of the source"],
        ]
    assert verify(tmp_path / "out", against=photos, workers=1) == []


@pytest.mark.parametrize("kind", ["folder", "link", "class"])
def test_what_the_scan_refuses_cannot_command_a_terminal(kind: str, tmp_path: Path) -> None:
    name = "a\x1b[2J\nstorage.convert: done"
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.jpg").write_bytes(JPEG)
    if kind == "class":
        (tmp_path / "photos" / name).symlink_to(tmp_path)
    elif kind == "link":
        (tmp_path / "photos" / "cat" / name).symlink_to(tmp_path)
    else:
        (tmp_path / "photos" / "cat" / name).mkdir()
    with pytest.raises(DataError, match=r"a\\x1b\[2J\\nstorage\.convert: done") as refused:
        storage.convert(tmp_path / "photos", to="hdf5", out=tmp_path / "out", workers=1)
    assert "\n" not in str(refused.value)


def test_what_a_manifest_or_table_says_cannot_forge_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever of it an error repeats: the name of a format, of a field, of a class, of a split, of a column."""
    forged = "x\x1b[2J\n\u202estorage.verify: sound"

    def assert_written_out(program: str, *arguments: str) -> None:
        monkeypatch.setattr("sys.argv", [program, *arguments])
        with pytest.raises(SystemExit) as failed:
            console.run({"storage.verify": verify_app, "storage.convert": app}[program], program)
        assert failed.value.code != 0
        lines = capsys.readouterr().err.removesuffix("\n").split("\n")
        assert "x\\x1b[2J\\n\\u202estorage.verify: sound" in "".join(lines)
        assert all(line == console.shown(line) for line in lines)
        assert lines[-1].startswith(f"{program}: ")
        assert not any(line.startswith("storage.verify: sound") for line in lines)

    monkeypatch.chdir(tmp_path)
    Path("photos/cat").mkdir(parents=True)
    Path("photos/cat/1.jpg").write_bytes(JPEG)
    storage.convert("photos", to="hdf5", out="out", workers=1)
    sound = json.loads(Path("out/dataset.json").read_text()) | {"digest": None}
    for change in ({"format": forged}, {forged: 1}, {"name": f"/{forged}"}, {"class_names": [forged]}):
        Path("out/dataset.json").write_text(json.dumps(sound | change))
        assert_written_out("storage.verify", "out", "--against", "photos")
    empty = {"samples": 0, "shards": []}
    nothing = {"splits": {forged: empty, "train": empty}, "found_samples": 0, "stored_samples": 0, "stored_bytes": 0}
    Path("out/dataset.json").write_text(json.dumps(sound | nothing))
    assert_written_out("storage.convert", "--from", "out", "--to", "lmdb", "--split", "validation=0.5")
    for heading in (["path", forged], ["path", "label", forged, forged]):
        with Path("table.csv").open("w", newline="") as file:
            csv.writer(file).writerow(heading)
        assert_written_out("storage.convert", "--from", "table.csv", "--to", "lmdb")
