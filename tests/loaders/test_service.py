"""What is special about the loader ``tfdata_service``: the service's processes, and what becomes of an epoch when one is lost."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from loaders import LOADERS
from loaders.base import LoaderSpec
from loaders.service import LocalService
from loaders.tfdata_service import Options as ServiceOptions
from loaders.tfdata_service import ServiceFeed
from storage import open_dataset
from storage.base import PAYLOADS
from storage.dataset import read_info
from storage.errors import DataError, UsageError
from tests.loaders.conftest import SIZE, TRAIN, Options, Stored, damaged_shard

SPEC = LoaderSpec(image_size=(SIZE, SIZE), workers=2, batch_size=1, prefetch=1)
GONE_S = 60


def build(path: Path, spec: LoaderSpec, service: str) -> ServiceFeed:
    spec = replace(spec, options=(("service", service), ("patience_s", 2)))
    feed = LOADERS["tfdata_service"].build(open_dataset(path), spec)
    assert isinstance(feed, ServiceFeed)
    return feed


def ended(pids: list[int]) -> bool:
    """Whether all of some processes end."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    return not alive


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("format_name", ["directory", "hdf5", "lmdb"])
def test_order_and_pixels_are_those_of_tfdata(stored: Stored, options: Options, format_name: str, payload: str) -> None:
    path, spec = stored(format_name, payload), replace(SPEC, batch_size=20)
    with (
        closing(LOADERS["tfdata"].build(open_dataset(path), spec)) as here,
        closing(
            LOADERS["tfdata_service"].build(open_dataset(path), replace(spec, options=options("tfdata_service")))
        ) as there,
    ):
        for one, other in zip(here.epoch(3), there.epoch(3), strict=True):
            assert np.array_equal(one[0], other[0])
            assert np.array_equal(one[1], other[1])


def test_calling_off_an_epoch_calls_off_nothing_else(stored: Stored, options: Options) -> None:
    """A training step that runs while the feed draws is none of the feed's business."""
    import tensorflow as tf

    step = tf.function(lambda images: tf.reduce_sum(tf.cast(images, tf.float32)))
    spec = replace(SPEC, options=options("tfdata_service"))
    with closing(LOADERS["tfdata_service"].build(open_dataset(stored("directory", "encoded")), spec)) as feed:
        for number in range(4):
            for images, _ in feed.epoch(number):
                assert np.isfinite(float(step(images)))


def test_a_pass_under_way_ends_when_the_feed_is_closed(stored: Stored, options: Options) -> None:
    """With a service of its own it would wait for ever for batches that nobody makes."""
    spec = replace(SPEC, options=options("tfdata_service"))
    with LOADERS["tfdata_service"].build(open_dataset(stored("lmdb", "encoded")), spec) as feed:
        batches = iter(feed.epoch(0))
        next(batches)
    with pytest.raises(UsageError, match="closed in the middle of this epoch"):
        list(batches)


def test_a_pass_given_up_leaves_no_thread_behind(stored: Stored, options: Options) -> None:
    """At once, and not when Python next looks for cycles: until then it would keep its connections and batches."""
    spec = replace(SPEC, options=options("tfdata_service"))
    with LOADERS["tfdata_service"].build(open_dataset(stored("lmdb", "encoded")), spec) as feed:
        threads = []
        try:
            for number in range(3):
                for _ in feed.epoch(number):
                    break
                if number == 0:
                    gc.collect()
                    gc.disable()
                threads.append(psutil.Process().num_threads())
        finally:
            gc.enable()
    assert threads[-1] <= threads[0], threads


def test_a_damaged_record_of_a_shard_is_named_by_its_file(stored: Stored, options: Options, tmp_path: Path) -> None:
    path, shard = damaged_shard(stored("tfrecord", "raw"), tmp_path / "damaged")
    spec = replace(SPEC, batch_size=20, options=options("tfdata_service"))
    with (
        closing(LOADERS["tfdata_service"].build(open_dataset(path), spec)) as feed,
        pytest.raises(DataError, match=rf"^{shard}: record \d+ does not match its checksum.*storage\.verify"),
    ):
        list(feed.epoch(0))


@pytest.mark.slow
def test_a_worker_lost_in_the_middle_ends_the_epoch_with_an_error_or_not_at_all(stored: Stored) -> None:
    # Batches of 3 MB: the lost worker cannot have handed over all of its own.
    with closing(build(stored("lmdb", "encoded"), replace(SPEC, image_size=(512, 512)), "local:2")) as feed:
        service = feed.epochs.service
        assert isinstance(service, LocalService)
        pids = service.pids
        assert len(pids) == 3
        assert set(pids) <= {child.pid for child in psutil.Process().children()}
        assert sum(1 for _ in feed.epoch(0)) == TRAIN
        batches = feed.epoch(1)
        next(batches)
        os.kill(pids[1], signal.SIGKILL)
        came, said = 1, ""
        try:
            for _ in batches:
                came += 1
        except DataError as error:
            said = str(error)
        assert came == TRAIN or "worker 1 of 2 of the local tf.data service was ended by SIGKILL in epoch 1" in said
        with pytest.raises(DataError, match=r"worker 1 of 2 .* SIGKILL in epoch 2: .* Build the feed again"):
            list(feed.epoch(2))
    assert ended(pids)


@pytest.mark.slow
def test_a_deployment_that_is_gone_ends_the_epoch_with_an_error(stored: Stored) -> None:
    path, spec = stored("lmdb", "encoded"), replace(SPEC, image_size=(512, 512))
    with closing(LocalService(1)) as service, closing(build(path, spec, service.address)) as feed:
        assert sum(1 for _ in feed.epoch(0)) == TRAIN
        batches = feed.epoch(1)
        next(batches)
        service.close()
        with pytest.raises(DataError, match=f"{service.address}: "):
            list(batches)
        with pytest.raises(DataError, match=f"no service at {service.address}: .* Is its dispatcher running"):
            list(feed.epoch(2))
    with pytest.raises(DataError, match="no service at grpc:"):
        build(path, spec, service.address)


_STARTER = """
import sys, time
from loaders.service import LocalService
print(*LocalService(1).pids, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them_even_if_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _STARTER],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as starter:
        assert starter.stdout is not None
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert len(pids) == 2
        assert all(psutil.pid_exists(pid) for pid in pids)
        assert any(tmp_path.iterdir())
        starter.kill()
    assert ended(pids)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "service", ["", "local", "local:", "local:0", "local:-1", "local:two", "localhost:5000", "grpc://host", "grpc://:5000"]
)
def test_a_service_that_is_none(stored: Stored, service: str) -> None:
    with pytest.raises(UsageError, match=r"service must be local:N .* or grpc://HOST:PORT"):
        build(stored("lmdb", "encoded"), SPEC, service)


def test_counts_that_are_none() -> None:
    with pytest.raises(UsageError, match="must be at least 1, got 0 and 120"):
        ServiceOptions(buffer=0)


def test_a_process_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(Path("/bin/false")))
    with pytest.raises(DataError, match="did not start: exit code 1"):
        LocalService(1)


def test_says_what_it_cannot_serve(stored: Stored) -> None:
    loader = LOADERS["tfdata_service"]
    info = read_info(stored("hdf5", "encoded"))
    assert loader.unsupported(info, SPEC) is None
    assert "a cache would stay with the workers" in (loader.unsupported(info, replace(SPEC, cache=True)) or "")
    packed = info.model_copy(update={"options": {"compression": "lzf"}})
    assert "only Python reads" in (loader.unsupported(packed, SPEC) or "")
