"""What a dataset is made from: a folder CLASS/FILE or SPLIT/CLASS/FILE, or a dataset that is already stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.base import MANIFEST, Payload
from storage.dataset import open_dataset, read_info
from storage.errors import DataError

SPLITS = ("train", "training", "validation", "valid", "val", "test", "testing")
"""Folder names that are splits, not classes."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
"""Image files by name, in lower case. Keras finds images by these suffixes, so a file without one is not stored (docs/images.md)."""


class Images(Protocol):
    """Where a split's images are. Travels to worker processes, so it holds no image and no handle."""

    def open(self) -> AbstractContextManager[Callable[[int, str], bytes | NDArray[np.uint8]]]:
        """A function from (index, key) to an image, for as long as the context lasts."""


@dataclass(frozen=True)
class FolderImages:
    """Images that are files below ``root``, by key."""

    root: Path

    @contextmanager
    def open(self) -> Iterator[Callable[[int, str], bytes | NDArray[np.uint8]]]:
        """Reads one file a call."""

        def read(_: int, key: str) -> bytes:
            try:
                return (self.root / key).read_bytes()
            except OSError as error:
                raise DataError(str(error.strerror)) from error

        yield read


@dataclass(frozen=True)
class StoredImages:
    """Images of one split of a stored dataset, by index."""

    root: Path
    split: str

    @contextmanager
    def open(self) -> Iterator[Callable[[int, str], bytes | NDArray[np.uint8]]]:
        """Opens the dataset once; reads at random, or (where a format cannot) keeps the place in each shard."""
        with open_dataset(self.root, self.split) as dataset:
            yield lambda index, _: dataset.sample(index).image


@dataclass
class SourceSplit:
    """One split of a source: parallel lists, a sample a row. ``sizes`` are bytes."""

    images: Images
    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass
class Source:
    """A dataset that is to be stored: its name, the classes of all splits, and its splits."""

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, SourceSplit]
    payload: Payload = "encoded"

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits.values())


def scan(root: Path) -> Source:
    """What ``root`` holds. Classes are sorted by name and are those of all splits; a class that a split lacks shifts no label."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Expected CLASS/FILE or SPLIT/CLASS/FILE below it.")
    if (root / MANIFEST).is_file():
        return _stored(root)
    folders = _folders(root, root)
    names = {folder.name for folder in folders}
    roots = {folder.name: folder for folder in folders} if names and names <= set(SPLITS) else {"train": root}
    classes = {name: _folders(folder, root) for name, folder in roots.items()}
    class_names = tuple(sorted({folder.name for found in classes.values() for folder in found}))
    if not class_names:
        loose = min(_files(root, root), default=None)
        hint = f" Found {loose[1]} outside any class folder." if loose else ""
        raise DataError(f"{root} has no class folders. Expected CLASS/FILE or SPLIT/CLASS/FILE.{hint}")
    splits = {name: _scan_split(roots[name], classes[name], class_names, root) for name in roots}
    source = Source(root.resolve().name or "images", class_names, splits)
    if not len(source):
        raise DataError(f"{root} has class folders ({', '.join(class_names[:3])}, …) but no files in them.")
    used = {label for split in splits.values() for label in split.labels}
    for label, class_name in enumerate(class_names):
        if label not in used:
            raise DataError(f"{root}: class folder {class_name!r} is empty. Remove it, or put images into it.")
    return source


def _stored(root: Path) -> Source:
    """A stored dataset as a source: its samples in its own order."""
    info = read_info(root)
    splits = {}
    for name in info.splits:
        split = SourceSplit(StoredImages(root, name))
        with open_dataset(root, name) as dataset:
            for sample in dataset:
                split.keys.append(sample.key)
                split.labels.append(sample.label)
                split.sizes.append(len(sample.image) if isinstance(sample.image, bytes) else sample.image.nbytes)
        splits[name] = split
    return Source(info.name, info.class_names, splits, info.payload)


def _scan_split(folder: Path, classes: list[Path], class_names: tuple[str, ...], root: Path) -> SourceSplit:
    split = SourceSplit(FolderImages(folder))
    for class_folder in classes:
        label = class_names.index(class_folder.name)
        for size, path in sorted(_files(class_folder, root), key=lambda found: found[1]):
            split.keys.append(f"{class_folder.name}/{Path(path).name}")
            split.labels.append(label)
            split.sizes.append(size)
    return split


def _folders(folder: Path, root: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return sorted(path for path in found if _inside(path, root))


def _files(folder: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(bytes, path) of the files in a folder, hidden ones left out."""
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or not entry.is_file():
            continue
        if entry.is_symlink() and not _inside(Path(entry.path), root):
            raise DataError(
                f"{entry.path} is a symbolic link out of {root}. Copy the file, or point --from at the real folder."
            )
        yield entry.stat().st_size, entry.path


def _inside(path: Path, root: Path) -> bool:
    return not path.is_symlink() or path.resolve().is_relative_to(root.resolve())
