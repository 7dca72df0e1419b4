"""The stored datasets of a run: converted when they are missing or no longer what the source is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import islice, zip_longest
from pathlib import Path

from bench.matrix import Stored
from bench.options import RunOptions
from bench.record import DatasetFacts
from storage import left_out
from storage.console import shown
from storage.conversion import convert
from storage.dataset import read_info
from storage.errors import DataError
from storage.origin import demo_images, source_name

NAMED_FILES = 2


def prepare(options: RunOptions, pairs: list[tuple[str, str]], tell: Callable[[str], None]) -> dict[str, Stored]:
    """Each (format, payload) as a stored dataset, by ``FORMAT-PAYLOAD``; those that stand and fit are taken as they are."""
    source = options.images or demo_images()
    name = "demo" if options.images is None else source_name(source)
    place = options.data / name
    if options.limit is not None:
        place = options.data / f"{name}-limit{options.limit}"
        # Called as the source is: a dataset takes the name of its images' folder.
        source = _limited(source, place / "images" / name, options.limit)
    # None: the demo images, whose folder is not called so.
    images = options.images if options.limit is None else source
    stored: dict[str, Stored] = {}
    for format_, payload in pairs:
        raw_size = "" if payload == "encoded" else "-{}x{}".format(*options.image_size)
        out = place / f"{format_}-{payload}{'' if raw_size == '-160x160' else raw_size}"
        if not fits(out, source):
            tell(f"converting to {format_}, {payload}")
            convert(
                images, to=format_, out=out, payload=payload, image_size=options.image_size, overwrite=True, on_error="skip"
            )
        info = read_info(out)
        stored[f"{format_}-{payload}"] = Stored(out, "train" if "train" in info.splits else next(iter(info.splits)), info)
    return stored


def facts(stored: Stored) -> DatasetFacts:
    """What the report needs of a stored dataset."""
    info = stored.info
    return DatasetFacts(
        name=info.name,
        source_digest=info.source_digest,
        format=info.format,
        payload=info.payload,
        samples=info.stored_samples,
        fed_samples=info.splits[stored.split].samples,
        classes=len(info.class_names),
        class_names=info.class_names,
        stored_bytes=info.stored_bytes,
        convert_s=info.convert_s,
        media_types=info.media_types,
        skipped=info.skipped_samples,
        skipped_first=tuple(map(shown, islice(left_out.keys(stored.path), NAMED_FILES))),
        skipped_list=f"{stored.path.name}/{left_out.NAME}" if info.skipped_samples else "",
    )


def fits(out: Path, source: Path) -> bool:
    """Whether a stored dataset stands at ``out`` that is newer than everything in the source."""
    manifest = out / "dataset.json"
    if not manifest.is_file():
        return False
    written = manifest.stat().st_mtime
    return all(path.stat().st_mtime <= written for path in (source, *source.rglob("*")))


def _limited(source: Path, out: Path, limit: int) -> Path:
    """A folder of links to at most ``limit`` files of the fed split, taken from its classes in turn."""
    split = source / "train"
    root = split if split.is_dir() and any(path.is_dir() for path in split.iterdir()) else source
    classes = [sorted(_files(folder)) for folder in sorted(root.iterdir()) if folder.is_dir()]
    if not classes:
        raise DataError(f"{source} has no class folders. Expected CLASS/FILE or SPLIT/CLASS/FILE below it.")
    taken = list(islice((file for turn in zip_longest(*classes) for file in turn if file is not None), limit))
    wanted = {out / "train" / file.relative_to(root) for file in taken}
    if out.is_dir() and {path for path in out.rglob("*") if path.is_file()} == wanted:
        return out
    shutil.rmtree(out, ignore_errors=True)
    for file in taken:
        target = out / "train" / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(file)
        except OSError:
            shutil.copy2(file, target)
    return out


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
