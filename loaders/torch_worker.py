"""How a worker process of PyTorch's ``DataLoader`` ends: at once, without Python's own finalization."""

from __future__ import annotations

import atexit
import os
import sys
from multiprocessing.util import Finalize


def exit_at_once(worker: int) -> None:
    """A ``worker_init_fn``: from here on the process ends as a forked one does in ``multiprocessing``, by ``os._exit``.

    PyTorch does not wait for the thread that sends batches. Where a pass is given up, that thread may be sharing one while Python
    finalizes: before 3.14 Python then ends the thread by unwinding its stack, which aborts the process in PyTorch's C++ (CPython
    issue 87135, PyTorch issue 38228). What a spawned process has to tidy up, ``multiprocessing`` has done by then.
    """
    del worker
    Finalize(None, _leave, exitpriority=0)


def _leave() -> None:
    """Called when the worker's loop has ended: with exit code 1 if by an error, which is on its way to be printed."""
    atexit.register(os._exit, 0 if sys.exception() is None else 1)
