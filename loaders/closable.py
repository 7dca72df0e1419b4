"""A ``tf.data.Dataset`` of which nothing is begun once it is closed, whoever asks: a loop, ``model.fit``, a transformation."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from loaders.base import CLOSED, ClosedByWith
from storage.errors import UsageError


class Closable(ClosedByWith, tf.data.Dataset):  # type: ignore[misc]  # TensorFlow ships no types
    """Whatever reads a dataset takes its variant tensor first."""

    closed = False

    def check_open(self) -> None:
        """UsageError once it is closed."""
        if self.closed:
            raise UsageError(CLOSED)

    @property
    def _variant_tensor(self) -> Any:
        self.check_open()
        return super()._variant_tensor
