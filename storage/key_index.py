"""Which row of a listing has a key: sixteen bytes a row in files that are mapped, where a dict of keys takes a hundred and more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xxhash

from storage.listing import Listing


class KeyIndex:
    """Finds rows by key. Built once, in the new folder ``folder``; other processes open it there again."""

    def __init__(self, listing: Listing, folder: Path) -> None:
        self._listing = listing
        if not folder.is_dir():
            _build(listing, folder)
        self._sums = np.load(folder / "sums.npy", mmap_mode="r")
        self._rows = np.load(folder / "rows.npy", mmap_mode="r")

    def find(self, key: str) -> int | None:
        """The row whose key this is, or None."""
        wanted = _sum(key)
        at = int(np.searchsorted(self._sums, wanted))
        while at < len(self._sums) and self._sums[at] == wanted:
            row = int(self._rows[at])
            if self._listing.key(row) == key:
                return row
            at += 1
        return None


def _build(listing: Listing, folder: Path) -> None:
    sums = np.fromiter((_sum(listing.key(row)) for row in range(len(listing))), np.uint64, len(listing))
    rows = np.argsort(sums)
    folder.mkdir(parents=True)
    np.save(folder / "sums.npy", sums[rows])
    np.save(folder / "rows.npy", rows)


def _sum(key: str) -> np.uint64:
    return np.uint64(xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape")))
