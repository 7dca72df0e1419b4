"""The one definition of decode and resize: what raw conversion stores, and what every loader is held to.

JPEG is decoded with the accurate integer DCT and fancy upsampling, so that libjpeg-turbo, Pillow, OpenCV and TensorFlow agree
bit for bit. EXIF orientation is ignored, as TensorFlow and Keras do. The rules for odd images stand in ``docs/images.md``.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from storage.base import Resize
from storage.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

MEDIA_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/gif", "image/webp")
"""What can be stored, by content."""

MAX_PIXELS = 89_478_485
"""Pillow's limit against decompression bombs: a quarter of a gigabyte of RGB."""


def media_type(data: bytes) -> str:
    """What an encoded image is, by its first bytes and never by its name. DataError for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "image/jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "image/png"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:2] == b"BM" and len(data) >= 26:
        return "image/bmp"
    if not data:
        raise DataError("the file is empty")
    raise DataError("not a JPEG, PNG, BMP, GIF or WebP image (judged by its first bytes)")


def check(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    """The media type of an image that may be stored. DataError, with the reason, for one that may not.

    A JPEG is judged by its headers and its end marker, which costs microseconds; anything else is decoded.
    """
    kind = media_type(data)
    if kind == "image/jpeg":
        height, width, components = _jpeg_header(data)
        if components not in (1, 3):
            raise DataError(f"a JPEG of {components} components (CMYK or YCCK): convert it to RGB first")
        if b"\xff\xd9" not in data[-64:]:
            raise DataError("truncated JPEG: its end marker is missing")
    else:
        height, width = _decode_pillow(data, max_pixels).shape[:2]
    if height * width > max_pixels:
        raise DataError(f"{width} x {height} pixels; the limit is {max_pixels:,} (a decompression bomb?)")
    return kind


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """An encoded image as uint8 RGB, shape (height, width, 3); the first frame of an animation. DataError if it is broken."""
    kind = check(data, max_pixels) if data[:3] == b"\xff\xd8\xff" else media_type(data)
    if kind != "image/jpeg":
        return _decode_pillow(data, max_pixels)
    import simplejpeg

    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ValueError as error:
        raise DataError(f"broken JPEG: {error}") from error
    return pixels


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
        rows = ((np.arange(height) + 0.5) * (image.shape[0] / height)).astype(np.intp)
        columns = ((np.arange(width) + 0.5) * (image.shape[1] / width)).astype(np.intp)
        return np.ascontiguousarray(image[rows[:, None], columns])
    import cv2

    interpolation = cv2.INTER_LINEAR if filter == "bilinear" else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """``image`` (height, width, 3) as a lossless PNG, at the fastest compression."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def shrink(data: bytes, max_side: int, quality: int) -> bytes:
    """A JPEG or WebP made smaller, so that its longer side is ``max_side`` pixels, and encoded again; anything else as it is."""
    kind = media_type(data)
    if kind not in ("image/jpeg", "image/webp"):
        return data
    image = decode(data)
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


def _jpeg_header(data: bytes) -> tuple[int, int, int]:
    """Height, width and components from a JPEG's frame header. DataError where there is none."""
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", data, at + 5)
            if not height or not width:
                break
            return height, width, components
        if marker in (0xD8, 0x01) or 0xD0 <= marker <= 0xD7:
            at += 2
            continue
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise DataError("broken JPEG: it has no readable frame header")


def _decode_pillow(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > max_pixels:
                raise DataError(
                    f"{opened.width} x {opened.height} pixels; the limit is {max_pixels:,} (a decompression bomb?)"
                )
            opened.load()
            return np.array(_to_rgb(opened), np.uint8)
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        raise DataError(f"broken image: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        raise DataError(
            f"pixels of more than 8 bits (mode {image.mode}): decoders disagree about them; convert to 8 bits first"
        )
    return image.convert("RGB")
