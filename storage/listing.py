"""What a split of a source holds, a sample a row, in columns that lie in files and are mapped.

A million images then cost their names' bytes on disk and no memory to speak of, and a worker process that is told the folder
sees the same rows without a copy.
"""

from __future__ import annotations

from array import array
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_ROWS_HELD = 1 << 14


class ListingWriter:
    """Appends rows to the columns of a listing in ``folder``; use it as a context.

    ``place`` is where the image is, for sources in which that is not the key.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.listing = Listing(folder)
        self._columns = {"labels": array("i"), "sizes": array("q"), "times": array("q")}
        self._texts = {"keys": bytearray(), "places": bytearray()}
        self._ends = {"keys": array("q"), "places": array("q")}
        self._length = {"keys": 0, "places": 0}

    def add(self, key: bytes, label: int, size: int, time_ns: int = 0, place: bytes = b"") -> None:
        """One row: key and place as the file system spells them, label, bytes of the image, when it last changed."""
        for name, value in (("labels", label), ("sizes", size), ("times", time_ns)):
            self._columns[name].append(value)
        for name, text in (("keys", key), ("places", place)):
            self._texts[name] += text
            self._length[name] += len(text)
            self._ends[name].append(self._length[name])
        if len(self._columns["labels"]) >= _ROWS_HELD:
            self._flush()

    def _flush(self) -> None:
        for name, column in self._columns.items():
            self._append(name, column)
            del column[:]
        for name, text in self._texts.items():
            self._append(name, text)
            self._append(f"{name}_ends", self._ends[name])
            text.clear()
            del self._ends[name][:]

    def _append(self, name: str, content: array[int] | bytearray) -> None:
        with (self.listing.folder / name).open("ab") as file:
            file.write(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()


class Listing:
    """The rows of one split of a source, mapped when they are first asked for. Travels to other processes as its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[type[Listing], tuple[Path]]:
        return Listing, (self.folder,)

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """The key of one row."""
        return self._text("keys", index)

    def place(self, index: int) -> str:
        """Where one row's image is, if that is not the key; else empty."""
        return self._text("places", index)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels, int32, (n,)."""
        return self._map("labels", "<i4")

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each image, int64, (n,)."""
        return self._map("sizes", "<i8")

    def facts(self, *, times: bool) -> list[memoryview]:
        """What a digest of this listing covers: keys, labels, sizes, and when each file changed if asked for."""
        columns = [self._map("keys", "u1"), self._map("keys_ends", "<i8"), self.labels, self.sizes]
        return [column.data for column in [*columns, *([self._map("times", "<i8")] if times else [])]]

    @cached_property
    def _columns(self) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        return {name: (self._map(name, "u1"), self._map(f"{name}_ends", "<i8")) for name in ("keys", "places")}

    def _text(self, name: str, index: int) -> str:
        text, ends = self._columns[name]
        start = int(ends[index - 1]) if index else 0
        return text[start : int(ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def _map(self, name: str, dtype: str) -> NDArray[Any]:
        path = self.folder / name
        if not path.exists() or not path.stat().st_size:  # an empty file cannot be mapped
            return np.empty(0, dtype)
        return np.asarray(np.memmap(path, dtype, "r"))
