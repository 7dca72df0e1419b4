"""What ``--from`` may be: a folder, a table of images, or a stored dataset; each is listed by a module of its own."""

from __future__ import annotations

from pathlib import Path

from storage.base import MANIFEST
from storage.errors import DataError
from storage.source import Source

TABLES = (".csv", ".parquet")
"""Of a table of images, by its name."""


def scan(root: Path, into: Path, *, keep_missing: bool = False) -> Source:
    """What ``root`` holds, listed in files below the new folder ``into``.

    ``keep_missing`` lists what is not there too, by a table's row or a symbolic link, and links out of ``root``: reading them fails.
    Classes are sorted by name and are those of all splits; a class that a split lacks shifts no label.
    """
    check_source(root)
    if root.is_file():
        from storage.manifest import scan_manifest

        return scan_manifest(root, into, keep_missing=keep_missing)
    if (root / MANIFEST).is_file():
        from storage.stored_images import scan_dataset

        return scan_dataset(root, into)
    from storage.folder import scan_folder

    return scan_folder(root, into, keep_missing=keep_missing)


def check_source(root: Path) -> None:
    """DataError unless ``root`` may be a source: a folder, or a table of images."""
    if root.is_file() and root.suffix.lower() not in TABLES:
        raise DataError(f"{root} is neither a folder nor a table of images (.csv or .parquet with path,label[,split])")
    if not root.is_file() and not root.is_dir():
        raise DataError(f"{root} is not a folder. Expected CLASS/FILE or SPLIT/CLASS/FILE below it.")
