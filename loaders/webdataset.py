"""``webdataset``: its pipeline over shards, split among PyTorch's worker processes, shuffled through a buffer.

webdataset's own container is tar, which is none of our formats. What it can read here is the other stream of shards, TFRecord: its
stages (shards in random order, split by worker, buffered shuffle, map) run over our reader, and tar itself is not timed. Each
worker hands over batches, which are cut anew to the batch size, so that only the last is short. Order: shards at random,
then a buffer of ``buffer`` samples a worker (option). Worker processes are spawned, as in the ``torch`` loader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loaders.base import CLOSED, LoaderSpec, Stage
from loaders.sample import batches_in, options_of, peer_unsupported, prepare
from loaders.torch_worker import exit_at_once
from storage.base import DatasetInfo
from storage.errors import DataError, UsageError

if TYPE_CHECKING:
    from loaders.stream import StreamFeed
    from storage.dataset import StoredDataset

Prepared = tuple[NDArray[Any], int]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What only this loader knows: how many samples each worker shuffles among."""

    buffer: int = 1000

    def __post_init__(self) -> None:
        if self.buffer < 1:
            raise UsageError(f"buffer must be at least 1, got {self.buffer}")


class Samples:
    """The stage behind the shards: from shard numbers to prepared samples, or to why one could not be prepared."""

    def __init__(self, path: Path, split: str, spec: LoaderSpec, epoch: int) -> None:
        self.path, self.split, self.spec, self.epoch = path, split, spec, epoch

    def __call__(self, numbers: Iterable[int]) -> Iterator[Prepared | str]:
        import cv2

        from storage import open_dataset

        cv2.setNumThreads(0)
        with open_dataset(self.path, self.split) as dataset:
            starts = np.cumsum([0] + [shard.samples for shard in dataset.split_info.shards])
            for number in numbers:
                for index, sample in enumerate(dataset.shard(number), int(starts[number])):
                    try:
                        yield prepare(sample.image, self.spec, (self.epoch, index)), sample.label
                    except DataError as error:
                        yield f"{self.path}: {sample.key} cannot be read: {error}"


def _collate(samples: list[Prepared | str]) -> tuple[list[str], NDArray[Any] | None, NDArray[np.int64]]:
    """Prepared samples as arrays; those that could not be prepared as words."""
    good = [sample for sample in samples if not isinstance(sample, str)]
    images = np.stack([image for image, _ in good]) if good else None
    return [s for s in samples if isinstance(s, str)], images, np.array([label for _, label in good], np.int64)


class Shards:
    """One pass over the shards of a split after another."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec, options: Options) -> None:
        self.dataset, self.spec, self.options = dataset, spec, options
        self.skipped = 0
        self.closed = False

    def batches(self, n: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """The n-th pass, in batches of the size asked for. Raises UsageError if it is read on when the feed is closed."""
        left: tuple[NDArray[Any], NDArray[np.int64]] | None = None
        size = self.spec.batch_size
        for images, labels in self._as_workers_batch(n):
            if left is not None:
                images, labels = np.concatenate([left[0], images]), np.concatenate([left[1], labels])
            while len(labels) >= size:
                yield images[:size], labels[:size]
                if self.closed:
                    raise UsageError(CLOSED)
                images, labels = images[size:], labels[size:]
            left = images, labels
        if left is not None and len(left[1]) and not self.spec.drop_remainder:
            yield left

    def close(self) -> None:
        """No batch comes any more; the processes of a pass end with it."""
        self.closed = True
        self.dataset.close()

    def _as_workers_batch(self, n: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        import webdataset as wds

        spec = self.spec
        numbers = np.arange(len(self.dataset.split_info.shards))
        if spec.shuffle:
            numbers = np.random.default_rng((spec.seed, n)).permutation(numbers)
        stages = [
            _Numbers(numbers.tolist()),
            wds.split_by_worker,
            Samples(self.dataset.path, self.dataset.split, spec, n),
            *([_Shuffled(self.options.buffer, (spec.seed, n))] if spec.shuffle else []),
            wds.batched(spec.batch_size, collation_fn=_collate, partial=True),
        ]
        loader = wds.WebLoader(
            wds.DataPipeline(*stages),
            batch_size=None,
            num_workers=min(spec.threads(), max(1, len(numbers))),
            prefetch_factor=max(1, spec.prefetch),
            multiprocessing_context="spawn",
            worker_init_fn=exit_at_once,
        )
        for failures, images, labels in loader:
            if failures and spec.on_error == "stop":
                raise DataError(failures[0])
            self.skipped += len(failures)
            if images is not None:
                yield images, labels


class _Numbers:
    """Where the pipeline begins: the shards of this pass."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __call__(self) -> Iterator[int]:
        return iter(self.numbers)


class _Shuffled:
    """webdataset's buffered shuffle, seeded for a pass and a worker."""

    def __init__(self, buffer: int, seed: tuple[int, int]) -> None:
        self.buffer, self.seed = buffer, seed

    def __call__(self, samples: Iterable[Any]) -> Iterator[Any]:
        import random

        import webdataset as wds
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        seeded = random.Random(f"{self.seed}-{worker.id if worker else 0}")
        yield from partial(wds.filters._shuffle, bufsize=self.buffer, initial=self.buffer, rng=seeded)(samples)


class WebdatasetLoader:
    """See the module."""

    name = "webdataset"
    libraries = ("webdataset", "torch")
    options = Options
    stages: tuple[Stage, ...] = ()

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """TFRecord only, if webdataset and PyTorch are installed."""
        if info.format != "tfrecord":
            return f"webdataset streams shards (its own are tar; here TFRecord's); {info.format} is read at random"
        return peer_unsupported("webdataset", info, spec) or peer_unsupported("torch", info, spec)

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> StreamFeed:
        """A webdataset pipeline behind a feed."""
        from loaders.preprocess import augment_and_scale
        from loaders.stream import StreamFeed

        del until  # no stages
        shards = Shards(dataset, spec, options_of(Options, spec))
        return StreamFeed(
            shards.batches,
            batches_in(len(dataset), spec),
            spec,
            layers=augment_and_scale(spec) if spec.placement == "model" else [],
            close=shards.close,
            prefetch=spec.prefetch,
            direct=True,
            skipped=lambda: shards.skipped,
        )


LOADER = WebdatasetLoader()
