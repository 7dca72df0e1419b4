"""What loaders agree on: how a pipeline is specified, where it can be cut, and what it hands to the model.

Nothing here imports TensorFlow, so that a report can read a spec on a machine without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, get_args, get_type_hints, runtime_checkable

import numpy as np

from storage.base import RESIZES, DatasetInfo, Resize, height_and_width
from storage.errors import UsageError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from storage.dataset import StoredDataset

Placement: TypeAlias = Literal["pipeline", "model"]
Scaling: TypeAlias = Literal["tf", "torch", "caffe", "none"]
Option: TypeAlias = str | int | float | bool

LARGEST_SEED = 2**31 - 1
"""Keras' generator seeds NumPy with the seed plus a count of batches, and NumPy takes 32 bits."""

PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


class Stage(StrEnum):
    """Where a pipeline can be cut, in the order in which an image passes. Cutting *until* a stage includes it."""

    READ = "read"
    DECODE = "decode"
    RESIZE = "resize"
    AUGMENT = "augment"
    BATCH = "batch"
    HAND_OVER = "hand_over"


STAGES: tuple[Stage, ...] = tuple(Stage)


@dataclass(frozen=True, kw_only=True)
class LoaderSpec:
    """What is asked of a loader. Frozen; checked when it is made.

    Attributes
    ----------
    batch_size
        Images a batch.
    image_size
        (height, width) in pixels of what is handed over. An int stands for a square.
    placement
        ``pipeline``: scaling and augmentation happen here, batches are float32 as the model wants them.
        ``model``: batches are uint8 (or ``dtype``); ``Feed.layers`` do the rest at the model's entrance.
    augment
        RandomFlip("horizontal") and RandomRotation(0.1), or the generator's own equivalents.
    scaling
        As ``keras.applications`` name it: ``tf`` is [-1, 1], ``torch`` and ``caffe`` are per channel, ``none`` is 0 to 255.
    resize
        The filter: ``bilinear`` (half-pixel centres, no antialiasing), ``area``, ``nearest``, ``antialias`` (bilinear).
    decode
        ``accurate``: every JPEG decoder gives the same pixels. ``fast``: pixels may differ (PSNR 40 dB or better).
    jpeg_scale
        ``auto`` decodes a JPEG at 1/2, 1/4 or 1/8 when the target is that much smaller.
    shuffle, seed
        A new order each epoch over all samples (or a stated buffer), repeatable for a seed.
    workers
        Threads (or processes) that prepare batches; 0 means one a processor that this process may use.
    prefetch
        Batches kept ready.
    deterministic
        Same seed, same order of batches, whatever the threads do.
    drop_remainder
        Drop a last short batch.
    dtype
        What placement ``model`` hands over.
    cache
        Keep what was decoded in memory after the first epoch.
    on_error
        ``stop`` at an unreadable sample, naming it, or ``skip`` and count it (``feed.skipped``).
    options
        The loader's own options, sorted pairs; a mapping is taken too.
    """

    batch_size: int = 32
    image_size: tuple[int, int] = (160, 160)
    placement: Placement = "pipeline"
    augment: bool = True
    scaling: Scaling = "tf"
    resize: Resize = "bilinear"
    decode: Literal["accurate", "fast"] = "accurate"
    jpeg_scale: Literal["none", "auto"] = "none"
    shuffle: bool = True
    seed: int = 0
    workers: int = 0
    prefetch: int = 2
    deterministic: bool = True
    drop_remainder: bool = False
    dtype: Literal["uint8", "float32"] = "uint8"
    cache: bool = False
    on_error: Literal["stop", "skip"] = "stop"
    options: tuple[tuple[str, Option], ...] = field(default=())

    def __post_init__(self) -> None:
        options: Any = self.options
        pairs = options.items() if isinstance(options, Mapping) else options
        object.__setattr__(self, "options", tuple(sorted((str(key), _of_python(value)) for key, value in pairs)))
        object.__setattr__(self, "image_size", height_and_width(self.image_size))
        for each in fields(self):
            object.__setattr__(self, each.name, _of_python(getattr(self, each.name)))
        for name, least in (("batch_size", 1), ("workers", 0), ("prefetch", 0), ("seed", 0)):
            _at_least(name, getattr(self, name), least)
        if self.seed > LARGEST_SEED:
            raise UsageError(f"seed must be at most {LARGEST_SEED}, got {self.seed}")
        for name in ("augment", "shuffle", "deterministic", "drop_remainder", "cache"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be True or False, got {getattr(self, name)!r}")
        _one_of("placement", self.placement, PLACEMENTS)
        _one_of("scaling", self.scaling, get_args(Scaling))
        _one_of("resize", self.resize, RESIZES)
        _one_of("decode", self.decode, ("accurate", "fast"))
        _one_of("jpeg_scale", self.jpeg_scale, ("none", "auto"))
        _one_of("dtype", self.dtype, ("uint8", "float32"))
        _one_of("on_error", self.on_error, ("stop", "skip"))

    def threads(self) -> int:
        """``workers``, with 0 resolved to the processors that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))

    def changed(self) -> dict[str, Any]:
        """The fields that differ from the defaults: what an id is made of."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


CLOSED = "this feed is closed: build another to go on"


class Feed(Protocol):
    """What a loader builds: a ``tf.data.Dataset`` or a ``keras.utils.PyDataset``, so that ``model.fit`` takes it.

    It owns its reader: ``close()``, or the end of ``with feed:``, ends threads, processes, maps and handles. Each pass has a
    new order.
    """

    layers: Sequence[keras.Layer]
    """What placement ``model`` leaves to the model, in order; empty for placement ``pipeline``."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, n: int) -> Iterable[tuple[tf.Tensor, tf.Tensor]]:
        """The n-th pass (from 0), whatever ran before: (images, labels) batches.

        Images are (batch, height, width, 3): float32 for placement ``pipeline``, else ``spec.dtype``; labels int64 (batch,).
        """

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None:
        """Closes it."""


class ClosedByWith:
    """``with feed:`` closes it at its end, an error or not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """End threads, processes, maps and handles."""
        raise NotImplementedError


class Loader(Protocol):
    """One kind of input pipeline. An implementation a file; one row in ``LOADERS``."""

    name: str
    stages: tuple[Stage, ...]
    """Where this pipeline can be cut, for stage timing; empty: it cannot."""

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """Why this loader cannot serve this dataset under this spec, in words; None if it can."""

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> Feed:
        """The pipeline over an opened split, which the feed then owns. ``until`` cuts it after that stage."""


@runtime_checkable
class NamesDifferences(Protocol):
    """A loader whose library makes other pixels than the reference, and says why."""

    def differences(self, info: DatasetInfo, spec: LoaderSpec) -> Sequence[str]:
        """Names in the table of causes (``bench.causes.CAUSES``) that hold for this dataset under this spec; often none."""


@runtime_checkable
class HasOptions(Protocol):
    """A loader with options of its own: ``spec.options`` holds them by name, and a run can vary them."""

    options: type[Any]
    """A frozen dataclass with a default for each, which checks itself."""


def own_options(loader: object) -> dict[str, Any]:
    """The names of a loader's own options and the types of their values; empty for most loaders."""
    return get_type_hints(loader.options) if isinstance(loader, HasOptions) else {}


LAST_EPOCH = (1 << 31) - 1
"""Keras' generators take no larger seed, and what counts its way to a pass never arrives."""


def check_epoch(n: int) -> None:
    """UsageError unless a pass can have this number."""
    _at_least("the number of a pass", n, 0)
    if n > LAST_EPOCH:
        raise UsageError(f"the number of a pass must be at most {LAST_EPOCH}, got {n}")


def _of_python(value: Any) -> Any:
    """A number, flag or text of NumPy's as Python's own: of NumPy's, JSON knows nothing."""
    return value.item() if isinstance(value, np.generic) else value


def _at_least(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _one_of(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise UsageError(f"{name} must be one of {', '.join(valid)}; got {value!r}")
