"""The time that this process has had, which stands still while its process group is stopped so that others have their turn.

Stopped by a signal, a pipeline's threads and processes rest with the loop that they feed: nothing is made ahead meanwhile.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

from bench import meter
from bench.steady import NS, Tick

_stopped_ns = 0


def now_ns() -> int:
    """Nanoseconds that this process has had, from some point on."""
    return time.perf_counter_ns() - _stopped_ns


class Turns:
    """The turns that one measurement is made in: after each, the process group stops until it is continued.

    Parameters
    ----------
    slice_s
        Seconds of steady state that a turn lasts at least.
    tell
        Tells whoever continues the group that a turn is over.
    hear
        Called on waking; returns ``time.perf_counter_ns()`` just before the group was continued. Its threads are back at work from
        then on, while this one may have to wait for a processor.
    """

    def __init__(self, slice_s: float, tell: Callable[[], None], hear: Callable[[], int]) -> None:
        self._slice_ns = slice_s * NS
        self._tell = tell
        self._hear = hear
        self.elsewhere: list[meter.Usage] = []
        """What the machine's own counters went on by between turns: no part of this measurement."""

    def wait(self) -> None:
        """Stop until the next turn."""
        global _stopped_ns
        self._tell()
        began = time.perf_counter_ns()
        os.killpg(0, signal.SIGSTOP)
        _stopped_ns += self._hear() - began

    def through(self, loop: Iterator[Tick]) -> Iterator[Tick]:
        """The loop's ticks. A turn with its time in steady state ends when one more is asked for."""
        spent_ns = 0
        for tick in loop:
            yield tick
            spent_ns += 0 if tick.first else tick.wait_ns + tick.step_ns
            if spent_ns > self._slice_ns:
                before = meter.machine()
                self.wait()
                self.elsewhere.append(meter.machine() - before)
                spent_ns = 0
