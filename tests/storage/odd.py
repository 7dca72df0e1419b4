"""Images as the world has them: one function a file kind, each made here, none downloaded."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 36


def picture() -> Image.Image:
    """Soft colours with some detail, RGB."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    bands = [128 + 100 * np.sin(x / 5 + k) * np.cos(y / 4 - k) for k in range(3)]
    return Image.fromarray(np.stack(bands, -1).astype(np.uint8))


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    """``image`` encoded by Pillow."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: filter 0 rows of ``depth`` bits and PNG colour type ``colour``; ``chunks`` before the data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    extra = b"".join(chunk(*named) for named in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rows16(channels: int) -> bytes:
    """Rows of 16-bit samples over the whole range, each behind its filter byte."""
    values = np.linspace(0, 65535, HEIGHT * WIDTH * channels).astype(">u2").reshape(HEIGHT, -1)
    return b"".join(b"\0" + row.tobytes() for row in values)


def with_orientation(image: Image.Image) -> bytes:
    """A JPEG whose EXIF says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(image, "JPEG", exif=exif, quality=92)


def ycck() -> bytes:
    """A CMYK JPEG that stores YCCK: Pillow writes CMYK, and the Adobe marker's transform is what makes it YCCK."""
    data = bytearray(save(picture().convert("CMYK"), "JPEG", quality=92))
    at = data.find(b"Adobe")
    if at >= 0:
        data[at + 11] = 2
        return bytes(data)
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x02"
    return bytes(data[:2] + marker + data[2:])


def animated(kind: str, **options: Any) -> bytes:
    """Three frames, the first of which counts."""
    first = picture()
    others = [first.transpose(Image.Transpose.FLIP_LEFT_RIGHT), first.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    return save(first, kind, save_all=True, append_images=others, duration=50, **options)


def small_first_frame() -> bytes:
    """A GIF whose first frame covers a part of its screen only."""
    data = bytearray(save(picture().convert("P"), "GIF"))
    data[6:10] = struct.pack("<HH", WIDTH + 8, HEIGHT + 6)
    return bytes(data)


def rle_bmp() -> bytes:
    """An 8-bit BMP compressed by run lengths: each row one run."""
    rows = b"".join(bytes([WIDTH, number % 3, 0, 0]) for number in range(HEIGHT)) + b"\0\1"
    palette = bytes([10, 20, 30, 0, 200, 100, 50, 0, 90, 90, 220, 0])
    start = 54 + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(rows), 2835, 2835, 3, 0)
    return head + info + palette + rows


def os2_bmp() -> bytes:
    """A 24-bit BMP with the short header of OS/2."""
    pixels = np.asarray(picture())[::-1, :, ::-1]
    rows = b"".join(row.tobytes().ljust((WIDTH * 3 + 3) // 4 * 4, b"\0") for row in pixels)
    return b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24) + rows


def top_down_bmp() -> bytes:
    """A 24-bit BMP whose height is negative: its first row is the top one."""
    pixels = np.asarray(picture())[..., ::-1]
    rows = b"".join(row.tobytes().ljust((WIDTH * 3 + 3) // 4 * 4, b"\0") for row in pixels)
    head = b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, WIDTH, -HEIGHT, 1, 24, 0, len(rows), 2835, 2835, 0, 0) + rows


def alpha() -> Image.Image:
    """Half of it see-through."""
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))))
    return image


def bomb() -> bytes:
    """A PNG header that claims 60,000 x 60,000 pixels."""
    data = bytearray(save(picture(), "PNG"))
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def jpeg_bomb() -> bytes:
    """A JPEG header that claims 60,000 x 60,000 pixels."""
    data = bytearray(save(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    return bytes(data)


def without(data: bytes, count: int) -> bytes:
    """``data`` cut short."""
    return data[: len(data) - count]


MAKERS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: save(picture(), "JPEG", quality=92),
    "jpeg 4:4:4": lambda: save(picture(), "JPEG", quality=92, subsampling=0),
    "jpeg progressive": lambda: save(picture(), "JPEG", quality=92, progressive=True),
    "jpeg grey": lambda: save(picture().convert("L"), "JPEG", quality=92),
    "jpeg rotated by exif": lambda: with_orientation(picture()),
    "jpeg with bytes behind its end": lambda: save(picture(), "JPEG", quality=92) + b"more" * 9,
    "jpeg with many bytes behind its end": lambda: save(picture(), "JPEG", quality=92) + bytes(5000),
    "jpeg with stray bytes inside": lambda: save(picture(), "JPEG", quality=92)[:-2] + b"abc" + b"\xff\xd9",
    "jpeg cmyk": lambda: save(picture().convert("CMYK"), "JPEG", quality=92),
    "jpeg ycck": ycck,
    "jpeg truncated": lambda: without(save(picture(), "JPEG", quality=92), 100),
    "jpeg without end marker": lambda: without(save(picture(), "JPEG", quality=92), 2),
    "jpeg bomb": jpeg_bomb,
    "png": lambda: save(picture(), "PNG"),
    "png grey": lambda: save(picture().convert("L"), "PNG"),
    "png one bit": lambda: save(picture().convert("1"), "PNG"),
    "png palette": lambda: save(picture().convert("P"), "PNG"),
    "png palette with a clear colour": lambda: save(picture().convert("P"), "PNG", transparency=3),
    "png grey with a clear colour": lambda: save(picture().convert("L"), "PNG", transparency=40),
    "png grey with alpha": lambda: save(alpha().convert("LA"), "PNG"),
    "png alpha": lambda: save(alpha(), "PNG"),
    "png 16 bits grey": lambda: png(16, 0, rows16(1)),
    "png 16 bits colour": lambda: png(16, 2, rows16(3)),
    "png 16 bits colour with alpha": lambda: png(16, 6, rows16(4)),
    "png 16 bits grey with alpha": lambda: png(16, 4, rows16(2)),
    "png animated": lambda: animated("PNG"),
    "png with gamma": lambda: png(8, 0, (b"\0" + bytes(range(WIDTH))) * HEIGHT, (b"gAMA", struct.pack(">I", 100000))),
    "png truncated": lambda: without(save(picture(), "PNG"), 60),
    "png bomb": bomb,
    "gif": lambda: save(picture().convert("P"), "GIF"),
    "gif animated": lambda: animated("GIF"),
    "gif with a clear colour": lambda: save(picture().convert("P"), "GIF", transparency=3),
    "gif small first frame": small_first_frame,
    "gif truncated": lambda: without(save(picture().convert("P"), "GIF"), 200),
    "bmp": lambda: save(picture(), "BMP"),
    "bmp top down": top_down_bmp,
    "bmp grey": lambda: save(picture().convert("L"), "BMP"),
    "bmp palette": lambda: save(picture().convert("P"), "BMP"),
    "bmp one bit": lambda: save(picture().convert("1"), "BMP"),
    "bmp 32 bits": lambda: save(alpha(), "BMP"),
    "bmp run lengths": rle_bmp,
    "bmp os/2": os2_bmp,
    "bmp truncated": lambda: without(save(picture(), "BMP"), 500),
    "webp": lambda: save(picture(), "WEBP", quality=92),
    "webp lossless": lambda: save(picture(), "WEBP", lossless=True),
    "webp alpha": lambda: save(alpha(), "WEBP", lossless=True, exact=True),
    "webp animated": lambda: animated("WEBP", lossless=True),
    "webp lossy alpha": lambda: save(alpha(), "WEBP", quality=92),
    "webp truncated": lambda: without(save(picture(), "WEBP", lossless=True), 100),
    "tiff": lambda: save(picture(), "TIFF"),
    "empty": lambda: b"",
    "text": lambda: b"no image at all",
}
"""Name to maker. ``docs/images.md`` has a rule for each."""
