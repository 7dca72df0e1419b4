"""Which sample goes into which shard, in which order: fixed by the source, the sizes and a seed, never by the number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.checksum import digest
from storage.source import Source, SourceSplit

Order: TypeAlias = Literal["mixed", "source"]


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be written: ``indices`` into its split of the source, int64, in the order of writing."""

    split: str
    number: int
    indices: NDArray[np.int64]
    bytes: int

    def file(self, suffix: str) -> str:
        """Its place in the dataset."""
        return f"index/{self.name}{suffix}" if suffix == ".npz" else f"{self.name}{suffix}"

    @property
    def name(self) -> str:
        """``train-00000``."""
        return f"{self.split}-{self.number:05d}"


def plan(
    source: Source, *, shard_bytes: int, order: Order, seed: int, sample_bytes: int | None = None
) -> Iterator[PlannedShard]:
    """Cut every split into shards of at most ``shard_bytes`` (or one sample).

    ``sample_bytes`` is the size of every sample, where it does not follow from the files (a raw payload).
    """
    for number, (name, split) in enumerate(source.splits.items()):
        indices = np.arange(len(split), dtype=np.int64)
        if order == "mixed":
            indices = np.random.default_rng((seed, number)).permutation(indices)
        sizes = np.asarray(split.sizes, np.int64)[indices] if sample_bytes is None else np.full(len(split), sample_bytes)
        yield from _cut(name, indices, sizes, shard_bytes)


def _cut(split: str, indices: NDArray[np.int64], sizes: NDArray[np.int64], shard_bytes: int) -> Iterator[PlannedShard]:
    ends = np.cumsum(sizes)
    start, number = 0, 0
    while start < len(indices):
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + shard_bytes, side="right")))
        yield PlannedShard(split, number, indices[start:end], int(ends[end - 1]) - before)
        start, number = end, number + 1
    if not len(indices):
        return


def source_digest(source: Source) -> str:
    """A digest of what a source holds: splits, keys, labels and file sizes."""
    return digest(_facts(source))


def _facts(source: Source) -> Iterator[bytes]:
    for name, split in source.splits.items():
        yield name.encode("utf-8", "surrogateescape") + b"\0"
        yield from (_row(split, index) for index in range(len(split)))


def _row(split: SourceSplit, index: int) -> bytes:
    key = split.keys[index].encode("utf-8", "surrogateescape")
    return b"%b\0%d\0%d\n" % (key, split.labels[index], split.sizes[index])
