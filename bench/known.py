"""Loaders whose behaviour is known beforehand: what the instrument is checked with (``feedbench selfcheck``, tests).

They need no dataset. ``known:null`` always has a batch; ``known:RATE`` makes RATE images/s, ``spec.prefetch`` batches ahead;
``known:decode`` decodes made-up JPEG files on all processors, and ``known:decode+5`` decodes every twentieth of them twice, so
that it does 5% more work; ``known:crash``, ``known:hang`` and ``known:hog`` (memory) misbehave at their fourth batch, and
``known:child`` starts a process that outlives it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.emulated import sleep_until
from bench.limits import LimitFeed
from bench.own_time import now_ns
from loaders.base import LoaderSpec
from storage.errors import UsageError

EPOCH_BATCHES = 40
CLASSES = 5


class KnownFeed:
    """Zeros, in epochs of ``EPOCH_BATCHES`` batches; ``before`` runs ahead of each batch, with its number since the start."""

    layers: Sequence[Any] = ()

    def __init__(self, spec: LoaderSpec, before: Callable[[int], None], *, batches: int = EPOCH_BATCHES) -> None:
        dtype = np.float32 if spec.placement == "pipeline" else np.uint8
        self._images = np.zeros((spec.batch_size, *spec.image_size, 3), dtype)
        self._labels = np.arange(spec.batch_size, dtype=np.int64) % CLASSES
        self._before = before
        self._batches = batches
        self._made = 0

    def __len__(self) -> int:
        return self._batches

    def epoch(self, n: int) -> Iterator[tuple[Any, Any]]:  # noqa: ARG002
        """One pass: float32 (or, for placement ``model``, uint8) zeros, int64 labels."""
        for _ in range(self._batches):
            self._before(self._made)
            self._made += 1
            yield self._images, self._labels

    def close(self) -> None:
        """Nothing is held."""


class Paced:
    """When batches come: batch k is ready one period after it was begun, and begun once the one before is ready and fewer
    than ``depth`` wait to be taken. With depth 0 a batch is begun when it is asked for."""

    def __init__(
        self,
        period_ns: int,
        depth: int,
        clock: Callable[[], int] = now_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._period_ns, self._depth = period_ns, depth
        self._clock, self._sleep = clock, sleep
        self._ready_ns: int | None = None
        self._taken: deque[int] = deque(maxlen=max(depth, 1))
        self._overshoot_ns = 0

    def __call__(self, number: int) -> None:  # noqa: ARG002
        """Return when batch ``number`` is ready."""
        asked = self._clock()
        if self._depth:
            last = asked if self._ready_ns is None else self._ready_ns
            begun = max(last, self._taken[0]) if len(self._taken) == self._depth else last
        else:
            begun = asked - self._overshoot_ns
        self._ready_ns = begun + self._period_ns
        sleep_until(self._ready_ns, self._clock, self._sleep)
        taken = max(self._ready_ns, asked)
        self._overshoot_ns = max(0, self._clock() - self._ready_ns) if not self._depth else 0
        self._taken.append(taken)


def build(name: str, spec: LoaderSpec) -> KnownFeed | LimitFeed:
    """The feed behind ``known:...``. UsageError for a name that means nothing."""
    kind = name.partition(":")[2]
    work, _, more = kind.partition("+")
    if work == "decode" and (not more or more.isdecimal()):
        return _decoding(spec, int(more or 0))
    if kind in _MISBEHAVE:
        return KnownFeed(spec, _MISBEHAVE[kind])
    if kind == "null":
        return KnownFeed(spec, lambda _: None)
    try:
        rate = float(kind)
    except ValueError:
        rate = 0.0
    if rate <= 0:
        kinds = ", ".join(("null", "RATE", "decode", "decode+PERCENT", *_MISBEHAVE))
        raise UsageError(f"unknown loader {name!r}; expected known: and one of: {kinds}")
    return KnownFeed(spec, Paced(round(spec.batch_size / rate * 1e9), spec.prefetch))


def _decoding(spec: LoaderSpec, more_percent: int) -> LimitFeed:
    """Real work of a known amount: 200 different files, over and over; ``more_percent`` of them are decoded twice."""
    import simplejpeg

    files = _files()

    def work(indices: NDArray[np.int64]) -> None:
        for index in indices:
            # 37 and 100 have no common factor: those decoded twice are spread evenly, and exactly as many as stated.
            for _ in range(1 + (index * 37 % 100 < more_percent)):
                simplejpeg.decode_jpeg(files[index % 200])

    return LimitFeed(spec, 3200, work)


@cache
def _files() -> list[bytes]:
    """200 JPEG files of 320 x 240 pixels."""
    import cv2
    import simplejpeg

    random = np.random.default_rng(0)
    coarse = (random.integers(0, 256, (30, 40, 3), np.uint8) for _ in range(200))
    return [simplejpeg.encode_jpeg(np.ascontiguousarray(cv2.resize(one, (320, 240))), quality=90) for one in coarse]


def _crash(number: int) -> None:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def _hang(number: int) -> None:
    while number >= 3:
        time.sleep(3600)


def _hog(number: int) -> None:
    kept = []
    while number >= 3:
        kept.append(np.ones(8 << 20, np.uint8))
        time.sleep(0.005)


def _child(number: int) -> None:
    if not number:
        subprocess.Popen(["sleep", "600"])
    time.sleep(0.01)


_MISBEHAVE: dict[str, Callable[[int], None]] = {"crash": _crash, "hang": _hang, "hog": _hog, "child": _child}
