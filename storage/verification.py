"""Whether a stored dataset is still what was written: digests of shards first, samples only where one differs.

A shard's digest covers all its bytes, so one flipped bit anywhere is found; the CRC32C of each sample then says which it hit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from storage import FORMATS
from storage.base import DatasetInfo, Layout, ShardInfo, SupportsChecking, SupportsStructureCheck, layout_options
from storage.checksum import crc32c
from storage.dataset import open_dataset, read_info
from storage.errors import DataError, UsageError
from storage.shards import Job, stored_image
from storage.source import scan

_ROWS_NAMED = 1000


@dataclass(frozen=True)
class Part:
    """What one step of a verification looked at, and every fault that it found, a line each."""

    bytes: int
    faults: tuple[str, ...]


def verify(
    path: str | Path,
    *,
    share: float = 1.0,
    seed: int = 0,
    against: str | Path | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Every fault of the dataset at ``path``, a line each, naming the shard and the sample; empty if there is none.

    Parameters
    ----------
    share
        Less than 1 reads that share of each shard's samples, drawn by ``seed``, and no digests: a quick look.
    against
        The folder or dataset that it was made from: every sample is compared with its image too.
    workers
        Processes or threads; 0 means one a processor.
    progress
        Called with the bytes done and the bytes in all.

    Raises DataError if ``path`` is no stored dataset, UsageError if ``share`` is out of range.
    """
    if not 0 < share <= 1:
        raise UsageError(f"--sample takes more than 0% and at most 100%; got {share:.3%}")
    root, info = Path(path), read_info(Path(path))
    shards = [shard for split in info.splits.values() for shard in split.shards]
    total = sum(shard.bytes for shard in shards) * (1 if against is None else 2)
    done = 0
    faults: list[str] = []
    parts = _in_parallel(root, info, shards, (share, seed), workers or len(os.sched_getaffinity(0)))
    for part in chain(parts, () if against is None else _against(root, info, Path(against))):
        faults.extend(part.faults)
        done += part.bytes
        if progress is not None:
            progress(min(done, total), total)
    return sorted(faults)


def _in_parallel(
    root: Path, info: DatasetInfo, shards: list[ShardInfo], sample: tuple[float, int], workers: int
) -> Iterator[Part]:
    if info.format == "directory" and len(shards) > 1 and workers > 1:
        from joblib import Parallel, delayed

        # Opening many small files holds the GIL, so it takes processes; reading and hashing a large file does not.
        parallel = Parallel(n_jobs=min(workers, len(shards)), backend="loky", return_as="generator_unordered")
        yield from parallel(delayed(check_shard)(info.format, root, shard, *sample) for shard in shards)
        return
    with ThreadPoolExecutor(min(workers, max(1, len(shards)))) as pool:
        for done in as_completed([pool.submit(check_shard, info.format, root, shard, *sample) for shard in shards]):
            yield done.result()


def check_shard(format_name: str, root: Path, shard: ShardInfo, share: float = 1.0, seed: int = 0) -> Part:
    """One shard: its digest, and where that differs (or for a share of them) its samples."""
    form, file = FORMATS[format_name], root / shard.file
    if not file.is_file():
        return Part(shard.bytes, (f"{file}: the shard is missing",))
    try:
        if share == 1.0 and form.digest(file, shard) == shard.digest:
            return Part(shard.bytes, ())
        if isinstance(form, SupportsStructureCheck) and (fault := form.structure_fault(file)):
            return Part(shard.bytes, (f"{file}: {fault}",))
        with form.open_shard(file, shard) as reader:
            if not isinstance(reader, SupportsChecking):
                return Part(shard.bytes, (f"{file}: the digest differs; {format_name} keeps no checksums of samples",))
            faults = tuple(f"{file}: {fault}" for fault in _sample_faults(reader, shard, share, seed))
    except DataError as error:
        return Part(shard.bytes, (str(error),))
    except OSError as error:
        return Part(shard.bytes, (f"{file}: {error.strerror or error}",))
    if not faults and share == 1.0:
        faults = (
            f"{file}: the digest differs, but every sample matches its checksum: an index or unused bytes are damaged",
        )
    return Part(shard.bytes, faults)


def _sample_faults(reader: SupportsChecking, shard: ShardInfo, share: float, seed: int) -> Iterator[str]:
    sums = reader.crc32c
    if len(sums) != shard.samples:
        yield f"samples from number {len(sums)} on cannot be found; expected {shard.samples}"
    chosen = np.arange(len(sums))
    if share < 1:
        count = min(len(sums), max(1, round(share * len(sums))))
        chosen = np.sort(np.random.default_rng((seed, len(sums))).choice(len(sums), count, replace=False))
    for index in chosen.tolist():
        try:
            bad = crc32c(reader.stored(index)) != int(sums[index])
            fault = "does not match its checksum"
        except DataError as error:
            bad, fault = True, f"cannot be read: {error}"
        if bad:
            yield f"sample {index} ({_key(reader, index)}) {fault}"


def _key(reader: SupportsChecking, index: int) -> str:
    try:
        return reader.key(index)
    except DataError:
        return "its key is unreadable"


def _against(root: Path, info: DatasetInfo, origin: Path) -> Iterator[Part]:
    """Compare every sample with the image that it was made from; then say which images of the source are not stored."""
    with TemporaryDirectory() as folder:
        source = scan(origin, Path(folder) / "listing")
        if source.payload == "raw" and info.payload == "encoded":
            raise UsageError(f"{origin} holds raw images: an encoded dataset cannot have been made from it")
        if source.class_names != info.class_names:
            yield Part(0, (f"{root}: has the classes {_few(info.class_names)}; {origin}: {_few(source.class_names)}",))
            return
        rows = {
            (name, split.listing.key(row)): row for name, split in source.splits.items() for row in range(len(split.listing))
        }
        only = next(iter(source.splits)) if len(source.splits) == 1 else None
        options = dict(info.options)
        job = Job(
            info.format,
            root,
            "",
            Layout(payload=info.payload, image_size=info.image_size, options=layout_options(options)),
            info.resize or "bilinear",
            "stop",
            int(options.get("max_side", 0)),
            int(options.get("quality", 90)),
        )
        with ExitStack() as stack:
            opened = {name: stack.enter_context(split.images.open(split.listing)) for name, split in source.splits.items()}
            for split_name in info.splits:
                dataset = stack.enter_context(open_dataset(root, split_name))
                origin_split = split_name if only is None else only
                faults: list[str] = []
                size = 0
                try:
                    for sample in dataset:
                        size += len(sample.image)
                        row = rows.pop((origin_split, sample.key), None)
                        if row is None:
                            faults.append(f"{root}: {split_name}/{sample.key} is not in {origin}, or is stored twice")
                            continue
                        listing = source.splits[origin_split].listing
                        try:
                            _, image = stored_image(opened[origin_split](row), sample.key, job)
                        except DataError as error:
                            faults.append(f"{origin}: {origin_split}/{sample.key}: {error}")
                            continue
                        if int(listing.labels[row]) != sample.label:
                            faults.append(f"{root}: {split_name}/{sample.key} has another label than in {origin}")
                        elif not np.array_equal(_bytes(image), _bytes(sample.image)):
                            faults.append(f"{root}: {split_name}/{sample.key} differs from {origin}")
                except DataError as error:
                    faults.append(str(error))
                yield Part(sum(shard.bytes for shard in info.splits[split_name].shards), tuple(faults))
        if len(rows) > info.skipped_samples:
            missing = len(rows) - info.skipped_samples
            named = [f"{split}/{key}" for split, key in list(rows)[:_ROWS_NAMED]]
            yield Part(
                0, (f"{root}: {missing} images of {origin} are neither stored nor skipped, among: {_few(tuple(named))}",)
            )


def _bytes(image: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
