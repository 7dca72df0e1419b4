"""Writing a dataset into a format: scan, plan, shards, commit.

Made in ``OUT.partial`` (``storage/workspace.py``), shard by shard (``storage/shards.py``), in this process, several, or a cluster
(``storage/backends.py``). The same call goes on where an interrupted one stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from storage import left_out
from storage.backends import BACKENDS, run, ticking
from storage.base import DatasetInfo, Resize, ShardInfo, SplitInfo, height_and_width
from storage.dataset import manifest_text, read_info
from storage.errors import DataError, UsageError
from storage.origin import default_out, origin, source_name
from storage.plan import PlannedShard, PlannedSplit, plan_splits
from storage.recipe import Recipe, keeping_raw, one_of
from storage.scan import check_source, scan
from storage.shards import DiskFullError, Done, Job, Task, disk_is_full
from storage.source import Source
from storage.workspace import Workspace, locked


@dataclass(frozen=True)
class Progress:
    """How far a conversion is. Bytes are of the source for an encoded payload, of pixels for a raw one.

    ``doing`` is ``converting``, or what comes before: ``drawing`` the demo images (no bytes), ``downloading`` (no images).
    """

    images: int
    bytes: int
    all_images: int
    all_bytes: int
    doing: str = "converting"


def convert(
    source: str | Path | None = None,
    *,
    to: str,
    out: str | Path | None = None,
    overwrite: bool = False,
    image_size: int | tuple[int, int] | None = None,
    resize: Resize | None = None,
    split: Mapping[str, float] | None = None,
    workers: int = 0,
    backend: str = "local",
    address: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> DatasetInfo:
    """Write the images of ``source`` as a dataset of format ``to``.

    A source is a folder, a table of images (``.csv`` or ``.parquet``), ``tf_flowers``, or a stored dataset; None: the demo images.

    Parameters
    ----------
    out
        Where; ``data/NAME/FORMAT-PAYLOAD`` if not given.
    payload
        ``encoded`` keeps every file's bytes; ``raw`` decodes, resizes to ``image_size`` (height, width; 160 × 160 if not given) by
        the filter ``resize`` (bilinear) and stores uint8. Raw images keep the size that they have.
    on_error
        ``stop`` at the first image that cannot be stored, or ``skip`` it and list it in ``skipped.csv``.
    overwrite
        Replace an earlier dataset, once the new one is whole.
    order, seed
        ``mixed`` spreads samples over shards in an order fixed by the seed; ``source`` keeps the source's.
    split
        ``{"validation": 0.2}`` takes a fifth of each class out of a source that has no splits, by the seed.
    max_side, quality
        Encode again, in this quality, each JPEG and WebP with a longer side than ``max_side`` pixels.
    max_pixels
        An image that claims more is rejected as a decompression bomb.
    shard_bytes
        A shard holds at most this much, or one sample.
    compression
        Of raw images in HDF5: ``none`` (so that it can be mapped), ``lzf``, ``gzip``, ``blosc2`` or ``zstd``.
    workers
        Processes; 0 means one a processor. The bytes written do not depend on it.
    backend, address
        ``dask`` and a scheduler's address: write the shards on its workers, which see the same paths.
    progress
        Called about five times a second, from a thread of its own, and after each shard.

    Raises
    ------
    DataError
        The source or an image is at fault, or ``out`` cannot be written. UsageError: an option is.
    """
    asked: dict[str, Any] = {"image_size": None if image_size is None else height_and_width(image_size), "resize": resize}
    asked = {name: value for name, value in asked.items() if value is not None}
    known = [field.name for field in fields(Recipe)]
    if unknown := sorted(options.keys() - set(known)):
        raise UsageError(f"convert takes no {', '.join(unknown)}; what it writes depends on {', '.join(known)}")
    recipe = Recipe(to=to, split=tuple((split or {}).items()), **asked, **options)
    if workers < 0:
        raise UsageError(f"--workers must be at least 0; got {workers}")
    one_of("backend", backend, BACKENDS)
    root, name = origin(source, _preparing(progress))
    check_source(root)
    recipe = keeping_raw(recipe, asked, root)
    target = Path(out) if out is not None else default_out(name or source_name(root), to, recipe.payload)
    # Names beside it are made of its own, which "." has not; a link stays what it is, and its target is replaced.
    target = target.resolve() if target.is_symlink() or target.name in ("", "..") else target
    if target.resolve().is_relative_to(root.resolve()) and target.resolve() != root.resolve():
        raise UsageError(f"{target} is inside the source {root}. Choose an --out elsewhere.")
    with locked(target) as workspace:
        try:
            workspace.recover(overwrite=overwrite)
            return _convert(root, name, recipe, workspace, overwrite, progress, (workers, backend, address))
        except OSError as error:
            raise _cannot_write(target, error) from error
        finally:
            workspace.discard()


def _preparing(progress: Callable[[Progress], None] | None) -> Callable[[str, int, int], None]:
    """Reports what comes before a conversion: what is done, how much of it, of how much."""

    def report(doing: str, done: int, count: int) -> None:
        if progress is not None:
            progress(Progress(done, 0, count, 0, doing) if doing == "drawing" else Progress(0, done, 0, count, doing))

    return report


def _cannot_write(target: Path, error: OSError) -> DataError:
    if disk_is_full(error):
        free = shutil.disk_usage(target.parent).free
        return DataError(
            f"no space for {target}, not even for the list of its images: {free / 1e6:,.1f} MB are free. Free some, or choose "
            "another --out"
        )
    return DataError(f"{target} cannot be made: {error.strerror or error} ({error.filename or 'no file named'})")


def _convert(
    root: Path,
    name: str | None,
    recipe: Recipe,
    workspace: Workspace,
    overwrite: bool,
    progress: Callable[[Progress], None] | None,
    how: tuple[int, str, str | None],
) -> DatasetInfo:
    started = time.perf_counter()
    source = scan(root, workspace.listing.absolute(), keep_missing=recipe.on_error == "skip")
    source.name = name or source.name
    if source.payload == "raw" and recipe.payload == "encoded":
        raise UsageError(f"{root} holds raw images: their files are gone. Convert from the original images instead.")
    recorded = json.dumps({"source": [source.digest(), source.stamp], **asdict(recipe)}, sort_keys=True)
    if workspace.finished(recorded, overwrite=overwrite):
        return read_info(workspace.target)
    splits = _plan(source, recipe)
    try:
        workspace.begin(recorded)
        tasks = _tasks(source, splits, recipe, workspace)
        names = [split.name for split in splits]
        del splits  # the order of millions of images, which lies in files by now
        dones = _write_all(tasks, workspace, progress, how, recipe.keeps_size)
        info = _info(source, names, recipe, tasks, dones, time.perf_counter() - started)
        if info.skipped_samples:
            listed = left_out.write(workspace.path, (row for done in dones for row in done.skipped))
            info = info.model_copy(update={"skipped_digest": listed})
        workspace.commit(manifest_text(info))
    except (DiskFullError, OSError) as error:
        if isinstance(error, OSError) and not disk_is_full(error):
            raise
        planned = (shard for split in _plan(source, recipe) for shard in _shards(source, split, recipe))
        needed = sum(shard.bytes for shard in planned if not _note(workspace, shard).is_file())
        raise DataError(_full(workspace, needed)) from error
    return info


def _plan(source: Source, recipe: Recipe) -> list[PlannedSplit]:
    return plan_splits(source, recipe.order, recipe.seed, dict(recipe.split))


def _tasks(source: Source, splits: list[PlannedSplit], recipe: Recipe, workspace: Workspace) -> list[Task]:
    """A task a shard, in the order of ``dataset.json``; the order of each split goes into a file that workers map."""
    job = Job(
        recipe.to, workspace.path.resolve(), workspace.token, recipe.layout, recipe.resize, recipe.on_error,
        recipe.max_side, recipe.quality, recipe.max_pixels,
    )  # fmt: skip
    tasks: list[Task] = []
    for split in splits:
        order = job.workspace / job.token / f"{split.name}.order"
        order.write_bytes(split.rows.data)  # not tofile, which takes a full disk's short file for whole
        found = source.splits[split.source]
        # Workers are in other folders, be they Dask's, or joblib's that were started before the caller went elsewhere.
        images = found.images.absolute()
        for shard in _shards(source, split, recipe):
            tasks.append(Task(job, shard, len(tasks), images, found.listing, order))
    return tasks


def _shards(source: Source, split: PlannedSplit, recipe: Recipe) -> Iterator[PlannedShard]:
    height, width = recipe.image_size
    sizes = height * width * 3 if recipe.payload == "raw" else source.splits[split.source].listing.sizes
    return split.shards(sizes, recipe.shard_bytes)


def _write_all(
    tasks: list[Task],
    workspace: Workspace,
    progress: Callable[[Progress], None] | None,
    how: tuple[int, str, str | None],
    keeps_size: bool,
) -> list[Done]:
    """Write what is not yet done; give what every shard has left, in order."""
    workers, backend, address = how
    finished = {task.tick for task in tasks if _note(workspace, task.shard).is_file()}
    counts = [task.shard.stop - task.shard.start for task in tasks]
    all_images, all_bytes = sum(counts), sum(task.shard.bytes for task in tasks)

    def report(ticks: Any) -> None:
        images, total = 0.0, 0.0
        for task, count in zip(tasks, counts, strict=True):
            share = 1.0 if task.tick in finished else int(ticks[task.tick]) / count
            images, total = images + share * count, total + share * task.shard.bytes
        if progress is not None:
            progress(Progress(round(images), round(total), all_images, all_bytes))

    left = [task for task in tasks if task.tick not in finished]
    needed = sum(task.shard.bytes for task in left)
    if needed > shutil.disk_usage(workspace.path).free and keeps_size:
        raise DataError(_full(workspace, needed))
    none = [0] * len(tasks)
    writing = run(left, workers or len(os.sched_getaffinity(0)), backend, address)
    with ticking(workspace.path / workspace.token, len(tasks), report if progress else None), closing(writing):
        for tick in writing:
            finished.add(tick)
            report(none)
    return [Done.model_validate_json(_note(workspace, task.shard).read_bytes()) for task in tasks]


def _full(workspace: Workspace, needed: int) -> str:
    free = shutil.disk_usage(workspace.target.parent).free
    return (
        f"no space for {workspace.target}: about {needed / 1e6:,.1f} MB are still needed, {free / 1e6:,.1f} MB are free. "
        "Free some, or choose another --out; the same command then goes on"
    )


def _note(workspace: Workspace, shard: PlannedShard) -> Path:
    return workspace.done / f"{shard.name}.json"


def _info(
    source: Source, names: list[str], recipe: Recipe, tasks: list[Task], dones: list[Done], seconds: float
) -> DatasetInfo:
    shards: dict[str, list[ShardInfo]] = {name: [] for name in names}
    media_types: Counter[str] = Counter(source.media_types)
    for task, done in zip(tasks, dones, strict=True):
        shards[task.shard.split].append(done.shard)
        if not source.media_types:
            media_types.update(done.media_types)
    stored = {name: SplitInfo(samples=sum(s.samples for s in infos), shards=tuple(infos)) for name, infos in shards.items()}
    count = sum(split.samples for split in stored.values())
    skipped = [row for done in dones for row in done.skipped]
    if count + len(skipped) != len(source):
        raise DataError(f"{len(source)} images found, {count} stored, {len(skipped)} skipped: {recipe.to} lost some")
    if not count:
        raise DataError(f"no image of {source.name} could be stored; the first reason: {skipped[0][1]}: {skipped[0][2]}")
    return DatasetInfo(
        name=source.name,
        source_digest=source.digest(),
        format=recipe.to,
        payload=recipe.payload,
        image_size=recipe.layout.image_size,
        resize=recipe.resize if recipe.payload == "raw" else None,
        media_types=dict(sorted(media_types.items())),
        class_names=source.class_names,
        splits=stored,
        order=recipe.order,
        seed=recipe.seed,
        options=dict(recipe.layout.options),
        found_samples=len(source),
        stored_samples=count,
        skipped_samples=len(skipped),
        ignored_files=source.ignored_files,
        stored_bytes=sum(done.shard.bytes for done in dones),
        convert_s=seconds,
    )
