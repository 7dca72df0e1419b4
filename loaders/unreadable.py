"""What is wrong with a sample that TensorFlow could not read or decode: it does not say in which file."""

from __future__ import annotations

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


def undecodable(data: bytes) -> str | None:
    """Why TensorFlow does not decode an image, in its words without its account of where; None if it does."""
    try:
        tf.io.decode_image(data, channels=3, expand_animations=False)
    except tf.errors.OpError as error:
        return str(error.message).splitlines()[0].rpartition("}} ")[2].partition(" [Op:")[0]
    return None
