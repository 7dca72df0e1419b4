"""A conversion that is killed, for real, at a chosen step: the process sends itself SIGKILL as it is about to take it.

Steps are what changes a file system: opening a file for writing, renaming, removing, making a folder (Python's audit events), swapping
two folders, and syncing. Each runs in a process forked from one that has everything imported, so hundreds of deaths cost seconds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

_STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
_IMPORTED = (
    "tests.storage.crash", "storage.conversion", "storage.directory", "storage.hdf5", "storage.lmdb", "storage.tfrecord",
    "h5py", "lmdb", "mmap", "google.protobuf.message_factory",
)  # fmt: skip


def dies(step: int, arguments: dict[str, Any], *, can_exchange: bool = True) -> bool:
    """Convert in a process that kills itself at its ``step``-th step (from 0); False if it ended, well or not, before that."""
    return _run(_until, step, arguments, can_exchange) == -signal.SIGKILL


def count_steps(arguments: dict[str, Any], counted: Path, *, can_exchange: bool = True) -> int:
    """How many steps a whole conversion takes; it is done. The number goes through the file ``counted``."""
    assert _run(_counting, counted, arguments, can_exchange) == 0
    return int(counted.read_text())


def _run(target: Callable[..., None], *arguments: Any) -> int | None:
    processes = get_context("forkserver")
    processes.set_forkserver_preload(list(_IMPORTED))
    process = processes.Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def _until(step: int, arguments: dict[str, Any], can_exchange: bool) -> None:
    def die(taken: int) -> None:
        if taken == step:
            os.kill(os.getpid(), signal.SIGKILL)

    _convert(arguments, can_exchange, die)


def _counting(counted: Path, arguments: dict[str, Any], can_exchange: bool) -> None:
    seen = [0]

    def count(taken: int) -> None:
        seen[0] = taken + 1

    _convert(arguments, can_exchange, count)
    counted.write_text(str(seen[0]))


def _convert(arguments: dict[str, Any], can_exchange: bool, at_step: Callable[[int], None]) -> None:
    import storage
    from storage import workspace

    taken = 0
    watching = True

    def step() -> None:
        nonlocal taken
        if watching:
            at_step(taken)
            taken += 1

    def audit(event: str, details: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _STEPS or writes:
            step()

    def stepping(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            step()
            return function(*args)

        return call

    os.fsync = stepping(os.fsync)
    names = vars(workspace)
    names["exchange"] = stepping(names["exchange"] if can_exchange else lambda *_: False)
    sys.addaudithook(audit)
    storage.convert(**arguments)
    watching = False
