"""What a loader must deliver: the stored samples with their reference pixels, all of them or a seeded subset."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.causes import Expected
from bench.identity import Rings, fingerprints
from bench.prepared import Image, prepared
from loaders.base import LoaderSpec
from storage import FORMATS
from storage.base import MANIFEST, Layout, SplitInfo, layout_options
from storage.dataset import StoredDataset, open_dataset
from storage.errors import DataError


@dataclass(frozen=True)
class References:
    """Every sample of a split as it must come out of a loader: decoded and resized, uint8 (n, height, width, 3).

    ``expected`` is ``pixels``, unless named causes call for another filter or decoding. Samples with the same pixels are
    copies of one another: nothing tells them apart but their labels.
    """

    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    pixels: Image
    expected: Image
    rolled: Image
    prints: NDArray[np.float32]
    groups: tuple[tuple[int, ...], ...]
    unreadable: int = 0

    @classmethod
    def of(cls, dataset: StoredDataset, spec: LoaderSpec, wanted: Expected) -> References:
        """Read a whole split. An image that Pillow cannot decode is left out if ``spec`` skips such, else a DataError."""
        keys, labels, rows, unreadable = [], [], [], 0
        for sample in dataset:
            try:
                rows.append(prepared(sample, spec, wanted))
            except DataError as error:
                if spec.on_error == "stop":
                    raise DataError(f"{dataset.path}: {sample.key}: {error}") from error
                unreadable += 1
                continue
            keys.append(sample.key)
            labels.append(sample.label)
        stacked = _stacked([row.pixels for row in rows], (*spec.image_size, 3))
        same = all(row.expected is row.pixels for row in rows)
        expected = stacked if same else _stacked([row.expected for row in rows], (*spec.image_size, 3))
        rolled = _stacked([row.rolled for row in rows], Rings.SHAPE)
        copies: dict[bytes, list[int]] = defaultdict(list)
        for index, image in enumerate(stacked):
            copies[image.tobytes()].append(index)
        groups: list[tuple[int, ...]] = [()] * len(stacked)
        for members in copies.values():
            for member in members:
                groups[member] = tuple(members)
        return cls(
            tuple(keys),
            np.array(labels, np.int64),
            stacked,
            expected,
            rolled,
            fingerprints(rolled.astype(np.float32)),
            tuple(groups),
            unreadable,
        )

    def __len__(self) -> int:
        return len(self.keys)

    def copies(self, index: int) -> tuple[int, ...]:
        """All samples with these very pixels, ``index`` among them, in order."""
        return self.groups[index]

    def unrolled(self, index: int) -> NDArray[np.float32]:
        """What lies on the rings of one image."""
        rolled: NDArray[np.float32] = self.rolled[index].astype(np.float32)
        return rolled

    def contrast(self, index: int) -> float:
        """How far an image strays from the mean colour of each of its rings, in levels: what a match has to go by."""
        rolled = self.unrolled(index)
        return float(np.abs(rolled - rolled.mean(axis=1, keepdims=True)).mean())

    def nearest(self, fingerprint: NDArray[np.float32], count: int) -> list[int]:
        """The likeliest images by fingerprint, one of each group of copies, best first; only the best if it stands alone.

        A rotation moves a fingerprint by less than a level, and most pairs of photographs lie further apart than that.
        """
        distance = np.sqrt(np.square(self.prints - fingerprint).mean(axis=1))
        near = np.flatnonzero(distance <= 4 * distance.min() + 1)
        found: list[int] = []
        for index in near[np.argsort(distance[near])]:
            first = self.groups[int(index)][0]
            if first not in found:
                found.append(first)
            if len(found) == count:
                break
        return found


def _stacked(images: list[Image], shape: tuple[int, ...]) -> Image:
    return np.stack(images) if images else np.empty((0, *shape), np.uint8)


@contextmanager
def subset(path: Path, split: str, limit: int | None, seed: int) -> Iterator[Path]:
    """A dataset with at most ``limit`` samples of one split: the dataset itself if it is small, else a seeded choice.

    The choice is stored in a temporary folder, shard by shard as the original is, so that the whole loader runs over it.
    """
    with open_dataset(path, split) as dataset:
        samples = len(dataset)
    if limit is None or samples <= limit:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="feedbench-proof-") as folder:
        with open_dataset(path, split) as dataset:
            chosen = np.sort(np.random.default_rng(seed).choice(samples, limit, replace=False))
            _store(dataset, chosen, Path(folder))
        yield Path(folder)


def _store(dataset: StoredDataset, chosen: NDArray[np.int64], folder: Path) -> None:
    info = dataset.info
    layout = Layout(payload=info.payload, image_size=info.image_size, options=layout_options(info.options))
    wanted, shards, start = set(chosen.tolist()), [], 0
    for number, shard in enumerate(info.splits[dataset.split].shards):
        members = [sample for i, sample in enumerate(dataset.shard(number), start) if i in wanted]
        start += shard.samples
        if members:
            target = folder / shard.file
            target.parent.mkdir(parents=True, exist_ok=True)
            written = FORMATS[info.format].write_shard(members, target, layout)
            shards.append(written.model_copy(update={"file": shard.file}))
    split = SplitInfo(samples=len(chosen), shards=tuple(shards))
    counts = {"found_samples": len(chosen), "stored_samples": len(chosen), "skipped_samples": 0}
    stored_bytes = sum(shard.bytes for shard in shards)
    small = info.model_copy(update={"splits": {dataset.split: split}, **counts, "stored_bytes": stored_bytes})
    (folder / MANIFEST).write_text(small.model_dump_json(indent=1))
