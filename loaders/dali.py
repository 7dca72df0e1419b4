"""NVIDIA DALI on the CPU: its decoders, resize, flip and rotation, fed with files by an external source.

Our order and our angles go in with the files, so that a seed repeats them. ``workers`` are DALI's threads. A rotation leaves the
corners black, where Keras' layers mirror the image: DALI has no other way.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loaders.base import LoaderSpec, Stage
from loaders.reused import Reused
from loaders.sample import ROTATION_DEGREES, batches_in, order, peer_unsupported, scale
from storage.base import DatasetInfo
from storage.errors import DataError

if TYPE_CHECKING:
    from loaders.stream import StreamFeed
    from storage.dataset import StoredDataset

FILTERS = {"bilinear": "INTERP_LINEAR", "nearest": "INTERP_NN", "antialias": "INTERP_TRIANGULAR"}
DIFFERENCES = {"nearest": ("DALI's nearest",), "antialias": ("DALI's antialiased edge",)}
MEDIA_TYPES = {"image/jpeg", "image/png", "image/bmp"}


class Pipeline:
    """A DALI pipeline that asks, batch by batch, for the samples that come next."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec) -> None:
        from nvidia.dali import fn, pipeline_def, types

        self.dataset, self.spec = dataset, spec
        self.augment = spec.augment and spec.placement == "pipeline"
        self.coming: Iterator[Any] = iter(())

        @pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=spec.batch_size,
            num_threads=spec.threads(),
            device_id=None,
            prefetch_queue_depth=max(1, spec.prefetch),
        )
        def pipe() -> Any:
            inputs = fn.external_source(source=lambda: next(self.coming), num_outputs=3 if self.augment else 1, batch=True)
            image = fn.decoders.image(
                inputs[0], device="cpu", output_type=types.RGB, adjust_orientation=False, jpeg_fancy_upsampling=True
            )
            image = fn.resize(
                image,
                size=list(spec.image_size),
                interp_type=getattr(types, FILTERS[spec.resize]),
                antialias=spec.resize == "antialias",
            )
            if self.augment:
                image = fn.rotate(fn.flip(image, horizontal=inputs[1]), angle=inputs[2], keep_size=True, fill_value=0)
            return image

        self.pipe: Any = pipe()
        self.pipe.build()
        self.finished = True

    def _inputs(self, parts: list[NDArray[np.int64]], n: int) -> Iterator[Any]:
        """The files of each batch, and how each is to be flipped and turned."""
        for chosen in parts:
            files = [np.frombuffer(bytes(image), np.uint8) for image in self.dataset.read(chosen).images]
            if not self.augment:
                yield [files]
                continue
            random = [np.random.default_rng((self.spec.seed, n, int(index))) for index in chosen]
            flips = [np.array(r.random() < 0.5, np.int32) for r in random]
            angles = [np.array(r.uniform(-ROTATION_DEGREES, ROTATION_DEGREES), np.float32) for r in random]
            yield [files, flips, angles]

    def batches(self, n: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """The n-th pass."""
        self._finish()
        numbers = order(len(self.dataset), self.spec, n)
        size = self.spec.batch_size
        parts = [numbers[i * size : (i + 1) * size] for i in range(batches_in(len(self.dataset), self.spec))]
        self.coming = self._inputs(parts, n)
        self.finished = False
        for chosen in parts:
            try:
                (images,) = self.pipe.run()
            except RuntimeError as error:
                raise self._named(chosen, error) from error
            pixels = np.array(images.as_array())
            labels = self.dataset.labels[chosen]
            yield (
                (pixels.astype(self.spec.dtype) if self.spec.placement == "model" else scale(pixels, self.spec.scaling)),
                labels,
            )

    def _finish(self) -> None:
        """Empty the queue of the pass before, which may have been given up, and begin anew."""
        if not self.finished:
            self.coming = iter(())
            with contextlib.suppress(StopIteration):
                while True:
                    self.pipe.run()
            self.pipe.reset()
            self.finished = True

    def end(self) -> None:
        """Let go of DALI's threads: they live as long as the pipeline, which its own source keeps in a cycle."""
        self.pipe = None

    def _named(self, chosen: NDArray[np.int64], error: Exception) -> DataError:
        from storage.pixels import decode

        for index, image in zip(chosen, self.dataset.read(chosen).images, strict=True):
            try:
                decode(bytes(image))
            except DataError as cause:
                return DataError(f"{self.dataset.path}: {self.dataset.key(int(index))} cannot be read: {cause}")
        return DataError(f"{self.dataset.path}: DALI cannot decode a batch: {error}")


class DaliLoader:
    """See the module."""

    name = "dali"
    libraries = ("nvidia.dali",)
    stages: tuple[Stage, ...] = ()

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """Encoded files in formats with random access, of the types and filters that DALI has, if it is installed."""
        others = sorted(set(info.media_types) - MEDIA_TYPES)
        if info.format == "tfrecord":
            return "TFRecord has no random access, and this loader hands DALI samples by number"
        if info.payload == "raw":
            return "the images are stored raw: there is nothing for DALI to decode"
        if others:
            return f"DALI's CPU decoder is not given {', '.join(others)} files here"
        if spec.resize not in FILTERS:
            return f"DALI has no {spec.resize} filter"
        if spec.on_error == "skip":
            return "DALI cannot skip an unreadable sample"
        return peer_unsupported("nvidia.dali", info, spec)

    def differences(self, info: DatasetInfo, spec: LoaderSpec) -> tuple[str, ...]:
        """DALI's own filters, at the edge and where two pixels are equally near."""
        del info
        return DIFFERENCES.get(spec.resize, ())

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> StreamFeed:
        """A DALI pipeline behind a feed."""
        from loaders.preprocess import augment_and_scale
        from loaders.stream import StreamFeed

        del until  # no stages
        pipelines = Reused(lambda: Pipeline(dataset, spec))

        def close() -> None:
            pipelines.close(Pipeline.end)
            dataset.close()
            gc.collect()

        return StreamFeed(
            lambda n: pipelines.batches(lambda pipeline: pipeline.batches(n)),
            batches_in(len(dataset), spec),
            spec,
            layers=augment_and_scale(spec) if spec.placement == "model" else [],
            close=close,
            prefetch=spec.prefetch,
            direct=True,
        )


LOADER = DaliLoader()
