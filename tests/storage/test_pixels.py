"""Decode and resize against independent references: plain NumPy arithmetic, Pillow, and TensorFlow's own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from storage import pixels
from storage.base import RESIZES, Resize
from tests.storage.odd import picture, save

SIZES = [(160, 160), (120, 160), (1, 1), (79, 319), (400, 500), (300, 100), (50, 400), (237, 160)]


def image() -> NDArray[np.uint8]:
    """Noise on a gradient: every rounding error shows."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 319)[None, :, None]
    return np.clip(ramp + rng.normal(0, 60, (237, 319, 3)), 0, 255).astype(np.uint8)


def weights(old: int, new: int, filter: Resize) -> NDArray[np.float64]:
    """Share of each of ``old`` source pixels in each of ``new`` target pixels, written out from the filter's definition."""
    matrix = np.zeros((new, old))
    scale = old / new
    for target in range(new):
        if filter == "area":
            for source in range(old):
                covered = min(source + 1, (target + 1) * scale) - max(source, target * scale)
                matrix[target, source] = max(0.0, covered) / scale
        elif filter == "nearest":
            at = np.float32(target + 0.5) * (np.float32(old) / np.float32(new))
            matrix[target, min(int(at), old - 1)] = 1
        else:
            centre = (target + 0.5) * scale - 0.5
            support = max(scale, 1.0) if filter == "antialias" else 1.0
            for source in range(int(np.floor(centre - support)), int(np.ceil(centre + support)) + 1):
                weight = max(0.0, 1 - abs(source - centre) / support)
                if filter == "antialias" and not 0 <= source < old:
                    continue
                matrix[target, min(max(source, 0), old - 1)] += weight
            matrix[target] /= matrix[target].sum()
    return matrix


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("filter", RESIZES)
def test_resize_is_what_its_filter_says(filter: Resize, size: tuple[int, int]) -> None:
    source = image()
    rows, columns = weights(source.shape[0], size[0], filter), weights(source.shape[1], size[1], filter)
    expected = np.einsum("ai,bj,ijc->abc", rows, columns, source.astype(float), optimize=True)
    result = pixels.resize(source, size, filter)
    assert result.shape == (*size, 3)
    assert result.dtype == np.uint8
    worst = np.abs(result - expected).max()
    # uint8 levels, against an unrounded reference: half a level is the best there is, and libraries' fixed-point costs some.
    assert worst <= (0 if filter == "nearest" else 1.01), worst


def test_resize_is_what_tensorflow_makes_of_it() -> None:
    import tensorflow as tf

    source = image()
    for size in SIZES:
        for name in RESIZES:
            method = "bilinear" if name == "antialias" else name
            expected: Any = tf.image.resize(source, size, method, antialias=name == "antialias").numpy()
            worst = np.abs(pixels.resize(source, size, name) - np.rint(expected)).max()
            assert worst <= (0 if name == "nearest" else 1), (size, name)


def test_an_image_of_the_right_size_is_left_alone() -> None:
    source = image()
    assert pixels.resize(source, (237, 319)) is source


def test_decode_is_bit_for_bit_what_libjpeg_says() -> None:
    import io

    from PIL import Image

    data = save(picture(), "JPEG", quality=80)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(pixels.decode(data), np.asarray(opened))


def test_png_is_lossless() -> None:
    np.testing.assert_array_equal(pixels.decode(pixels.encode_png(image())), image())


def test_shrink_leaves_what_is_small_enough() -> None:
    data = save(picture(), "JPEG", quality=95)
    assert pixels.shrink(data, 36, 90) is data
    assert pixels.decode(pixels.shrink(data, 18, 90)).shape == (12, 18, 3)
