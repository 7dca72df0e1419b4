"""Whether a stored dataset is still what was written: digests of shards first, samples only where one differs.

A shard's digest covers all its bytes, so one flipped bit anywhere is found; the CRC32C of each sample then says which it hit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage import FORMATS, left_out
from storage.against import compare
from storage.backends import in_processes
from storage.base import DatasetInfo, Reader, ShardInfo, SupportsChecking, SupportsStructureCheck
from storage.checksum import crc32c
from storage.dataset import read_info
from storage.depth import Depth
from storage.directory import strays
from storage.errors import DataError, UsageError
from storage.media import MAX_PIXELS
from storage.pixels import check
from storage.source import check_key

Part: TypeAlias = tuple[int, tuple[str, ...]]
"""What one step looked at, in bytes of the dataset, and every fault that it found, a line each."""


def verify(
    path: str | Path,
    *,
    share: float = 1.0,
    seed: int = 0,
    against: str | Path | None = None,
    untrusted: bool = False,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Every fault of the dataset at ``path``, a line each, naming the shard and the sample; empty if there is none.

    Parameters
    ----------
    share
        Less than 1 reads that share of each shard's samples, drawn by ``seed``, and no digests: a quick look.
    against
        The folder or dataset that it was made from: every sample that is read is compared with its image too, and with all of
        them read, images that are missing are named.
    untrusted
        Whoever made the dataset may mean harm: it may hold no links, its digests prove nothing, so every shard's structure is checked
        before an engine opens it, and every sample is read: its key and label have to be of a class, its image such as may be
        stored, of a media type that the manifest counts, or of its size if it is raw.
    workers
        Processes or threads; 0 means one a processor.
    progress
        Called with the bytes done and the bytes in all.

    Raises DataError if ``path`` is no stored dataset, UsageError if ``share`` is out of range, or less than 1 for ``untrusted``.
    """
    if not 0 < share <= 1:
        raise UsageError(f"--sample takes more than 0% and at most 100%; got {share:.3%}")
    if untrusted and share < 1:
        raise UsageError("--untrusted reads every sample: leave out --sample")
    root, info = Path(path), read_info(Path(path))
    count = workers or len(os.sched_getaffinity(0))
    shards = [shard for split in info.splits.values() for shard in split.shards]
    total = sum(shard.bytes for shard in shards) * (1 if against is None else 2)
    done = 0
    faults: list[str] = []

    def take(parts: Iterable[Part]) -> None:
        nonlocal done
        for size, found in parts:
            faults.extend(found)
            done += size
            if progress is not None:
                progress(min(done, total), total)

    depth = Depth(share, seed, untrusted)
    if untrusted and (links := sorted(_links(root))):
        return links
    take(_in_parallel(root, info, shards, depth, count))
    if info.format == "directory":
        faults.extend(strays(root, info))
    if info.skipped_digest is not None and (fault := left_out.fault(root, info.skipped_digest)):
        faults.append(fault)
    if against is not None and not (untrusted and faults):  # what is malformed is not to be opened
        take(compare(root, info, Path(against), depth, count))
    return sorted(faults)


def _links(folder: Path) -> Iterator[str]:
    """What a stranger's dataset would have read from elsewhere, a line each."""
    for entry in os.scandir(folder):
        if entry.is_symlink():
            yield f"{entry.path}: a symbolic link; a dataset from elsewhere has to hold its files itself"
        elif entry.is_dir():
            yield from _links(Path(entry.path))


def _in_parallel(root: Path, info: DatasetInfo, shards: list[ShardInfo], depth: Depth, workers: int) -> Iterator[Part]:
    if info.format == "directory" and len(shards) > 1 and workers > 1:
        from joblib import delayed

        # Opening many small files holds the GIL, so it takes processes; reading and hashing a large file does not.
        each = info.model_copy(update={"splits": {}})  # what all shards have in common: the list of them is long
        calls = (delayed(check_shard)(each, root, shard, depth) for shard in shards)
        yield from in_processes(calls, min(workers, len(shards)))
        return
    with ThreadPoolExecutor(min(workers, max(1, len(shards)))) as pool:
        for done in as_completed([pool.submit(check_shard, info, root, shard, depth) for shard in shards]):
            yield done.result()


def check_shard(info: DatasetInfo, root: Path, shard: ShardInfo, depth: Depth) -> Part:
    """One shard: its digest, and where that differs (or is not asked, or not believed) its samples."""
    file = root / shard.file
    try:
        if not file.is_file():
            return shard.bytes, (f"{file}: the shard is missing",)
        return shard.bytes, tuple(f"{file}: {fault}" for fault in _faults(info, file, shard, depth))
    except DataError as error:
        return shard.bytes, (str(error),)
    except OSError as error:
        return shard.bytes, (f"{error.filename or file}: {error.strerror or error}",)


def _faults(info: DatasetInfo, file: Path, shard: ShardInfo, depth: Depth) -> Iterator[str]:
    form = FORMATS[info.format]

    def malformed() -> str | None:
        return form.structure_fault(file) if isinstance(form, SupportsStructureCheck) else None

    if depth.untrusted and (fault := malformed()):
        yield fault
        return
    same = None if depth.share < 1 else form.digest(file, shard) == shard.digest
    if same and not depth.untrusted:
        return
    if not depth.untrusted and (fault := malformed()):
        yield fault
        return
    faultless = True
    with form.open_shard(file, shard) as reader:
        if isinstance(reader, SupportsChecking):
            for fault in _sample_faults(reader, shard, depth):
                faultless = False
                yield fault
        elif not same:
            yield f"the digest differs; {info.format} keeps no checksums of samples"
            return
        if depth.untrusted and faultless:
            yield from _claim_faults(reader, info)
    if same is False and faultless:
        yield "the digest differs, but every sample matches its checksum: an index or unused bytes are damaged"


def _sample_faults(reader: SupportsChecking, shard: ShardInfo, depth: Depth) -> Iterator[str]:
    sums = reader.crc32c
    if len(sums) != shard.samples:
        yield f"samples from number {len(sums)} on cannot be found; expected {shard.samples}"
    for index in depth.rows(len(sums)).tolist():
        try:
            bad = crc32c(reader.stored(index)) != int(sums[index])
            fault = "does not match its checksum"
        except DataError as error:
            bad, fault = True, f"cannot be read: {error}"
        if bad:
            yield f"sample {index} ({_key(reader, index)}) {fault}"


def _claim_faults(reader: Reader, info: DatasetInfo) -> Iterator[str]:
    """What a sample is, where it is not what a dataset may hold, or not what this one's manifest says."""
    for index, sample in enumerate(reader):
        try:
            check_key(sample.key, sample.label, info.class_names, f"sample {index}")
        except DataError as error:
            yield str(error)
            continue
        if fault := _image_fault(sample.image, info):
            yield f"sample {index} ({sample.key}): {fault}"


def _image_fault(image: bytes | NDArray[np.uint8], info: DatasetInfo) -> str | None:
    if info.image_size is not None:
        expected = (*info.image_size, 3)
        shape = None if isinstance(image, bytes) else image.shape
        return None if shape == expected else f"has the shape {shape}, but the manifest says {expected}"
    if not isinstance(image, bytes):
        return f"is raw, of shape {image.shape}, but the manifest says encoded"
    try:
        kind = check(image, int(info.options.get("max_pixels", MAX_PIXELS)))
    except DataError as error:
        return str(error)
    return None if kind in info.media_types else f"is {kind}, which the manifest does not count"


def _key(reader: SupportsChecking, index: int) -> str:
    try:
        return reader.key(index)
    except DataError:
        return "its key is unreadable"
