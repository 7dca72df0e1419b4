"""What every loader's pixels are compared with: decoded by Pillow, resized by plain NumPy.

Nothing here shares code with ``storage.pixels`` or with a loader. A resize is two matrices of weights, one for rows and
one for columns, written from each filter's definition; they are applied in floating point and rounded once, at the end.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError

Weights: TypeAlias = Callable[[int, int], NDArray[np.float64]]
Taps: TypeAlias = tuple[NDArray[np.intp], NDArray[np.float32]]


def decode(data: bytes, *, scaled_to: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The first frame of an encoded image: uint8 (height, width, 3), RGB, EXIF orientation ignored, alpha dropped.

    ``scaled_to`` (height, width) lets a JPEG be decoded at 1/2, 1/4 or 1/8, as small as it can be without falling below it.
    Raises DataError with Pillow's reason.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if scaled_to is not None:
                image.draft("RGB", (scaled_to[1], scaled_to[0]))
            image.load()
            if image.mode.startswith("I"):
                # Sixteen bits a pixel: the high byte, as libpng's strip_16 takes it. Pillow would clip to white.
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"Pillow cannot decode it: {error}") from error


def resize(image: NDArray[np.uint8], size: tuple[int, int], filter_name: str) -> NDArray[np.uint8]:
    """``image`` (height, width, 3) at ``size`` (height, width) by a filter in FILTERS, rounded half up to uint8."""
    height, width = size
    if image.shape[:2] == size:
        return image
    rows = _taps(filter_name, image.shape[0], height)
    columns = _taps(filter_name, image.shape[1], width)
    tall = _apply(rows, image.astype(np.float32).reshape(image.shape[0], -1)).reshape(height, image.shape[1], 3)
    turned = np.ascontiguousarray(tall.swapaxes(0, 1)).reshape(image.shape[1], -1)
    both = _apply(columns, turned).reshape(width, height, 3).swapaxes(0, 1)
    both += 0.5
    return np.ascontiguousarray(both.clip(0, 255).astype(np.uint8))


def _apply(taps: Taps, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted sums of rows of ``image``: (source, n) to (target, n)."""
    indices, weights = taps
    result = np.zeros((indices.shape[1], image.shape[1]), np.float32)
    for index, weight in zip(indices, weights, strict=True):
        part = image[index]
        part *= weight[:, None]
        result += part
    return result


@lru_cache(maxsize=256)
def _taps(filter_name: str, source: int, target: int) -> Taps:
    """Of a matrix of weights (target, source), what is not zero in each row: indices and weights (taps, target)."""
    weights = FILTERS[filter_name](source, target)
    count = int((weights > 0).sum(axis=1).max())
    indices = np.sort(np.argpartition(weights, -count, axis=1)[:, -count:], axis=1)
    few = np.take_along_axis(weights, indices, axis=1)
    return indices.T, np.ascontiguousarray(few.T, np.float32)


def _centres(source: int, target: int) -> NDArray[np.float64]:
    """Where the middle of each target pixel lies in the source, in pixels from the source's edge."""
    centres: NDArray[np.float64] = (np.arange(target, dtype=np.float64) + 0.5) * (source / target)
    return centres


def _nearest(source: int, target: int) -> NDArray[np.float64]:
    """The source pixel in which the middle of the target pixel lies, in single precision: what nearest means where two are as near."""
    middles = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * (np.float32(source) / np.float32(target))
    return _one_each(middles, source)


def _nearest_added(source: int, target: int) -> NDArray[np.float64]:
    """Pillow's nearest: middles are added up, one step after the other, and so are the rounding errors that decide a tie."""
    step = source / target
    middles = np.cumsum([0.5 * step, *[step] * (target - 1)])
    return _one_each(middles, source)


def _one_each(middles: NDArray[np.floating], source: int) -> NDArray[np.float64]:
    """All weight on the source pixel in which each middle lies."""
    weights: NDArray[np.float64] = np.eye(source)[np.floor(middles).astype(int).clip(0, source - 1)]
    return weights


def _bilinear(source: int, target: int) -> NDArray[np.float64]:
    """The two source pixels around the middle of the target pixel; beyond the edge, the edge pixel."""
    position = _centres(source, target) - 0.5
    below = np.floor(position).astype(int)
    share = position - below
    one = np.eye(source)
    weights: NDArray[np.float64] = one[below.clip(0, source - 1)] * (1 - share)[:, None]
    weights += one[(below + 1).clip(0, source - 1)] * share[:, None]
    return weights


def _antialias(source: int, target: int) -> NDArray[np.float64]:
    """A triangle as wide as the reduction, so that every source pixel counts. Enlarging, it is plain bilinear."""
    width = max(1.0, source / target)
    distance = np.abs(np.arange(source)[None, :] + 0.5 - _centres(source, target)[:, None]) / width
    return _normalised(np.maximum(0.0, 1.0 - distance))


def _antialias_repeated(source: int, target: int) -> NDArray[np.float64]:
    """The same triangle over an image whose edge pixel goes on beyond the edge, where ``antialias`` weighs what is left."""
    width = max(1.0, source / target)
    beyond = int(np.ceil(width))
    index = np.arange(-beyond, source + beyond)
    distance = np.abs(index[None, :] + 0.5 - _centres(source, target)[:, None]) / width
    inside = np.eye(source)[index.clip(0, source - 1)]
    return _normalised(np.maximum(0.0, 1.0 - distance) @ inside)


def _area(source: int, target: int) -> NDArray[np.float64]:
    """The mean over the area that the target pixel covers; a pixel covered in part counts in part."""
    scale = source / target
    start = np.arange(target)[:, None] * scale
    left = np.arange(source)[None, :]
    covered = np.minimum(start + scale, left + 1) - np.maximum(start, left)
    return _normalised(np.maximum(0.0, covered))


def _box(source: int, target: int) -> NDArray[np.float64]:
    """Pillow's idea of an area: source pixels count whole, if their middle is covered.

    Where a middle lies on the edge, Pillow's rounding errors choose; so this is its arithmetic, step by step.
    """
    scale = max(1.0, source / target)
    centres = _centres(source, target)[:, None]
    index = np.arange(source)[None, :]
    looked_at = (index >= np.trunc(centres - 0.5 * scale + 0.5)) & (index < np.trunc(centres + 0.5 * scale + 0.5))
    distance = (index - centres + 0.5) * (1 / scale)
    return _normalised((looked_at & (distance > -0.5) & (distance <= 0.5)).astype(np.float64))


def _normalised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    normalised: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalised


FILTERS: dict[str, Weights] = {
    "bilinear": _bilinear,
    "area": _area,
    "nearest": _nearest,
    "nearest_added": _nearest_added,
    "antialias": _antialias,
    "antialias_repeated": _antialias_repeated,
    "box": _box,
}
