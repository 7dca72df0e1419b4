"""Limits: what no pipeline here can beat, in the same table. Only the unavoidable work, on all processors, in plain threads.

``limit:decode`` decodes the dataset's JPEG files from memory with libjpeg-turbo and does nothing else with the pixels;
``limit:gather`` copies as many random rows of raw images from memory into ready batches; ``limit:step`` (``--step calibrate``) has
one batch that is always there, so that only the training step takes time. None reads a disk. They are not proven equivalent
to anything: they are no pipelines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.case import Case, StepSpec
from loaders.base import ClosedByWith, LoaderSpec
from storage import open_dataset
from storage.console import counted
from storage.errors import DataError, UsageError

LIMITS = ("limit:decode", "limit:gather", "limit:step")
MOST_SAMPLES = 2048
MOST_BYTES = 512 << 20


def limit_cases(batch_size: int, image_size: tuple[int, int], seed: int) -> list[Case]:
    """The two limits as cases: of loading alone, from memory."""
    spec = LoaderSpec(batch_size=batch_size, image_size=image_size, seed=seed)
    step = StepSpec(step="none")
    return [
        Case(format="memory", payload="encoded", loader="limit:decode", spec=spec, step=step),
        Case(format="memory", payload="raw", loader="limit:gather", spec=spec, step=step),
    ]


def step_case(batch_size: int, image_size: tuple[int, int], step: StepSpec) -> Case:
    """The training step without input, as a case."""
    spec = LoaderSpec(batch_size=batch_size, image_size=image_size, augment=False)
    return Case(format="memory", payload="raw", loader="limit:step", spec=spec, step=step)


def too_large(case: Case) -> str | None:
    """Why a limit cannot be measured whatever the dataset: what it holds in memory is a single batch. None for any other case."""
    if case.loader not in ("limit:decode", "limit:gather"):
        return None
    held = most_held(case.loader, case.spec.image_size)
    if held > case.spec.batch_size:
        return None
    lower = "--batch-size" if held == MOST_SAMPLES else "--image-size or --batch-size"
    return f"{case.loader} holds at most {counted(held, 'image')} in memory, and an epoch needs two batches: lower {lower}"


def most_held(name: str, image_size: tuple[int, int]) -> int:
    """How many images a limit holds in memory at most: decoded ones fill it sooner."""
    height, width = image_size
    return MOST_SAMPLES if name == "limit:decode" else min(MOST_SAMPLES, MOST_BYTES // (height * width * 3))


class LimitFeed(ClosedByWith):
    """Batches of work for a thread a processor; ``work`` takes the indices of a batch and gives its pixels (or None)."""

    layers: Sequence[Any] = ()

    def __init__(
        self, spec: LoaderSpec, samples: int, work: Callable[[NDArray[np.int64]], Any], classes: int | None = None
    ) -> None:
        self._spec = spec
        self._samples = samples
        self._work = work
        self._classes = classes or samples
        self._threads = ThreadPoolExecutor(spec.threads())

    def __len__(self) -> int:
        return -(-self._samples // self._spec.batch_size)

    def epoch(self, n: int) -> Iterator[tuple[Any, NDArray[np.int64]]]:
        """One pass in a new order: (whatever the work gives, labels)."""
        order = np.random.default_rng((self._spec.seed, n)).permutation(self._samples)
        size = self._spec.batch_size
        parts = iter([order[start : start + size] for start in range(0, self._samples, size)])
        ahead: deque[tuple[Future[Any], NDArray[np.int64]]] = deque()
        while True:
            ahead.extend(
                (self._threads.submit(self._work, p), p) for p in islice(parts, 2 * self._spec.threads() - len(ahead))
            )
            if not ahead:
                return
            done, indices = ahead.popleft()
            yield done.result(), indices % self._classes

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


def build(name: str, path: Path, split: str, spec: LoaderSpec) -> LimitFeed:
    """The feed behind a limit, over what fits of a stored split: encoded for ``limit:decode``, either for ``limit:gather``."""
    if name not in LIMITS:
        raise UsageError(f"unknown limit {name!r}; expected one of: {', '.join(LIMITS)}")
    return {"limit:decode": _decode, "limit:gather": _gather, "limit:step": _ready}[name](path, split, spec)


def _ready(path: Path, split: str, spec: LoaderSpec) -> LimitFeed:
    """The same batch of noise again and again; labels are those of the split's classes, in turn."""
    with open_dataset(path, split) as dataset:
        classes = len(dataset.info.class_names)
    images = np.random.default_rng(spec.seed).random((spec.batch_size, *spec.image_size, 3), np.float32) * 2 - 1
    return LimitFeed(spec, 64 * spec.batch_size, lambda _: images, classes)


def _decode(path: Path, split: str, spec: LoaderSpec) -> LimitFeed:
    import simplejpeg

    files: list[bytes] = []
    total = 0
    with open_dataset(path, split) as dataset:
        for sample in dataset:
            if isinstance(sample.image, bytes) and simplejpeg.is_jpeg(sample.image):
                files.append(sample.image)
                total += len(sample.image)
            if len(files) >= MOST_SAMPLES or total >= MOST_BYTES:
                break
    if not files:
        raise DataError(f"{path} holds no JPEG files: there is nothing to decode")

    def work(indices: NDArray[np.int64]) -> None:
        for index in indices:
            simplejpeg.decode_jpeg(files[index], fastdct=False, fastupsample=False)

    return LimitFeed(spec, len(files), work)


def _gather(path: Path, split: str, spec: LoaderSpec) -> LimitFeed:
    from storage.pixels import decode, resize

    height, width = spec.image_size
    rows: list[NDArray[np.uint8]] = []
    with open_dataset(path, split) as dataset:
        for sample in islice(dataset, most_held("limit:gather", spec.image_size)):
            image = decode(sample.image) if isinstance(sample.image, bytes) else sample.image
            rows.append(image if image.shape[:2] == (height, width) else resize(image, (height, width), spec.resize))
    stored = np.stack(rows)
    # A ring of ready batches, longer than the work ahead: like a loader's, a batch lives until the next few are taken.
    ring = [np.empty((spec.batch_size, *stored.shape[1:]), np.uint8) for _ in range(2 * spec.threads() + 2)]
    turn = iter(range(1 << 62))

    def work(indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        out = ring[next(turn) % len(ring)][: len(indices)]
        np.take(stored, indices, axis=0, out=out, mode="clip")
        return out

    return LimitFeed(spec, len(stored), work)
