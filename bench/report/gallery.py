"""The page's gallery: one image of every distinct result, as loaders delivered it, beside the reference, with the difference."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.sample_images import FOLDER, SHOWN, SampleImage, read

LARGEST = 224
"""Pixels of the longer side: enough to judge by eye, and a page stays small whatever the image size."""
EXACT = 40_000
"""Bytes up to which a picture is inlined without loss."""
WORDS = {
    "reference": "the reference: Pillow's decoding, and the filter that was asked for",
    "delivered": "as it was delivered",
    "difference": "the difference",
}


@dataclass(frozen=True)
class Picture:
    """An ``<img>``: its data URI (None where the file is not there), what stands below it, and what it shows, in words."""

    uri: str | None
    caption: str
    alt: str


@dataclass(frozen=True)
class Result:
    """One distinct result: three pictures, and the cases that delivered it."""

    image: SampleImage
    pictures: tuple[Picture, ...]

    @property
    def title(self) -> str:
        """``identical``, or the named cause of the difference."""
        return "identical to the reference" if self.image.verdict == "identical" else self.image.cause.replace("_", " ")


def gallery(run: Path) -> list[Result]:
    """What ``samples/`` of a run's folder holds, identical ones first; empty if the run kept none."""
    folder = run / FOLDER
    found = sorted(read(folder), key=lambda image: (image.verdict != "identical", image.mean_difference))
    return [Result(image, tuple(_picture(folder, image, shown) for shown in SHOWN)) for image in _merged(found)]


def _merged(found: Sequence[SampleImage]) -> list[SampleImage]:
    """Identical ones as one: stored raw, the reference itself may be a level apart, and the pictures would look the same."""
    identical = [image for image in found if image.verdict == "identical"]
    others = [image for image in found if image.verdict != "identical"]
    cases = tuple(dict.fromkeys(case for image in identical for case in image.cases))
    return [*(image.model_copy(update={"cases": cases}) for image in identical[:1]), *others]


def _picture(folder: Path, image: SampleImage, shown: str) -> Picture:
    caption = f"{WORDS[shown]}, {image.amplified} times as large" if shown == "difference" else WORDS[shown]
    alt = f"{image.key}, {caption}"
    try:
        return Picture(_inlined(folder / image.file(shown)), caption, alt)
    except OSError:
        return Picture(None, caption, alt)


def _inlined(path: Path) -> str:
    """A picture as a WebP data URI: without loss where that is small. OSError where there is no picture."""
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((LARGEST, LARGEST))
    data = _webp(small, lossless=True)
    if len(data) > EXACT:
        data = _webp(small, quality=88)
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _webp(picture: object, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", **options)  # type: ignore[attr-defined]
    return file.getvalue()
