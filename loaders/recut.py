"""Batches that samples were left out of, cut anew: only the last of an epoch may be short."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Delivered: TypeAlias = tuple[NDArray[Any], NDArray[np.int64]]
"""A batch: images, labels."""


def recut(batches: Iterator[Delivered], size: int, drop_remainder: bool) -> Iterator[Delivered]:
    """Batches of ``size`` out of some that may have come short: only the last may be, and it is dropped if asked."""
    waiting: deque[Delivered] = deque()
    count = 0
    for images, labels in batches:
        if not waiting and len(labels) == size:
            yield images, labels
            continue
        waiting.append((images, labels))
        count += len(labels)
        if count >= size:
            images, labels = (np.concatenate(part) for part in zip(*waiting, strict=True))
            yield images[:size], labels[:size]
            waiting = deque([(images[size:], labels[size:])])
            count -= size
    if count and not drop_remainder:
        images, labels = (np.concatenate(part) for part in zip(*waiting, strict=True))
        yield images, labels
