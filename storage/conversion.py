"""Writing a dataset into a format: plan, shards, commit.

A dataset is made in ``OUT.partial``, shard by shard; each shard is written, synced and noted in ``.writing``, so that the same
call goes on where an interrupted one stopped. ``dataset.json`` comes last, and then the whole folder is renamed into its place.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from storage import FORMATS, pixels
from storage.base import MANIFEST, PAYLOADS, RESIZES, DatasetInfo, Layout, Payload, Resize, Sample, ShardInfo, SplitInfo
from storage.errors import DataError, UsageError
from storage.files import beside, sync
from storage.plan import Order, PlannedShard, plan, source_digest
from storage.source import SUFFIXES, FolderImages, Images, Source, scan

OnError: TypeAlias = Literal["stop", "skip"]
SHARD_BYTES = 64 << 20
NOTES = ".writing"
"""The folder of a conversion under way: the lock, the recipe, a note for each finished shard."""


@dataclass(frozen=True)
class Progress:
    """How far a conversion is. Bytes are of the source for an encoded payload, of pixels for a raw one."""

    images: int
    bytes: int
    all_images: int
    all_bytes: int


class _Done(BaseModel):
    """What a finished shard leaves in ``.writing``."""

    shard: ShardInfo
    media_types: dict[str, int]
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class _Task:
    """One shard, as it travels to a worker: no image bytes."""

    format: str
    workspace: str
    file: str
    name: str
    images: Images
    indices: list[int]
    keys: list[str]
    labels: list[int]
    layout: Layout
    resize: Resize
    on_error: OnError


def default_out(name: str, to: str, payload: str) -> Path:
    """``data/NAME/FORMAT-PAYLOAD``, below the working directory."""
    return Path("data") / name / f"{to}-{payload}"


def convert(
    source: str | Path | None = None,
    *,
    to: str,
    out: str | Path | None = None,
    payload: Payload = "encoded",
    image_size: int | tuple[int, int] = (160, 160),
    resize: Resize = "bilinear",
    on_error: OnError = "stop",
    overwrite: bool = False,
    order: Order = "mixed",
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> DatasetInfo:
    """Write the images of ``source`` (a folder; None: the demo images) as a dataset of format ``to``.

    Parameters
    ----------
    out
        Where; ``data/NAME/FORMAT-PAYLOAD`` if not given.
    payload
        ``encoded`` keeps every file's bytes; ``raw`` decodes, resizes to ``image_size`` (height, width) and stores uint8.
    on_error
        ``stop`` at the first image that cannot be stored, or ``skip`` it and list it in ``skipped.csv``.
    order, seed
        ``mixed`` spreads samples over shards in an order fixed by the seed; ``source`` keeps the source's.
    shard_bytes
        A shard holds at most this much, or one sample.
    workers
        Processes; 0 means one a processor. The bytes written do not depend on it.
    progress
        Called after each shard.

    Raises
    ------
    DataError
        The source or an image is at fault, or ``out`` cannot be written. UsageError: an option is.
    """
    writer = FORMATS[to]
    _check_choice("payload", payload, PAYLOADS)
    _check_choice("resize", resize, RESIZES)
    _check_choice("on_error", on_error, ("stop", "skip"))
    _check_choice("order", order, ("mixed", "source"))
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(size) < 1 or shard_bytes < 1:
        raise UsageError(f"image size and shard size must be at least 1; got {size} and {shard_bytes}")
    found = scan(demo_images() if source is None else Path(source))
    if found.payload == "raw" and payload == "encoded":
        raise UsageError(f"{source} holds raw images: their files are gone. Convert from the original images instead.")
    target = Path(out) if out is not None else default_out(found.name, to, payload)
    if target.exists() and not overwrite:
        raise UsageError(
            f"{target} exists. Choose another --out, or give --overwrite to replace it once the new one is whole."
        )
    layout = Layout(payload=payload, image_size=size if payload == "raw" else None)
    shards = list(
        plan(
            found,
            shard_bytes=shard_bytes,
            order=order,
            seed=seed,
            sample_bytes=size[0] * size[1] * 3 if payload == "raw" else None,
        )
    )
    started = time.perf_counter()
    source_sum = source_digest(found)
    recipe = {
        "source": source_sum,
        "to": to,
        "layout": asdict(layout),
        "resize": resize,
        "on_error": on_error,
        "order": order,
        "seed": seed,
        "shard_bytes": shard_bytes,
    }
    with _workspace(target, recipe) as workspace:
        tasks = [_task(found, shard, to, writer.suffix, workspace, layout, resize, on_error) for shard in shards]
        done = _write_all(tasks, shards, workers, progress)
        skipped = [row for task in tasks for row in done[task.name].skipped]
        media_types: Counter[str] = Counter()
        for task in tasks:
            media_types.update(done[task.name].media_types)
        stored = {name: tuple(done[shard.name].shard for shard in shards if shard.split == name) for name in found.splits}
        splits = {name: SplitInfo(samples=sum(s.samples for s in infos), shards=infos) for name, infos in stored.items()}
        count = sum(split.samples for split in splits.values())
        if count + len(skipped) != len(found):
            raise DataError(f"{len(found)} images found, {count} stored, {len(skipped)} skipped: the format {to} lost some")
        if not count:
            raise DataError(f"no image of {found.name} could be stored; the first reason: {skipped[0][0]}: {skipped[0][1]}")
        info = DatasetInfo(
            name=found.name,
            source_digest=source_sum,
            format=to,
            payload=payload,
            image_size=layout.image_size,
            resize=resize if payload == "raw" else None,
            media_types=dict(sorted(media_types.items())),
            class_names=found.class_names,
            splits=splits,
            order=order,
            seed=seed,
            found_samples=len(found),
            stored_samples=count,
            skipped_samples=len(skipped),
            stored_bytes=sum(shard.bytes for split in splits.values() for shard in split.shards),
            convert_s=time.perf_counter() - started,
        )
        _commit(workspace, target, info, skipped)
    return info


def demo_images() -> Path:
    """The built-in demo images, drawn on first use."""
    from storage import demo

    folder = Path("data") / "demo" / "images"
    if not folder.is_dir():
        demo.draw(folder)
    return folder


def write_shard(task: _Task) -> str:
    """Write one shard, note it as done, and give its name. Runs in a worker process."""
    writer = FORMATS[task.format]
    workspace = Path(task.workspace)
    place = workspace / task.file
    place.parent.mkdir(parents=True, exist_ok=True)
    media_types: Counter[str] = Counter()
    skipped: list[tuple[str, str]] = []
    with beside(place) as partial:
        # The directory format derives places from the index's own name, so it writes at its place and notes itself last.
        at = place if task.format == "directory" else partial
        shard = writer.write_shard(_samples(task, media_types, skipped), at, task.layout)
        if at is place:
            place.rename(partial)
    shard = shard.model_copy(update={"file": task.file})
    note = _Done(shard=shard, media_types=dict(media_types), skipped=skipped)
    with beside(workspace / NOTES / f"{task.name}.json") as partial:
        partial.write_text(note.model_dump_json())
    return task.name


def _samples(task: _Task, media_types: Counter[str], skipped: list[tuple[str, str]]) -> Iterator[Sample]:
    with task.images.open() as read:
        for index, key, label in zip(task.indices, task.keys, task.labels, strict=True):
            try:
                kind, image = _image(read(index, key), key, task)
            except DataError as error:
                if task.on_error == "stop":
                    file = task.images.root / key if isinstance(task.images, FolderImages) else key
                    raise DataError(f"{file}: {error}. Mend or remove it, or give --on-error skip.") from error
                skipped.append((key, str(error)))
                continue
            media_types[kind] += 1
            yield Sample(key, label, image)


def _image(stored: bytes | NDArray[np.uint8], key: str, task: _Task) -> tuple[str, bytes | NDArray[np.uint8]]:
    """Media type and what to store of one image. DataError, with the reason, if it may not be stored."""
    size = task.layout.image_size
    if not isinstance(stored, bytes):
        assert size is not None
        return "image/x-raw", pixels.resize(stored, size, task.resize)
    if not key.lower().endswith(SUFFIXES):
        raise DataError(f"not an image by its name (expected {', '.join(SUFFIXES)})")
    kind = pixels.check(stored)
    return kind, stored if size is None else pixels.resize(pixels.decode(stored), size, task.resize)


def _task(
    found: Source,
    shard: PlannedShard,
    to: str,
    suffix: str,
    workspace: Path,
    layout: Layout,
    resize: Resize,
    on_error: OnError,
) -> _Task:
    split = found.splits[shard.split]
    return _Task(
        format=to,
        workspace=str(workspace),
        file=shard.file(suffix),
        name=shard.name,
        images=split.images,
        indices=shard.indices.tolist(),
        keys=[split.keys[index] for index in shard.indices],
        labels=[split.labels[index] for index in shard.indices],
        layout=layout,
        resize=resize,
        on_error=on_error,
    )


def _write_all(
    tasks: list[_Task], shards: list[PlannedShard], workers: int, progress: Callable[[Progress], None] | None
) -> dict[str, _Done]:
    """Write what is not yet done; give what each shard left in ``.writing``."""
    sizes = {shard.name: (len(shard.indices), shard.bytes) for shard in shards}
    all_images, all_bytes = (sum(column) for column in zip(*sizes.values(), strict=True))
    images = total = 0

    def note(name: str) -> None:
        nonlocal images, total
        images += sizes[name][0]
        total += sizes[name][1]
        if progress is not None:
            progress(Progress(images, total, all_images, all_bytes))

    left = []
    for task in tasks:
        if _done_path(task).is_file():
            note(task.name)
        else:
            left.append(task)
    for name in _run(left, workers or len(os.sched_getaffinity(0))):
        note(name)
    return {task.name: _Done.model_validate_json(_done_path(task).read_bytes()) for task in tasks}


def _run(tasks: list[_Task], workers: int) -> Iterator[str]:
    if min(workers, len(tasks)) <= 1:
        yield from map(write_shard, tasks)
        return
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=min(workers, len(tasks)), return_as="generator_unordered", batch_size=1)
    yield from parallel(delayed(write_shard)(task) for task in tasks)


def _done_path(task: _Task) -> Path:
    return Path(task.workspace) / NOTES / f"{task.name}.json"


@contextmanager
def _workspace(target: Path, recipe: dict[str, object]) -> Iterator[Path]:
    """``OUT.partial``, locked; emptied first unless it was begun by the same recipe."""
    workspace = target.with_name(target.name + ".partial")
    try:
        notes = workspace / NOTES
        notes.mkdir(parents=True, exist_ok=True)
        lock = (notes / "lock").open("w")
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror} ({error.filename})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another conversion is writing {target}; wait for it, or choose another --out") from None
        if _old(target).exists() and not target.exists():  # killed between the two renames of a commit
            _old(target).rename(target)
        begun = notes / "recipe.json"
        text = json.dumps(recipe, sort_keys=True)
        if not begun.is_file() or begun.read_text() != text:
            for entry in [*workspace.iterdir(), *notes.iterdir()]:
                if entry.name not in (NOTES, "lock"):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            with beside(begun) as partial:
                partial.write_text(text)
        yield workspace


def _commit(workspace: Path, target: Path, info: DatasetInfo, skipped: list[tuple[str, str]]) -> None:
    """``dataset.json`` last, then the folder into its place; an earlier dataset is removed only when the new one is there."""
    if skipped:
        import csv

        with beside(workspace / "skipped.csv") as partial, partial.open("w", newline="", errors="surrogateescape") as file:
            csv.writer(file).writerows([("file", "reason"), *skipped])
    with beside(workspace / MANIFEST) as partial:
        partial.write_text(info.model_dump_json(indent=1))
    old = _old(target)
    if target.exists():
        target.rename(old)
    workspace.rename(target)
    sync(target.parent)
    shutil.rmtree(target / NOTES)
    if old.exists():
        shutil.rmtree(old)


def _old(target: Path) -> Path:
    """Where an earlier dataset waits while the new one takes its place."""
    return target.with_name(target.name + ".old")


def _check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise UsageError(f"{name} must be one of {', '.join(valid)}; got {value!r}")
