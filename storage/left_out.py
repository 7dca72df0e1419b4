"""``skipped.csv``, beside ``dataset.json``: the images of the source that were left out, and why."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from storage.checksum import digest, file_chunks
from storage.files import beside

NAME = "skipped.csv"


def write(root: Path, rows: Iterable[tuple[str, str, str]]) -> str:
    """Write the list of the dataset at ``root``, (split, key, reason) a row; its digest."""
    path = root / NAME
    with beside(path) as partial, partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("split", "file", "reason"), *rows])
    return digest(file_chunks(path))


def keys(root: Path) -> Iterator[str]:
    """Keys of what was left out, whatever the split; none where there is no list. What is no CSV has no keys."""
    path = root / NAME
    if path.is_file():
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            yield from (row["file"] for row in csv.DictReader(file) if row.get("file"))


def fault(root: Path, expected: str) -> str | None:
    """What is wrong with the list of the dataset at ``root``, whose digest was ``expected``; None if nothing is."""
    path = root / NAME
    try:
        return None if digest(file_chunks(path)) == expected else f"{path}: the digest differs; a line of it is damaged"
    except FileNotFoundError:
        return f"{path}: the file is missing"
    except OSError as error:
        return f"{path}: {error.strerror}"
