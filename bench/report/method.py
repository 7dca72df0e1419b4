"""How a run was measured and on what, as pairs of a name and what there is to say; and the command that repeats it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from bench.record import Run
from bench.report.digits import in_bytes, ratio, share

WITHHELD = re.compile(r"host|user|home|path|address", re.IGNORECASE)
"""Parts of an environment that could name a machine or its owner. None is recorded; other packages' records may differ."""
NAMES = {
    "cpu_model": "processor", "cpus": "processors", "cpu_count": "processors", "processors": "processors used, by number",
    "memory_bytes": "memory", "free_memory_bytes": "free memory", "load_1m": "load before it began", "gpus": "GPUs",
    "git_revision": "feedbench's revision", "throttled_us": "throttled before, µs", "device": "disk",
    "bilinear_resize": "bilinear resize",
    "libraries.feedbench": "feedbench", "libraries.opencv-python-headless": "OpenCV",
}  # fmt: skip


def again(run: Run) -> str:
    """The command that repeats the run."""
    return run.info.command


def command(run: Run, *more: str) -> str:
    """A command that measures, on the same images, what this run lacks."""
    images = run.info.options.get("images")
    return shlex.join(["feedbench", "run", *([f"--images={images}"] if images else []), *" ".join(more).split()])


def name(run: Run) -> str:
    """What the images are called: the folder that was named, or the dataset."""
    facts = next(iter(run.info.datasets.values()), None)
    return str(run.info.options.get("images") or (facts.name if facts else "images"))


def dataset(run: Run) -> list[tuple[str, str]]:
    """What was fed."""
    stored = list(run.info.datasets.values())
    if not stored:
        return []
    one = stored[0]
    media = ", ".join(f"{count:,} {kind}" for kind, count in one.media_types.items())
    classes = ", ".join(one.class_names) if one.class_names else ""
    return [
        ("name", name(run)),
        ("images", f"{one.epoch_images:,} in the split that was fed" + (f" ({media} in all)" if media else "")),
        ("classes", f"{one.classes}: {classes}" if classes else str(one.classes)),
    ]


def stored(run: Run) -> list[tuple[str, int, float | None]]:
    """Every stored dataset: its name, bytes, and their ratio to the memory that was free (None if nobody wrote that down)."""
    free = next((value for one in _environments(run) if (value := one.get("free_memory_bytes"))), None)
    return [
        (name, facts.stored_bytes, facts.stored_bytes / free if free else None) for name, facts in run.info.datasets.items()
    ]


def in_memory(run: Run) -> str:
    """What the ratio of dataset to free memory means."""
    ratios = [one[2] for one in stored(run) if one[2] is not None]
    if not ratios:
        return "How much memory was free was not recorded."
    largest = max(ratios)
    if largest < 1:
        return (
            f"The largest of them is {share(largest)} of the memory that was free, so all could stay in the page cache: "
            "warm rates are memory's, not a disk's."
        )
    return (
        f"The largest of them is {ratio(largest)} times the memory that was free: it cannot stay in the page cache, and the "
        "disk has its part in the rates."
    )


def workers(run: Run) -> str:
    """Who shares a worker process with whom, and who takes turns."""
    mine = "a new one for every case and sweep" if run.info.options.get("isolation") == "case" else "shared within a sweep"
    turns = run.info.options.get("turns") or 1
    return f"{mine}; up to {turns} at a time, taking turns of a slice of a second" if turns > 1 else mine


def machine(run: Run) -> list[list[tuple[str, str]]]:
    """Each environment of the run (more than one if it was resumed elsewhere). No host names."""
    return [[(NAMES.get(key, key.rpartition(".")[2].replace("_", " ")), _text(key, value)) for key, value in _flat(one)]
            for one in _environments(run)]  # fmt: skip


def options(run: Run) -> list[tuple[str, str]]:
    """What the run was asked for, as it was recorded; what was left empty is left out."""
    given = run.info.options | {"seed": run.info.seed, "sweeps": run.info.sweeps}
    return [(key.replace("_", " "), _text(key, value)) for key, value in _flat(given)]


def _environments(run: Run) -> list[Mapping[str, Any]]:
    return list(run.info.environments.values())


def _flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if WITHHELD.search(str(key)):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif value not in (None, "", [], ()):
            yield f"{before}{key}", value


def _text(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int | float):
        return in_bytes(value)
    if isinstance(value, list | tuple):
        joined = "x" if key == "image_size" else ", "
        return joined.join(str(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
