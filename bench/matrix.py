"""The matrix: every format, payload, loader, placement and step that the options name, and why a cell is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bench.case import Case, StepSpec
from bench.limits import limit_cases, step_case
from bench.options import CALIBRATE, DEFAULT_LOADERS, RunOptions
from loaders import LOADERS
from loaders.base import LoaderSpec, Placement
from storage import FORMATS
from storage.base import DatasetInfo, Payload


@dataclass(frozen=True)
class Stored:
    """A stored dataset of the run: where it is, which split is fed, and its manifest."""

    path: Path
    split: str
    info: DatasetInfo


def cases(options: RunOptions) -> list[Case]:
    """All cells, in reading order; the two limits last. Looks at no data."""
    loaders = options.loaders or tuple(name for name in DEFAULT_LOADERS if name in LOADERS)
    formats = options.formats or tuple(FORMATS.built_in)
    planned = [
        Case(format=format_, payload=cast(Payload, payload), loader=loader, spec=_spec(options, placement),
             step=StepSpec(step=step), cache=options.cache)
        for step in options.steps
        if step != CALIBRATE
        for format_ in formats
        for payload in options.payloads
        for loader in loaders
        for placement in options.placements
    ]  # fmt: skip
    limits = limit_cases(options.batch_size, options.image_size, options.seed)
    if CALIBRATE in options.steps:
        limits.append(step_case(options.batch_size, options.image_size, StepSpec()))
    return planned + [case for case in limits if case.payload in options.payloads or case.loader == "limit:step"]


def skip_reason(case: Case, stored: Mapping[str, Stored]) -> str | None:
    """Why a case has no meaning here, in words; None if it is to be measured."""
    if case.format == "memory":
        return None
    return LOADERS[case.loader].unsupported(stored[f"{case.format}-{case.payload}"].info, case.spec)


def dataset_of(case: Case, stored: Mapping[str, Stored]) -> Stored:
    """The stored dataset that a case reads; a limit takes a directory's, or the first of its payload."""
    key = f"{case.format}-{case.payload}"
    if key in stored:
        return stored[key]
    return next(
        stored[name] for name in (f"directory-{case.payload}", *stored) if name in stored and name.endswith(case.payload)
    )


def _spec(options: RunOptions, placement: str) -> LoaderSpec:
    return LoaderSpec(
        batch_size=options.batch_size,
        image_size=options.image_size,
        placement=cast(Placement, placement),
        augment=options.augment,
        seed=options.seed,
    )
