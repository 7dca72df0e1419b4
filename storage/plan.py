"""Which sample goes into which split and shard, in which order: fixed by the source, its sizes and a seed, by nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.errors import UsageError
from storage.source import SPLITS, Source

Order: TypeAlias = Literal["mixed", "source"]


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be written: rows ``start`` to ``stop`` of its split's order. ``bytes`` is an estimate made from sizes."""

    split: str
    number: int
    start: int
    stop: int
    bytes: int

    @property
    def name(self) -> str:
        """``train-00000``."""
        return f"{self.split}-{self.number:05d}"

    def file(self, suffix: str) -> str:
        """Its place in the dataset."""
        return f"index/{self.name}{suffix}" if suffix == ".npz" else f"{self.name}{suffix}"


@dataclass(frozen=True)
class PlannedSplit:
    """One split to be written: ``rows`` (int64) of the source's split ``source``, in the order of writing."""

    name: str
    source: str
    rows: NDArray[np.int64]

    def shards(self, sizes: NDArray[np.int64] | int, shard_bytes: int) -> Iterator[PlannedShard]:
        """Cut into shards of at most ``shard_bytes`` (or one sample). ``sizes``: of the source's rows, or one for all."""
        count = len(self.rows)
        ends = np.cumsum(sizes[self.rows]) if isinstance(sizes, np.ndarray) else None
        start = number = before = 0
        while start < count:
            if ends is None:
                size = int(sizes)
                stop = min(count, start + max(1, shard_bytes // size))
                after = stop * size
            else:
                stop = max(start + 1, int(np.searchsorted(ends, before + shard_bytes, side="right")))
                after = int(ends[stop - 1])
            yield PlannedShard(self.name, number, start, stop, after - before)
            start, number, before = stop, number + 1, after


def plan_splits(source: Source, order: Order, seed: int, shares: Mapping[str, float]) -> list[PlannedSplit]:
    """The splits to be written. ``shares`` takes further splits out of a source that has one, each class in proportion."""
    if shares and len(source.splits) > 1:
        raise UsageError(f"--split cuts a source that has one split; {source.name} has: {', '.join(source.splits)}")
    if any(not 0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise UsageError(f"--split takes shares between 0 and 1, less than 1 in all; got {dict(shares)}")
    if not set(shares) <= set(SPLITS):
        raise UsageError(f"--split takes one of {', '.join(SPLITS)} as a name; got {', '.join(shares)}")
    if set(shares) & set(source.splits):
        raise UsageError(f"--split {', '.join(shares)}: the source's own split has that name; choose another")
    planned = []
    for number, (name, split) in enumerate(source.splits.items()):
        keys = mixed(len(split), seed, number)
        taken = _stratified(np.asarray(split.listing.labels), keys, shares)
        for other in (*shares, name):
            rows = np.arange(len(split), dtype=np.int64) if not shares else np.flatnonzero(taken == _position(other, shares))
            if shares and not len(rows):
                raise UsageError(f"--split {_spelled(shares)} leaves no image for {other}: each class has too few")
            planned.append(
                PlannedSplit(other, name, rows[np.argsort(keys[rows], kind="stable")] if order == "mixed" else rows)
            )
    return sorted(planned, key=lambda split: split.name)


def mixed(count: int, seed: int, stream: int) -> NDArray[np.uint64]:
    """A sort key for each of ``count`` rows, uint64: SplitMix64 (Steele et al. 2014) of seed, stream and row.

    Written out, because NumPy does not promise that its generators give the same numbers in its next version.
    """
    golden = 0x9E3779B97F4A7C15
    start = np.uint64(((seed * 2 + 1) * golden * (stream * 2 + 1)) % (1 << 64))
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(golden)
        z += start
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z ^= z >> np.uint64(shift)
            z *= np.uint64(factor)
        z ^= z >> np.uint64(31)
    return z


def _spelled(shares: Mapping[str, float]) -> str:
    return " ".join(f"{name}={share}" for name, share in shares.items())


def _position(name: str, shares: Mapping[str, float]) -> int:
    return list(shares).index(name) + 1 if name in shares else 0


def _stratified(labels: NDArray[np.int32], keys: NDArray[np.uint64], shares: Mapping[str, float]) -> NDArray[Any]:
    """For each row 0, or the position (from 1) of the share that takes it: the first of each class by ``keys``."""
    taken = np.zeros(len(labels) if shares else 0, np.int8)
    for label in np.unique(labels) if shares else ():
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        share = 0.0
        for position, more in enumerate(shares.values(), 1):
            begin, share = round(share * len(rows)), share + more
            taken[rows[begin : round(share * len(rows))]] = position
    return taken
