"""What a model is given where its own first layers scale and augment: the same as a pipeline that does both hands over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.identity import Rings, align, augmented_otherwise
from bench.reference import resize
from bench.scaling import unscale
from loaders.base import LoaderSpec

IMAGES = 64
"""So many are flipped and turned: the share of flips is then known to a sixteenth."""
SMALLEST = 24
"""Pixels of a side, below which an image has too few rings to tell an angle."""


def wrong_layers(layers: Sequence[Any], spec: LoaderSpec) -> str | None:
    """Why ``layers`` are not what ``spec`` leaves to the model; None if they are."""
    if spec.placement == "pipeline":
        return f"placement pipeline leaves nothing to the model, but feed.layers has {len(layers)}" if layers else None
    image = _image(spec.image_size)
    for training in (False,) if spec.augment else (False, True):
        off = float(np.abs(_through(layers, image[None], spec, training=training)[0] - image).max())
        if off > 0.01:
            return f"feed.layers scale otherwise than {spec.scaling!r}: that undone, pixels are up to {off:.1f} levels off"
    if not spec.augment or min(spec.image_size) < SMALLEST:
        return None
    rings = Rings(spec.image_size)
    stored = rings.unroll(image[None])[0]
    given = rings.unroll(_through(layers, np.repeat(image[None], IMAGES, axis=0), spec, training=True))
    fault = augmented_otherwise([align(one, stored) for one in given])
    return f"feed.layers: {fault}" if fault else None


def _image(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Soft spots, that are the same from no other angle and in no mirror: uint8 (height, width, 3)."""
    return resize(np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8), size, "bilinear")


def _through(layers: Sequence[Any], images: NDArray[np.uint8], spec: LoaderSpec, *, training: bool) -> NDArray[np.float32]:
    """What the model behind ``layers`` is given, in levels of 0 to 255."""
    given: Any = images.astype(spec.dtype)
    for layer in layers:
        given = layer(given, training=training)
    return unscale(np.asarray(given), spec.scaling)
