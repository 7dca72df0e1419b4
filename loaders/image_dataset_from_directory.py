"""Keras' ``image_dataset_from_directory``, with its own shuffle, parallelism and prefetch, as its users have it.

Keras shuffles the list of files once and then through a buffer of eight batches, decodes by TensorFlow's fast DCT, and
hands over unrounded float32; here they are rounded to whole levels, as every loader does. ``workers`` has no effect: Keras
leaves parallelism to autotuning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from loaders.base import LoaderSpec, Stage, check_epoch
from loaders.closable import Closable
from loaders.keras_files import check_listing
from loaders.preprocess import augment_and_scale
from loaders.unreadable import undecodable
from storage.base import DatasetInfo
from storage.errors import DataError

if TYPE_CHECKING:
    from storage.dataset import StoredDataset

FILE_TYPES = ("image/bmp", "image/gif", "image/jpeg", "image/png")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
"""What Keras lists, by file name; it passes over other files without a word."""


class DirectoryFeed(Closable):
    """Keras' dataset. Its n-th pass is the n-th since it was made, so an earlier one than the next is taken from a new one."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec) -> None:
        self._stored = dataset
        self._folder = dataset.path / dataset.split
        self._spec = spec
        self.layers = augment_and_scale(spec) if spec.placement == "model" else []
        self._inside = augment_and_scale(spec) if spec.placement == "pipeline" else []
        self._made, self._paths = self._make()
        check_listing(dataset, (path.removeprefix(f"{self._folder}/") for path in self._paths), SUFFIXES)
        super().__init__(self._made._variant_tensor)
        self._numbered: tf.data.Dataset | None = self._made
        """Where numbered passes come from, as long as nobody else takes any; the next of it is number ``_passed``."""
        self._passed = 0
        self._beginning = Lock()

    def _make(self) -> tuple[tf.data.Dataset, list[str]]:
        spec, folder = self._spec, self._folder
        # Keras wants a folder of each class, and numbers those that it has.
        classes = [(number, name) for number, name in enumerate(self._stored.info.class_names) if (folder / name).is_dir()]
        made = keras.utils.image_dataset_from_directory(
            str(folder),
            label_mode="int",
            class_names=[name for _, name in classes],
            batch_size=spec.batch_size,
            image_size=spec.image_size,
            shuffle=spec.shuffle,
            seed=spec.seed,
            interpolation=spec.resize,
            verbose=False,
        )
        paths = list(made.file_paths)
        if spec.drop_remainder:
            made = made.take(len(paths) // spec.batch_size)
        numbers = tf.constant([number for number, _ in classes], tf.int64)

        def finish(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return self._finished(images), tf.gather(numbers, labels)

        return made.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(spec.prefetch or tf.data.AUTOTUNE), paths

    def _finished(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.round(images)
        if self._spec.placement == "model":
            return tf.cast(images, self._spec.dtype)
        for layer in self._inside:
            images = layer(images, training=True)
        return images

    @property
    def _variant_tensor(self) -> Any:
        self._numbered = None
        return super()._variant_tensor

    def __iter__(self) -> Iterator[Any]:
        self.check_open()
        self._numbered = None
        # Begun with the first batch that is asked for: Keras makes an iterator too many after each epoch of ``fit``.
        return self._naming(self._made)

    def epoch(self, n: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The n-th pass. Keras reshuffles from a state that each pass moves on: where others may have, from a new dataset."""
        check_epoch(n)
        self.check_open()
        with self._beginning:
            if self._numbered is None or n < self._passed:
                self._numbered, self._passed = self._make()[0], 0
            for _ in range(self._passed, n):
                iter(self._numbered)  # moves the state on, and reads nothing
            self._passed = n + 1
            return self._naming(iter(self._numbered))

    def _naming(self, batches: Iterable[Any]) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """TensorFlow says that an image cannot be decoded, not which."""
        try:
            yield from batches
        except tf.errors.OpError as error:
            for path in self._paths:
                try:
                    reason = undecodable(Path(path).read_bytes())
                except OSError as cause:
                    reason = cause.strerror
                if reason:
                    raise DataError(f"{path} cannot be read: {reason}") from error
            raise

    def __len__(self) -> int:
        whole, rest = divmod(len(self._stored), self._spec.batch_size)
        return whole + (rest > 0 and not self._spec.drop_remainder)

    @property
    def element_spec(self) -> Any:
        """What a batch looks like."""
        return self._made.element_spec

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._made]

    def close(self) -> None:
        """Close the stored dataset: no pass begins after this."""
        self.closed = True
        self._stored.close()


class ImageDatasetFromDirectoryLoader:
    """See the module."""

    name = "image_dataset_from_directory"
    stages: tuple[Stage, ...] = ()

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """Directories only, of file types that Keras lists; no options that Keras lacks."""
        others = sorted(set(info.media_types) - set(FILE_TYPES))
        if info.format != "directory":
            return "image_dataset_from_directory reads directories only"
        if info.payload == "encoded" and others:
            return f"image_dataset_from_directory passes over {', '.join(others)} files without a word"
        if info.payload == "raw" and info.image_size != spec.image_size:
            return f"the stored images are {info.image_size}, and image_size is {spec.image_size}"
        if spec.resize == "antialias":
            return "image_dataset_from_directory has no antialiased bilinear filter"
        if spec.jpeg_scale == "auto":
            return "image_dataset_from_directory decodes JPEG at full size only"
        if spec.on_error == "skip":
            return "image_dataset_from_directory cannot skip an unreadable sample and count it"
        if spec.cache:
            return "a cache behind Keras' shuffle would repeat the first epoch's order"
        return None

    def differences(self, info: DatasetInfo, spec: LoaderSpec) -> tuple[str, ...]:
        """TensorFlow's default way to decode JPEG."""
        del spec
        return ("fast DCT",) if info.payload == "encoded" and "image/jpeg" in info.media_types else ()

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> DirectoryFeed:
        """Keras' dataset, rounded, and augmented and scaled where ``spec`` says so."""
        del until  # no stages: Keras builds it in one piece
        return DirectoryFeed(dataset, spec)


LOADER = ImageDatasetFromDirectoryLoader()
