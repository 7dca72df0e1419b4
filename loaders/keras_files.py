"""Whether Keras, which lists the files of a folder by itself, takes those of the stored dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from storage.directory import DirectoryShard
from storage.errors import DataError

if TYPE_CHECKING:
    from storage.dataset import StoredDataset


def check_listing(dataset: StoredDataset, found: Iterable[str], suffixes: Iterable[str]) -> None:
    """DataError, naming a file, unless ``found`` (``CLASS/FILE``, those with ``suffixes``) are all files of a split and no others."""
    stored: set[bytes] = set()
    for number in range(dataset.shards):
        shard = dataset.shard(number)
        assert isinstance(shard, DirectoryShard)
        names, suffix = shard.packed_names(), os.fsencode(shard.suffix)
        blob = names[0].tobytes()
        stored.update(blob[start:end] + suffix for start, end in pairwise(names[1].tolist()))
    listed = {os.fsencode(name) for name in found}
    folder = dataset.path / dataset.split
    for name in sorted(stored - listed):
        path = folder / os.fsdecode(name)
        if not path.exists():
            raise DataError(f"{path}: the file is missing")
        raise DataError(f"{path}: Keras passes over it, by its name; it takes those that end in {', '.join(suffixes)}")
    for name in sorted(listed - stored):
        path = folder / os.fsdecode(name)
        raise DataError(f"{path}: no index lists it, so it is not of this dataset, but Keras takes it for a sample")
