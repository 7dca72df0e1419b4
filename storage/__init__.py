"""Image datasets on disk: one dataset, several formats, the same samples. Knows nothing of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.registry import Table

if TYPE_CHECKING:
    from storage.base import DatasetInfo, Format
    from storage.dataset import StoredDataset

FORMATS: Table[Format] = Table(
    "format",
    "feedbench.formats",
    {
        "directory": "storage.directory:DIRECTORY",
        "hdf5": "storage.hdf5:HDF5",
        "lmdb": "storage.lmdb:LMDB",
        "tfrecord": "storage.tfrecord:TFRECORD",
    },
)


def open_dataset(path: str | Path, split: str = "train") -> StoredDataset:
    """Open one split of a stored dataset, of any format, for reading: see :class:`storage.dataset.StoredDataset`."""
    from storage import dataset

    return dataset.open_dataset(path, split)


def convert(source: str | Path | None = None, **options: Any) -> DatasetInfo:
    """Write a dataset into another format: see :func:`storage.conversion.convert`."""
    from storage import conversion

    return conversion.convert(source, **options)
