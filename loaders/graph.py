"""What happens to samples inside a TensorFlow graph: their order, decoding, resize, augmentation and scaling.

Everything random is a function of (seed, epoch, number of the sample), so that it repeats whatever threads or machines do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from loaders.base import LoaderSpec
from loaders.preprocess import DEVIATION, MEAN, MEAN_BGR
from storage.base import DatasetInfo

Tensor: TypeAlias = Any

MEDIA_TYPES = frozenset({"image/jpeg", "image/png", "image/bmp", "image/gif", "image/webp"})
"""What TensorFlow decodes as RGB. WebP with alpha or animation it refuses."""

_GOLDEN = 0x9E3779B97F4A7C15

TURN = 0.1
"""RandomRotation(0.1): a tenth of a turn, to either side."""


def permuted(positions: Tensor, count: int, seed: int, epoch: Tensor) -> Tensor:
    """The numbers (int64, (n,)) of the samples at ``positions`` in the order of an epoch: a permutation that is never stored."""
    if count < 2:
        return positions
    # Keys that are small numbers make unfair orders: what mixes them here is not the cipher's business.
    # An array: in a graph, TensorFlow takes a list of numbers as large as these through float64.
    streams = tf.constant(np.array([(seed * 4 + stream) * _GOLDEN % (1 << 64) for stream in (1, 2, 3)], np.uint64))
    key = _mix(tf.cast(epoch, tf.uint64) + streams)
    return tf.raw_ops.RandomIndexShuffle(index=positions, seed=key, max_index=tf.constant(count - 1, tf.int64), rounds=8)


def decoder(info: DatasetInfo, spec: LoaderSpec) -> Callable[[Tensor], Tensor]:
    """From one encoded image (string scalar) to uint8 (height, width, 3), as stored or, for ``jpeg_scale``, smaller."""
    jpeg = _jpeg_decoder(spec)
    others = set(info.media_types) - {"image/jpeg"}
    if info.payload == "raw":
        return lambda data: tf.io.decode_png(data, channels=3)
    if not others:
        return jpeg

    def other(data: Tensor) -> Tensor:
        return _rgb(tf.io.decode_image(data, channels=3, expand_animations=False))

    if "image/jpeg" not in info.media_types:
        return other
    return lambda data: tf.cond(tf.io.is_jpeg(data), lambda: jpeg(data), lambda: other(data))


def _jpeg_decoder(spec: LoaderSpec) -> Callable[[Tensor], Tensor]:
    accurate = spec.decode == "accurate"

    def decode(data: Tensor, ratio: int = 1) -> Tensor:
        return tf.io.decode_jpeg(
            data,
            channels=3,
            ratio=ratio,
            fancy_upscaling=accurate,
            dct_method="INTEGER_ACCURATE" if accurate else "INTEGER_FAST",
        )

    if spec.jpeg_scale == "none":
        return decode
    height, width = spec.image_size

    def scaled(data: Tensor) -> Tensor:
        shape = tf.io.extract_jpeg_shape(data)
        larger = tf.minimum(shape[0] // height, shape[1] // width)
        which = tf.reduce_sum(tf.cast(larger >= [2, 4, 8], tf.int32))
        return tf.switch_case(which, [lambda r=ratio: decode(data, r) for ratio in (1, 2, 4, 8)])

    return scaled


def _rgb(image: Tensor) -> Tensor:
    image.set_shape((None, None, 3))
    return image


def resizer(spec: LoaderSpec) -> Callable[[Tensor], Tensor]:
    """From uint8 (height, width, 3) of any size to uint8 of ``spec.image_size``, rounded half up."""
    size = tf.constant(spec.image_size, tf.int32)
    kernels: dict[str, Callable[[Tensor], Tensor]] = {
        "bilinear": lambda images: tf.raw_ops.ResizeBilinear(images=images, size=size, half_pixel_centers=True),
        "area": lambda images: tf.raw_ops.ResizeArea(images=images, size=size),
        "nearest": lambda images: tf.raw_ops.ResizeNearestNeighbor(images=images, size=size, half_pixel_centers=True),
        "antialias": lambda images: tf.image.resize(images, spec.image_size, antialias=True),
    }
    kernel = kernels[spec.resize]

    def resize(image: Tensor) -> Tensor:
        resized = kernel(image[tf.newaxis])[0]
        if resized.dtype != tf.uint8:
            resized = tf.cast(resized + 0.5, tf.uint8)
        return tf.ensure_shape(resized, (*spec.image_size, 3))

    return resize


def finisher(spec: LoaderSpec) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """From a batch of uint8 images, the numbers of their samples and the epoch to what the model is given."""
    if spec.placement == "model":
        return lambda images, _numbers, _epoch: tf.cast(images, spec.dtype)

    def finish(images: Tensor, numbers: Tensor, epoch: Tensor) -> Tensor:
        images = tf.cast(images, tf.float32)
        if spec.augment:
            images = augment(images, numbers, epoch, spec)
        return scale(images, spec.scaling)

    return finish


def augment(images: Tensor, numbers: Tensor, epoch: Tensor, spec: LoaderSpec) -> Tensor:
    """RandomFlip("horizontal") and RandomRotation(0.1) of a float32 batch, in one transformation a sample."""
    height, width = spec.image_size
    angle = (uniform(numbers, epoch, spec.seed, 1) * 2 - 1) * (TURN * 2 * math.pi)
    cos, sin = tf.cos(angle), tf.sin(angle)
    across = ((width - 1) - (cos * (width - 1) - sin * (height - 1))) / 2
    down = ((height - 1) - (sin * (width - 1) + cos * (height - 1))) / 2
    flipped = uniform(numbers, epoch, spec.seed, 0) < 0.5
    side = tf.where(flipped, -1.0, 1.0)
    edge = tf.where(flipped, float(width - 1), 0.0)
    none = tf.zeros_like(angle)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([side * cos, -side * sin, edge + side * across, sin, cos, down, none, none], axis=1),
        output_shape=tf.constant([height, width], tf.int32),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def uniform(numbers: Tensor, epoch: Tensor, seed: int, stream: int) -> Tensor:
    """A float32 in [0, 1) for each sample number: SplitMix64 (Steele et al. 2014) of seed, epoch, stream and number."""
    key = tf.cast(epoch, tf.uint64) * tf.constant(0xD1342543DE82EF95, tf.uint64)
    key += tf.constant((seed * 4 + stream) * _GOLDEN % (1 << 64), tf.uint64)
    mixed = _mix(tf.cast(numbers, tf.uint64) + _mix(key))
    return tf.cast(tf.bitwise.right_shift(mixed, tf.constant(40, tf.uint64)), tf.float32) / float(1 << 24)


def _mix(value: Tensor) -> Tensor:
    value += tf.constant(_GOLDEN, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, tf.constant(shift, tf.uint64)))
        value *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, tf.constant(31, tf.uint64)))


def scale(images: Tensor, scaling: str) -> Tensor:
    """float32 levels of 0 to 255 as the model wants them, as ``keras.applications`` names it."""
    if scaling == "tf":
        return images / 127.5 - 1.0
    if scaling == "torch":
        return (images / 255.0 - MEAN) / DEVIATION
    if scaling == "caffe":
        return images[..., ::-1] - MEAN_BGR
    return images
