"""A table as a source: CSV or Parquet with a row an image, ``path,label[,split]``.

Paths are relative to the table's folder and stay inside it; labels are class names, sorted by number if all are numbers. Read in
pieces, twice (classes first), so a table of millions of rows is never held in memory.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from storage.checksum import digest, file_chunks
from storage.console import shown
from storage.errors import DataError, UsageError
from storage.folder import FolderImages
from storage.listing import ListingWriter
from storage.source import Source, SourceSplit, check_key

_COLUMNS = ("path", "label", "split")
_LONGEST_NAME_BYTES = 255


def scan_manifest(table: Path, into: Path, *, keep_missing: bool = False) -> Source:
    """What ``table`` lists, as a source, its rows in files below the new folder ``into``. DataError names the row at fault.

    ``keep_missing`` lists a file that is not there, or not inside, as one of 0 bytes: who reads it learns why it cannot be read.
    """
    root = table.parent
    class_names = _class_names(table)
    numbers = {name: number for number, name in enumerate(class_names)}
    writers: dict[str, ListingWriter] = {}
    names: set[tuple[str, int, str]] = set()
    folders: dict[str, str] = {}
    with ExitStack() as stack:
        for row, (path, label, split) in enumerate(_rows(table), 1):
            where = f"{table}, row {row}"
            place, leads_out = _place(root, path, where, folders)
            if leads_out and not keep_missing:
                raise DataError(
                    f"{where}: {path!r} is a symbolic link out of {root}. Copy the file, or put the table beside the real folder, "
                    "or give --on-error skip."
                )
            number = numbers[label]
            key = _key(label, number, path, split, names, where)
            check_key(key, number, class_names, table)
            if split not in writers:
                if "/" in split or split in (".", "..") or "\0" in split:
                    raise DataError(f"{where}: the split {split!r} is no folder's name")
                writers[split] = stack.enter_context(ListingWriter(into / split))
            try:
                status = os.stat(place)  # noqa: PTH116  # a Path a row costs more than the call
                size, time_ns = (0, 0) if leads_out else (status.st_size, status.st_mtime_ns)
            except OSError as error:
                if not keep_missing:
                    raise DataError(
                        f"{where}: {shown(place)}: {error.strerror}. Mend the row or the file, or give --on-error skip."
                    ) from error
                size = time_ns = 0
            writers[split].add(os.fsencode(key), number, size, time_ns, os.fsencode(path))
    if not writers:
        raise DataError(f"{table} lists no images: it has no rows below its heading")
    source = Source(table.stem, class_names, {})
    for split, writer in writers.items():
        source.splits[split] = SourceSplit(FolderImages(root, root), writer.listing)
    source.stamp = digest(chain(file_chunks(table), [source.digest(times=True).encode()]))
    return source


def _class_names(table: Path) -> tuple[str, ...]:
    labels = {label for _, label, _ in _rows(table)}
    for label in labels:
        if (
            not label
            or "/" in label
            or label in (".", "..")
            or "\0" in label
            or len(os.fsencode(label)) > _LONGEST_NAME_BYTES
        ):
            raise DataError(f"{table}: the label {label!r} is no folder's name; class names become folders in a directory")
    if labels and all(label.isascii() and label.isdigit() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _key(label: str, number: int, path: str, split: str, names: set[tuple[str, int, str]], where: str) -> str:
    """CLASS/FILE; a name that is taken gets its folders in front, so that photographs named alike are all stored."""
    for name in (path.rsplit("/", 1)[-1], path.replace("/", "_")):
        if (split, number, name) not in names:
            if len(os.fsencode(name)) > _LONGEST_NAME_BYTES:
                break
            names.add((split, number, name))
            return f"{label}/{name}"
    raise DataError(f"{where}: {path!r} is listed twice in class {label!r}, or its name is too long to tell from another's")


def _place(root: Path, path: str, where: str, folders: dict[str, str]) -> tuple[str, bool]:
    """The file of a row, and whether a symbolic link leads out of the table's folder. DataError if its own path does."""
    if not path or "\0" in path or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise DataError(
            f"{where}: {path!r} is no path below {root}. Paths are relative to the table; put it above the images."
        )
    place = f"{root}/{path}"
    folder = place.rsplit("/", 1)[0]
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    real = os.path.realpath(place) if os.path.islink(place) else folders[folder]  # noqa: PTH114
    base = folders.setdefault("", os.path.realpath(root))
    return place, real != base and not real.startswith(base + "/")


def _rows(table: Path) -> Iterator[tuple[str, str, str]]:
    """(path, label, split) of each row; the split is ``train`` where there is none."""
    yield from (_csv if table.suffix.lower() == ".csv" else _parquet)(table)


def _csv(table: Path) -> Iterator[tuple[str, str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(table, list(reader.fieldnames or ()))
            for number, row in enumerate(reader, 1):
                path, label, split = row["path"], row["label"], row.get("split")
                if path is None or label is None or None in row:
                    raise DataError(f"{table}, row {number}: expected {len(reader.fieldnames or ())} columns")
                yield path, label.strip(), (split or "").strip() or "train"
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{table} is no CSV table: {error}") from error
    except OSError as error:
        raise DataError(f"{table}: {error.strerror}") from error


def _parquet(table: Path) -> Iterator[tuple[str, str, str]]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(
            f"{table}: Parquet needs pyarrow: pip install 'feedbench[parquet]'; or save the table as CSV"
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(table) as file:
            columns = list(file.schema_arrow.names)
            _check_columns(table, columns)
            for batch in file.iter_batches(columns=[name for name in _COLUMNS if name in columns]):
                for row in batch.to_pylist():
                    number += 1
                    if row["path"] is None or row["label"] is None:
                        raise DataError(f"{table}, row {number}: path and label must not be empty")
                    yield str(row["path"]), _label(row["label"]), str(row.get("split") or "train")
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{table} is no Parquet table: {str(error).splitlines()[0]}") from error


def _label(label: object) -> str:
    """As text; a whole number as one, which pandas makes a float of as soon as another row has none."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _check_columns(table: Path, columns: list[str]) -> None:
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise DataError(
            f"{table} has no column {missing[0]!r}; expected path,label[,split], found: {', '.join(columns) or 'none'}"
        )
    if len(set(columns)) != len(columns):
        raise DataError(f"{table} names a column twice: {', '.join(columns)}")
