"""A clock that hands measured samples on to pytest-benchmark: its table then shows exactly those."""

from __future__ import annotations


class Replay:
    """A clock that stands still, but for the samples that it is wound on by."""

    def __init__(self) -> None:
        self.now = 0.0
        self.samples: list[float] = []

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now

    def step(self) -> None:
        """Let one sample pass."""
        if self.samples:
            self.now += self.samples.pop(0)
