"""Google's ``grain``: a ``MapDataset`` over the samples' numbers, read and prepared by its threads, batched at the end.

``workers`` are grain's reading threads; what decodes and resizes lets go of Python's lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loaders.base import LoaderSpec, Stage
from loaders.sample import batches_in, order, peer_unsupported, prepare
from storage.base import DatasetInfo
from storage.errors import DataError

if TYPE_CHECKING:
    from loaders.stream import StreamFeed
    from storage.dataset import StoredDataset


class Samples:
    """Prepares one sample at a time, in whichever of grain's threads asks."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec) -> None:
        self.dataset, self.spec = dataset, spec
        self.labels = dataset.labels
        self.skipped: list[int] = []

    def prepare(self, where: tuple[int, int]) -> tuple[NDArray[Any], np.int64] | None:
        """One image and its label; None (which grain passes over) for an unreadable one that is skipped."""
        index = where[1]
        try:
            image = self.dataset.read(np.array([index])).images[0]
            return prepare(image, self.spec, where), self.labels[index]
        except DataError as error:
            if self.spec.on_error == "stop":
                raise DataError(f"{self.dataset.path}: {self.dataset.key(index)} cannot be read: {error}") from error
            self.skipped.append(index)
            return None

    def batches(self, n: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """The n-th pass."""
        import grain.python as grain

        numbers = [(n, int(index)) for index in order(len(self.dataset), self.spec, n)]
        reading = grain.ReadOptions(
            num_threads=self.spec.threads(),
            prefetch_buffer_size=max(self.spec.threads(), self.spec.prefetch * self.spec.batch_size),
        )
        prepared = grain.MapDataset.source(numbers).map(self.prepare).to_iter_dataset(reading)
        yield from prepared.batch(self.spec.batch_size, drop_remainder=self.spec.drop_remainder)


class GrainLoader:
    """See the module."""

    name = "grain"
    libraries = ("grain",)
    stages: tuple[Stage, ...] = ()

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """Formats with random access, if grain is installed."""
        if info.format == "tfrecord":
            return "TFRecord has no random access, and a grain data source is asked for samples by number"
        return peer_unsupported("grain", info, spec)

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> StreamFeed:
        """A grain dataset behind a feed."""
        import cv2

        from loaders.preprocess import augment_and_scale
        from loaders.stream import StreamFeed

        del until  # no stages
        cv2.setNumThreads(0)
        samples = Samples(dataset, spec)
        return StreamFeed(
            samples.batches,
            batches_in(len(dataset), spec),
            spec,
            layers=augment_and_scale(spec) if spec.placement == "model" else [],
            close=dataset.close,
            prefetch=spec.prefetch,
            direct=True,
            skipped=lambda: len(samples.skipped),
        )


LOADER = GrainLoader()
