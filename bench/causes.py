"""The table of named causes: why a loader's pixels may differ from the reference, and by how much.

A cause is evidence, not an excuse. Where it can, a row says what the pixels must be *instead* (another filter, another way
to decode), computed by the same independent reference; the bounds then speak of what is left between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from loaders.base import Loader, LoaderSpec, NamesDifferences
from storage.base import DatasetInfo


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One row. Bounds, in levels of 0 to 255, are against the reference with ``filters`` and ``scaled`` applied.

    ``filters`` maps a filter that was asked for to the one of ``reference.FILTERS`` that stands in for it.
    """

    name: str
    why: str
    filters: Mapping[str, str] = field(default_factory=dict)
    scaled: bool = False
    largest: float = 0.0
    mean: float = 0.0
    psnr_db: float = 0.0


CAUSES = {
    cause.name: cause
    for cause in (
        Cause(
            name="Pillow's antialiased bilinear",
            why="Pillow widens its bilinear filter by the reduction; it has no other",
            filters={"bilinear": "antialias"},
            largest=1,
            mean=0.2,
        ),
        Cause(
            name="Pillow's box filter",
            why="Pillow's box counts whole pixels, where an area filter counts a pixel that is covered in part in part",
            filters={"area": "box"},
            largest=1,
            mean=0.2,
        ),
        Cause(
            name="DALI's antialiased edge",
            why="DALI's triangle goes on beyond the edge, where it takes the edge pixel again",
            filters={"antialias": "antialias_repeated"},
        ),
        Cause(
            name="Pillow's nearest",
            why="Pillow adds up positions, and where two pixels are equally near, the rounding errors of that choose",
            filters={"nearest": "nearest_added"},
        ),
        Cause(
            name="DALI's nearest",
            why="DALI adds up positions of rows in single precision, and computes those of columns: so it takes other sides at ties",
            largest=255,
            mean=0.2,
        ),
        Cause(
            name="fast DCT",
            why="the library decodes JPEG by libjpeg's fast, less accurate inverse cosine transform",
            largest=24,
            mean=1.7,
            psnr_db=40,
        ),
        Cause(
            name="fast decoding",
            why="decode=fast was asked for: fast DCT, plain chroma upsampling",
            largest=255,
            mean=3.0,
            psnr_db=40,
        ),
        Cause(
            name="scaled decoding",
            why="jpeg_scale=auto was asked for: a JPEG is decoded at 1/2, 1/4 or 1/8 where the target is that much smaller",
            scaled=True,
            largest=2,
            mean=0.5,
        ),
    )
}


@dataclass(frozen=True)
class Expected:
    """What pixels must be under a set of causes: this filter, this decoding, and within these bounds of it."""

    filter: str
    scaled: bool
    largest: float
    mean: float
    psnr_db: float


def named_causes(loader: Loader, info: DatasetInfo, spec: LoaderSpec) -> tuple[Cause, ...]:
    """The causes that hold here: what the spec asks for, and what the loader says its library makes necessary."""
    names = []
    if info.payload == "encoded" and "image/jpeg" in info.media_types:
        names += ["fast decoding"] * (spec.decode == "fast") + ["scaled decoding"] * (spec.jpeg_scale == "auto")
    if isinstance(loader, NamesDifferences):
        names += [name for name in loader.differences(info, spec) if name not in names]
    return tuple(CAUSES[name] for name in names)


def expected(causes: Iterable[Cause], filter_name: str) -> Expected:
    """All causes together: their replacements applied, their allowances added."""
    largest, mean, psnr_db, scaled = 1.0, 0.3, 0.0, False
    for cause in causes:
        filter_name = cause.filters.get(filter_name, filter_name)
        scaled |= cause.scaled
        largest += cause.largest
        mean += cause.mean
        psnr_db = max(psnr_db, cause.psnr_db)
    return Expected(filter_name, scaled, largest, mean, psnr_db)
