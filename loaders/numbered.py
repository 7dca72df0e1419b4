"""A ``keras.utils.PyDataset`` that knows which pass it is in: the first is number 0, as in ``Feed.epoch``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from loaders.base import ClosedByWith


class NumberedPasses(ClosedByWith, keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
    """Batches by number, of the pass of ``model.fit`` that is under way or comes next. A plain loop is the next pass too.

    ``fit`` shuffles the numbers of batches by Python's own generator, which no seed of ours reaches: give
    ``fit(feed, shuffle=False)`` for the very order of ``epoch(0)``, ``epoch(1)``, …
    """

    def __init__(self, workers: int, max_queue_size: int) -> None:
        super().__init__(workers=workers, max_queue_size=max_queue_size)
        self._coming = 0
        self._under_way: int | None = None

    @property
    def current(self) -> int:
        """The number of the pass whose batches ``feed[index]`` gives."""
        return self._coming if self._under_way is None else self._under_way

    def _take(self) -> int:
        number, self._coming = self._coming, self._coming + 1
        return number

    def on_epoch_begin(self) -> None:
        """Keras begins a pass."""
        self._under_way = self._take()

    def on_epoch_end(self) -> None:
        """The next pass has another order. Before the first, and after each ``fit``, Keras ends a pass that it never began."""
        self._under_way = None

    def __iter__(self) -> Iterator[Any]:
        """The next pass, which takes its number with its first batch."""
        yield from self.epoch(self._take())

    def epoch(self, n: int) -> Iterator[Any]:
        """The n-th pass."""
        raise NotImplementedError
