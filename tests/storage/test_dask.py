"""Onwards to a cluster: a real Dask scheduler with two worker processes writes the same bytes as this machine alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import storage
from storage import FORMATS
from storage.base import PAYLOADS
from storage.errors import DataError, UsageError
from storage.verification import verify
from tests.storage.made import contents, photos

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler whose two workers are processes of their own."""
    import dask

    scratch = str(tmp_path_factory.mktemp("dask"))
    with (
        dask.config.set(temporary_directory=scratch),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as running,
    ):
        yield running.scheduler_address


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("source") / "photos", 24)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_cluster_writes_the_same_bytes(name: str, payload: str, cluster: str, source: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"to": name, "payload": payload, "image_size": 16, "shard_bytes": 3000}
    here = storage.convert(source, out=tmp_path / "here", workers=1, **options)
    seen: list[Any] = []
    there = storage.convert(source, out=tmp_path / "there", backend="dask", address=cluster, progress=seen.append, **options)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert there.model_copy(update={"convert_s": here.convert_s}) == here
    assert seen[-1].images == 24
    assert len(there.splits["train"].shards) > 2
    assert verify(tmp_path / "there", against=source, workers=1) == []


def test_the_work_is_done_by_the_workers(cluster: str, source: Path, tmp_path: Path) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        before = client.run(_written)
        storage.convert(source, to="tfrecord", out=tmp_path / "out", shard_bytes=3000, backend="dask", address=cluster)
        after = client.run(_written)
    assert len(after) == 2
    assert sum(after.values()) > sum(before.values())


def _written() -> int:
    """Bytes that a worker's process has written."""
    with Path("/proc/self/io").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith("wchar:"))


def test_here_and_there_take_turns(cluster: str, source: Path, tmp_path: Path) -> None:
    """Stopped on the cluster, gone on with here: a recipe does not say where it is followed."""
    options: dict[str, Any] = {"to": "hdf5", "shard_bytes": 3000}

    def stop(progress: Any) -> None:
        if progress.images >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.convert(source, out=tmp_path / "out", backend="dask", address=cluster, progress=stop, **options)
    assert any((tmp_path / "out.partial" / ".writing" / "done").iterdir())
    storage.convert(source, out=tmp_path / "out", workers=1, **options)
    storage.convert(source, out=tmp_path / "whole", workers=1, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_broken_image_is_named_from_there(cluster: str, tmp_path: Path) -> None:
    images = photos(tmp_path / "photos", 6)
    (images / "cat" / "bad.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"cat/bad\.jpg: not a JPEG.*--on-error skip"):
        storage.convert(images, to="lmdb", out=tmp_path / "out", backend="dask", address=cluster)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_the_command_with_relative_paths(cluster: str, source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "storage.convert", "--from", "photos", "--to", "lmdb", "--out", "out"]
    (tmp_path / "photos").symlink_to(source)
    done = subprocess.run(
        [*command, "--backend", "dask", "--address", cluster], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("24 images, ")


def test_workers_that_cannot_import_it_say_so(cluster: str, source: Path, tmp_path: Path) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        client.run(lambda: sys.modules.update({"storage.shards": None}))  # type: ignore[dict-item]
        try:
            with pytest.raises(DataError, match=r"lacks what writing needs: .*storage\.shards.* Install feedbench there"):
                storage.convert(source, to="lmdb", out=tmp_path / "out", backend="dask", address=cluster)
        finally:
            client.run(lambda: sys.modules.pop("storage.shards"))


def test_an_address_that_is_none(source: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "storage.convert",
        "--from",
        str(source),
        "--to",
        "lmdb",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [*command, "--backend", "dask", "--address", "nonsense"], capture_output=True, text=True, timeout=15
    )
    assert done.returncode == 1
    assert done.stderr.startswith("storage.convert: no Dask scheduler answers at nonsense: missing port number")
    assert len(done.stderr.splitlines()) == 1


def test_no_address(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--backend dask needs --address"):
        storage.convert(source, to="lmdb", out=tmp_path / "out", backend="dask")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_no_scheduler(source: Path, tmp_path: Path) -> None:
    """It is waited for, ten seconds: clusters take a while to start."""
    with pytest.raises(DataError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        storage.convert(source, to="lmdb", out=tmp_path / "out", backend="dask", address="tcp://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_dies(source: Path, tmp_path: Path) -> None:
    """As where memory is short: the conversion ends with words, and goes on elsewhere."""
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0, "temporary-directory": str(tmp_path / "scratch")}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as running,
    ):

        def kill(progress: Any) -> None:
            for nanny in running.workers.values():
                if nanny.pid:
                    with suppress(ProcessLookupError):
                        os.kill(nanny.pid, signal.SIGKILL)

        with pytest.raises(DataError, match=r"a worker process was killed.*the same command goes on"):
            storage.convert(
                source, to="tfrecord", out=tmp_path / "out", shard_bytes=1, backend="dask",
                address=running.scheduler_address, progress=kill,
            )  # fmt: skip
    storage.convert(source, to="tfrecord", out=tmp_path / "out", shard_bytes=1, workers=1)
    assert verify(tmp_path / "out", against=source, workers=1) == []
