"""A stored dataset, of any format, as a source: its samples in its own order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.base import MANIFEST, SupportsRandomAccess
from storage.checksum import digest
from storage.dataset import StoredDataset, open_dataset, read_info
from storage.listing import Listing, ListingWriter
from storage.source import Image, Source, SourceSplit, check_key


@dataclass(frozen=True)
class StoredImages:
    """Images of one split of a stored dataset, by index."""

    root: Path
    split: str
    named: Path | None = None
    """How the user calls the root, where that is something else."""

    @contextmanager
    def open(self, listing: Listing) -> Iterator[Callable[[int], Image]]:  # noqa: ARG002
        """Opens the dataset once; where a format has no random access, a first pass over each shard learns the places."""
        with open_dataset(self.root, self.split) as dataset:
            yield lambda index: dataset.sample(index).image

    def name(self, listing: Listing, index: int) -> str:
        """The dataset and the key."""
        return f"{self.named or self.root}: {listing.key(index)}"

    def absolute(self) -> StoredImages:
        """By the absolute path of the dataset."""
        return StoredImages(self.root.absolute(), self.split, self.root)


def scan_dataset(root: Path, into: Path) -> Source:
    """What the dataset ``root`` holds, listed in files below the new folder ``into``."""
    info = read_info(root)
    stamp = digest([(root / MANIFEST).read_bytes()])
    source = Source(info.name, info.class_names, {}, info.payload, stamp)
    if info.payload == "raw":
        source.media_types = info.media_types
    for name in info.splits:
        with open_dataset(root, name) as dataset, ListingWriter(into / name) as writer:
            for key, label, size in _rows(dataset):
                check_key(key, label, info.class_names, root)
                writer.add(key.encode("utf-8", "surrogateescape"), label, size)
        source.splits[name] = SourceSplit(StoredImages(root, name), writer.listing)
    return source


def _rows(dataset: StoredDataset) -> Iterator[tuple[str, int, int]]:
    """(key, label, bytes) of every sample, without reading its image where the format has random access."""
    for number in range(dataset.shards):
        reader = dataset.shard(number)
        if isinstance(reader, SupportsRandomAccess):
            rows = zip(reader.labels().tolist(), reader.sizes().tolist(), strict=True)
            yield from ((reader.key(index), label, size) for index, (label, size) in enumerate(rows))
        else:
            for sample in reader:
                image = sample.image
                yield sample.key, sample.label, len(image) if isinstance(image, bytes) else image.nbytes
