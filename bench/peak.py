"""The most anonymous memory that a process and its children held at one time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

_SECONDS_BETWEEN = 0.02


@dataclass
class Peak:
    """``bytes`` grows while it is watched."""

    bytes: int = 0


@contextmanager
def anonymous_peak() -> Iterator[Peak]:
    """Watch this process and its children, fifty times a second. Pages of mapped files do not count: they are the page cache's."""
    peak, stop = Peak(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            peak.bytes = max(peak.bytes, anonymous_bytes())
            time.sleep(_SECONDS_BETWEEN)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.bytes = max(peak.bytes, anonymous_bytes())


def anonymous_bytes() -> int:
    """Anonymous memory of this process and its children now."""
    me = psutil.Process()
    return sum(_of(pid) for pid in [os.getpid(), *(child.pid for child in me.children(recursive=True))])


def _of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:  # noqa: PTH123  # a Path a reading costs more than the reading
            return next((int(line.split()[1]) << 10 for line in file if line.startswith("Anonymous:")), 0)
    except OSError:  # it has ended
        return 0
