"""The instrument, measured with known answers. ``feedbench selfcheck`` prints the table and fails loudly.

Each check states what it expects before it looks. ``small`` runs the same checks with fewer and shorter measurements, for
continuous integration; on a shared machine only the answers that no neighbour can change are then strict.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import known
from bench.case import Case, StepSpec
from bench.compare import compare, rates
from bench.emulated import NoStep
from bench.metrics import METRICS
from bench.options import RunOptions, processors
from bench.record import Failed, Measured, Run, load_run, measured
from bench.run import ticks
from bench.schedule import Watcher, run
from bench.steady import Pace
from bench.visit import Request
from bench.worker import Worker
from loaders.base import LoaderSpec

Comparable = Mapping[int, float]


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


def selfcheck(watcher: Watcher, *, small: bool = False, folder: Path | None = None) -> Iterator[Check]:
    """All checks, each as soon as it is answered."""
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(folder or Path(temporary), watcher, small)
        for check in CHECKS:
            yield from check(bench)
        if not small:
            others = median(bench.neighbours)
            yield Check("other processes meanwhile", "at most 10% of the processors", f"{others:.0%}", others <= 0.1)


def utilisation(bench: Bench) -> Iterator[Check]:
    """A loader that always has a batch leaves no step waiting."""
    steps = ("emulated:1800",) if bench.small else ("emulated:1800", "feature_extraction")
    done = bench.measure([_case("null", step=step) for step in steps], 1)
    for case in done.info.cases:
        share = METRICS["accelerator_utilisation"].compute(done.of(case.id)) or 0.0
        yield Check(f"null loader, step {case.step.step}: utilisation", "at least 99%", f"{share:.2%}", share >= 0.99)


def known_rates(bench: Bench) -> Iterator[Check]:
    """A loader of known rate in front of a step of known rate."""
    plans = [  # loader, step, prefetch, images/s, share of waiting
        (2000, 2000, 0, 1000.0, 0.5),
        (1500, 3000, 2, 1500.0, 0.5),
        (3000, 1500, 2, 1500.0, 0.0),
        (900, 3600, 0, 720.0, 0.8),
    ]
    cases = [_case(str(rate), step=f"emulated:{step}", prefetch=prefetch) for rate, step, prefetch, _, _ in plans]
    done = bench.measure(cases, 1)
    for case, (rate, step, prefetch, images_per_s, wait_share) in zip(done.info.cases, plans, strict=True):
        records = done.of(case.id)
        seen = METRICS["images_per_s"].compute(records) or 0.0
        waited = METRICS["wait_share"].compute(records) or 0.0
        yield Check(
            f"loader {rate}/s (prefetch {prefetch}), step {step}/s",
            f"{images_per_s:.0f} images/s and {wait_share:.0%} waiting, within 2%",
            f"{seen:.1f}, {waited:.1%}",
            abs(seen / images_per_s - 1) <= 0.02 and abs(waited - wait_share) <= 0.02,
        )


def same_twice(bench: Bench) -> Iterator[Check]:
    """The same case under two names: few verdicts that are not ties. A test at 95% is wrong in 2 of 40 on average."""
    pairs = 4 if bench.small else 40
    pace = Pace(measure_s=0.3)
    cases = [_case("decode", name=f"{pair}{side}") for pair in range(pairs) for side in "ab"]
    by_case = _rates(bench.measure(cases, 5, pace=pace))
    wrong = sum(compare(by_case[a.id], by_case[b.id]).verdict != "tie" for a, b in zip(cases[::2], cases[1::2], strict=True))
    most = 2 if bench.small else 6
    yield Check(
        f"the same case under two names, {pairs} times", f"at most {most} not ties", f"{wrong} not ties", wrong <= most
    )


def planted(bench: Bench) -> Iterator[Check]:
    """Work added on purpose: 5% more is found, 2% more is never called faster."""
    # One run cannot show nine in ten, so the small check plants a slowdown that any run must find.
    runs, more, least = (1, 40, 1) if bench.small else (10, 5, 9)
    found = upside_down = 0
    for number in range(runs):
        cases = [_case("decode"), _case("decode+2"), _case(f"decode+{more}")]
        done = bench.measure(cases, 5, seed=number)
        plain, two, most = (_rates(done)[case.id] for case in cases)
        found += compare(most, plain).verdict == "slower"
        upside_down += compare(two, plain).verdict == "faster"
    yield Check(f"{more}% more work", f"found in at least {least} of {runs} runs", f"{found} of {runs}", found >= least)
    yield Check("2% more work", "never called faster", f"{upside_down} of {runs} runs", upside_down == 0)


def clockwork(bench: Bench) -> Iterator[Check]:
    """What the loop itself costs a batch, against the fastest work that there is: a batch copied from memory."""
    rounds, batches = (5, 4000) if bench.small else (30, 20000)
    spec = LoaderSpec(batch_size=32, image_size=(8, 8))
    step = NoStep()
    extra: list[float] = []
    for _ in range(rounds):
        bare_ns = _bare(known.KnownFeed(spec, lambda _: None, batches=batches), step, batches)
        ours_ns = _ours(known.KnownFeed(spec, lambda _: None, batches=batches), step, batches)
        extra.append((ours_ns - bare_ns) / batches)
    fastest_ns = _copied_batch_ns()
    share = median(extra) / fastest_ns
    yield Check(
        "the clockwork's cost a batch",
        f"at most 1% of a batch copied from memory ({fastest_ns / 1000:.0f} us)",
        f"{median(extra) / 1000:.2f} us, {share:.2%}",
        share <= 0.01,
    )


def same_as_fit(bench: Bench) -> Iterator[Check]:
    """The measuring loop trains as fast as ``model.fit``. Left out of the small check: it is all about a real step."""
    if bench.small:
        return
    case = _case("null", step="feature_extraction")
    with Worker(processors()) as worker:
        answer = worker.ask(Request(do="fit", case=case))
    if answer.error:
        yield Check("the loop against model.fit", "within 3%", answer.error, False)
        return
    ratio = answer.stages_ns["loop"] / answer.stages_ns["fit"]
    yield Check("the loop's time against model.fit's", "within 3%", f"{ratio - 1:+.1%}", abs(ratio - 1) <= 0.03)


def failures(bench: Bench) -> Iterator[Check]:
    """Workers that misbehave: rows with a reason, and all other cases complete."""
    cases = [_case(kind) for kind in ("null", "crash", "hang", "hog")] + [_case("null", name="again")]
    done = bench.measure(cases, 1, timeout_s=8.0, memory_limit_bytes=700_000_000, pace=Pace(measure_s=0.1))
    for case, words in zip(cases[1:4], ("killed by SIGKILL", "no answer within", "over its memory limit"), strict=True):
        outcomes = [record.outcome for record in done.of(case.id)]
        reason = next((outcome.reason for outcome in outcomes if isinstance(outcome, Failed)), "no row")
        yield Check(f"{case.loader}", f"a row that says {words!r}", reason, words in reason)
    complete = sum(isinstance(r.outcome, Measured) for case in (cases[0], cases[4]) for r in done.of(case.id))
    yield Check("all other cases", "2 measured", f"{complete} measured", complete == 2)


CHECKS: tuple[Callable[[Bench], Iterator[Check]], ...] = (
    utilisation,
    known_rates,
    clockwork,
    same_as_fit,
    failures,
    planted,
    same_twice,
)


def _case(kind: str, *, step: str = "none", prefetch: int = 2, name: str = "") -> Case:
    size = (160, 160) if step == "feature_extraction" else (8, 8)
    spec = LoaderSpec(batch_size=32, image_size=size, prefetch=prefetch)
    return Case(format="memory", payload="raw", loader=f"known:{kind}", spec=spec, step=StepSpec(step=step), name=name)


def _rates(done: Run) -> dict[str, Comparable]:
    return {case.id: rates(done.of(case.id)) for case in done.info.cases}


def _bare(feed: known.KnownFeed, step: NoStep, batches: int) -> int:
    """The loop without any clockwork, as a script would have it."""
    started = time.perf_counter_ns()
    for number, (images, labels) in enumerate(feed.epoch(0), 1):
        step(images, labels)
        if number == batches:
            break
    return time.perf_counter_ns() - started


def _ours(feed: known.KnownFeed, step: NoStep, batches: int) -> int:
    """The measuring loop, with what it keeps."""
    kept = []
    loop = ticks(feed, step, time.perf_counter_ns)
    started = time.perf_counter_ns()
    for tick in loop:
        kept.append(tick)
        if len(kept) == batches:
            break
    spent = time.perf_counter_ns() - started
    loop.close()
    return spent


def _copied_batch_ns() -> float:
    """Nanoseconds of copying a random batch of 32 images of 160 x 160 from memory, on one thread."""
    import numpy as np

    stored = np.ones((1024, 160, 160, 3), np.uint8)
    out = np.empty((32, 160, 160, 3), np.uint8)
    order = np.random.default_rng(0).permutation(1024).reshape(-1, 32)
    times = []
    for _ in range(5):
        for indices in order:
            started = time.perf_counter_ns()
            np.take(stored, indices, axis=0, out=out, mode="clip")
            times.append(time.perf_counter_ns() - started)
    return float(median(times))
