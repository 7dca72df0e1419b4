"""Decode and resize against independent references: plain NumPy arithmetic, Pillow, and TensorFlow's own functions."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
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


SIDES = st.one_of(st.integers(1, 40), st.integers(1, 700))


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9))
@example(1, 1, 7, 9, 0)
@example(2, 3, 1, 1, 0)
@example(320, 240, 160, 120, 0)
@example(240, 320, 160, 160, 0)
@settings(max_examples=200, deadline=None)
def test_bilinear_is_bit_for_bit_opencvs(height: int, width: int, new_height: int, new_width: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = noise if (height, width) == (new_height, new_width) else cv2.resize(noise, (new_width, new_height))
    np.testing.assert_array_equal(pixels.resize(noise, (new_height, new_width)), expected)
    batch = np.full((3, new_height, new_width, 3), 7, np.uint8)
    pixels.resizer((new_height, new_width))(noise, batch[1])
    np.testing.assert_array_equal(batch[1], expected)
    assert (batch[[0, 2]] == 7).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1), (3, 5), (64, 64)])
def test_bilinear_reads_nothing_behind_an_image(height: int, width: int) -> None:
    size, page = height * width * 3, mmap.PAGESIZE
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    held = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    behind = ctypes.c_void_p(held.ctypes.data + pages * page)
    assert libc.mprotect(behind, ctypes.c_size_t(page), 0) == 0  # what is read there ends the process
    last = held[pages * page - size : pages * page].reshape(height, width, 3)
    last[...] = np.arange(size, dtype=np.uint8).reshape(last.shape)
    np.testing.assert_array_equal(pixels.resize(last, (9, 11)), cv2.resize(last.copy(), (11, 9)))


def test_bilinear_takes_images_that_do_not_lie_in_one_piece() -> None:
    np.testing.assert_array_equal(
        pixels.resize(image()[:, ::-1], (50, 60)), pixels.resize(image()[:, ::-1].copy(), (50, 60))
    )


@pytest.mark.parametrize("new", [(3, 2), (4, 5)], ids=str)  # half of both sides is OpenCV's, whatever is compiled
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1), (6, 4, 4)], ids=str)
def test_bilinear_refuses_what_is_no_rgb(shape: tuple[int, ...], new: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"uint8 .*\(height, width, 3\)"):
        pixels.resize(np.full(shape, 9, np.uint8), new)


def test_bilinear_is_compiled_wherever_it_can_be() -> None:
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if shutil.which("cc") is None or not header.exists() or "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a C compiler, Python's headers and AVX2")
    from storage import _bilinear

    wrong: list[Any] = [
        np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.int8),
        np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), b"0123",
    ]  # fmt: skip
    right = np.zeros((5, 6, 3), np.uint8)
    for one in wrong:
        with pytest.raises(ValueError, match="expects uint8 arrays of shape"):
            _bilinear.resize(one, right)
    right.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        _bilinear.resize(right, right)
    with pytest.raises(ValueError, match="contiguous"):
        _bilinear.resize(np.zeros((4, 9, 3), np.uint8)[:, ::2], np.zeros((5, 6, 3), np.uint8))


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
