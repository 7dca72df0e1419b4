"""A stored dataset compared with what it was made from: each sample with its image, and which images are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from storage import left_out
from storage.backends import in_processes
from storage.base import DatasetInfo, Layout, Reader, Sample, SupportsChecking, layout_options
from storage.console import counted
from storage.dataset import StoredDataset, open_dataset
from storage.depth import Depth
from storage.errors import DataError, UsageError
from storage.key_index import KeyIndex
from storage.media import MAX_PIXELS
from storage.scan import scan
from storage.shards import Job, printable, stored_image
from storage.source import SourceSplit

_NAMED = 5


@dataclass(frozen=True)
class Comparison:
    """One shard to be compared: what a worker process needs to know."""

    root: Path
    split: str
    number: int
    origin: Path
    origin_split: str
    source: SourceSplit
    folder: Path
    """Of the listing's key index, and of ``seen``: a byte a row of the listing, 1 once its image was found stored."""
    job: Job
    depth: Depth


def compare(
    root: Path, info: DatasetInfo, origin: Path, depth: Depth, workers: int
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Compare samples with the images that they were made from; if all are, say which images of the source are not stored.

    Gives bytes of the dataset that were looked at, and the faults found there, a line each.
    """
    with TemporaryDirectory(prefix="feedbench-against-") as name:
        folder = Path(name)
        source = scan(origin, folder / "listing", keep_missing=True)
        if source.payload == "raw" and info.payload == "encoded":
            raise UsageError(f"{origin} holds raw images: an encoded dataset cannot have been made from it")
        if source.class_names != info.class_names:
            yield 0, (f"{root}: has the classes {_few(info.class_names)}; {origin}: {_few(source.class_names)}",)
            return
        for split, listed in source.splits.items():
            KeyIndex(listed.listing, folder / "index" / split)
            (folder / "index" / split / "seen").write_bytes(bytes(len(listed)))
        only = next(iter(source.splits)) if len(source.splits) == 1 else None
        tasks = [
            Comparison(root, split, number, origin, only or split, source.splits[only or split],
                       folder / "index" / (only or split), _job(root, info), depth)
            for split, stored in info.splits.items() if (only or split) in source.splits
            for number in range(len(stored.shards))
        ]  # fmt: skip
        for split in set(info.splits) - set(source.splits) if only is None else ():
            yield 0, (f"{root}: has the split {split!r}, which {origin} has not",)
        yield from _all(tasks, workers)
        if depth.share < 1:  # what was not looked for cannot be told from what is missing
            return
        left = {split: np.fromfile(folder / "index" / split / "seen", np.uint8) == 0 for split in source.splits}
        missing = sum(int(rows.sum()) for rows in left.values())
        if missing > info.skipped_samples:
            skipped = set(left_out.keys(root))
            names = (
                (split, printable(source.splits[split].listing.key(row)))
                for split, rows in left.items()
                for row in np.flatnonzero(rows).tolist()
            )
            named = ", ".join(islice((f"{split}/{key}" for split, key in names if key not in skipped), _NAMED))
            count = missing - info.skipped_samples
            which = f", among them {named}" if count > _NAMED else f": {named}"
            yield 0, (f"{root}: neither stored nor skipped: {counted(count, 'image')} of {origin}{which}",)


def _job(root: Path, info: DatasetInfo) -> Job:
    options = dict(info.options)
    return Job(
        info.format, root, "",
        Layout(payload=info.payload, image_size=info.image_size, options=layout_options(options)),
        info.resize or "bilinear", "stop", int(options.get("max_side", 0)), int(options.get("quality", 90)),
        int(options.get("max_pixels", MAX_PIXELS)),
    )  # fmt: skip


def _all(tasks: list[Comparison], workers: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    if min(workers, len(tasks)) <= 1:
        yield from map(compare_shard, tasks)
        return
    from joblib import delayed

    yield from in_processes((delayed(compare_shard)(task) for task in tasks), min(workers, len(tasks)))


def compare_shard(task: Comparison) -> tuple[int, tuple[str, ...]]:
    """One shard's bytes, and its faults."""
    listing = task.source.listing
    index, seen = KeyIndex(listing, task.folder), np.memmap(task.folder / "seen", np.uint8, "r+")
    faults: list[str] = []
    with open_dataset(task.root, task.split) as dataset, task.source.images.open(listing) as read:
        shards = dataset.split_info.shards
        size, start = shards[task.number].bytes, sum(shard.samples for shard in shards[: task.number])
        try:
            reader = dataset.shard(task.number)
            rows = task.depth.rows(len(reader)).tolist()
            for sample in _found(dataset, reader, start, rows):
                if isinstance(sample, str):  # damaged, but not missing
                    if (row := index.find(sample)) is not None:
                        seen[row] = 1
                    continue
                row = index.find(sample.key)
                if row is None or seen[row]:
                    how = "is stored twice" if row is not None else f"is not in {task.origin}"
                    faults.append(f"{task.root}: {task.split}/{sample.key} {how}")
                    continue
                seen[row] = 1
                try:
                    _, image = stored_image(read(row), sample.key, task.job)
                except DataError as error:
                    faults.append(f"{task.origin}: {task.origin_split}/{sample.key}: {error}")
                    continue
                if int(listing.labels[row]) != sample.label:
                    faults.append(f"{task.root}: {task.split}/{sample.key} has another label than in {task.origin}")
                elif not np.array_equal(_bytes(image), _bytes(sample.image)):
                    faults.append(f"{task.root}: {task.split}/{sample.key} differs from {task.origin}")
        except DataError as error:
            faults.append(str(error))
    return size, tuple(faults)


def _found(dataset: StoredDataset, reader: Reader, start: int, rows: list[int]) -> Iterator[Sample | str]:
    """The samples at ``rows`` of a shard that starts at ``start``; of a damaged one, which was named as a fault before, the key."""
    if not isinstance(reader, SupportsChecking):
        chosen = set(rows)
        yield from (sample for at, sample in enumerate(reader) if at in chosen)
        return
    for at in rows:
        try:
            yield dataset.sample(start + at)
        except DataError:
            with suppress(DataError):
                yield reader.key(at)


def _bytes(image: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
