"""Writing one shard: what a worker process does, here or on a cluster. No image travels between processes."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from storage import FORMATS, pixels
from storage.base import Layout, Planned, Resize, Sample, ShardInfo
from storage.errors import DataError
from storage.files import begin_sync, into_place
from storage.listing import Listing
from storage.media import MAX_PIXELS, describe
from storage.plan import PlannedShard
from storage.source import SUFFIXES, Image, Images

OnError: TypeAlias = Literal["stop", "skip"]
Decode: TypeAlias = Callable[[bytes], NDArray[np.uint8]]
_SAMPLES_A_TICK = 32
_SCRATCH_BYTES = 1 << 24


@dataclass(frozen=True)
class Job:
    """What all shards of a conversion have in common."""

    format: str
    workspace: Path
    token: str
    layout: Layout
    resize: Resize
    on_error: OnError
    max_side: int
    """Longest side in pixels above which a JPEG or WebP is made smaller; 0: files stay as they are."""
    quality: int
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Task:
    """One shard to be written. ``tick`` is its place in the file of progress."""

    job: Job
    shard: PlannedShard
    tick: int
    images: Images
    listing: Listing
    order: Path
    """int64 rows of the listing, the whole split's, in the order of writing."""


class Done(BaseModel):
    """What a finished shard leaves: its line in ``dataset.json``, and what it adds to the counts."""

    shard: ShardInfo
    media_types: dict[str, int]
    skipped: list[tuple[str, str, str]]
    """(split, key, reason)."""


def write_shard(task: Task) -> int:
    """Write one shard beside its place, synced; rename it into place; note it as done. Gives ``task.tick``."""
    job, shard = task.job, task.shard
    writer = FORMATS[job.format]
    file = shard.file(writer.suffix)
    place = job.workspace / file
    beside = job.workspace / job.token / place.name
    place.parent.mkdir(exist_ok=True)
    media_types: Counter[str] = Counter()
    skipped: list[tuple[str, str, str]] = []
    try:
        samples = Planned(_samples(task, media_types, skipped, beside), shard.stop - shard.start)
        info = writer.write_shard(samples, beside, job.layout)
        into_place(beside, place)
        done = Done(shard=info.model_copy(update={"file": file}), media_types=dict(media_types), skipped=skipped)
        note = beside.with_name(f"{shard.name}.json")
        with note.open("wb") as written:
            written.write(done.model_dump_json().encode())
            written.flush()
            os.fsync(written.fileno())
        into_place(note, job.workspace / ".writing" / "done" / note.name)
    except Exception as error:
        if disk_is_full(error):
            raise DiskFullError(str(place)) from error
        raise
    return task.tick


class DiskFullError(DataError):
    """No space left. The message is the file that could not be written; ``convert`` says how much is needed."""


def disk_is_full(error: Exception) -> bool:
    """Whether this came of a full disk or quota, whichever library says so; closing a file after that may fail with other words."""
    full = (errno.ENOSPC, errno.EDQUOT)
    before = error.__cause__ or error.__context__
    return (
        (isinstance(error, OSError) and error.errno in full)
        or any(os.strerror(code) in str(error) for code in full)
        or (isinstance(before, Exception) and disk_is_full(before))
    )


def _samples(task: Task, media_types: Counter[str], skipped: list[tuple[str, str, str]], written: Path) -> Iterator[Sample]:
    """The samples of a shard, which is being written as ``written``."""
    job, shard, listing = task.job, task.shard, task.listing
    rows = np.fromfile(task.order, np.int64, shard.stop - shard.start, offset=8 * shard.start)
    folder = job.workspace / job.token
    ticks, labels = np.memmap(folder / "progress", np.int64, "r+"), listing.labels
    decode = _decoder(job)
    with task.images.open(listing) as read:
        for number, row in enumerate(map(int, rows)):
            if number % _SAMPLES_A_TICK == 0:
                ticks[task.tick] = number
                if not folder.is_dir():  # this conversion was killed, and another has begun in its place
                    raise DataError(f"{folder} is gone: another conversion has taken over")
                begin_sync(written)
            key = listing.key(row)
            try:
                kind, image = stored_image(read(row), key, job, decode)
            except DataError as error:
                if job.on_error == "stop":
                    from storage.console import shown

                    name = shown(task.images.name(listing, row))  # a line break in a name must not forge a line
                    raise DataError(f"{name}: {error}. Mend or remove it, or give --on-error skip.") from error
                skipped.append((shard.split, printable(key), printable(str(error))))
                continue
            media_types[kind] += 1
            yield Sample(key, int(labels[row]), image)


def printable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 are written out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _decoder(job: Job) -> Decode:
    """How images are decoded for a raw payload: into memory that is used again, unless another limit of pixels was set."""
    if job.layout.image_size is None or job.max_pixels != MAX_PIXELS:
        return partial(pixels.decode, max_pixels=job.max_pixels)
    # Taken and given back once: from then on glibc keeps what is freed. In a worker's first shard it returned the memory of each
    # of LMDB's transactions to the system, and took it page by page for the next.
    np.empty(_SCRATCH_BYTES, np.uint8)
    decode, scratch = pixels.decoder(), np.empty(_SCRATCH_BYTES, np.uint8)
    return lambda data: decode(data, scratch)


def stored_image(stored: Image, key: str, job: Job, decode: Decode | None = None) -> tuple[str, Image]:
    """Media type and what to store of one image. DataError, with the reason, if it may not be stored.

    ``decode`` is used for a raw payload; what it gives may be overwritten by its next call.
    """
    size = job.layout.image_size
    if not isinstance(stored, bytes):
        assert size is not None
        return "image/x-raw", pixels.resize(stored, size, job.resize)
    if not key.lower().endswith(SUFFIXES):
        raise DataError(f"not an image by its name (expected {', '.join(SUFFIXES)})")
    if size is not None:
        kind = describe(stored, job.max_pixels)
        image = decode(stored) if decode else pixels.decode(stored, job.max_pixels)
        resized = pixels.resize(image, size, job.resize)
        return kind, resized.copy() if resized is image else resized
    kind = pixels.check(stored, job.max_pixels)
    if job.max_side:
        smaller = pixels.shrink(stored, job.max_side, job.quality, job.max_pixels)
        return kind if smaller is stored else describe(smaller), smaller
    return kind, stored
