"""What a dataset is made from: a folder CLASS/FILE or SPLIT/CLASS/FILE, or a dataset that is already stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.base import MANIFEST, Payload, SupportsRandomAccess
from storage.checksum import digest
from storage.dataset import StoredDataset, open_dataset, read_info
from storage.errors import DataError
from storage.listing import Listing, ListingWriter

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


@dataclass(frozen=True)
class FolderImages:
    """Images that are files below ``root``, by key (or by place, where a listing has one)."""

    root: Path
    named: Path | None = None
    """How the user calls the root, where that is something else."""

    @contextmanager
    def open(self, listing: Listing) -> Iterator[Callable[[int], Image]]:
        """Reads one file a call."""
        sizes = listing.sizes

        def read(index: int) -> bytes:
            try:
                return read_file(f"{self.root}/{_place(listing, index)}", int(sizes[index]))
            except OSError as error:
                raise DataError(str(error.strerror)) from error

        yield read

    def name(self, listing: Listing, index: int) -> str:
        """The file's path."""
        return f"{self.named or self.root}/{_place(listing, index)}"

    def absolute(self) -> FolderImages:
        """By the absolute path of the folder."""
        return FolderImages(self.root.absolute(), self.root)


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


def _place(listing: Listing, index: int) -> str:
    return listing.place(index) or listing.key(index)


def read_file(path: str, size: int) -> bytes:
    """A file's bytes, in one system call if it still has ``size`` bytes."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(handle, size + 1)
        while len(data) != size and (more := os.read(handle, 1 << 20)):
            data += more
        return data
    finally:
        os.close(handle)


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
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, SourceSplit]
    payload: Payload = "encoded"
    stamp: str = ""
    media_types: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits.values())

    def digest(self, *, times: bool = False) -> str:
        """Over what it holds: splits, keys, labels, sizes (and when each file changed)."""
        parts: list[bytes | memoryview] = []
        for name, split in self.splits.items():
            parts += [name.encode(), *split.listing.facts(times=times)]
        return digest(parts)


def scan(root: Path, into: Path, *, keep_missing: bool = False) -> Source:
    """What ``root`` holds, listed in files below the new folder ``into``.

    ``keep_missing`` lists what a table names and is not there, too; reading it fails.
    Classes are sorted by name and are those of all splits; a class that a split lacks shifts no label.
    """
    if root.is_file():
        from storage.manifest import scan_manifest

        return scan_manifest(root, into, keep_missing=keep_missing)
    check_source(root)
    if (root / MANIFEST).is_file():
        return _stored(root, into)
    folders = _folders(root, root)
    names = {folder.name for folder in folders}
    roots = {folder.name: folder for folder in folders} if names and names <= set(SPLITS) else {"train": root}
    classes = {name: _folders(folder, root) for name, folder in roots.items()}
    class_names = tuple(sorted({folder.name for found in classes.values() for folder in found}))
    if not class_names:
        loose = next((name for folder in roots.values() for name in _names(folder, root)), None)
        hint = "" if loose is None else f" Found {os.fsdecode(loose)} outside any class folder."
        raise DataError(f"{root} has no class folders. Expected CLASS/FILE or SPLIT/CLASS/FILE.{hint}")
    source = Source(root.resolve().name or "images", class_names, {})
    used: set[int] = set()
    for name, folder in roots.items():
        with ListingWriter(into / name) as writer:
            for class_folder in classes[name]:
                label = class_names.index(class_folder.name)
                if _list_class(writer, class_folder, label, root):
                    used.add(label)
        source.splits[name] = SourceSplit(FolderImages(folder), writer.listing)
    if not used:
        raise DataError(f"{root} has class folders ({', '.join(class_names[:3])}, …) but no files in them.")
    for label, class_name in enumerate(class_names):
        if label not in used:
            raise DataError(f"{root}: class folder {class_name!r} is empty. Remove it, or put images into it.")
    source.stamp = source.digest(times=True)
    return source


def outside_classes(root: Path) -> int:
    """How many files of a folder lie beside its class folders, in it or in its splits, and so belong to no class."""
    if not root.is_dir() or (root / MANIFEST).is_file():
        return 0
    folders = _folders(root, root)
    places = [root, *folders] if folders and {folder.name for folder in folders} <= set(SPLITS) else [root]
    return sum(entry.is_file() and not entry.name.startswith(".") for place in places for entry in os.scandir(place))


def check_source(root: Path) -> None:
    """DataError unless ``root`` may be a source: a folder, or a table of images."""
    if root.is_file() and root.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(f"{root} is neither a folder nor a table of images (.csv or .parquet with path,label[,split])")
    if not root.is_file() and not root.is_dir():
        raise DataError(f"{root} is not a folder. Expected CLASS/FILE or SPLIT/CLASS/FILE below it.")


def _list_class(writer: ListingWriter, folder: Path, label: int, root: Path) -> int:
    """Add the files of a class folder, sorted by name; how many there were."""
    names = sorted(_names(folder, root))
    start = os.fsencode(folder.name) + b"/"
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            status = os.stat(name, dir_fd=handle)
            writer.add(start + name, label, status.st_size, status.st_mtime_ns)
    finally:
        os.close(handle)
    return len(names)


def _names(folder: Path, root: Path) -> Iterator[bytes]:
    """Names of the files in a folder, hidden ones left out. DataError for a folder, or a link that leads out of ``root``."""
    with os.scandir(os.fsencode(folder)) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if (
                not entry.is_symlink() and entry.is_file()
            ):  # a Path for each of millions of files would cost more than the walk
                yield entry.name
                continue
            path = Path(os.fsdecode(entry.path))
            if entry.is_symlink() and not _inside(path, root):
                raise DataError(
                    f"{path} is a symbolic link out of {root}. Copy the file, or point --from at the real folder."
                )
            if entry.is_file():
                yield entry.name
            elif folder != root and entry.is_dir():
                raise DataError(f"{path} is a folder inside a class. Expected CLASS/FILE or SPLIT/CLASS/FILE; move it up.")
            elif folder != root:
                raise DataError(f"{path} is neither a file nor a folder (a dangling link?). Remove it.")


def _folders(folder: Path, root: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    for path in found:
        if not _inside(path, root):
            raise DataError(f"{path} is a symbolic link out of {root}. Copy the folder, or point --from at the real one.")
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{os.fsencode(path)!r}: a folder's name has to be UTF-8, since it names a class. Rename it."
            ) from None
    return sorted(found)


def _inside(path: Path, root: Path) -> bool:
    # os.path: a link that leads to itself is no error to it
    return not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _stored(root: Path, into: Path) -> Source:
    """A stored dataset as a source: its samples in its own order."""
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


def check_key(key: str, label: int, class_names: tuple[str, ...], where: Path) -> None:
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
