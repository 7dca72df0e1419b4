"""What a thread of the ``threaded`` loader does to samples: read, decode, resize, augment, each into memory that is there.

The C libraries let go of Python's lock while they work. Decoded images pass through a scratch of the thread's own, which stays
in the processor's cache; resized ones go straight to their place in the batch.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loaders.augmentation import Draws, warp
from loaders.base import STAGES, LoaderSpec, Stage
from loaders.sample import scale
from storage.errors import DataError, UsageError
from storage.plain_source import PlainSource

if TYPE_CHECKING:
    from storage.dataset import StoredDataset


class Scratch(threading.local):
    """A thread's own memory: for a file of up to 4 MB, and an image of up to five megapixels. What is larger gets its own.

    ``small`` and ``scaled`` hold an image of the right size, in levels and as the model wants it. All this is made once a thread: an
    array that is made for each image comes from fresh pages again and again or does not, as the allocator's past has it, and then
    a batch took 20% longer.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        # Not a bytearray, which is filled: the thread that builds the feed has one of these too, and makes nothing.
        self.content = np.empty(4 << 20, np.uint8).data
        self.pixels = np.empty(16 << 20, np.uint8)
        self.small, self.swapped = np.empty((2, *size, 3), np.uint8)
        self.scaled = np.empty((*size, 3), np.float32)

    def rows(self, count: int) -> NDArray[np.uint8]:
        """Room for ``count`` images of the right size."""
        room = count * self.small.size
        pixels = self.pixels[:room] if room <= len(self.pixels) else np.empty(room, np.uint8)
        return pixels.reshape(count, *self.small.shape)


@dataclass
class Work:
    """A batch on its way: ``images`` and ``labels`` are filled part by part; ``parts`` are still missing.

    ``lost`` are the places of samples that could not be read and were skipped.
    """

    number: int
    draws: Draws | None
    indices: NDArray[np.int64]
    images: NDArray[Any]
    labels: NDArray[np.int64]
    parts: int
    lost: list[int] = field(default_factory=list)
    failure: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Cache:
    """Resized images in memory, by number of the sample. Each is written by whichever thread comes first."""

    def __init__(self, samples: int, size: tuple[int, int]) -> None:
        try:
            self._images = np.empty((samples, *size, 3), np.uint8)
        except MemoryError as error:
            wanted = samples * size[0] * size[1] * 3
            raise UsageError(f"cache=True needs {wanted / 2**30:.0f} GiB of memory for {samples} images") from error
        self._labels = np.empty(samples, np.int64)
        self._there = np.zeros(samples, np.bool_)

    def get(self, index: int) -> tuple[NDArray[np.uint8], int] | None:
        """An image and its label, if they are there."""
        return (self._images[index], int(self._labels[index])) if self._there[index] else None

    def put(self, index: int, image: NDArray[np.uint8], label: int) -> None:
        """Keep a copy."""
        self._images[index] = image
        self._labels[index] = label
        self._there[index] = True


class Preparer:
    """Fills parts of batches, in whichever thread calls it."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec, until: Stage) -> None:
        import cv2

        from storage import pixels

        self.dataset, self.spec = dataset, spec
        self._source = PlainSource(dataset)
        # The files of a raw directory are PNG: they have to be decoded like any other.
        self._encoded = dataset.info.payload == "encoded" or dataset.info.format == "directory"
        stage = STAGES.index(until)
        self._decodes, self._resizes = stage >= STAGES.index(Stage.DECODE), stage >= STAGES.index(Stage.RESIZE)
        self._finishes = spec.placement == "pipeline" and stage >= STAGES.index(Stage.AUGMENT)
        self._whole = spec.placement == "model" and spec.dtype == "uint8"
        """Resized, an image is as it is handed over."""
        self._cache = Cache(len(dataset), spec.image_size) if spec.cache else None
        self._scratch = Scratch(spec.image_size)
        self._table = scale(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)[None], spec.scaling)
        self._decode = pixels.decoder(
            fast=spec.decode == "fast", scaled_to=spec.image_size if spec.jpeg_scale == "auto" else None
        )
        self._resize, self._cv2 = pixels.resizer(spec.image_size, spec.resize), cv2

    def fill(self, work: Work, start: int, stop: int) -> None:
        """Samples ``start`` to ``stop`` of a batch; those that cannot be read are skipped, and ``lost``.

        Raises DataError, naming the sample, if ``on_error`` is ``stop``.
        """
        if not self._encoded:
            self._gather(work, start, stop)
            return
        for place, index in enumerate(work.indices[start:stop].tolist(), start):
            if self._cache is not None and self._cached(self._cache, work, place, index):
                continue
            try:
                self._one(work, place, index)
            except DataError as error:
                if self.spec.on_error == "stop":
                    raise self._named(index, error) from error
                work.lost.append(place)

    def _one(self, work: Work, place: int, index: int) -> None:
        """Read, decode and resize one image, to its place."""
        scratch = self._scratch
        content, label = self._source.fetch(index, scratch.content)
        work.labels[place] = label
        if not self._decodes:
            return
        pixels = self._decode(content, scratch.pixels)
        if not self._resizes:
            return
        if self._whole:
            small = self._resize(pixels, work.images[place])
        else:
            small = self._resize(pixels, scratch.small)
            self._deliver(work, place, small)
        if self._cache is not None:
            self._cache.put(index, small, label)

    def _gather(self, work: Work, start: int, stop: int) -> None:
        """Raw images, to their places."""
        if self._whole:
            work.labels[start:stop] = self._source.gather(work.indices[start:stop], work.images[start:stop])
            return
        rows = self._scratch.rows(stop - start)
        work.labels[start:stop] = self._source.gather(work.indices[start:stop], rows)
        for place, row in enumerate(rows, start):
            self._deliver(work, place, row)

    def _cached(self, cache: Cache, work: Work, place: int, index: int) -> bool:
        found = cache.get(index)
        if found is None:
            return False
        work.labels[place] = found[1]
        self._deliver(work, place, found[0])
        return True

    def _named(self, index: int, error: DataError) -> DataError:
        try:
            dataset = self.dataset
            key = dataset.key(index) if dataset.supports_random_access else dataset.sample(index).key
        except DataError:
            return error  # Its record cannot be read at all: the error says which that is.
        return DataError(f"{self.dataset.path}: {key} cannot be read: {error}")

    def close(self) -> None:
        """Let go of what was mapped."""
        self._source.close()

    def _deliver(self, work: Work, place: int, small: NDArray[np.uint8]) -> None:
        """An image of the right size, to its place: as it is, or augmented and scaled."""
        out = work.images[place]
        if not self._finishes:
            out[...] = small
            return
        if self.spec.scaling == "caffe":
            small = self._cv2.cvtColor(small, self._cv2.COLOR_RGB2BGR, dst=self._scratch.swapped)
        if work.draws is None:
            self._cv2.LUT(small, self._table, dst=out)
            return
        # Scaled first: both are linear, and a table of 256 levels is quicker than arithmetic on floats.
        index = int(work.indices[place])
        scaled = self._cv2.LUT(small, self._table, dst=self._scratch.scaled)
        warp(scaled, bool(work.draws.flips[index]), float(work.draws.angles[index]), out)
