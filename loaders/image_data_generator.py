"""Keras' own ``ImageDataGenerator``, as people use it: ``flow_from_directory``, and the same over HDF5 and LMDB.

A feed of this loader is what ``model.fit`` takes. Like ``fit``, ``epoch(n)`` prepares batches in the background while the
model trains; unlike Keras' iterator, it ends.

``workers`` are Keras' threads. 0 is what Keras does unless told otherwise: one. Keras draws augmentation from NumPy's global
generator, seeded from a counter without a lock: with more than one worker, the order of batches and samples repeats for a
seed, the angles and flips do not. ``fit`` itself shuffles the batches of a ``PyDataset`` once more, by Python's generator:
``fit(feed, shuffle=False)`` takes them as the seed orders them.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.preprocessing.image import DirectoryIterator, ImageDataGenerator
from keras.src.legacy.preprocessing.image import Iterator as KerasIterator
from numpy.typing import NDArray

from loaders.base import CLOSED, STAGES, LoaderSpec, Stage, check_epoch
from loaders.keras_files import check_listing
from loaders.numbered import NumberedPasses
from loaders.preprocess import augment_and_scale
from storage.base import DatasetInfo
from storage.errors import DataError, UsageError
from storage.pixels import decode

if TYPE_CHECKING:
    from storage.dataset import StoredDataset

PILLOW_FILTERS = {"bilinear": "bilinear", "antialias": "bilinear", "nearest": "nearest", "area": "box"}
DIFFERENCES = {
    "bilinear": ("Pillow's antialiased bilinear",),
    "area": ("Pillow's box filter",),
    "nearest": ("Pillow's nearest",),
}
ROTATION_DEGREES = 36
"""RandomRotation(0.1): a tenth of a turn, to either side."""

UNREADABLE = (OSError, ValueError, SyntaxError)
"""What Pillow raises at a broken image."""

FILE_TYPES = ("image/png", "image/jpeg", "image/bmp", "image/x-portable-pixmap", "image/tiff")
"""What ``flow_from_directory`` lists; it passes over other files without a word."""


class StoredIterator(KerasIterator):  # type: ignore[misc]  # Keras ships no types
    """What ``DirectoryIterator`` is to a folder, for a stored dataset with random access: reads a batch, never all of it."""

    def __init__(self, dataset: StoredDataset, generator: ImageDataGenerator, spec: LoaderSpec) -> None:
        super().__init__(len(dataset), spec.batch_size, spec.shuffle, spec.seed)
        self.dataset = dataset
        self.image_data_generator = generator
        self.load = partial(keras.utils.load_img, target_size=spec.image_size, interpolation=PILLOW_FILTERS[spec.resize])
        self.image_shape = (*spec.image_size, 3)
        self.classes = dataset.labels

    def _get_batches_of_transformed_samples(self, index_array: NDArray[np.int64]) -> NDArray[Any]:
        generator = self.image_data_generator
        batch = np.zeros((len(index_array), *self.image_shape), dtype=self.image_data_generator.dtype)
        for place, image in enumerate(self.dataset.read(index_array).images):
            x = keras.utils.img_to_array(self.load(io.BytesIO(image)) if isinstance(image, bytes) else image)
            x = generator.apply_transform(x, generator.get_random_transform(x.shape))
            batch[place] = generator.standardize(x)
        return batch


class GeneratorFeed(NumberedPasses):
    """A Keras iterator with numbered epochs, int64 labels and an end."""

    def __init__(
        self, dataset: StoredDataset, iterator: KerasIterator, spec: LoaderSpec, until: Stage = Stage.HAND_OVER
    ) -> None:
        super().__init__(workers=max(1, spec.workers), max_queue_size=max(1, spec.prefetch))
        self.until = until
        self.layers = augment_and_scale(spec) if spec.placement == "model" else []
        self.dataset = dataset
        self.iterator = iterator
        self.spec = spec
        self._closed = False
        self._making = 0
        self._idle = threading.Condition()
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        whole, rest = divmod(self.iterator.n, self.spec.batch_size)
        return int(whole + (rest > 0 and not self.spec.drop_remainder))

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        return self.batch(self.current, index)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The samples of one epoch, in order: int64 (n,). The same for the same seed and epoch, whatever ran before."""
        with self._lock:
            if self._order is None or self._order[0] != epoch:
                samples = self.iterator.n
                shuffled = np.random.default_rng((self.spec.seed, epoch)).permutation(samples)
                self._order = epoch, shuffled if self.spec.shuffle else np.arange(samples)
            return self._order[1]

    def batch(self, epoch: int, index: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """One batch of one epoch, as Keras' iterator makes it: images (b, height, width, 3) and int64 labels (b,)."""
        with self._in_use():
            return self._batch(epoch, index)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """While a batch is made, which Keras' threads may still do after their user has given up, files stay open."""
        with self._idle:
            if self._closed:
                raise UsageError(CLOSED)
            self._making += 1
        try:
            yield
        finally:
            with self._idle:
                self._making -= 1
                self._idle.notify_all()

    def _batch(self, epoch: int, index: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        order = self.order(epoch)
        chosen = order[index * self.spec.batch_size : (index + 1) * self.spec.batch_size]
        # Keras seeds NumPy from these, once a batch.
        self.iterator.index_array = order
        self.iterator.total_batches_seen = epoch * len(self) + index
        try:
            images = self.iterator[index]
        except UNREADABLE as error:
            raise self._named(chosen, error) from error
        return images, np.asarray(self.iterator.classes[chosen], np.int64)

    def _named(self, chosen: NDArray[np.int64], error: Exception) -> DataError:
        """Keras says that an image cannot be read, not which."""
        for index in chosen:
            try:
                self.iterator._get_batches_of_transformed_samples(np.array([index]))
            except UNREADABLE as cause:
                key = (
                    self.iterator.filenames[index]
                    if isinstance(self.iterator, DirectoryIterator)
                    else self.dataset.key(index)
                )
                return DataError(f"{self.dataset.path}: {key} cannot be read: {self._reason(index, cause)}")
        return DataError(f"{self.dataset.path}: a batch cannot be read: {error}")

    def _reason(self, index: np.int64, cause: Exception) -> str:
        """What is wrong with an image: Pillow says at which address it lies in memory."""
        try:
            image = self._read(np.array([index]))[0]
            if isinstance(image, bytes):
                decode(image)
        except DataError as error:
            return str(error)
        except OSError as error:
            return str(error.strerror)
        return str(cause)

    def batches(self, n: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """The n-th pass in plain Python: batches in order, a few prepared ahead by ``workers`` threads, as Keras does."""
        indices = iter(range(len(self)))
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                ahead = deque(pool.submit(self.batch, n, i) for i in islice(indices, self.workers + self.max_queue_size))
                while ahead:
                    batch = ahead.popleft().result()
                    ahead.extend(pool.submit(self.batch, n, i) for i in islice(indices, 1))
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def epoch(self, n: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The n-th pass. Keras' iterator has no end of its own; a pass has."""
        check_epoch(n)
        if self.until != Stage.HAND_OVER:
            yield from self._cut(n)
            return
        for images, labels in self.batches(n):
            yield tf.convert_to_tensor(images), tf.convert_to_tensor(labels)

    def _cut(self, n: int) -> Iterator[tuple[Any, NDArray[np.int64]]]:
        """The n-th pass up to a stage, in this thread. Before a batch, numbers of samples stand for images."""
        for index in range(len(self)):
            if self.until == Stage.BATCH:
                yield self.batch(n, index)
                continue
            chosen = self.order(n)[index * self.spec.batch_size : (index + 1) * self.spec.batch_size]
            for data in self._read(chosen):
                self._work(data)
            yield chosen, np.asarray(self.iterator.classes[chosen], np.int64)

    def _read(self, chosen: NDArray[np.int64]) -> Sequence[bytes | NDArray[np.uint8]]:
        if isinstance(self.iterator, DirectoryIterator):
            return [Path(self.iterator.filepaths[index]).read_bytes() for index in chosen]
        return list(self.dataset.read(chosen).images)

    def _work(self, data: bytes | NDArray[np.uint8]) -> None:
        """What Keras does to one image, up to the stage at which this feed is cut."""
        if self.until == Stage.READ:
            return
        if isinstance(data, bytes):
            size = None if self.until == Stage.DECODE else self.spec.image_size
            image = keras.utils.load_img(io.BytesIO(data), target_size=size, interpolation=PILLOW_FILTERS[self.spec.resize])
            image.load()
        else:
            image = data
        if self.until == Stage.AUGMENT:
            x = keras.utils.img_to_array(image)
            generator = self.iterator.image_data_generator
            generator.standardize(generator.apply_transform(x, generator.get_random_transform(x.shape)))

    def close(self) -> None:
        """Close the stored dataset, once the batches that are being made are: none is made after this."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._making)
        self.dataset.close()


def generator_feed(dataset: StoredDataset, spec: LoaderSpec, until: Stage = Stage.HAND_OVER) -> GeneratorFeed:
    """Keras' generator over a stored dataset. DataError unless Keras sees the very files of a directory."""
    inside = spec.placement == "pipeline"
    generator = ImageDataGenerator(
        horizontal_flip=inside and spec.augment,
        rotation_range=ROTATION_DEGREES if inside and spec.augment else 0,
        preprocessing_function=_scaling(spec) if inside else None,
        dtype="float32" if inside else spec.dtype,
    )
    if dataset.info.format == "directory":
        return GeneratorFeed(dataset, _flow_from_directory(dataset, generator, spec), spec, until)
    return GeneratorFeed(dataset, StoredIterator(dataset, generator, spec), spec, until)


def _flow_from_directory(dataset: StoredDataset, generator: ImageDataGenerator, spec: LoaderSpec) -> DirectoryIterator:
    folder = dataset.path / dataset.split
    # Keras prints how many files it found.
    with contextlib.redirect_stdout(io.StringIO()):
        iterator = generator.flow_from_directory(
            folder,
            target_size=spec.image_size,
            interpolation=PILLOW_FILTERS[spec.resize],
            classes=list(dataset.info.class_names),
            class_mode=None,
            batch_size=spec.batch_size,
            shuffle=spec.shuffle,
            seed=spec.seed,
        )
    check_listing(dataset, iterator.filenames, iterator.white_list_formats)
    return iterator


def _scaling(spec: LoaderSpec) -> Any:
    if spec.scaling == "none":
        return None
    return partial(keras.applications.imagenet_utils.preprocess_input, mode=spec.scaling)


def generator_unsupported(info: DatasetInfo, spec: LoaderSpec) -> str | None:
    """Why Keras' generator cannot serve this, in words; None if it can."""
    others = sorted(set(info.media_types) - set(FILE_TYPES))
    if info.format == "tfrecord":
        return "TFRecord has no random access, and Keras' generator asks for samples by number"
    if info.format == "directory" and info.payload == "encoded" and others:
        return f"flow_from_directory passes over {', '.join(others)} files without a word"
    if info.payload == "raw" and info.image_size != spec.image_size:
        return f"the stored images are {info.image_size}, and image_size is {spec.image_size}"
    if spec.augment and spec.placement == "pipeline" and spec.image_size[0] != spec.image_size[1]:
        return "Keras' generator rotates an image that is not square around the wrong point"
    if spec.on_error == "skip":
        return "Keras' generator cannot skip an unreadable sample"
    if spec.decode == "fast" or spec.jpeg_scale == "auto":
        return "Keras' generator has no choice of JPEG decoding"
    if spec.cache:
        return "Keras' generator does not cache"
    return None


def generator_differences(info: DatasetInfo, spec: LoaderSpec) -> tuple[str, ...]:
    """The named causes why Pillow's pixels may differ from the reference."""
    return () if info.payload == "raw" else DIFFERENCES.get(spec.resize, ())


class ImageDataGeneratorLoader:
    """See the module."""

    name = "image_data_generator"
    stages = STAGES

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """File types by name, no TFRecord, no options that Keras lacks."""
        return generator_unsupported(info, spec)

    def differences(self, info: DatasetInfo, spec: LoaderSpec) -> tuple[str, ...]:
        """Pillow's filters."""
        return generator_differences(info, spec)

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> GeneratorFeed:
        """A Keras iterator, adapted."""
        return generator_feed(dataset, spec, until)


LOADER = ImageDataGeneratorLoader()
