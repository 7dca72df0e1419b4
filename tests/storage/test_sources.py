"""Tables and downloads as sources."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import storage
from storage import FORMATS, tf_flowers
from storage.errors import DataError
from storage.verification import verify
from tests.storage.odd import picture, save

JPEG = save(picture(), "JPEG")
DOWNLOAD = tf_flowers.fetch


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images that no class folders sort, two of them named alike."""
    for name in ("a/1.jpg", "b/1.jpg", "b/ё 2.jpg", "3.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)
    return tmp_path / "photos"


def table(photos: Path, text: str) -> Path:
    """``photos/list.csv``."""
    path = photos / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


ROWS = "path,label,split\na/1.jpg,cat,train\nb/1.jpg,cat,train\nb/ё 2.jpg,dog,validation\n3.jpg,cat,\n"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_a_source(suffix: str, photos: Path, tmp_path: Path) -> None:
    listed = table(photos, ROWS)
    if suffix == ".parquet":
        arrow_csv, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")
        listed = photos / "list.parquet"
        parquet.write_table(arrow_csv.read_csv(photos / "list.csv"), listed)
    info = storage.convert(listed, to="lmdb", out=tmp_path / "out", order="source", workers=1)
    assert (info.name, info.class_names, info.stored_samples) == ("list", ("cat", "dog"), 4)
    with storage.open_dataset(tmp_path / "out") as train:
        assert [(sample.key, sample.label) for sample in train] == [("cat/1.jpg", 0), ("cat/b_1.jpg", 0), ("cat/3.jpg", 0)]
        assert train.sample(0).image == JPEG
    with storage.open_dataset(tmp_path / "out", "validation") as validation:
        assert [(sample.key, sample.label) for sample in validation] == [("dog/ё 2.jpg", 1)]


def test_numbers_as_labels_are_in_the_order_of_numbers(photos: Path, tmp_path: Path) -> None:
    listed = table(photos, "path,label\na/1.jpg,10\nb/1.jpg,9\n")
    assert storage.convert(listed, to="hdf5", out=tmp_path / "out", workers=1).class_names == ("9", "10")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    listed = photos / "floats.parquet"  # what pandas makes of whole numbers as soon as one is missing somewhere
    parquet.write_table(arrow.table({"path": ["a/1.jpg", "b/1.jpg"], "label": [10.0, 9.0]}), listed)
    assert storage.convert(listed, to="hdf5", out=tmp_path / "floats", workers=1).class_names == ("9", "10")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column 'path'"),
        ("path,label\n", "no images"),
        ("file,label\na/1.jpg,cat\n", "no column 'path'"),
        ("path,label,label\na/1.jpg,cat,dog\n", "twice"),
        ("path,label\n/etc/passwd,cat\n", "row 1"),
        ("path,label\n../secret.jpg,cat\n", "row 1"),
        ("path,label\na/1.jpg,../cat\n", "'../cat'"),
        ("path,label,split\na/1.jpg,cat,../up\n", "split"),
        ("path,label\na/1.jpg,cat\na/missing.jpg,cat\n", r"row 2: .*a/missing\.jpg: No such file.*--on-error skip"),
        ("path,label\na/1.jpg,cat\na/1.jpg,cat\na/1.jpg,cat\n", "twice"),
        ("path,label\na/1.jpg\n", "row 1: expected 2 columns"),
        ('path,label\n"a/1.jpg,cat\n', "CSV"),
    ],
)
def test_a_table_at_fault_names_the_fault(text: str, reason: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    with pytest.raises(DataError, match=reason) as caught:
        storage.convert(table(photos, text), to="hdf5", out=tmp_path / "out", workers=1)
    assert "list.csv" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_that_a_table_names_and_is_missing_can_be_skipped(
    suffix: str, name: str, photos: Path, tmp_path: Path
) -> None:
    listed = table(photos, "path,label\na/1.jpg,cat\nnone/gone.jpg,dog\n3.jpg,dog\n")
    if suffix == ".parquet":
        arrow_csv, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")
        listed = photos / "list.parquet"
        parquet.write_table(arrow_csv.read_csv(photos / "list.csv"), listed)
    info = storage.convert(listed, to=name, out=tmp_path / "out", on_error="skip", workers=1)
    assert (info.found_samples, info.stored_samples, info.skipped_samples) == (3, 2, 1)
    with (tmp_path / "out" / "skipped.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1:] == [["train", "dog/gone.jpg", "No such file or directory"]]
    assert verify(tmp_path / "out", against=listed, workers=1) == []


def test_a_link_out_of_the_tables_folder_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (photos / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (photos / "up").symlink_to(tmp_path)
    for path in ("link.jpg", "up/secret.jpg"):
        listed = table(photos, f"path,label\na/1.jpg,cat\n{path},cat\n")
        with pytest.raises(DataError, match=r"row 2: .*symbolic link out"):
            storage.convert(listed, to="hdf5", out=tmp_path / "refused", workers=1)
        info = storage.convert(listed, to="hdf5", out=tmp_path / "out", on_error="skip", workers=1, overwrite=True)
        assert (info.found_samples, info.stored_samples, info.skipped_samples) == (2, 1, 1)
        assert "a symbolic link out of the source" in (tmp_path / "out" / "skipped.csv").read_text()


def test_a_pipe_that_a_table_names_is_not_waited_for(photos: Path, tmp_path: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg"):
        storage.convert(table(photos, "path,label\npipe.jpg,cat\n"), to="hdf5", out=tmp_path / "out", workers=1)


def test_a_long_table_that_changed_is_another_source(photos: Path, tmp_path: Path) -> None:
    """Names, sizes and times are alike, only the table says which file is meant: shards of the earlier one must not be kept."""
    for name in ("a", "b"):
        (photos / name / "1.jpg").write_bytes(JPEG + name.encode())
        os.utime(photos / name / "1.jpg", (0, 0))
    rows = [f"3.jpg,class {number},{'x' * 100_000}" for number in range(22)]

    def interrupt(progress: Any) -> None:
        if progress.images:
            raise KeyboardInterrupt

    for name in ("a", "b"):
        listed = table(photos, "\n".join(["path,label,note", f"{name}/1.jpg,cat,", *rows]) + "\n")
        arguments: dict[str, Any] = {"to": "lmdb", "out": tmp_path / "out", "shard_bytes": 1, "workers": 1}
        with pytest.raises(KeyboardInterrupt) if name == "a" else nullcontext():
            storage.convert(listed, progress=interrupt if name == "a" else None, **arguments)
    assert verify(tmp_path / "out", against=listed, workers=1) == []


def test_no_table(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("path,label\n")
    (tmp_path / "list.parquet").write_bytes(b"no parquet" * 9)
    for name in ("list.txt", "list.parquet"):
        with pytest.raises(DataError, match=name):
            storage.convert(tmp_path / name, to="hdf5", out=tmp_path / "out", workers=1)


def archive(*members: tuple[str, bytes | None]) -> bytes:
    """A .tgz of files; a member without bytes is a symbolic link to /etc."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc"
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


FLOWERS = archive(
    ("flower_photos/LICENSE.txt", b"CC-BY"),
    ("flower_photos/daisy/1.jpg", JPEG),
    ("flower_photos/roses/2.jpg", JPEG),
    ("flower_photos/link", None),
    ("../outside.jpg", JPEG),
    ("flower_photos/../up.jpg", JPEG),
    ("/flower_photos/absolute.jpg", JPEG),
)


class Handler(BaseHTTPRequestHandler):
    """Serves one archive; breaks the connection off ``breaks`` times, half-way; may ignore ranges."""

    def __init__(self, *args: Any, state: dict[str, Any]) -> None:
        self.state = state
        super().__init__(*args)

    def do_GET(self) -> None:
        data = self.state["data"]
        asked = self.headers.get("Range")
        self.state["ranges"].append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.state["resumes"] else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.state["breaks"]:
            self.state["breaks"] -= 1
            self.wfile.write(data[start : start + (len(data) - start) // 2])
        else:
            self.wfile.write(data[start:])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Any]]]:
    """A local server and its state."""
    state: dict[str, Any] = {"data": FLOWERS, "breaks": 0, "resumes": True, "ranges": []}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, state=state)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/flower_photos.tgz", state
        running.shutdown()
        thread.join()


def fetch(url: str, into: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """The download as it is called, of the local archive."""
    return DOWNLOAD(into, url=url, sha256=hashlib.sha256(FLOWERS).hexdigest(), size=len(FLOWERS), progress=progress)


@pytest.mark.parametrize("resumes", [True, False])
def test_a_download_goes_on_where_it_broke_off(resumes: bool, server: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, state = server
    state.update(breaks=2, resumes=resumes)
    folder = fetch(url, tmp_path / "flowers")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == ["daisy/1.jpg", "roses/2.jpg"]
    assert state["ranges"][0] is None
    assert state["ranges"][1] == f"bytes={len(FLOWERS) // 2}-"
    assert not (tmp_path / "outside.jpg").exists()
    assert sorted(path.name for path in (tmp_path / "flowers").iterdir()) == ["flower_photos"]
    asked = len(state["ranges"])
    assert fetch(url, tmp_path / "flowers") == folder
    assert len(state["ranges"]) == asked


def test_a_download_that_never_ends_well_says_so_and_keeps_what_came(
    server: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    url, state = server
    state.update(breaks=99)
    with pytest.raises(DataError, match="goes on from there"):
        fetch(url, tmp_path)
    assert not (tmp_path / "flower_photos").exists()
    state.update(breaks=0)
    assert (fetch(url, tmp_path) / "daisy" / "1.jpg").read_bytes() == JPEG


def test_another_archive_is_refused(server: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, state = server
    state["data"] = FLOWERS[:-1] + bytes([FLOWERS[-1] ^ 1])
    with pytest.raises(DataError, match="SHA-256"):
        fetch(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        fetch("http://127.0.0.1:9/flower_photos.tgz", tmp_path)


def test_convert_from_tf_flowers(
    server: tuple[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url, _ = server
    monkeypatch.setattr(tf_flowers, "fetch", partial(fetch, url))
    seen: list[Any] = []
    info = storage.convert("tf_flowers", to="hdf5", workers=1, progress=seen.append)
    assert (seen[0].doing, seen[0].bytes, seen[0].all_bytes) == ("downloading", len(FLOWERS), len(FLOWERS))
    assert (seen[-1].doing, seen[-1].images) == ("converting", 2)
    assert (info.name, info.class_names, info.stored_samples) == ("tf_flowers", ("daisy", "roses"), 2)
    assert (tmp_path / "data" / "tf_flowers" / "hdf5-encoded" / "dataset.json").is_file()
