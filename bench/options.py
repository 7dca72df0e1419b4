"""What is asked of a run: one frozen set of options behind ``feedbench run`` and ``pytest --benchmark-only`` alike."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from math import inf
from pathlib import Path
from typing import Any, Literal

from bench.case import StepSpec
from bench.machine import gpus
from bench.steady import SHORT, TINY, Pace
from bench.vary import Variation
from loaders.base import PLACEMENTS, LoaderSpec
from storage.base import PAYLOADS
from storage.errors import DataError, UsageError

DEFAULT_LOADERS = ("image_data_generator", "from_generator", "tfdata", "threaded", "image_dataset_from_directory")
"""What is measured unless others are named: rivals and the data service only then."""
DEFAULT_STEPS = ("feature_extraction", "none")

DEFAULT_TURNS = 4
"""Of eight batches each, noise within a block is least with two to six; each takes the memory of a TensorFlow of its own."""

CALIBRATE = "calibrate"
"""Among the steps: measure the real step without input."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """One run. Empty tuples mean all that are measured by default; ``images`` None means the demo images.

    ``limit`` takes at most that many images. ``vary`` multiplies the matrix (see ``vary.py``); ``files`` are the models and
    weights that cases name by their bare names. ``budget_s`` bounds the run's time: with it, racing, and the sweeps go on until
    the time is used. ``tiny`` measures next to nothing, for tests; ``pace`` says exactly how long a case is watched.
    ``turns``: how many cases are measured side by side, taking turns (None: ``side_by_side``).
    ``today`` is the id of the case that the report compares with (None: the plain generator on a directory).
    """

    images: Path | None = None
    formats: tuple[str, ...] = ()
    payloads: tuple[str, ...] = ()
    loaders: tuple[str, ...] = ()
    placements: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    batch_size: int = 32
    image_size: tuple[int, int] = (160, 160)
    limit: int | None = None
    augment: bool = True
    vary: tuple[Variation, ...] = ()
    files: tuple[Path, ...] = ()
    results: Path = Path("results")
    data: Path = Path("data")
    sweeps: int | None = None
    budget_s: float | None = None
    isolation: Literal["case", "sweep"] = "case"
    turns: int | None = None
    cache: Literal["warm", "cold"] = "warm"
    seed: int = 0
    stages: bool = False
    timeout_s: float = 300.0
    memory_limit_bytes: int | None = None
    tiny: bool = False
    pace: Pace | None = None
    today: str | None = None

    def __post_init__(self) -> None:
        from loaders import LOADERS
        from storage import FORMATS

        if self.images is not None and not self.images.is_dir():
            raise DataError(f"--images: {self.images} is not a folder. Expected CLASS/FILE or SPLIT/CLASS/FILE below it.")
        _known("--formats", self.formats, FORMATS)
        _known("--loaders", [name for name in self.loaders if not name.startswith("known:")], LOADERS)
        _known("--payloads", self.payloads, PAYLOADS)
        _known("--placements", self.placements, PLACEMENTS)
        _known("--isolation", [self.isolation], ("case", "sweep"), several=False)
        _known("--cache", [self.cache], ("warm", "cold"), several=False)
        try:
            LoaderSpec(seed=self.seed)
        except UsageError as error:
            raise UsageError(f"--{error}") from error  # It begins with the field's name.
        for name, value in (
            ("--batch-size", self.batch_size),
            ("--limit", self.limit),
            ("--sweeps", self.sweeps),
            ("--turns", self.turns),
        ):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be a whole number of at least 1, got {value}")
        for name, value_s in (("--budget", self.budget_s), ("--timeout", self.timeout_s)):
            if value_s is not None and not 0 < value_s < inf:  # Neither can nan be.
                raise UsageError(f"{name} must be above 0 s, and finite, got {value_s:g}")
        if self.memory_limit_bytes is not None and self.memory_limit_bytes <= 0:
            raise UsageError(f"--memory-limit must be above 0 MB, got {self.memory_limit_bytes / 1e6:g}")
        for step in self.steps:
            if step != CALIBRATE:
                try:
                    StepSpec(step=step)
                except UsageError as error:
                    raise UsageError(f"--{error} (a run also takes {CALIBRATE})") from error
        if any(one.name == "fine_tune_at" for one in self.vary) and "fine_tune" not in self.steps:
            raise UsageError("--fine-tune-at changes --step fine_tune only, which is not asked for; name that step, too")

    @property
    def side_by_side(self) -> int:
        """How many cases take turns: as many as asked for, or as many as this machine suits."""
        return self.turns or (1 if gpus() else DEFAULT_TURNS)

    @property
    def paced(self) -> Pace:
        """How long a case is watched: as asked for, or as suits this run."""
        if self.pace is not None:
            return self.pace
        if self.tiny:
            return TINY
        return Pace() if self.budget_s is None else SHORT

    @property
    def named(self) -> bool:
        """Whether the matrix was named in any way; if not, it is the default one, which leaves cells out (``matrix.py``)."""
        return any((self.formats, self.payloads, self.loaders, self.placements, self.steps, self.vary))

    def stored(self) -> dict[str, Any]:
        """As ``run.json`` keeps them: plain values, no absolute paths of the user's folders."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values["images"] = self.images.resolve().name if self.images else None
        values["data"] = values["results"] = None
        values["vary"] = {one.name: list(one.values) for one in self.vary}
        values["files"] = [path.name for path in self.files]
        values["pace"] = asdict(self.paced)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def names(text: str | None) -> tuple[str, ...]:
    """``a,b`` as ("a", "b"). ``emulated:1800,7200`` is two emulated steps."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    for index, part in enumerate(parts):
        if index and re.fullmatch(r"[0-9.]+", part) and parts[index - 1].startswith("emulated:"):
            parts[index] = f"emulated:{part}"
    return tuple(dict.fromkeys(parts))


def seconds(text: str | None) -> float | None:
    """``90s``, ``10m``, ``4m30s`` or ``1h`` in seconds. UsageError without a unit: ten what?"""
    if text is None:
        return None
    match = re.fullmatch("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in "hms"), text)
    if match is None or not text:
        raise UsageError(f"--budget must be a time such as 90s, 10m, 4m30s or 1h; got {text!r}")
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))


def processors() -> list[int]:
    """The processors that every contender gets: those that this process may use."""
    return sorted(os.sched_getaffinity(0))


def _known(flag: str, given: Iterable[str], valid: Iterable[str], *, several: bool = True) -> None:
    valid = list(valid)
    expected = "one or more of" if several else "one of"
    for name in given:
        if name not in valid:
            raise UsageError(f"{flag}: unknown name {name!r}; expected {expected}: {', '.join(valid)}")
