"""Where shards are written: in this process, in worker processes, or on a Dask cluster. The bytes are the same."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
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
        from joblib import Parallel, delayed, parallel_config

        with parallel_config(backend="loky", initializer=_leave_interrupts_to_the_parent):
            parallel = Parallel(n_jobs=min(workers, len(tasks)), return_as="generator_unordered", batch_size=1)
            yield from _closing(parallel(delayed(write_shard)(task) for task in tasks))


def _dask(tasks: Sequence[Task], address: str | None) -> Iterator[int]:
    try:
        from distributed import Client
        from joblib import Parallel, delayed, parallel_config
    except ImportError as error:
        raise UsageError("--backend dask needs Dask: pip install 'feedbench[cluster]'") from error
    if address is None:
        raise UsageError("--backend dask needs --address, such as tcp://scheduler:8786")
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DataError(f"no Dask scheduler answers at {address}: {error}") from error
    with client, parallel_config(backend="dask", client=client):
        yield from _closing(Parallel(return_as="generator_unordered", batch_size=1)(delayed(write_shard)(t) for t in tasks))


def _closing(results: Any) -> Iterator[int]:
    try:
        yield from results
    finally:
        results.close()


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal; the parent says how to go on, and workers need not add a traceback each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
