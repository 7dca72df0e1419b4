"""``feedbench advise DIR``: measure what matters within the budget, and say in ten lines what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import cast

from bench.advice import Advice, Limits, Source, advise
from bench.case import DEFAULT_STEP, Case, StepSpec
from bench.model import image_size_of, scaling_of
from bench.racing import LEAST_SWEEPS
from bench.today import TODAY, meant
from loaders.base import PLACEMENTS, LoaderSpec, Placement
from storage.base import PAYLOADS, Payload
from storage.errors import DataError, UsageError

VISIT_S = 5.0
"""Seconds that one measurement of one case takes, start-up and warm-up included: what a plan is cut by."""
ENOUGH_IMAGES = 2000
"""Steady state needs no more; sizes and times are scaled to the whole dataset."""
CONTENDERS = (
    ("directory", "encoded", "threaded"), ("directory", "encoded", "tfdata"), ("hdf5", "raw", "threaded"),
    ("lmdb", "encoded", "threaded"), ("hdf5", "encoded", "threaded"), ("tfrecord", "encoded", "threaded"),
    ("lmdb", "raw", "threaded"), ("tfrecord", "encoded", "tfdata"), ("lmdb", "encoded", "tfdata"), ("hdf5", "encoded", "tfdata"),
    ("tfrecord", "raw", "threaded"), ("directory", "raw", "threaded"),
    ("directory", "encoded", "image_dataset_from_directory"),
)  # fmt: skip
"""What may beat today's case, likeliest first: a short budget holds only the first of them."""


@dataclass(frozen=True)
class Question:
    """What the user asked. ``step`` None is the default step, or all of ``model`` if one is given."""

    images: Path
    model: Path | None = None
    today: str | None = None
    budget_s: float = 600.0
    disk_bytes: int | None = None
    epochs: int = 30
    step: str | None = None
    results: Path = Path("results")
    data: Path = Path("data")
    tiny: bool = False

    def __post_init__(self) -> None:
        if not self.images.is_dir():
            raise DataError(f"{self.images} is not a folder. Expected CLASS/FILE or SPLIT/CLASS/FILE below it.")
        if self.model is not None and not self.model.is_file():
            raise DataError(f"--model: there is no file {self.model}. Expected what model.save('NAME.keras') writes.")
        if self.epochs < 1:
            raise UsageError(f"--epochs must be a whole number of at least 1, got {self.epochs}")


def ask(question: Question, say: Callable[[str], None]) -> Advice:
    """Measure, and say what to do. The run is kept in ``results``, like any other."""
    from rich.console import Console

    from bench.options import RunOptions
    from bench.progress import Bar
    from bench.record import load_run
    from bench.run_output import command
    from bench.schedule import run

    source = look(question.images, question.data)
    options = RunOptions(
        images=question.images, limit=min(source.fed_images or 1, ENOUGH_IMAGES), budget_s=question.budget_s,
        results=question.results, data=question.data, tiny=question.tiny,
        image_size=_image_size(question), files=(question.model.resolve(),) if question.model else (),
    )  # fmt: skip
    planned = plan(question)
    with Bar(Console(stderr=True)) as bar:
        folder = run(options, bar, command(), planned=planned)
    now = planned[0].id
    source = replace(source, standing=standing(source, planned))
    found = advise(load_run(folder), source, today=now, limits=Limits(question.disk_bytes, question.epochs))
    for line in found.lines:
        say(line)
    if found.change:
        say(f"\n{to_store(found, question.images)}\n\n{found.code}")
    say(f"\nEverything that was measured: {folder}")
    return found


def to_store(found: Advice, images: Path) -> str:
    """The command that stores the images as ``found`` wants them, which runs as it is; or that they are stored already."""
    place = Path(found.place)
    if _stands(place, images, found.best):
        return f"{place} is stored already."
    # What is older than the images, or of another size, is written anew.
    return f"{found.convert} --overwrite" if place.exists() else found.convert


def standing(source: Source, cases: Iterable[Case]) -> frozenset[str]:
    """The FORMAT-PAYLOAD of these cases that are stored already where the code to paste would load them from."""
    root = Path(source.out) / (source.name or "")
    named = {f"{case.format}-{case.payload}": case for case in cases}
    return frozenset(name for name, case in named.items() if _stands(root / name, Path(source.path), case))


def _stands(place: Path, images: Path, case: Case) -> bool:
    """Whether the images, as they are now, are stored there for this case: raw ones have one size, encoded ones any."""
    from bench.datasets import fits
    from storage.dataset import read_info

    return fits(place, images) and read_info(place).image_size in (None, case.spec.image_size)


def plan(question: Question) -> list[Case]:
    """Today's case and as many contenders as the budget holds, each under the step, and loading alone where that does its work.

    Loading alone leaves out what placement ``model`` gives to the model: it says nothing about such a case.
    """
    from loaders import LOADERS

    held = question.budget_s / (LEAST_SWEEPS * VISIT_S)
    step = _step(question)
    today = today_case(question, step)
    contenders = [
        _case(format_, payload, loader, placement, step, question)
        for placement in PLACEMENTS
        for format_, payload, loader in CONTENDERS
        if loader in LOADERS
    ]
    chosen: list[Case] = []
    alone: list[Case] = []
    for case in dict.fromkeys([today, *(case for case in contenders if not case.leaves_work)]):
        also = [case.alone] if case.alone != case and not case.alone.leaves_work else []
        if len(chosen) >= 2 and len(chosen) + len(alone) + 1 + len(also) > held:
            break
        chosen.append(case)
        alone += also
    return [*chosen, *alone]


def today_case(question: Question, step: StepSpec) -> Case:
    """Today's case: what ``--today`` means among all that could be measured, or the plain generator over the folder."""
    from loaders import LOADERS
    from storage import FORMATS

    if question.today is None:
        return _case(*TODAY, step, question)
    every = [_case(*words, step, question) for words in product(FORMATS, PAYLOADS, LOADERS, PLACEMENTS)]
    named = meant(question.today, dict.fromkeys([*every, *(case.alone for case in every)]))
    return replace(named[0], step=step)


def look(images: Path, out: Path) -> Source:
    """How many files a folder of images has, all and in the split that is fed."""
    from storage.origin import source_name

    splits = [split for split in ("train",) if (images / split).is_dir()]
    fed = images / splits[0] if splits else images
    return Source(
        path=str(images),
        out=str(out),
        name=source_name(images),
        split="train",
        images=_files(images),
        fed_images=_files(fed),
    )


def parse_bytes(text: str | None) -> int | None:
    """``50GB``, ``500MB``, ``2TB`` or ``4GiB`` in bytes. UsageError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text, re.IGNORECASE)
    if match is None or not float(match[1]):
        raise UsageError(f"--disk takes a size such as 50GB or 500MB; got {text!r}")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * float((1024 if match[3] else 1000) ** power))


def _step(question: Question) -> StepSpec:
    if question.model is None:
        return StepSpec(step=question.step or DEFAULT_STEP)
    return StepSpec(step=question.step or "full", model=question.model.name)


def _image_size(question: Question) -> tuple[int, int]:
    """What the model takes; 160 x 160 where it takes any."""
    return (image_size_of(str(question.model)) if question.model else None) or (160, 160)


def _case(format_: str, payload: str, loader: str, placement: str, step: StepSpec, question: Question) -> Case:
    scaling = scaling_of(str(question.model)) if question.model else "tf"
    spec = LoaderSpec(placement=cast(Placement, placement), image_size=_image_size(question), scaling=scaling)
    return Case(format=format_, payload=cast(Payload, payload), loader=loader, spec=spec, step=step)


def _files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))
