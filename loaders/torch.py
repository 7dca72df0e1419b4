"""PyTorch's ``DataLoader``: a map-style dataset, decoded and resized by C libraries in worker processes that live on.

``workers`` are processes. They are spawned, not forked, since TensorFlow's threads do not survive a fork; so a script that uses
this loader needs the usual ``if __name__ == "__main__":``. Option ``start``: ``spawn``, ``forkserver`` or ``fork``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loaders.base import LoaderSpec, Stage
from loaders.reused import Reused
from loaders.sample import batches_in, options_of, order, peer_unsupported, prepare
from loaders.torch_worker import exit_at_once
from storage.base import DatasetInfo
from storage.errors import DataError, UsageError

if TYPE_CHECKING:
    from loaders.stream import StreamFeed
    from storage.dataset import StoredDataset

Work = list[tuple[int, int]]
"""A batch to prepare: (epoch, number of the sample)."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What only this loader knows: how worker processes begin."""

    start: str = "spawn"

    def __post_init__(self) -> None:
        if self.start not in ("spawn", "forkserver", "fork"):
            raise UsageError(f"start must be spawn, forkserver or fork; got {self.start!r}")


class Images:
    """A map-style dataset that PyTorch asks for a batch at a time. It crosses to workers unopened."""

    def __init__(self, path: Path, split: str, spec: LoaderSpec) -> None:
        self.path, self.split, self.spec = path, split, spec
        self._dataset: StoredDataset | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None}

    def __getitems__(self, work: Work) -> tuple[Any, Any, str, int]:
        """Images, labels, why it failed (empty if it did not), and how many samples were skipped."""
        import cv2
        import torch

        from storage import open_dataset

        if self._dataset is None:
            cv2.setNumThreads(0)
            self._dataset = open_dataset(self.path, self.split)
        dataset, indices = self._dataset, np.array([index for _, index in work], np.int64)
        found: Any = None
        with suppress(DataError):  # One of them is missing: read alone, each says whether it is.
            found = dataset.read(indices).images
        images, kept, skipped = [], [], 0
        for place, where in enumerate(work):
            try:
                image = dataset.sample(where[1]).image if found is None else found[place]
                images.append(prepare(image, self.spec, where))
                kept.append(place)
            except DataError as error:
                if self.spec.on_error == "stop":
                    return None, None, f"{self.path}: {dataset.key(where[1])} cannot be read: {error}", 0
                skipped += 1
        stacked = np.stack(images) if images else np.empty((0, *self.spec.image_size, 3), np.uint8)
        return torch.from_numpy(stacked), torch.from_numpy(dataset.labels[indices[kept]]), "", skipped

    def __getitem__(self, where: tuple[int, int]) -> Any:
        return self.__getitems__([where])


class Batches:
    """The batch sampler: which samples make which batch of the epoch that is next."""

    def __init__(self, samples: int, spec: LoaderSpec) -> None:
        self.samples, self.spec, self.epoch = samples, spec, 0

    def __len__(self) -> int:
        return batches_in(self.samples, self.spec)

    def __iter__(self) -> Iterator[Work]:
        numbers = order(self.samples, self.spec, self.epoch)
        for batch in range(len(self)):
            chosen = numbers[batch * self.spec.batch_size : (batch + 1) * self.spec.batch_size]
            yield [(self.epoch, int(index)) for index in chosen]


def as_they_come(batch: Any) -> Any:
    """The dataset makes whole batches: nothing is left to collate."""
    return batch


class Workers:
    """``DataLoader``s whose processes outlive a pass."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec, options: Options) -> None:
        from torch.utils.data import DataLoader

        self.skipped = 0
        self._loaders: Reused[Any] = Reused(
            lambda: DataLoader(
                Images(dataset.path, dataset.split, spec),
                batch_sampler=Batches(len(dataset), spec),
                num_workers=spec.threads(),
                collate_fn=as_they_come,
                prefetch_factor=max(1, spec.prefetch),
                persistent_workers=True,
                multiprocessing_context=options.start,
                worker_init_fn=exit_at_once,
            )
        )

    def batches(self, n: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """The n-th pass. Raises UsageError if it is read on when the feed is closed."""

        def begin(loader: Any) -> Iterator[Any]:
            loader.batch_sampler.epoch = n
            return iter(loader)

        with closing(self._loaders.batches(begin)) as coming:
            for images, labels, failure, skipped in coming:
                if failure:
                    raise DataError(failure)
                self.skipped += skipped
                if len(labels):
                    yield images.numpy(), labels.numpy()

    def close(self) -> None:
        """End the processes."""
        self._loaders.close(_shut_down)


def _shut_down(loader: Any) -> None:
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()
        loader._iterator = None


class TorchLoader:
    """See the module."""

    name = "torch"
    libraries = ("torch",)
    options = Options
    stages: tuple[Stage, ...] = ()

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """Formats with random access, if PyTorch is installed."""
        if info.format == "tfrecord":
            return "TFRecord has no random access, and a map-style torch dataset asks for samples by number"
        return peer_unsupported("torch", info, spec)

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> StreamFeed:
        """A DataLoader behind a feed."""
        from loaders.preprocess import augment_and_scale
        from loaders.stream import StreamFeed

        del until  # no stages: workers hand over whole batches
        workers = Workers(dataset, spec, options_of(Options, spec))

        def close() -> None:
            workers.close()
            dataset.close()

        return StreamFeed(
            workers.batches,
            batches_in(len(dataset), spec),
            spec,
            layers=augment_and_scale(spec) if spec.placement == "model" else [],
            close=close,
            prefetch=spec.prefetch,
            direct=True,
            skipped=lambda: workers.skipped,
        )


LOADER = TorchLoader()
