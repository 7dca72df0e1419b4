"""An accelerator that isn't there: steps at a stated rate without burning CPU, by absolute deadlines.

A plain sleep overshoots by some 60 us each time, and the overshoot would add up to a slower device. Here what one sleep
overshoots is taken off the next: the device's own time line never sees it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.own_time import now_ns


class EmulatedStep:
    """Takes ``len(labels) / rate`` seconds a batch, asleep. ``rate`` is images/s."""

    jit_compile = False

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], int] = now_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._sleep = sleep
        self._overshoot_ns = 0

    def __call__(self, images: Any, labels: Any) -> None:  # noqa: ARG002
        """Busy with one batch, until its deadline."""
        deadline = self._clock() - self._overshoot_ns + round(len(labels) / self.rate * 1e9)
        sleep_until(deadline, self._clock, self._sleep)
        self._overshoot_ns = max(0, self._clock() - deadline)

    def close(self) -> None:
        """Nothing is held."""


class NoStep:
    """Loading alone: a batch is taken and dropped."""

    jit_compile = False

    def __call__(self, images: Any, labels: Any) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing is held."""


def sleep_until(deadline_ns: int, clock: Callable[[], int], sleep: Callable[[float], None]) -> None:
    """Sleep to a point on the clock, again if woken early."""
    while (left := deadline_ns - clock()) > 0:
        sleep(left / 1e9)
