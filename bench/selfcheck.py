"""The instrument, measured with known answers. ``feedbench selfcheck`` prints the table and fails loudly.

Each check states what it expects before it looks. ``small`` runs the same checks with fewer and shorter measurements, for
continuous integration; on a shared machine only the answers that no neighbour can change are then strict.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from bench.compare import compare
from bench.evened import evened_run
from bench.metrics import METRICS
from bench.record import Run, measured
from bench.schedule import DEFAULT_SWEEPS
from bench.selfcheck_bench import Bench, Check, known_case
from bench.selfcheck_loop import clockwork, same_as_fit
from bench.selfcheck_workers import failures, forked
from bench.starvation import kept_ready, loading
from bench.starvation import utilisation as utilisation_at
from bench.steady import Pace
from bench.watcher import Watcher


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
    done = bench.measure([known_case("null", step=step) for step in steps], 1)
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
    cases = [known_case(str(speed), step=f"emulated:{step}", prefetch=prefetch) for speed, step, prefetch, _, _ in plans]
    done = bench.measure(cases, 1)
    for case, (speed, step, prefetch, images_per_s, wait_share) in zip(done.info.cases, plans, strict=True):
        records = done.of(case.id)
        seen = METRICS["images_per_s"].compute(records) or 0.0
        waited = METRICS["wait_share"].compute(records) or 0.0
        yield Check(
            f"loader {speed}/s (prefetch {prefetch}), step {step}/s",
            f"{images_per_s:.0f} images/s and {wait_share:.0%} waiting, within 2%",
            f"{seen:.1f}, {waited:.1%}",
            abs(seen / images_per_s - 1) <= 0.02 and abs(waited - wait_share) <= 0.02,
        )


def foretold(bench: Bench) -> Iterator[Check]:
    """The curve of utilisation over accelerator speed, from one measurement of loading alone, against accelerators emulated."""
    alone, *before = [known_case("2000"), *(known_case("2000", step=f"emulated:{speed}") for speed in (1500, 4000))]
    done = bench.measure([alone, *before], 1)
    feed = next((found for one in measured(done.of(alone.id)) if (found := loading(one))), None)
    for case in before:
        curve = utilisation_at(feed, case.step.rate, ready=kept_ready(case)) if feed and case.step.rate else 0.0
        seen = METRICS["accelerator_utilisation"].compute(done.of(case.id)) or 0.0
        yield Check(
            f"loader 2000/s, step {case.step.rate:.0f}/s: utilisation",
            f"{curve:.1%} by the curve from loading alone, within 2%",
            f"{seen:.1%}",
            feed is not None and abs(seen - curve) <= 0.02,
        )


def same_twice(bench: Bench) -> Iterator[Check]:
    """The same case under two names: few verdicts that are not ties. A test at 95% is wrong in 2 of 40 on average."""
    pairs = 4 if bench.small else 40
    pace = Pace(window_s=0.03, measure_s=0.12)
    cases = [known_case("decode", name=f"{pair}{side}") for pair in range(pairs) for side in "ab"]
    by_case = _rates(bench.measure(cases, 5, pace=pace))
    wrong = sum(compare(by_case[a.id], by_case[b.id]).verdict != "tie" for a, b in zip(cases[::2], cases[1::2], strict=True))
    most = 2 if bench.small else 6
    yield Check(
        f"the same case under two names, {pairs} times", f"at most {most} not ties", f"{wrong} not ties", wrong <= most
    )


def planted(bench: Bench) -> Iterator[Check]:
    """Work added on purpose: 5% more is found, 2% more is never called faster."""
    runs, least, kinds, more = 10, 9, ("decode", "decode+2", "decode+5"), 5
    if bench.small:
        # One run cannot show nine in ten, so this plants a slowdown that any run must find, in loaders that mostly sleep.
        runs, least, kinds, more = 1, 1, ("2000", "1960", "1200"), 40
    found = upside_down = 0
    for number in range(runs):
        cases = [known_case(kind) for kind in kinds]
        done = bench.measure(cases, DEFAULT_SWEEPS, seed=number)
        plain, two, most = (_rates(done)[case.id] for case in cases)
        found += compare(most, plain).verdict == "slower"
        upside_down += compare(two, plain).verdict == "faster"
    yield Check(f"{more}% slower", f"found in at least {least} of {runs} runs", f"{found} of {runs}", found >= least)
    yield Check("2% slower", "never called faster", f"{upside_down} of {runs} runs", upside_down == 0)


CHECKS: tuple[Callable[[Bench], Iterator[Check]], ...] = (
    utilisation,
    known_rates,
    foretold,
    clockwork,
    same_as_fit,
    failures,
    forked,
    planted,
    same_twice,
)


def _rates(done: Run) -> dict[str, dict[int, float]]:
    return {case.id: by_sweep for (case, _), by_sweep in evened_run(done).items()}
