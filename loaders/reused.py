"""What makes pass after pass: the processes of a DataLoader, a pipeline of DALI. Each makes one pass at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from threading import Lock
from typing import Generic, TypeVar

from loaders.base import CLOSED
from storage.errors import UsageError

Maker = TypeVar("Maker")
Batch = TypeVar("Batch")


class Reused(Generic[Maker]):
    """One maker, for one pass after the other; another for a pass that begins before the one before has ended."""

    def __init__(self, make: Callable[[], Maker]) -> None:
        self._make = make
        self._all = [make()]
        self._idle = self._all.copy()
        self._closed = False
        self._lock = Lock()
        """Held while a batch is waited for: PyTorch would wait for ever for processes that are ended meanwhile."""

    def batches(self, begin: Callable[[Maker], Iterator[Batch]]) -> Generator[Batch, None, None]:
        """The pass that ``begin`` has a maker make. UsageError where it begins, or is read on, after ``close``."""
        with self._lock:
            self._check_open()
            if not self._idle:
                self._all.append(self._make())
                self._idle.append(self._all[-1])
            maker = self._idle.pop()
            coming = begin(maker)
        try:
            while (batch := self._next(coming)) is not None:
                yield batch
        finally:
            self._idle.append(maker)

    def _next(self, coming: Iterator[Batch]) -> Batch | None:
        with self._lock:
            self._check_open()
            return next(coming, None)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(CLOSED)

    def close(self, end: Callable[[Maker], None]) -> None:
        """``end`` every maker, none of which is at work then."""
        with self._lock:
            self._closed = True
            for maker in self._all:
                end(maker)
