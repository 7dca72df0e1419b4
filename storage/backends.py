"""Where shards are written: in this process, in worker processes, or on a Dask cluster. The bytes are the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import DataError, UsageError
from storage.shards import Task, write_shard

BACKENDS = ("local", "dask")
_SECONDS_A_TICK = 0.2


def run(tasks: Sequence[Task], workers: int, backend: str, address: str | None) -> Iterator[int]:
    """Write all shards; gives each task's ``tick`` as it is done. ``workers`` counts for the local backend."""
    if not tasks:
        return
    if backend == "dask":
        yield from _dask(tasks, address)
    elif min(workers, len(tasks)) <= 1:
        yield from map(write_shard, tasks)
    else:
        yield from _loky(tasks, min(workers, len(tasks)))


def _loky(tasks: Sequence[Task], workers: int) -> Iterator[int]:
    from joblib import Parallel, delayed, parallel_config

    try:
        with parallel_config(backend="loky", initializer=_follow_the_parent, initargs=(os.getpid(),)):
            parallel = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
            yield from _closing(parallel(delayed(write_shard)(task) for task in tasks))
    except BrokenExecutor as error:
        raise DataError(_DIED) from error


_DIED = (
    "a worker process was killed, perhaps for want of memory: a worker holds a shard. What is finished is kept; the same command "
    "goes on, with fewer --workers if need be"
)


def _dask(tasks: Sequence[Task], address: str | None) -> Iterator[int]:
    try:
        from distributed import Client, KilledWorker
        from joblib import Parallel, delayed, parallel_config
    except ImportError as error:
        raise UsageError("--backend dask needs Dask: pip install 'feedbench[cluster]'") from error
    if address is None:
        raise UsageError("--backend dask needs --address, such as tcp://scheduler:8786")
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DataError(f"no Dask scheduler answers at {address}: {error}") from error
    try:
        with client, parallel_config(backend="dask", client=client):
            parallel = Parallel(return_as="generator_unordered", batch_size=1)
            yield from _closing(parallel(delayed(write_shard)(task) for task in tasks))
    except KilledWorker as error:
        raise DataError(_DIED) from error


def _closing(results: Any) -> Iterator[int]:
    try:
        yield from results
    finally:
        results.close()


def _follow_the_parent(parent: int) -> None:
    """Leave Ctrl-C to the parent, which says how to go on; end when it ends, however that happens: nobody would use the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_A_TICK)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def ticking(folder: Path, shards: int, report: Callable[[Any], None] | None) -> Iterator[None]:
    """Make the file of progress in ``folder`` and, from a thread of its own, report the rows done of each shard under way."""
    np.zeros(shards, np.int64).tofile(folder / "progress")
    if report is None:
        yield
        return
    stop = threading.Event()
    ticks = np.memmap(folder / "progress", np.int64, "r")

    def watch() -> None:
        while not stop.wait(_SECONDS_A_TICK):
            report(np.array(ticks))

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
