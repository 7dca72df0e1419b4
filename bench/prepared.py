"""A stored image as the reference prepares it, once for all pipelines that are proven in one process.

Decoding by Pillow and resizing in NumPy is most of a proof's time, and the same files lie behind every format and loader.
Kept by the content of what was stored, so that a format that stores something else is compared with something else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from bench import reference
from bench.causes import Expected
from bench.identity import Rings
from loaders.base import LoaderSpec
from storage.base import Sample

Image = NDArray[np.uint8]

KEPT_BYTES = 400 << 20


class Prepared(NamedTuple):
    """uint8 (height, width, 3) by the reference, and as named causes make it (the same array without one); its rings, uint8."""

    pixels: Image
    expected: Image
    rolled: Image


_kept: OrderedDict[tuple[object, ...], Image] = OrderedDict()


def prepared(sample: Sample, spec: LoaderSpec, wanted: Expected) -> Prepared:
    """The references of one sample. Raises DataError if Pillow cannot decode it."""
    content = sample.image if isinstance(sample.image, bytes) else sample.image.tobytes()
    which = (xxhash.xxh3_128_digest(content), np.shape(sample.image), spec.image_size)
    pixels = expected = _once((*which, spec.resize), lambda: _resized(sample, spec.image_size, spec.resize))
    if wanted.scaled or wanted.filter != spec.resize:
        scaled_to = spec.image_size if wanted.scaled else None
        expected = _once(
            (*which, wanted.filter, scaled_to), lambda: _resized(sample, spec.image_size, wanted.filter, scaled_to)
        )
    return Prepared(pixels, expected, _once((*which, wanted.filter, wanted.scaled, "rings"), lambda: _rolled(expected)))


def decoded(sample: Sample, scaled_to: tuple[int, int] | None = None) -> Image:
    """The pixels of one stored sample, uint8 (height, width, 3): decoded by Pillow, unless it was stored raw."""
    return reference.decode(sample.image, scaled_to=scaled_to) if isinstance(sample.image, bytes) else sample.image


def _once(key: tuple[object, ...], make: Callable[[], Image]) -> Image:
    found = _kept.get(key)
    if found is None:
        found = _kept[key] = make()
        while len(_kept) > 1 and len(_kept) * found.nbytes > KEPT_BYTES:
            _kept.popitem(last=False)
    else:
        _kept.move_to_end(key)
    return found


def _resized(sample: Sample, size: tuple[int, int], filter_name: str, scaled_to: tuple[int, int] | None = None) -> Image:
    return reference.resize(decoded(sample, scaled_to), size, filter_name)


def _rolled(image: Image) -> Image:
    """Rounded to whole levels: a quarter of the memory, and half a level is nothing beside a rotation's interpolation."""
    rolled: Image = np.rint(_rings((image.shape[0], image.shape[1])).unroll(image[None])[0]).astype(np.uint8)
    return rolled


@lru_cache(maxsize=8)
def _rings(size: tuple[int, int]) -> Rings:
    return Rings(size)
