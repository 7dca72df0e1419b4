"""HDF5: arrays in a self-describing file, as research keeps them.

Encoded: one byte blob ``data`` with ``offsets``, no variable-length objects. Raw: ``images``, uint8 (n, height, width, 3),
contiguous and aligned to a page, so that the file can be mapped. Beside either: ``labels``, ``keys``, ``key_offsets``, ``crc32c``.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from operator import length_hint
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.base import Batch, Layout, Planned, Sample, ShardInfo
from storage.checksum import digest, file_chunks, written_digest
from storage.columns import Columns
from storage.errors import DataError
from storage.files import ReadFile, sync
from storage.mapped import Places, check_places
from storage.media import check_raw
from storage.packed import check_offsets, unpack

_LARGEST_ALIGNED, _PAGE = 65536, 4096
_WAITING_BYTES, _WRITE_BYTES = 1 << 22, 1 << 20
_COLUMN_BYTES = 8 + 8 + 8 + 4
"""Of a sample: its label, two offsets, its checksum."""
_KEY_BYTES = 256
_LARGEST_CHUNK_EXTRA = _PAGE + 1024
"""Of a compressed image: its alignment, its line in the index of chunks, a filter's own header."""


class Hdf5:
    """The format ``hdf5``."""

    name = "hdf5"
    suffix = ".h5"

    def write_shard(self, samples: Iterable[Sample], path: Path, layout: Layout) -> ShardInfo:
        """Write one file at ``path``. Encoded files lie in a temporary one beside it until all are there."""
        columns = Columns()
        with _created(path) as file:
            file.attrs["payload"] = layout.payload
            if layout.payload == "encoded":
                _write_files(file, samples, columns, path.parent)
                planned = len(columns)
            else:
                planned = _write_pixels(file, samples, columns, layout)
            for name, table in columns.tables().items():
                _put(file, name, table)
            file.flush()
            end = file.id.get_filesize()
        os.truncate(path, end)  # what was reserved and is not needed
        if len(columns) < planned:
            return self._shorten(path, columns, layout)
        sync(path)
        return ShardInfo(file="", samples=len(columns), bytes=path.stat().st_size, digest=written_digest(path))

    def _shorten(self, path: Path, columns: Columns, layout: Layout) -> ShardInfo:
        """Some images were skipped, and a contiguous dataset cannot shrink: write the file again from its own beginning."""
        import h5py

        longer = path.rename(path.with_name(path.name + ".longer"))
        with h5py.File(longer) as file:
            images = file["images"]
            kept = (Sample(columns.key(number), int(label), images[number]) for number, label in enumerate(columns.labels))
            info = self.write_shard(Planned(kept, len(columns)), path, layout)
        longer.unlink()
        return info

    def digest(self, path: Path, shard: ShardInfo) -> str:  # noqa: ARG002
        """What the shard's digest is now."""
        return digest(file_chunks(path))

    @contextmanager
    def open_shard(self, path: Path, shard: ShardInfo) -> Iterator[Hdf5Shard]:
        """Open one file, read only."""
        with ExitStack() as held:
            with _opened(path) as file:
                try:
                    opened = Hdf5Shard(path, file, shard, held)
                except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
                    raise DataError(f"{path} is damaged: {error}") from error
            yield opened


HDF5 = Hdf5()


class Hdf5Shard:
    """One file. The library has it open only while it is needed: it takes half a megabyte for each file that is open.

    Images that lie in the file as they are, are read by their place, by any number of threads at a time. Compressed ones are read
    through the library, which takes one lock for all files of a process, and must not cross a fork while a file is open.
    """

    def __init__(self, path: Path, file: Any, shard: ShardInfo, held: ExitStack) -> None:
        self._path = path
        self._held = held
        self._lock = Lock()
        self.payload = "encoded" if "data" in file else "raw"
        self._name = "data" if self.payload == "encoded" else "images"
        names = (self._name, "labels", "keys", "key_offsets", "crc32c", *(["offsets"] if self.payload == "encoded" else []))
        parts = {name: _plain(file, name, path) for name in names}
        size = path.stat().st_size
        for name, part in parts.items():
            # What a header claims is not allocated: a table is never larger than the file that it lies in.
            if name != "images" and part.nbytes > size:
                raise DataError(f"{path}: {name!r} claims {part.nbytes} bytes, the file has {size}; damaged or hostile")
        images = parts[self._name]
        self._shape = images.shape
        self._labels = np.asarray(parts["labels"][:], np.int64)
        self.crc32c: NDArray[np.uint32] = np.asarray(parts["crc32c"][:], np.uint32)
        ends = np.asarray(parts["offsets"][:], np.uint64) if self.payload == "encoded" else None
        self._offsets = None if ends is None else check_offsets(ends, shard.samples, len(images), str(path))
        if len(self._labels) != shard.samples or len(self.crc32c) != shard.samples:
            raise DataError(f"{path}: expected {shard.samples} samples, found {len(self._labels)}; the shard is damaged")
        if self.payload == "raw":
            _make_filters_known(images, path)
        if self.payload == "raw" and (images.ndim != 4 or images.shape[0] != shard.samples):
            raise DataError(f"{path}: images have shape {images.shape}, expected ({shard.samples}, height, width, 3)")
        if self.payload == "raw":
            check_raw(images.shape[1:], str(path))
            if images.chunks not in (None, (1, *images.shape[1:])):
                raise DataError(f"{path}: images lie in chunks of shape {images.chunks}, expected one an image")
        self._start = _start(images, file)
        self._file = held.enter_context(ReadFile(path))

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            yield Sample(self.key(index), int(self._labels[index]), self._image(index))

    def labels(self) -> NDArray[np.int64]:
        """Labels, int64, (n,)."""
        return self._labels

    @cached_property
    def _keys(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """Read when the first key is asked for: training needs none, and they are most of what a sample costs in memory."""
        with _opened(self._path) as file:
            try:
                blob, ends = (_plain(file, name, self._path)[:] for name in ("keys", "key_offsets"))
            except (OSError, RuntimeError, ValueError, MemoryError) as error:
                raise DataError(f"{self._path}: its keys cannot be read: {error}") from error
        return blob, check_offsets(np.asarray(ends, np.uint64), len(self), len(blob), str(self._path))

    def key(self, index: int) -> str:
        """The key of one sample. DataError if the table of keys is damaged."""
        return unpack(*self._keys, index)

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each image, int64, (n,)."""
        if self._offsets is None:
            return np.full(len(self), math.prod(self._shape[1:]), np.int64)
        return np.diff(self._offsets).astype(np.int64)

    def places(self) -> Places | None:
        """Where the images lie in the file; None if they are compressed, or otherwise not bytes one behind the other."""
        if self._start is None:
            return None
        length, size = math.prod(self._shape), self._path.stat().st_size
        if self._start + length > size:
            raise DataError(
                f"{self._path}: images claim {length} bytes from {self._start} on, the file has {size}; damaged or hostile"
            )
        sizes = self.sizes()
        begins = np.cumsum(sizes) - sizes if self._offsets is None else self._offsets[:-1].astype(np.int64)
        return check_places(Places(self._path, self._start + begins, sizes))

    def stored(self, index: int) -> bytes:
        """The bytes that this sample's CRC32C covers: the file's, or the pixels in C order."""
        image = self._image(index)
        return image if isinstance(image, bytes) else image.tobytes()

    def read(self, indices: NDArray[np.int64]) -> Batch:
        """Samples at ``indices``."""
        labels = self._labels[indices]
        if self.payload == "encoded":
            return Batch([self._encoded(index) for index in indices.tolist()], labels)
        images = np.empty((len(indices), *self._shape[1:]), np.uint8)
        for row, index in zip(images, indices.tolist(), strict=True):
            self._fill(row, index)
        return Batch(images, labels)

    def _image(self, index: int) -> bytes | NDArray[np.uint8]:
        if self.payload == "encoded":
            return self._encoded(index)
        image = np.empty(self._shape[1:], np.uint8)
        self._fill(image, index)
        return image

    def _encoded(self, index: int) -> bytes:
        assert self._offsets is not None
        begin, end = int(self._offsets[index]), int(self._offsets[index + 1])
        with self._named(index):
            if self._start is None:
                with self._lock:
                    return bytes(self._images[begin:end].tobytes())
            content = os.pread(self._file.fileno(), end - begin, self._start + begin)
            _check_length(len(content), end - begin)
            return content

    def _fill(self, row: NDArray[np.uint8], index: int) -> None:
        """One raw image into ``row``, which is contiguous."""
        with self._named(index):
            if self._start is None:
                with self._lock:
                    row[...] = self._images[index]
            else:
                _check_length(os.preadv(self._file.fileno(), [row.data], self._start + index * row.nbytes), row.nbytes)

    @cached_property
    def _images(self) -> Any:
        """The images through the library; it stays open from then on. Only under the lock."""
        return _plain(self._held.enter_context(_opened(self._path)), self._name, self._path)

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            raise DataError(f"{self._path}: sample {index} ({self.key(index)}) cannot be read: {error}") from error


def _check_length(read: int, wanted: int) -> None:
    if read != wanted:
        raise OSError(f"{read} bytes are there, expected {wanted}")


def _opened(path: Path) -> Any:
    """A file, open for reading. DataError if it cannot be."""
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is not an HDF5 file, or is damaged: {error}") from error


def _start(images: Any, file: Any) -> int | None:
    """Where the bytes of ``images`` begin in the file; None if they do not lie there as they are, one behind the other."""
    start = images.id.get_offset()
    plain = images.chunks is None and images.dtype == np.uint8 and not file.userblock_size
    return int(start) if plain and start is not None else None


def _created(path: Path) -> Any:
    """A new file at ``path``, open, in which the same content gives the same bytes, whenever it is written."""
    import h5py

    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_alignment(_LARGEST_ALIGNED, _PAGE)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    return h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access))


def _write_files(file: Any, samples: Iterable[Sample], columns: Columns, folder: Path) -> None:
    """``offsets`` and ``data``, whose length HDF5 has to know: the files wait in a temporary file, not in memory."""
    with tempfile.TemporaryFile(dir=folder, buffering=_WAITING_BYTES) as waiting:
        for sample in samples:
            assert isinstance(sample.image, bytes)
            columns.add(sample, sample.image)
            waiting.write(sample.image)
        waiting.flush()
        ends = np.zeros(len(columns) + 1, np.uint64)
        np.cumsum(columns.sizes, out=ends[1:])
        length = int(ends[-1])
        _reserve(file, length, len(columns), columns.key_bytes)
        _put(file, "offsets", ends)
        data = file.create_dataset("data", (length,), np.uint8, track_times=False)
        if length:
            data.write_direct(np.memmap(waiting, np.uint8, "r"))


def _write_pixels(file: Any, samples: Iterable[Sample], columns: Columns, layout: Layout) -> int:
    """``images``, with room for as many samples as are planned; how many that are."""
    assert layout.image_size is not None
    planned = length_hint(samples)
    if not planned:
        samples = list(samples)
        planned = len(samples)
    shape = (planned, *layout.image_size, 3)
    compression = str(dict(layout.options).get("compression", "none"))
    filtered = {} if compression == "none" else {"chunks": (1, *shape[1:]), **_filter(compression)}
    # What a filter makes of an image is not known beforehand: room for all as they are, each at the start of a page.
    _reserve(file, math.prod(shape) + (planned * _LARGEST_CHUNK_EXTRA if filtered else 0), planned)
    images = file.create_dataset("images", shape, np.uint8, track_times=False, **filtered)
    if planned and not filtered:
        images[0, 0, 0, 0] = 0  # has the library find a place for all of them
        file.flush()
    start = _start(images, file)
    with Path(file.filename).open("r+b", buffering=_WRITE_BYTES) as plain:
        plain.seek(start or 0)
        for number, sample in enumerate(samples):
            layout.check(sample)
            if number == planned:
                raise DataError(f"{sample.key}: only {planned} samples were planned, and there is no room for more")
            image = np.ascontiguousarray(sample.image)
            columns.add(sample, image)
            if start is None:
                images.write_direct(image, dest_sel=number)
            else:  # a call of the library takes longer than to copy an image
                plain.write(image.data)
    return planned


def _reserve(file: Any, image_bytes: int, samples: int, key_bytes: int | None = None) -> None:
    """Take the space that images and columns will need; OSError if the disk has not so much.

    A disk that is full when HDF5 closes a file ends the process by a segmentation fault.
    """
    file.flush()
    columns = samples * _COLUMN_BYTES + (samples * _KEY_BYTES if key_bytes is None else key_bytes)
    with Path(file.filename).open("r+b") as place:
        os.posix_fallocate(place.fileno(), 0, image_bytes + columns + _LARGEST_ALIGNED)


def _put(file: Any, name: str, array: NDArray[Any]) -> None:
    file.create_dataset(name, data=array, track_times=False)


def _filter(compression: str) -> dict[str, Any]:
    """h5py's arguments for a compression by name."""
    if compression in ("lzf", "gzip"):
        return {"compression": compression}
    from storage.errors import UsageError

    try:
        import hdf5plugin
    except ImportError as error:
        raise UsageError(f"compression {compression} needs hdf5plugin: pip install 'feedbench[compression]'") from error
    if compression == "zstd":
        return dict(hdf5plugin.Zstd())
    # Blosc2's own defaults leave photographs at 93% of their size; this, at 64%, and is written as fast.
    return dict(hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.BITSHUFFLE))


def _make_filters_known(data: Any, path: Path) -> None:
    """Filters that h5py lacks come with hdf5plugin, which registers them when it is imported. DataError if it is missing."""
    from h5py import h5z

    creation = data.id.get_create_plist()
    wanted = [creation.get_filter(number)[0] for number in range(creation.get_nfilters())]
    if all(h5z.filter_avail(code) for code in wanted):
        return
    try:
        import hdf5plugin  # noqa: F401
    except ImportError as error:
        raise DataError(f"{path} is compressed by a filter that h5py lacks: pip install 'feedbench[compression]'") from error


def _plain(file: Any, name: str, path: Path) -> Any:
    """A dataset that lies in this file and nowhere else: links, external storage and virtual datasets are refused."""
    import h5py

    link = file.get(name, getlink=True) if name in file else None
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{path} has no dataset {name!r} of its own (missing, or a link to elsewhere)")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise DataError(f"{path}: {name!r} is virtual, external or no dataset; only data inside the file is read")
    return dataset
