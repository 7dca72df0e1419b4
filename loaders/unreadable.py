"""What is wrong with a sample or a shard that TensorFlow could not read or decode: it does not say in which file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import tensorflow as tf

from storage.errors import DataError

if TYPE_CHECKING:
    from storage.dataset import StoredDataset


def unreadable(dataset: StoredDataset, number: int) -> DataError:
    """What is wrong with a sample, as the error that names it."""
    try:
        sample = dataset.sample(number)
    except DataError as error:
        return error
    reason = (isinstance(sample.image, bytes) and undecodable(sample.image)) or "TensorFlow cannot decode it"
    return DataError(f"{dataset.path}: {sample.key} cannot be read: {reason}")


def damaged(dataset: StoredDataset, shards: Iterable[int]) -> DataError | None:
    """What is wrong with the first of these shards that cannot be read whole, as the error that names file and record; or None."""
    for number in shards:
        try:
            deque(dataset.shard(number), 0)
        except DataError as error:
            return DataError(f"{error}. What else is damaged says python -m storage.verify {dataset.path}")
    return None


def undecodable(data: bytes) -> str | None:
    """Why TensorFlow does not decode an image, in its words without its account of where; None if it does."""
    try:
        tf.io.decode_image(data, channels=3, expand_animations=False)
    except tf.errors.OpError as error:
        return str(error.message).splitlines()[0].rpartition("}} ")[2].partition(" [Op:")[0]
    return None
