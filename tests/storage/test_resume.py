"""Killed, interrupted, out of space, in company: the same command ends with the same bytes, and nothing half-made looks whole."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

import storage
from storage import FORMATS
from storage.demo import draw
from storage.errors import DataError, UsageError
from storage.verification import verify
from tests.storage import crash
from tests.storage.made import contents, photos

SHARD_BYTES = 3000
CONVERT = [sys.executable, "-m", "storage.convert"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four images: several shards of SHARD_BYTES."""
    return photos(tmp_path_factory.mktemp("resume") / "photos")


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """What an undisturbed conversion into a format writes."""
    known: dict[str, dict[str, bytes]] = {}

    def find(name: str) -> dict[str, bytes]:
        if name not in known:
            out = tmp_path_factory.mktemp("undisturbed") / name
            assert storage.convert(source, to=name, out=out, shard_bytes=SHARD_BYTES, workers=1).stored_samples == 24
            known[name] = contents(out)
        return known[name]

    return find


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: a kill asks nothing of a disk, and syncing one takes most of the time."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def finished(partial: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of last change of every shard that is noted as done below an unfinished conversion."""
    notes = [json.loads(note.read_bytes()) for note in (partial / ".writing" / "done").glob("*.json")]
    files = [note["shard"]["file"] for note in notes]
    return {file: ((partial / file).stat().st_ino, (partial / file).stat().st_mtime_ns) for file in files}


def try_deaths(
    steps: list[int],
    name: str,
    source: Path,
    expected: dict[str, bytes],
    folder: Path,
    *,
    replacing: bool,
    can_exchange: bool,
) -> None:
    """Die at each of ``steps``, look at what is left, give the same command again, compare."""
    for step in steps:
        home = folder / f"{name}-{step}"
        out = home / "out"
        arguments: dict[str, Any] = {
            "source": source, "to": name, "out": out, "shard_bytes": SHARD_BYTES, "workers": 1, "overwrite": replacing,
        }  # fmt: skip
        earlier: dict[str, bytes] | None = None
        if replacing:
            storage.convert(source, to="tfrecord", out=out, seed=9, workers=1)
            earlier = contents(out)
        assert crash.dies(step, arguments, can_exchange=can_exchange)
        whole = (out / "dataset.json").is_file()
        if whole:
            assert contents(out) in (earlier, expected), step
            assert verify(out, workers=1) == []
        else:
            assert not out.exists(), step
        kept = finished(home / "out.partial")
        with suppress(UsageError) if whole else nullcontext():  # it may have died after its last word
            storage.convert(**arguments)
        assert contents(out) == expected, step
        assert verify(out, workers=1) == []
        for file, was in kept.items():
            now = (out / file).stat()
            assert (now.st_ino, now.st_mtime_ns) == was, (step, file)
        assert [path.name for path in home.iterdir()] == ["out"], step
        shutil.rmtree(home)


@pytest.mark.parametrize("name", FORMATS)
def test_killed_at_some_steps(name: str, source: Path, undisturbed: Callable[[str], dict[str, bytes]], memory: Path) -> None:
    """A few steps while writing, and the last of all: those of the commit."""
    arguments = {"source": source, "to": name, "out": memory / "whole", "shard_bytes": SHARD_BYTES, "workers": 1}
    count = crash.count_steps(arguments, memory / "counted")
    draw = random.Random(name)
    steps = sorted({*draw.sample(range(count), 4), *draw.sample(range(count - 25, count), 4)})
    try_deaths(steps, name, source, undisturbed(name), memory, replacing=False, can_exchange=True)


@pytest.mark.slow
@pytest.mark.parametrize(("replacing", "can_exchange"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("name", FORMATS)
def test_killed_at_every_step(
    name: str,
    replacing: bool,
    can_exchange: bool,
    source: Path,
    undisturbed: Callable[[str], dict[str, bytes]],
    memory: Path,
) -> None:
    arguments: dict[str, Any] = {"source": source, "to": name, "out": memory / "whole", "workers": 1}
    if replacing:  # what try_deaths replaces too, since removing it takes steps
        storage.convert(source, to="tfrecord", out=memory / "whole", seed=9, workers=1)
    arguments |= {"shard_bytes": SHARD_BYTES, "overwrite": replacing}
    count = crash.count_steps(arguments, memory / "counted", can_exchange=can_exchange)
    steps = list(range(count))
    try_deaths(steps, name, source, undisturbed(name), memory / "deaths", replacing=replacing, can_exchange=can_exchange)


def test_killed_while_replacing(source: Path, undisturbed: Callable[[str], dict[str, bytes]], memory: Path) -> None:
    """The earlier dataset is there until the new one is, on file systems that can swap two folders and on others."""
    arguments = {"source": source, "to": "hdf5", "out": memory / "whole", "shard_bytes": SHARD_BYTES, "workers": 1}
    for can_exchange in (True, False):
        storage.convert(source, to="tfrecord", out=memory / "whole", workers=1, overwrite=True)
        count = crash.count_steps({**arguments, "overwrite": True}, memory / "counted", can_exchange=can_exchange)
        steps = random.Random(can_exchange).sample(range(count - 25, count), 4)
        expected = undisturbed("hdf5")
        try_deaths(steps, "hdf5", source, expected, memory, replacing=True, can_exchange=can_exchange)


def run_and_kill(command: list[str], after_s: float) -> int:
    """Start a command, kill -9 it (and not its workers) after so long; its exit code."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as running:
        try:
            return running.wait(after_s)
        except subprocess.TimeoutExpired:
            running.kill()
            return running.wait()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", FORMATS)
def test_killed_with_workers_at_random_moments(name: str, seed: int, source: Path, memory: Path) -> None:
    """The whole command, its worker processes left to themselves, several times in a row."""
    images, out = memory / "photos", memory / "out"
    shutil.copytree(source, images)
    for number in range(1200):
        shutil.copyfile(source / "cat" / "0003.jpg", images / "cat" / f"copy {number}.jpg")
    command = [*CONVERT, "--from", str(images), "--to", name, "--shard-size", "30kB", "--workers", "2", "--out"]
    started = time.monotonic()
    subprocess.run([*command, str(memory / "whole")], check=True, stdout=subprocess.DEVNULL)
    took_s, draw = time.monotonic() - started, random.Random(f"{name}{seed}")
    kept: dict[str, tuple[int, int]] = {}
    for _ in range(5):
        run_and_kill([*command, str(out)], draw.uniform(0.2, 1.0) * took_s)
        if (out / "dataset.json").is_file():
            break
        before, kept = kept, finished(memory / "out.partial")
        assert before.items() <= kept.items()
    whole = (out / "dataset.json").is_file()
    last = subprocess.run([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert last.returncode in ((0, 2) if whole else (0,))  # 2: it exists, for it was killed after its last word
    assert contents(out) == contents(memory / "whole")
    assert sorted(path.name for path in memory.iterdir()) == ["out", "photos", "whole"]


_INTERRUPTS_ITSELF = """
import os, runpy, signal, sys
left, sync = int(sys.argv.pop(1)), os.fsync
def interrupted_sync(handle):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGINT)
    sync(handle)
os.fsync = interrupted_sync
runpy.run_module("storage.convert", run_name="__main__", alter_sys=False)
"""


def test_ctrl_c_says_how_to_go_on(source: Path, undisturbed: Callable[[str], dict[str, bytes]], tmp_path: Path) -> None:
    options = ["--from", str(source), "--to", "lmdb", "--out", str(tmp_path / "out"), "--shard-size", str(SHARD_BYTES)]
    options += ["--workers", "1"]
    stopped = subprocess.run([sys.executable, "-c", _INTERRUPTS_ITSELF, "14", *options], capture_output=True, text=True)
    assert stopped.returncode == 130
    assert stopped.stderr == "interrupted: what is finished is kept; the same command goes on from there.\n"
    assert not (tmp_path / "out").exists()
    kept = finished(tmp_path / "out.partial")
    assert 0 < len(kept) < len(undisturbed("lmdb"))
    subprocess.run([*CONVERT, *options], check=True, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / "out") == undisturbed("lmdb")
    assert all((tmp_path / "out" / file).stat().st_ino == inode for file, (inode, _) in kept.items())


@pytest.mark.parametrize("command", ["convert", "verify"])
def test_ctrl_c_as_workers_start_is_left_to_the_parent(command: str, source: Path, tmp_path: Path) -> None:
    words = [
        *CONVERT,
        "--from",
        str(source),
        "--to",
        "lmdb",
        "--out",
        str(tmp_path / "new"),
        "--shard-size",
        str(SHARD_BYTES),
    ]
    said = "interrupted: what is finished is kept; the same command goes on from there.\n"
    if command == "verify":
        storage.convert(source, to="directory", out=tmp_path / "out", shard_bytes=SHARD_BYTES, workers=1)
        words, said = [sys.executable, "-m", "storage.verify", str(tmp_path / "out")], ""
    words += ["--workers", "2"]
    with subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, text=True) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None and not any(
            "popen_loky_posix" in " ".join(child.cmdline()) for child in process.children()
        ):
            time.sleep(0.005)
        time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: every process gets it
        stderr = running.communicate(timeout=60)[1]
    assert (running.returncode, stderr) in [(130, said), (0, "")]


_INTERRUPTS_ITS_END = """
import os, runpy, signal, threading
def interrupt():
    threading.main_thread().join()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
runpy.run_module("storage.convert", run_name="__main__", alter_sys=False)
"""


def test_ctrl_c_once_all_is_done_changes_nothing(source: Path, tmp_path: Path) -> None:
    options = ["--from", str(source), "--to", "lmdb", "--out", str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", _INTERRUPTS_ITS_END, *options], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("24 images, ")


@contextmanager
def conversion_that_waits(**arguments: Any) -> Iterator[None]:
    """A conversion in a thread of its own, held after its first shard for as long as the context lasts."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(progress: Any) -> None:
        reached.set()
        go_on.wait()

    thread = threading.Thread(target=storage.convert, kwargs={**arguments, "progress": hold})
    thread.start()
    try:
        assert reached.wait(60)
        yield
    finally:
        go_on.set()
        thread.join()


def test_the_second_conversion_on_a_target_stops(
    source: Path, undisturbed: Callable[[str], dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with conversion_that_waits(source=source, to="hdf5", out=out, shard_bytes=SHARD_BYTES, workers=1):
        for options in (["--to", "hdf5"], ["--to", "lmdb", "--overwrite"]):
            second = subprocess.run(
                [*CONVERT, "--from", str(source), "--out", str(out), *options], capture_output=True, text=True
            )
            assert second.returncode == 1
            assert second.stderr == (
                f"storage.convert: another conversion is writing {out}; wait for it, or choose another --out\n"
            )
    assert contents(out) == undisturbed("hdf5")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_too_large_for_the_disk_is_not_begun(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.convert(source, to="hdf5", out=tmp_path / "out", workers=1)
    before = contents(tmp_path / "out")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5000))
    with pytest.raises(DataError, match=r"no space for .*out: about 1\.8 MB are still needed, 0\.0 MB are free"):
        storage.convert(source, to="lmdb", payload="raw", out=tmp_path / "out", overwrite=True, workers=1)
    assert contents(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # What is encoded again takes less than its source, by an amount that nobody knows beforehand.
    storage.convert(source, to="lmdb", max_side=12, out=tmp_path / "small", workers=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system: the full disk is tried where root runs the tests")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, pages_free: int = 0) -> Path:
    """A file in ``place`` that leaves so many pages free."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(max(0, file.tell() - 4096 * pages_free))
    return filler


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_fills_up(
    name: str, source: Path, undisturbed: Callable[[str], dict[str, bytes]], small_disk: Path
) -> None:
    out = small_disk / "out"
    storage.convert(source, to="tfrecord", out=out, seed=9, workers=1)
    before = contents(out)
    fillers: list[Path] = []

    def fill_after_the_first_shard(progress: Any) -> None:
        if not fillers:
            fillers.append(fill(small_disk))

    arguments: dict[str, Any] = {
        "source": source, "to": name, "out": out, "shard_bytes": SHARD_BYTES, "workers": 1, "overwrite": True,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"no space for .*out: about 0\.0 MB are still needed, 0\.0 MB are free"):
        storage.convert(progress=fill_after_the_first_shard, **arguments)
    assert contents(out) == before
    assert verify(out, workers=1) == []
    fillers[0].unlink()
    kept = finished(small_disk / "out.partial")
    assert kept
    storage.convert(**arguments)
    assert contents(out) == undisturbed(name)
    assert all((out / file).stat().st_ino == inode for file, (inode, _) in kept.items())
    assert [path.name for path in small_disk.iterdir()] == ["out"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_with_fewer_pages_than_it_takes(
    name: str, source: Path, undisturbed: Callable[[str], dict[str, bytes]], small_disk: Path
) -> None:
    """Whatever finds no space first: the list of images, the order, a shard, its note, the manifest."""
    out = small_disk / "out"
    storage.convert(source, to="tfrecord", out=out, seed=9, workers=1)
    before = contents(out)
    said: list[str] = []
    for pages in range(128):
        filler = fill(small_disk, pages)
        try:
            storage.convert(source, to=name, out=out, shard_bytes=SHARD_BYTES, workers=1, overwrite=True)
            break
        except DataError as error:
            said.append(str(error))
        assert contents(out) == before
        filler.unlink()
        shutil.rmtree(small_disk / "out.partial", ignore_errors=True)
    full = (
        r"no space for .*out(, not even for the list of its images|: about 0\.0 MB are still needed)[:,] 0\.\d MB are free"
    )
    assert len(said) > 10
    assert [line for line in said if not re.match(full, line)] == []
    assert contents(out) == undisturbed(name)


def test_a_disk_too_small_for_the_order_of_many_images(small_disk: Path, tmp_path: Path) -> None:
    """Which takes several pages: half of it must not pass for all."""
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for number in range(2000):
        (tmp_path / "photos" / "cat" / f"{number}.gif").write_bytes(bytes(1000))
    for pages in range(60):
        filler = fill(small_disk, pages)
        with pytest.raises(DataError, match=r"^no space for .*out(, not even for the list|: about 2.0 MB are still needed)"):
            storage.convert(tmp_path / "photos", to="tfrecord", out=small_disk / "out", workers=1)
        filler.unlink()


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_fills_up_below_several_workers(name: str, small_disk: Path, tmp_path: Path) -> None:
    """In the middle of a shard, wherever it is: no library may end the process, or call it by another name."""
    draw(tmp_path / "photos", count=60)
    with pytest.raises(DataError, match=r"no space for .*out: about \d+\.\d MB are still needed"):
        # That nothing is as large as this is not known beforehand, so the disk is not found too small before it is full.
        storage.convert(tmp_path / "photos", to=name, out=small_disk / "out", max_side=9999, shard_bytes=100_000, workers=2)


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_a_disk_that_fills_up_below_compressed_hdf5(compression: str, small_disk: Path, tmp_path: Path) -> None:
    """In processes of their own: HDF5 ends the process where it finds no space as it closes a file."""
    draw(tmp_path / "photos", count=60)
    command = [
        *CONVERT, "--from", str(tmp_path / "photos"), "--to", "hdf5", "--payload", "raw", "--image-size", "64",
        "--compression", compression, "--shard-size", "100000", "--workers", "1",
    ]  # fmt: skip
    whole = subprocess.run([*command, "--out", str(tmp_path / "whole")], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    filler = small_disk / "filler"
    filler.write_bytes(bytes(150_000))
    out = [*command, "--out", str(small_disk / "out")]
    full = subprocess.run(out, capture_output=True, text=True)
    assert (full.returncode, "no space for" in full.stderr) == (1, True), full.stderr
    assert not (small_disk / "out").exists()
    kept = finished(small_disk / "out.partial")
    assert kept
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = subprocess.run(out, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert verify(small_disk / "out", against=tmp_path / "photos", workers=1) == []
    if compression == "gzip":  # LZF may compress the same pixels to other bytes
        assert contents(small_disk / "out") == contents(tmp_path / "whole")
    assert all((small_disk / "out" / file).stat().st_ino == inode for file, (inode, _) in kept.items())


def test_a_worker_that_is_killed(source: Path, undisturbed: Callable[[str], dict[str, bytes]], tmp_path: Path) -> None:
    """As the kernel does when memory is short."""
    arguments: dict[str, Any] = {"to": "tfrecord", "out": tmp_path / "out", "shard_bytes": SHARD_BYTES, "workers": 2}

    def kill(progress: Any) -> None:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):  # also a zombie: killed at the shard before, not yet waited for
                command = " ".join(child.cmdline())
                if "loky" in command and "resource_tracker" not in command:
                    child.kill()

    with pytest.raises(DataError, match=r"a worker process was killed.*the same command goes on"):
        storage.convert(source, progress=kill, **arguments)
    assert not (tmp_path / "out").exists()
    storage.convert(source, **arguments)
    assert contents(tmp_path / "out") == undisturbed("tfrecord")
