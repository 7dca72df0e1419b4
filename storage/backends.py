"""Where shards are written: in this process, in worker processes, or on a Dask cluster. The bytes are the same."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import DataError, UsageError
from storage.shards import Task, write_shard

BACKENDS = ("local", "dask")
_SECONDS_A_TICK = 0.2
_SECONDS_TO_CONNECT = 10
_SECONDS_FOR_A_WORKER = 60


def run(tasks: Sequence[Task], workers: int, backend: str, address: str | None) -> Generator[int, None, None]:
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
    from joblib import delayed

    try:
        yield from in_processes((delayed(write_shard)(task) for task in tasks), workers)
    except BrokenExecutor as error:
        raise DataError(_DIED) from error


def in_processes(calls: Iterable[Any], workers: int) -> Iterator[Any]:
    """Results of joblib's ``delayed`` calls as they come, each from one of so many processes, which leave Ctrl-C to this one."""
    from joblib import Parallel, parallel_config

    with parallel_config(backend="loky", initializer=_follow_the_parent, initargs=(os.getpid(),)):
        parallel = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
        with _interrupts_ignored():  # for some milliseconds; a worker could be interrupted before it has set that itself
            results = parallel(calls)
        yield from _closing(results)


_DIED = (
    "a worker process was killed, perhaps for want of memory. What is finished is kept; the same command goes on, with fewer "
    "--workers if need be"
)


def _dask(tasks: Sequence[Task], address: str | None) -> Iterator[int]:
    """All tasks are handed over at once: a cluster that grows with what is asked of it sees what is asked."""
    try:
        from distributed import Client, KilledWorker, as_completed
        from distributed.comm import get_address_host_port
    except ImportError as error:
        raise UsageError("--backend dask needs Dask: pip install 'feedbench[cluster]'") from error
    if address is None:
        raise UsageError("--backend dask needs --address, such as tcp://scheduler:8786")
    try:
        get_address_host_port(address)  # a client that cannot read its address takes twenty seconds to end
        client = Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DataError(f"no Dask scheduler answers at {address}: {error}") from error

    def write(pickled: bytes) -> int:
        """Sent as code and bytes: a worker without this package fails in a task, which says so, not at reading a message."""
        from storage.shards import write_shard

        return write_shard(pickle.loads(pickled))  # noqa: S301  # what this process has pickled

    with client:
        futures = client.map(write, [pickle.dumps(task) for task in tasks], pure=False)
        try:
            client.wait_for_workers(1, timeout=_SECONDS_FOR_A_WORKER)
            for future in as_completed(futures, loop=client.loop):
                yield future.result()
        except KilledWorker as error:
            raise DataError(_DIED) from error
        except TimeoutError as error:
            raise DataError(f"the Dask scheduler at {address} has no workers") from error
        except ImportError as error:
            raise DataError(
                f"a worker of {address} lacks what writing needs: {error}. Install feedbench there; if it is in editable mode, which "
                "the folder 'storage' of Dask's workers hides, set PYTHONPATH to its checkout."
            ) from error
        finally:
            client.cancel(futures)


def _closing(results: Any) -> Iterator[Any]:
    try:
        for result in results:  # noqa: UP028  # "yield from" would close it by itself, outside what follows
            yield result
    finally:
        with warnings.catch_warnings():  # joblib warns of what was not needed after all
            warnings.simplefilter("ignore", UserWarning)
            results.close()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """By this process, if this is its main thread, and by processes that it starts meanwhile: they inherit that, and keep it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    (folder / "progress").write_bytes(bytes(8 * shards))
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
