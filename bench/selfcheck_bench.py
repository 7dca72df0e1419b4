"""Where the self-check measures: the same schedule and workers as any run, over loaders whose behaviour is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.case import Case, StepSpec
from bench.metrics.images_per_s import rate
from bench.options import RunOptions
from bench.record import Run, load_run, measured
from bench.schedule import run
from bench.visit import Answer
from bench.watcher import Watcher
from loaders.base import LoaderSpec
from storage.errors import DataError


@dataclass(frozen=True)
class Check:
    """One question with a known answer, and what came."""

    question: str
    expected: str
    seen: str
    passed: bool


@dataclass(frozen=True)
class Bench:
    """Where the checks measure: a folder for their runs, who is told, and how much is measured."""

    folder: Path
    watcher: Watcher
    small: bool = False
    neighbours: list[float] = field(default_factory=list)
    """The share of the machine that other processes used, a measurement each."""

    def measure(self, planned: list[Case], sweeps: int, **more: object) -> Run:
        """The same schedule and workers as in any run."""
        asked = {"results": self.folder, "data": self.folder / "data", "sweeps": sweeps, **more}
        options = RunOptions(**asked)  # type: ignore[arg-type]
        done = load_run(run(options, self.watcher, "feedbench selfcheck", planned=planned, reported=False))
        self.neighbours.extend(one.neighbour_share for one in measured(done.records) if one.neighbour_share is not None)
        return done

    def keep(self, answer: Answer, rates_by_sweep: dict[int, float], sweep: int) -> None:
        """The images/s of one answer. Raises DataError if there are none."""
        found = rate(answer.warm) if answer.warm is not None else None
        if answer.warm is None or found is None:
            raise DataError(f"the self-check could not measure: {answer.error}")
        rates_by_sweep[sweep] = found
        self.neighbours.extend([answer.warm.neighbour_share] if answer.warm.neighbour_share is not None else [])


def known_case(kind: str, *, step: str = "none", prefetch: int = 2, name: str = "") -> Case:
    size = (160, 160) if step == "feature_extraction" else (8, 8)
    spec = LoaderSpec(batch_size=32, image_size=size, prefetch=prefetch)
    return Case(format="memory", payload="raw", loader=f"known:{kind}", spec=spec, step=StepSpec(step=step), name=name)
