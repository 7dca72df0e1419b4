"""A folder of images as a source: CLASS/FILE or SPLIT/CLASS/FILE."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.console import shown
from storage.errors import DataError
from storage.files import check_regular
from storage.listing import Listing, ListingWriter
from storage.source import SPLITS, Image, Source, SourceSplit


@dataclass(frozen=True)
class FolderImages:
    """Images that are files below ``root``, by key (or by place, where a listing has one). Links lead nowhere out of ``source``."""

    root: Path
    source: Path
    named: Path | None = None
    """How the user calls the root, where that is something else."""

    @contextmanager
    def open(self, listing: Listing) -> Iterator[Callable[[int], Image]]:
        """Reads one file a call."""
        sizes = listing.sizes

        def read(index: int) -> bytes:
            path, size = f"{self.root}/{_place(listing, index)}", int(sizes[index])
            if not size and not _real(Path(path)).is_relative_to(_real(self.source)):  # as such a link was listed
                raise DataError("a symbolic link out of the source")
            try:
                return read_file(path, size)
            except OSError as error:
                raise DataError(str(error.strerror)) from error

        yield read

    def name(self, listing: Listing, index: int) -> str:
        """The file's path."""
        return f"{self.named or self.root}/{_place(listing, index)}"

    def absolute(self) -> FolderImages:
        """By the absolute path of the folder."""
        return FolderImages(self.root.absolute(), self.source.absolute(), self.root)


def _place(listing: Listing, index: int) -> str:
    return listing.place(index) or listing.key(index)


def read_file(path: str, size: int) -> bytes:
    """A file's bytes, in one system call if it still has ``size`` bytes."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its other end
    try:
        data = os.read(handle, size + 1)
        if len(data) != size:
            check_regular(handle, path)
        while len(data) != size and (more := os.read(handle, 1 << 20)):
            data += more
        return data
    finally:
        os.close(handle)


def scan_folder(root: Path, into: Path, *, keep_missing: bool = False) -> Source:
    """What the folder ``root`` holds, listed in files below the new folder ``into``.

    ``keep_missing`` lists links that lead nowhere or out of it as files of 0 bytes: who reads one learns why it cannot be read.
    """
    folders, ignored = _entries(root, root)
    if folders and {folder.name for folder in folders} <= set(SPLITS):
        roots = {folder.name: folder for folder in folders}
        found = {folder.name: _entries(folder, root) for folder in folders}
        classes = {name: inner for name, (inner, _) in found.items()}
        ignored += sum(beside for _, beside in found.values())
    else:
        roots, classes = {"train": root}, {"train": folders}
    class_names = tuple(sorted({folder.name for found in classes.values() for folder in found}))
    if not class_names:
        raise DataError(f"{root} has no class folders. Expected CLASS/FILE or SPLIT/CLASS/FILE.{_loose(roots, root)}")
    source = Source(root.resolve().name or "images", class_names, {}, ignored_files=ignored)
    used: set[int] = set()
    for name, folder in roots.items():
        with ListingWriter(into / name) as writer:
            for class_folder in classes[name]:
                label = class_names.index(class_folder.name)
                if _list_class(writer, class_folder, label, root, keep_missing):
                    used.add(label)
        source.splits[name] = SourceSplit(FolderImages(folder, root), writer.listing)
    if not used:
        raise DataError(f"{root} has class folders ({shown(', '.join(class_names[:3]))}, …) but no files in them.")
    for label, class_name in enumerate(class_names):
        if label not in used:
            raise DataError(f"{root}: class folder {class_name!r} is empty. Remove it, or put images into it.")
    source.stamp = source.digest(times=True)
    return source


def _loose(roots: dict[str, Path], root: Path) -> str:
    """One of the files that no class folder holds, as a hint."""
    loose = next((name for folder in roots.values() for name in _names(folder, root)), None)
    return "" if loose is None else f" Found {shown(os.fsdecode(loose))} outside any class folder."


def _list_class(writer: ListingWriter, folder: Path, label: int, root: Path, keep_missing: bool) -> int:
    """Add the files of a class folder, sorted by name; how many there were."""
    missing: set[bytes] = set()
    names = sorted(_names(folder, root, missing if keep_missing else None))
    start = os.fsencode(folder.name) + b"/"
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            if name in missing:
                writer.add(start + name, label, 0)
                continue
            status = os.stat(name, dir_fd=handle)
            writer.add(start + name, label, status.st_size, status.st_mtime_ns)
    finally:
        os.close(handle)
    return len(names)


def _names(folder: Path, root: Path, missing: set[bytes] | None = None) -> Iterator[bytes]:
    """Names of the files in a folder, hidden ones left out. DataError for a folder.

    A link that leads out of ``root``, or nowhere, is a DataError too; or, where there is ``missing``, is added to that.
    """
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
                fault = f"is a symbolic link out of {root}. Copy the file, or point --from at the real folder"
            elif entry.is_file():
                yield entry.name
                continue
            elif folder == root:
                continue
            elif entry.is_dir():
                raise DataError(
                    f"{shown(str(path))} is a folder inside a class. Expected CLASS/FILE or SPLIT/CLASS/FILE; move it up."
                )
            else:
                fault = "is neither a file nor a folder (a dangling link?). Remove it"
            if missing is None:
                raise DataError(f"{shown(str(path))} {fault}, or give --on-error skip.")
            missing.add(entry.name)
            yield entry.name


def _entries(folder: Path, root: Path) -> tuple[list[Path], int]:
    """The folders in a folder, sorted, and how many files lie beside them; hidden ones are left out."""
    found: list[Path] = []
    files = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found.append(Path(entry.path))
            else:
                files += entry.is_file()
    for path in found:
        if not _inside(path, root):
            raise DataError(
                f"{shown(str(path))} is a symbolic link out of {root}. Copy the folder, or point --from at the real one."
            )
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{os.fsencode(path)!r}: a folder's name has to be UTF-8, since it names a class. Rename it."
            ) from None
    return sorted(found), files


def _inside(path: Path, root: Path) -> bool:
    return not path.is_symlink() or _real(path).is_relative_to(_real(root))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # a link that leads to itself is no error to it
