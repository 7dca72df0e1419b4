"""What a dataset is made from: splits, each with a listing of its images and a way to read them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.base import Payload
from storage.checksum import digest
from storage.errors import DataError
from storage.listing import Listing

SPLITS = ("train", "training", "validation", "valid", "val", "test", "testing")
"""Folder names that are splits, not classes."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
"""Image files by name, in lower case. Keras finds images by these suffixes, so a file without one is not stored (docs/images.md)."""

Image: TypeAlias = bytes | NDArray[np.uint8]


class Images(Protocol):
    """Where a split's images are. Travels to worker processes, so it holds no image and no handle."""

    def open(self, listing: Listing) -> AbstractContextManager[Callable[[int], Image]]:
        """A function from a row of ``listing`` to its image, for as long as the context lasts."""

    def name(self, listing: Listing, index: int) -> str:
        """What to call a row's image in a message."""

    def absolute(self) -> Images:
        """The same images, for a process that is in another folder."""


@dataclass
class SourceSplit:
    """One split of a source: where its images are, and what it holds."""

    images: Images
    listing: Listing

    def __len__(self) -> int:
        return len(self.listing)


@dataclass
class Source:
    """A dataset that is to be stored: its name, the classes of all splits, and its splits.

    ``stamp`` changes when the images may have changed although names and sizes did not. ``media_types`` are known
    beforehand only where the source is stored as raw pixels, and says what they once were.
    ``ignored_files`` lie beside the class folders and belong to no class.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, SourceSplit]
    payload: Payload = "encoded"
    stamp: str = ""
    media_types: dict[str, int] = field(default_factory=dict)
    ignored_files: int = 0

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits.values())

    def digest(self, *, times: bool = False) -> str:
        """Over what it holds: splits, keys, labels, sizes (and when each file changed)."""
        parts: list[bytes | memoryview] = []
        for name, split in self.splits.items():
            parts += [name.encode(), *split.listing.facts(times=times)]
        return digest(parts)


def check_key(key: str, label: int, class_names: tuple[str, ...], where: Path | str) -> None:
    """DataError unless ``key`` is CLASS/FILE, of the class that ``label`` names: a stored dataset may come from anywhere."""
    if not 0 <= label < len(class_names):
        raise DataError(
            f"{where}: {key!r} has the label {label}, but there are {len(class_names)} classes; damaged or hostile"
        )
    parts = key.split("/")
    if (
        len(parts) != 2
        or parts[0] != class_names[label]
        or parts[1] in ("", ".", "..")
        or parts[0] in (".", "..")
        or "\0" in key
    ):
        raise DataError(f"{where}: the key {key!r} is not {class_names[label]}/FILE; the dataset is damaged or hostile")
