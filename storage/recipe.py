"""What is asked of a conversion, as far as the bytes that it writes depend on it: checked here, kept for resuming."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storage import FORMATS
from storage.base import MANIFEST, PAYLOADS, RESIZES, Layout, Payload, Resize, layout_options
from storage.dataset import read_info
from storage.errors import UsageError, option
from storage.media import MAX_PIXELS
from storage.plan import Order
from storage.shards import OnError

SHARD_BYTES = 64 << 20
COMPRESSIONS = ("none", "lzf", "gzip", "blosc2", "zstd")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is asked of a conversion, as far as the bytes that it writes depend on it."""

    to: str
    payload: Payload = "encoded"
    image_size: tuple[int, int] = (160, 160)
    resize: Resize = "bilinear"
    on_error: OnError = "stop"
    order: Order = "mixed"
    seed: int = 0
    shard_bytes: int = SHARD_BYTES
    split: tuple[tuple[str, float], ...] = ()
    max_side: int = 0
    quality: int = 90
    compression: str = "none"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        one_of("to", self.to, tuple(FORMATS))
        one_of("payload", self.payload, PAYLOADS)
        one_of("resize", self.resize, RESIZES)
        one_of("on_error", self.on_error, ("stop", "skip"))
        one_of("order", self.order, ("mixed", "source"))
        one_of("compression", self.compression, COMPRESSIONS)
        for name, value, least in (("image_size", min(self.image_size), 1), ("shard_bytes", self.shard_bytes, 1),
                                   ("max_side", self.max_side, 0), ("seed", self.seed, 0), ("max_pixels", self.max_pixels, 1),
                                   ("quality", self.quality, 1)):  # fmt: skip
            if value < least:
                raise UsageError(f"{_option(name)} must be at least {least}; got {value}")
        if math.prod(self.image_size) > MAX_PIXELS:
            raise UsageError(f"--image-size must be of at most {MAX_PIXELS:,} pixels; got {self.image_size}")
        if self.quality > 100:
            raise UsageError(f"--quality must be from 1 to 100; got {self.quality}")
        if self.max_side and self.payload == "raw":
            raise UsageError("--max-side encodes files again, so it needs --payload encoded; for raw give --image-size")
        if self.compression != "none" and (self.to != "hdf5" or self.payload != "raw"):
            raise UsageError(f"--compression is for --to hdf5 --payload raw; got --to {self.to} --payload {self.payload}")

    @property
    def keeps_size(self) -> bool:
        """Whether what is written takes about as many bytes as is planned; else it takes fewer."""
        return not self.max_side and self.compression == "none" and (self.payload, self.to) != ("raw", "directory")

    @property
    def layout(self) -> Layout:
        """What a format needs to know of it."""
        options: dict[str, str | int | bool] = {}
        if self.compression != "none":
            options["compression"] = self.compression
        if self.max_pixels != MAX_PIXELS:
            options["max_pixels"] = self.max_pixels
        if self.max_side:
            options |= {"max_side": self.max_side, "quality": self.quality}
        return Layout(
            payload=self.payload,
            image_size=self.image_size if self.payload == "raw" else None,
            options=layout_options(options),
        )


def keeping_raw(recipe: Recipe, asked: Mapping[str, Any], root: Path) -> Recipe:
    """``recipe`` with the size and filter of the raw images at ``root``, if it holds such: they are not resized twice.

    UsageError where ``image_size`` or ``resize`` was ``asked`` to be another.
    """
    if recipe.payload == "encoded" or not (root / MANIFEST).is_file() or (info := read_info(root)).payload == "encoded":
        return recipe
    kept: dict[str, Any] = {"image_size": info.image_size, "resize": info.resize or recipe.resize}
    if other := sorted(name for name in asked if asked[name] != kept[name]):
        height, width = kept["image_size"]
        raise UsageError(
            f"{root} holds raw images of {height}x{width}, resized by {kept['resize']}: leave out "
            f"{' and '.join(map(_option, other))}, or convert from the original images"
        )
    return replace(recipe, **kept)


def _option(name: str) -> str:
    """A parameter of ``convert`` as its command line spells it."""
    return option("shard_size" if name == "shard_bytes" else name)


def one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    """UsageError unless ``value`` of the parameter ``name`` is one of ``valid``."""
    if value not in valid:
        raise UsageError(f"{_option(name)} must be one of {', '.join(valid)}; got {value!r}")
