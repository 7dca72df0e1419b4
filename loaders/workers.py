"""Plain threads behind one queue: what a ``ThreadPoolExecutor`` is without a future a task, which costs more than some tasks."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

from loaders.base import CLOSED
from storage.errors import UsageError

Task: TypeAlias = Callable[..., None]


class Workers:
    """``count`` threads that run tasks in the order in which they come, until ``close``. A task must not raise."""

    def __init__(self, count: int, name: str) -> None:
        self.closed = False
        self._process = os.getpid()
        self._tasks: SimpleQueue[tuple[Task, tuple[Any, ...]] | None] = SimpleQueue()
        # Daemons: a user who forgets to close a feed can still leave Python.
        self._threads = [
            Thread(target=_run, args=(self._tasks,), name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def check_usable(self) -> None:
        """UsageError after ``close``, or in a fork, which has none of the threads."""
        if self.closed:
            raise UsageError(CLOSED)
        if os.getpid() != self._process:
            raise UsageError("this feed belongs to the process that built it: build another in this one")

    def submit(self, task: Task, *arguments: Any) -> None:
        """Have a thread call ``task(*arguments)``. UsageError where they are not usable."""
        self.check_usable()
        self._tasks.put((task, arguments))

    def close(self) -> None:
        """Let every task that was submitted run (it can see ``closed``), then end the threads."""
        if not self.closed:
            self.closed = True
            for _ in self._threads:
                self._tasks.put(None)
            for thread in self._threads:
                thread.join()


def _run(tasks: SimpleQueue[tuple[Task, tuple[Any, ...]] | None]) -> None:
    while (task := tasks.get()) is not None:
        task[0](*task[1])
        del task  # nothing is held while waiting for the next
