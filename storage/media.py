"""What an encoded image is, by its content and headers alone: its media type, its size, and whether it may be stored.

A media type has a parameter where decoders disagree: ``image/webp;alpha`` is WebP that TensorFlow does not decode. A loader
states the media types that it decodes, so it refuses what it does not know. The rules stand in ``docs/images.md``.
"""

from __future__ import annotations

import struct

from storage.errors import DataError

MEDIA_TYPES = (
    "image/jpeg",
    "image/png",
    "image/bmp",
    "image/gif",
    "image/webp",
    "image/webp;alpha",
    "image/webp;animated",
)
"""What can be stored."""

MAX_PIXELS = 89_478_485
"""Pillow's limit against decompression bombs: a quarter of a gigabyte of RGB."""

_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_DECODABLE_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended and progressive, Huffman coded: what libjpeg-turbo, TensorFlow and Pillow all decode."""


def media_type(data: bytes) -> str:
    """What an encoded image is, by its first bytes and never by its name, without parameters. DataError for anything else."""
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


def describe(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    """The media type with its parameter, by headers alone, in microseconds. DataError, with the reason, if it may not be stored."""
    kind, parameter, height, width = header(data)
    if height < 1 or width < 1:
        raise DataError(f"broken {kind}: {width} x {height} pixels")
    if height * width > max_pixels:
        raise DataError(f"{width} x {height} pixels; the limit is {max_pixels:,} (a decompression bomb?)")
    return f"{kind};{parameter}" if parameter else kind


def header(data: bytes) -> tuple[str, str, int, int]:
    """Media type, its parameter, height and width, as the header has them, in pixels. DataError if there is no readable header."""
    kind = media_type(data)
    try:
        return kind, *_HEADERS[kind](data)
    except (struct.error, IndexError) as error:
        raise DataError(f"broken {kind}: its header is cut short") from error


def check_raw(shape: tuple[int, ...], where: str) -> None:
    """DataError unless a stored array of ``shape`` is a raw image, (height, width, 3) within the limit: memory is taken by it."""
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1 or shape[0] * shape[1] > MAX_PIXELS:
        raise DataError(f"{where}: raw images of shape {shape}, expected (height, width, 3) of 1 to {MAX_PIXELS:,} pixels")


def _jpeg(data: bytes) -> tuple[str, int, int]:
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in (0xD8, 0x01) or 0xD0 <= marker <= 0xD7:
            at += 2
        elif marker in _FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            if marker not in _DECODABLE_FRAMES or bits != 8:
                raise DataError(
                    "a lossless, arithmetic, hierarchical or 12-bit JPEG: not every decoder has it; convert it to PNG"
                )
            if components not in (1, 3, 4):
                raise DataError(f"a JPEG of {components} components: expected grey, RGB or CMYK")
            return "", height, width
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise DataError("broken image/jpeg: it has no readable frame header")


def _png(data: bytes) -> tuple[str, int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return "", height, width


def _gif(data: bytes) -> tuple[str, int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return "", height, width


def _bmp(data: bytes) -> tuple[str, int, int]:
    """24 or 32 bits a pixel, or grey levels: of all others TensorFlow makes another picture, or none."""
    start, size = struct.unpack_from("<I", data, 10)[0], struct.unpack_from("<I", data, 14)[0]
    if size < 40:
        raise DataError("an OS/2 bitmap: TensorFlow reads it wrongly; convert it to PNG")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression:
        raise DataError("a compressed BMP: TensorFlow does not read it; convert it to PNG")
    if bits == 8:
        ramp = b"".join(bytes((level, level, level)) for level in range(256))
        palette = data[14 + size : start]
        if b"".join(palette[at : at + 3] for at in range(0, len(palette), 4)) != ramp:
            raise DataError("a BMP with a palette: TensorFlow takes it for grey; convert it to PNG")
    elif bits not in (24, 32):
        raise DataError(f"a BMP of {bits} bits a pixel: TensorFlow does not read it; convert it to PNG")
    return "", abs(height), width


def _webp(data: bytes) -> tuple[str, int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        flags = data[20]
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        return "animated" if flags & 0x02 else "alpha" if flags & 0x10 else "", height, width
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return "alpha" if bits >> 28 & 1 else "", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return "", height & 0x3FFF, width & 0x3FFF
    raise DataError("broken image/webp: it has no image chunk")


_HEADERS = {"image/jpeg": _jpeg, "image/png": _png, "image/gif": _gif, "image/bmp": _bmp, "image/webp": _webp}
