"""What storage formats agree on: the nouns, and the contracts that a format keeps.

``Sample`` is what goes in and comes out. ``DatasetInfo`` is ``dataset.json``. A ``Format`` writes and opens shards; a
``Reader`` is what every format can honestly do with one; what only some can do is a ``Supports...`` protocol of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from storage.errors import DataError, UsageError
from storage.media import MAX_PIXELS

if TYPE_CHECKING:
    import tensorflow as tf

    from storage.mapped import Places

Payload: TypeAlias = Literal["encoded", "raw"]
Resize: TypeAlias = Literal["bilinear", "area", "nearest", "antialias"]

PAYLOADS: tuple[Payload, ...] = ("encoded", "raw")
RESIZES: tuple[Resize, ...] = ("bilinear", "area", "nearest", "antialias")
MANIFEST = "dataset.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what belongs to it.

    ``key`` is a stable id: the path within its split, ``CLASS/FILE``, with forward slashes. ``label`` indexes
    ``DatasetInfo.class_names``. ``image`` is the encoded file's bytes, or a uint8 array of shape (height, width, 3), RGB.
    """

    key: str
    label: int
    image: bytes | NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Batch:
    """Several samples, read at once.

    ``images`` is a list of encoded files, or a uint8 array of shape (n, height, width, 3); ``labels`` is int64, (n,).
    """

    images: list[bytes] | NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a shard is written: everything about it that is not the samples.

    ``image_size`` is (height, width) of a raw payload and None for an encoded one. ``options`` are the format's own
    (``compression`` for HDF5), as they stand in ``dataset.json``.
    """

    payload: Payload
    image_size: tuple[int, int] | None = None
    options: tuple[tuple[str, str | int | bool], ...] = ()

    def check(self, sample: Sample) -> None:
        """DataError unless ``sample`` is what this layout says, for formats that say it once for all samples of a shard."""
        image, size = sample.image, self.image_size
        found = "an encoded file" if isinstance(image, bytes) else f"{image.dtype} {image.shape}"
        expected = "an encoded file" if size is None else f"uint8 {(*size, 3)}"
        if found != expected:
            raise DataError(f"{sample.key}: expected {expected}, got {found}")


class _Stored(BaseModel):
    """A part of ``dataset.json``: it comes from outside, so it is validated, and unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _inside(name: str) -> str:
    """A name from outside that is to become a path: never absolute, never upwards. Empty: not yet given a place."""
    if "\0" in name or (name and any(part in ("", ".", "..") for part in name.split("/"))):
        raise ValueError(f"{name!r} leads out of the dataset")
    return name


def _one_part(name: str) -> str:
    if not name or "/" in name:
        raise ValueError(f"{name!r} is not one folder's name")
    return _inside(name)


Inside: TypeAlias = Annotated[str, AfterValidator(_inside)]
OnePart: TypeAlias = Annotated[str, AfterValidator(_one_part)]


class ShardInfo(_Stored):
    """One shard: ``file`` is relative to the dataset, never absolute and never upwards; ``digest`` covers all its bytes."""

    file: Inside
    samples: int = Field(ge=0)
    bytes: int = Field(ge=0)
    digest: str


class SplitInfo(_Stored):
    """One split: its shards, in the order in which their samples are numbered."""

    samples: int = Field(ge=0)
    shards: tuple[ShardInfo, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.samples != (listed := sum(shard.samples for shard in self.shards)):
            raise ValueError(f"{self.samples} samples, but its shards hold {listed}")
        return self


class DatasetInfo(_Stored):
    """``dataset.json``, beside every stored dataset. Small: it never lists samples.

    ``class_names`` are those of the whole dataset, so a class that is absent from a split shifts no label.
    ``source_digest`` is over the source's keys, labels and file sizes: two conversions of the same images have the same.
    ``media_types`` counts what the stored (or, for raw, the source) files really are, by content: ``image/jpeg``.
    ``image_size`` is (height, width) and ``resize`` the filter of a raw payload; both are None for an encoded one.
    ``convert_s`` is how many seconds writing took; of an interrupted conversion, the run that ended it.
    ``found_samples`` = ``stored_samples`` + ``skipped_samples``. ``ignored_files`` were no samples: a folder's, beside its classes.
    ``skipped_digest`` is that of ``skipped.csv``, where there is one (and the dataset was not made before it was kept).
    """

    schema_version: Literal[1] = 1
    name: OnePart
    source_digest: str
    format: str
    payload: Payload
    image_size: tuple[int, int] | None = None
    resize: Resize | None = None
    media_types: dict[str, int]
    class_names: tuple[OnePart, ...]
    splits: dict[OnePart, SplitInfo]
    order: Literal["mixed", "source"] = "mixed"
    seed: int = 0
    options: dict[str, str | int | bool] = Field(default_factory=dict)
    found_samples: int = Field(ge=0)
    stored_samples: int = Field(ge=0)
    skipped_samples: int = Field(default=0, ge=0)
    skipped_digest: str | None = None
    ignored_files: int = Field(default=0, ge=0)
    stored_bytes: int = Field(ge=0)
    convert_s: float = Field(ge=0)

    @model_validator(mode="after")
    def _has_a_size_if_raw(self) -> Self:
        if (self.payload == "raw") != (self.image_size is not None):
            raise ValueError(f"payload {self.payload} with image_size {self.image_size}: raw images have one, encoded none")
        if self.image_size is not None and not (min(self.image_size) > 0 and math.prod(self.image_size) <= MAX_PIXELS):
            raise ValueError(f"image_size {self.image_size} is not of 1 to {MAX_PIXELS:,} pixels")
        return self

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        for name, stated, parts in (
            ("found_samples", self.found_samples, (self.stored_samples, self.skipped_samples)),
            ("stored_samples", self.stored_samples, (split.samples for split in self.splits.values())),
            ("stored_bytes", self.stored_bytes, (shard.bytes for split in self.splits.values() for shard in split.shards)),
        ):
            if stated != (counted := sum(parts)):
                raise ValueError(f"{name} is {stated}, but its parts come to {counted}")
        return self


class Planned:
    """Samples to be written, and how many there are at most: a format that makes room beforehand asks ``operator.length_hint``."""

    def __init__(self, samples: Iterable[Sample], most: int) -> None:
        self._samples = samples
        self._most = most

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __length_hint__(self) -> int:
        return self._most


class Reader(Protocol):
    """What every format can honestly do with a shard: count its samples and hand them over in order."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sample]: ...


@runtime_checkable
class SupportsRandomAccess(Protocol):
    """A reader that finds any sample at once. Several threads may call these at the same time."""

    def labels(self) -> NDArray[np.int64]:
        """Labels of all samples, int64, shape (n,)."""

    def key(self, index: int) -> str:
        """The key of one sample."""

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each stored image, int64, shape (n,)."""

    def read(self, indices: NDArray[np.int64]) -> Batch:
        """The samples at ``indices`` (within this reader), in that order."""


@runtime_checkable
class SupportsSeeking(Protocol):
    """A streaming reader that learns where its samples begin by one pass, for tools that must find one again."""

    def at(self, index: int) -> Sample:
        """One sample."""


@runtime_checkable
class SupportsGraphRead(Protocol):
    """A split that TensorFlow's graph reads at random, without Python (or with one call a batch)."""

    def graph_read(self, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and int64 labels at ``indices`` (int64, (n,)).

        Raw images are uint8 (n, height, width, 3). For encoded ones there is a row each, (n, …), for ``graph_fetch``.
        """

    def graph_fetch(self, where: tf.Tensor) -> tf.Tensor:
        """One encoded image, a string scalar, by its row of ``graph_read``."""


@runtime_checkable
class SupportsPlaces(Protocol):
    """A reader that knows where its images lie in its file, uncompressed, so that the file can be mapped."""

    def places(self) -> Places | None:
        """Start and size of each image, checked against the file; None if this file has to be read by its library."""


def all_places(readers: Sequence[Reader]) -> list[Places] | None:
    """Where the images of every shard lie; None if one of them has to be read by its library."""
    found = [reader.places() if isinstance(reader, SupportsPlaces) else None for reader in readers]
    known = [places for places in found if places is not None]
    return known if len(known) == len(found) else None


@runtime_checkable
class SupportsImagePlaces(Protocol):
    """A streaming reader that can say where in its file one sample's image lies, once it has read that sample's record."""

    path: Path

    def __len__(self) -> int: ...

    def image_place(self, index: int) -> tuple[int, int, int]:
        """Start and size in bytes of one image, and its label. DataError if the record does not match its checksum."""


@runtime_checkable
class SupportsFiles(Protocol):
    """A reader each image of which is a file: ``folder`` + name + ``suffix``."""

    folder: str
    suffix: str

    def packed_names(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """Names as ``storage.packed`` keeps them, none of which leads out of the folder."""


@runtime_checkable
class SupportsGraphStream(Protocol):
    """A split that TensorFlow reads shard by shard, in the order given, as a stream of records."""

    def stream(self, shards: tf.data.Dataset) -> tf.data.Dataset:
        """From a dataset of shard numbers (int64 scalars) to one of (int64 number of the sample, string record)."""

    def graph_parse(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and int64 labels of the records of a batch (string, (n,)), as ``SupportsGraphRead`` states them."""


@runtime_checkable
class SupportsChecking(Protocol):
    """A reader whose samples have checksums of their own, so that a damaged shard names its damaged samples."""

    crc32c: NDArray[np.uint32]
    """CRC32C of each sample, as it was written."""

    def stored(self, index: int) -> bytes:
        """The bytes that a sample's CRC32C covers."""

    def key(self, index: int) -> str:
        """The key of one sample."""


@runtime_checkable
class SupportsStructureCheck(Protocol):
    """A format whose engine trusts its files: it can say, without that engine, whether a file may be opened at all."""

    def structure_fault(self, path: Path) -> str | None:
        """What is wrong with a shard's structure, or None."""


class Format(Protocol):
    """One way to keep samples in shards. An implementation a file; one row in ``FORMATS``."""

    name: str
    suffix: str
    """Of a shard's file, with its dot."""

    def write_shard(self, samples: Iterable[Sample], path: Path, layout: Layout) -> ShardInfo:
        """Write one shard at ``path`` and sync it. ``file`` in the result is left empty: the caller knows the place.

        If ``samples`` has a ``__length_hint__``, that is how many there are at most.
        """

    def digest(self, path: Path, shard: ShardInfo) -> str:
        """The digest of a shard as it is now: what ``shard.digest`` is compared with."""

    def open_shard(self, path: Path, shard: ShardInfo) -> AbstractContextManager[Reader]:
        """Open a shard for reading. Raises DataError, naming the file, if it is not what ``shard`` says."""


def layout_options(options: Mapping[str, str | int | bool]) -> tuple[tuple[str, str | int | bool], ...]:
    """Options as ``Layout`` keeps them: sorted pairs, hashable."""
    return tuple(sorted(options.items()))


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels; a whole number stands for a square. UsageError for what is neither."""
    sides: Any = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    two = isinstance(sides, tuple | list) and len(sides) == 2
    if not two or any(isinstance(side, bool) or not isinstance(side, Integral) or side < 1 for side in sides):
        raise UsageError(f"image_size must be N or (height, width), whole numbers of at least 1; got {image_size!r}")
    return int(sides[0]), int(sides[1])


__all__: Sequence[str] = (
    "MANIFEST",
    "PAYLOADS",
    "RESIZES",
    "Batch",
    "DatasetInfo",
    "Format",
    "Layout",
    "Payload",
    "Planned",
    "Reader",
    "Resize",
    "Sample",
    "ShardInfo",
    "SplitInfo",
    "SupportsChecking",
    "SupportsFiles",
    "SupportsGraphRead",
    "SupportsGraphStream",
    "SupportsImagePlaces",
    "SupportsPlaces",
    "SupportsRandomAccess",
    "SupportsSeeking",
    "SupportsStructureCheck",
    "height_and_width",
    "layout_options",
)
