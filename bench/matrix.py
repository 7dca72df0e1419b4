"""The matrix: every format, payload, loader, placement, step and variation that is named, and why a cell is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from bench.case import DEFAULT_STEP, Case, StepSpec
from bench.limits import limit_cases, step_case
from bench.model import scaling_of
from bench.options import CALIBRATE, DEFAULT_LOADERS, DEFAULT_STEPS, RunOptions
from bench.steady import too_short
from bench.vary import Setting, settings, unknown_options
from loaders import LOADERS
from loaders.base import PLACEMENTS, LoaderSpec, Placement
from loaders.sample import batches_in
from storage import FORMATS
from storage.base import PAYLOADS, DatasetInfo, Payload

RAW_BY_DEFAULT = (("hdf5", "threaded"), ("lmdb", "threaded"))
PLACED_BY_DEFAULT = ("image_data_generator", "tfdata", "threaded")


@dataclass(frozen=True)
class Stored:
    """A stored dataset of the run: where it is, which split is fed, and its manifest."""

    path: Path
    split: str
    info: DatasetInfo


def cases(options: RunOptions) -> list[Case]:
    """All cells, in reading order; the limits last. Looks at no data."""
    planned = [case for case in product(options) if options.named or by_default(case)]
    limits = limit_cases(options.batch_size, options.image_size, options.seed)
    limits = [case for case in limits if case.payload in (options.payloads or PAYLOADS)]
    if planned and all(case.format == "memory" for case in planned):
        limits = []  # Known loaders only: there are no images to be limited by.
    if CALIBRATE in options.steps:
        real = [step for step in options.steps if step != CALIBRATE and StepSpec(step=step).trains] or [DEFAULT_STEP]
        limits += [
            step_case(options.batch_size, options.image_size, _step(step, setting))
            for step in real
            for setting in settings(options.vary)
        ]
    return list(dict.fromkeys(planned + limits))


def product(options: RunOptions) -> list[Case]:
    """Every format, payload, loader, placement, step and setting that the options name, or that there is by default."""
    return [
        case
        for step in options.steps or DEFAULT_STEPS
        if step != CALIBRATE
        for format_ in options.formats or FORMATS.built_in
        for payload in options.payloads or PAYLOADS
        for loader in options.loaders or DEFAULT_LOADERS
        for placement in options.placements or PLACEMENTS
        for setting in settings(options.vary)
        for case in _cell(options, format_, payload, loader, placement, step, setting)
    ]


def by_default(case: Case) -> bool:
    """Whether a cell belongs to the default matrix, which takes nine minutes on two cores (docs/measurement.md).

    Placements are compared over a directory, which every loader reads, and under a step that trains: loading alone, inside the
    model, would leave out the work that is left to a step that is not there. What wrapping a generator changes is compared over every
    format alone, and under a step that trains, where it takes the longest and shows the least, over a directory. Raw images
    stand for what no decoding buys.
    """
    if case.loader == "from_generator" and case.step.trains and case.format != "directory":
        return False
    if case.spec.placement == "model":
        over_a_directory = (case.format, case.payload) == ("directory", "encoded")
        return case.step.trains and over_a_directory and case.loader in PLACED_BY_DEFAULT
    return case.payload == "encoded" or (case.format, case.loader) in RAW_BY_DEFAULT


def skip_reason(case: Case, stored: Mapping[str, Stored]) -> str | None:
    """Why a case has no meaning here, in words; None if it is to be measured."""
    if case.loader.startswith("known:") or case.loader == "limit:step":
        return None
    dataset = dataset_of(case, stored)
    if case.step.trains and len(dataset.info.class_names) < 2:
        return "a model needs at least two classes to tell apart, and the dataset has one"
    batches = batches_in(dataset.info.splits[dataset.split].samples, case.spec)
    short = too_short(batches, case.step.group)
    if case.format == "memory":
        return short
    lacking = unknown_options(case.loader, dict(case.spec.options))
    if lacking:
        return f"{case.loader} has no option {' or '.join(lacking)}"
    return LOADERS[case.loader].unsupported(dataset.info, case.spec) or short


def dataset_of(case: Case, stored: Mapping[str, Stored]) -> Stored:
    """The stored dataset that a case reads; a limit takes a directory's, or the first of its payload.

    ``limit:step`` reads no images, only how many classes there are: any dataset tells.
    """
    key = f"{case.format}-{case.payload}"
    if key in stored:
        return stored[key]
    fitting = [name for name in stored if name.endswith(case.payload) or case.loader == "limit:step"]
    return stored[next((name for name in fitting if name == f"directory-{case.payload}"), fitting[0])]


def _cell(
    options: RunOptions, format_: str, payload: str, loader: str, placement: str, step_name: str, setting: Setting
) -> list[Case]:
    """One cell of the matrix under one setting.

    A loader that lacks an option has a row that says so, and another as it is.
    """
    step = _step(step_name, setting)
    # Loading alone makes the same pixels as the model of its setting wants.
    model = setting.step.get("model", step.model)
    path = next((path for path in options.files if path.name == model), model)
    spec = LoaderSpec(
        batch_size=options.batch_size,
        image_size=options.image_size,
        placement=cast(Placement, placement),
        augment=options.augment,
        scaling=scaling_of(str(path)),
        seed=options.seed,
    )
    spec = replace(spec, **setting.spec)
    if loader.startswith("known:"):
        format_, payload = "memory", "raw"
    lacking = unknown_options(loader, setting.options)
    wanted = tuple(setting.options.items())
    served = tuple(pair for pair in wanted if pair[0] not in lacking)
    return [
        Case(format=format_, payload=cast(Payload, payload), loader=loader, spec=replace(spec, options=chosen), step=step,
             cache=options.cache)
        for chosen in dict.fromkeys((wanted, served))
    ]  # fmt: skip


def _step(name: str, setting: Setting) -> StepSpec:
    """A step under one setting. What only a training step knows says nothing to one that trains nothing, and is left out there."""
    step = StepSpec(step=name)
    return replace(step, **setting.step).plain if step.trains else step
