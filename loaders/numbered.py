"""A ``keras.utils.PyDataset`` that knows which pass ``model.fit`` is in: the first is number 0, as in ``Feed.epoch``."""

from __future__ import annotations

import keras


class NumberedPasses(keras.utils.PyDataset):  # type: ignore[misc]  # Keras ships no types
    """Batches by number, of the pass that is under way or comes next.

    ``fit`` shuffles the numbers of batches by Python's own generator, which no seed of ours reaches: give
    ``fit(feed, shuffle=False)`` for the very order of ``epoch(0)``, ``epoch(1)``, …
    """

    def __init__(self, workers: int, max_queue_size: int) -> None:
        super().__init__(workers=workers, max_queue_size=max_queue_size)
        self.passed = 0
        """Passes that are over: the number of the next."""
        self._begun = False

    def on_epoch_begin(self) -> None:
        """Keras begins a pass."""
        self._begun = True

    def on_epoch_end(self) -> None:
        """The next pass has another order. Before the first, and after each ``fit``, Keras ends a pass that it never began."""
        self.passed += self._begun
        self._begun = False
