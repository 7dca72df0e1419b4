"""The one definition of decode and resize: what raw conversion stores, and what every loader is held to.

JPEG is decoded with the accurate integer DCT and fancy upsampling, so that libjpeg-turbo, Pillow, OpenCV and TensorFlow agree
bit for bit. EXIF orientation is ignored, as TensorFlow and Keras do. The rules for odd images stand in ``docs/images.md``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.base import Resize
from storage.errors import DataError
from storage.media import MAX_PIXELS, MEDIA_TYPES, describe, media_type

try:
    from storage import _bilinear as _compiled
except ImportError:  # no compiler when this was installed, or another processor
    _compiled = None  # type: ignore[assignment]

COMPILED = _compiled is not None
"""Bilinear resizing is our own compiled code (storage/_bilinear.c), not OpenCV's. The pixels are the same."""

__all__ = (
    "COMPILED",
    "MAX_PIXELS",
    "MEDIA_TYPES",
    "check",
    "decode",
    "decoder",
    "encode_png",
    "jpeg_divisor",
    "media_type",
    "resize",
    "resizer",
    "shrink",
)

_EOI = b"\xff\xd9"
_TAIL_BYTES = 64


def check(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    """The media type of an image that may be stored, such as ``image/webp;alpha``. DataError, with the reason, for one that may not.

    A JPEG is judged by its headers and its end marker, which costs microseconds (only one without a marker near its end is
    decoded); anything else is decoded.
    """
    kind = describe(data, max_pixels)
    if kind != "image/jpeg" or _EOI not in data[-_TAIL_BYTES:]:
        decode(data, max_pixels)
    return kind


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """An encoded image as uint8 RGB, shape (height, width, 3); the first frame of an animation. DataError if it is broken."""
    kind = describe(data, max_pixels)
    if kind != "image/jpeg":
        return _decode_pillow(data, kind)
    import simplejpeg

    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK"):
            return _decode_pillow(data, kind)
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False))
    except ValueError as error:
        if "Premature end" in str(error):
            raise DataError(f"truncated JPEG: {error}") from error
        reason = error
    try:  # What libjpeg warns of and goes on with, TensorFlow and Pillow go on with too.
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=False))
    except ValueError:
        raise DataError(f"broken JPEG: {reason}") from reason


def decoder(
    *, fast: bool = False, scaled_to: tuple[int, int] | None = None
) -> Callable[[Any, NDArray[np.uint8]], NDArray[np.uint8]]:
    """``decode`` without an allocation, for many images that were checked when they were stored.

    What is returned takes an encoded image (any buffer) and a scratch (uint8, flat), and gives a view of the scratch, if it is a
    JPEG that fits; else an array of its own. ``fast`` lets libjpeg use its fast DCT and plain upsampling; ``scaled_to`` (height,
    width) lets it decode at 1/2, 1/4 or 1/8, as small as it can be without falling below that.
    """
    from simplejpeg import decode_jpeg, decode_jpeg_header

    def decode_into(data: Any, scratch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            height, width, colours, _ = decode_jpeg_header(data)
            divisor = 1 if scaled_to is None else jpeg_divisor((height, width), scaled_to)
            if divisor > 1:
                height, width = -(-height // divisor), -(-width // divisor)
            if height * width * 3 <= len(scratch) and colours not in _FOUR_COLOURS:
                if divisor == 1:
                    pixels: NDArray[np.uint8] = decode_jpeg(data, "RGB", fast, fast, buffer=scratch)
                else:
                    pixels = decode_jpeg(data, "RGB", fast, fast, height, width, divisor, scratch)
                return pixels
        except ValueError:  # no JPEG, or a broken one
            pass
        return decode(bytes(data))

    return decode_into


_FOUR_COLOURS = ("CMYK", "YCCK")


def jpeg_divisor(size: tuple[int, int], target: tuple[int, int]) -> int:
    """8, 4, 2 or 1: the most by which a JPEG of ``size`` (height, width) can be divided without falling below ``target``."""
    room = min(size[0] // target[0], size[1] // target[1])
    return next(divisor for divisor in (8, 4, 2, 1) if divisor <= max(1, room))


def resizer(
    size: tuple[int, int], filter: Resize = "bilinear"
) -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.uint8]]:
    """``resize`` into memory that is there, for many images.

    What is returned takes an image and where its pixels go, both C-contiguous, and gives the latter.
    """

    def copy(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        np.copyto(out, resize(image, size, filter))
        return out

    def bilinear(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return copy(image, out) if image.shape[:2] == size else _bilinear(image, out)

    return bilinear if filter == "bilinear" else copy


def resize(image: NDArray[np.uint8], size: tuple[int, int], filter: Resize = "bilinear") -> NDArray[np.uint8]:
    """``image`` (height, width, 3) at ``size`` (height, width), uint8.

    ``bilinear`` samples at half-pixel centres without antialiasing (OpenCV INTER_LINEAR, tf.image.resize); ``area`` averages the
    source pixels that a target pixel covers; ``nearest`` takes the one at its centre; ``antialias`` is bilinear with support
    that grows with the reduction (Pillow BILINEAR).
    """
    height, width = size
    if image.shape[:2] == size:
        return image
    if filter == "antialias":
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if filter == "nearest":
        return np.asarray(image.take(_nearest(image.shape[0], height), 0).take(_nearest(image.shape[1], width), 1))
    if filter == "bilinear":
        return _bilinear(np.ascontiguousarray(image), np.empty((height, width, 3), np.uint8))
    import cv2

    if (height < image.shape[0]) != (width < image.shape[1]):
        # OpenCV averages areas where both sides shrink, or both grow; else it interpolates. So: a side at a time, rounded once.
        smaller = (min(width, image.shape[1]), min(height, image.shape[0]))
        shrunk = cv2.resize(image.astype(np.float32), smaller, interpolation=cv2.INTER_AREA)
        return np.asarray(np.rint(_grow(_grow(shrunk, height, 0), width, 1)).astype(np.uint8))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _bilinear(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``image`` to ``out``, both C-contiguous: by OpenCV, or what is bit for bit the same and takes half the time."""
    height, width = out.shape[:2]
    # Half of both sides is a mean of four to OpenCV, which it has code of its own for.
    if COMPILED and image.shape[:2] != (2 * height, 2 * width):
        return _compiled.resize(image, out)
    if image.dtype != np.uint8 or image.shape[2:] != (3,):
        # OpenCV would resize it, into memory of its own.
        raise ValueError(f"expected a uint8 image of shape (height, width, 3), got {image.dtype} {image.shape}")
    import cv2

    cv2.resize(image, (width, height), out, 0, 0, cv2.INTER_LINEAR)
    return out


def _grow(image: NDArray[Any], new: int, axis: int) -> NDArray[Any]:
    """``image`` enlarged along ``axis`` by area: each target pixel lies in one source pixel, or across two."""
    old = image.shape[axis]
    if old == new:
        return image
    first = np.arange(new) * old // new
    last = np.minimum(-(-(np.arange(1, new + 1) * old) // new) - 1, old - 1)
    share = np.where(last > first, np.arange(1, new + 1) - last * new / old, 0)
    share = share.reshape(-1, 1, 1) if axis == 0 else share.reshape(1, -1, 1)
    return np.asarray(image.take(first, axis) * (1 - share) + image.take(last, axis) * share)


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    """The source row at the centre of each target row, in TensorFlow's arithmetic: float32 decides where two are as near."""
    centres = np.arange(new, dtype=np.float32) + np.float32(0.5)
    return np.minimum((centres * (np.float32(old) / np.float32(new))).astype(np.intp), old - 1)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """``image`` (height, width, 3) as a lossless PNG, at the fastest compression."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def shrink(data: bytes, max_side: int, quality: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """A JPEG or WebP made smaller, so that its longer side is ``max_side`` pixels, and encoded again; anything else as it is."""
    kind = media_type(data)
    if kind not in ("image/jpeg", "image/webp"):
        return data
    image = decode(data, max_pixels)
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return data
    small = resize(image, (max(1, round(height * scale)), max(1, round(width * scale))), "area")
    if kind == "image/jpeg":
        import simplejpeg

        return bytes(simplejpeg.encode_jpeg(small, quality, "RGB", "420", fastdct=False))
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(small).save(stream, "WEBP", quality=quality)
    return stream.getvalue()


def _decode_pillow(data: bytes, kind: str) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with _PLUGINS[kind.split(";")[0]]()(io.BytesIO(data)) as opened:
            if opened.mode.startswith("I") or opened.mode == "F":
                raise DataError(
                    f"grey levels of 16 bits (mode {opened.mode}): decoders disagree about them; convert it to 8 bits"
                )
            if kind.startswith("image/gif") and opened.tile[0][1] != (0, 0, *opened.size):
                raise DataError(
                    "a GIF whose first frame does not fill its screen: decoders disagree about it; convert it to PNG"
                )
            opened.load()
            return np.array(opened.convert("RGB"), np.uint8)
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise DataError(f"broken image: {error}") from error


# Decoders by what the content is: Pillow's open() would try all it has, and check its own limit of pixels instead of ours.
def _png() -> Any:
    from PIL.PngImagePlugin import PngImageFile

    return PngImageFile


def _gif() -> Any:
    from PIL.GifImagePlugin import GifImageFile

    return GifImageFile


def _bmp() -> Any:
    from PIL.BmpImagePlugin import BmpImageFile

    return BmpImageFile


def _webp() -> Any:
    from PIL.WebPImagePlugin import WebPImageFile

    return WebPImageFile


def _jpeg() -> Any:
    from PIL.JpegImagePlugin import JpegImageFile

    return JpegImageFile


_PLUGINS = {"image/png": _png, "image/gif": _gif, "image/bmp": _bmp, "image/webp": _webp, "image/jpeg": _jpeg}
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    struct.error,
    IndexError,
    KeyError,
    EOFError,
    TypeError,
    MemoryError,
    OverflowError,
)
