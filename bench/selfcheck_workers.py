"""Two checks of worker processes: what misbehaves stays inside, and neither sharing them nor taking turns changes a result."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import exp, log
from statistics import fmean

from bench.blocks import Workers
from bench.case import Case, StepSpec
from bench.compare import compare
from bench.options import processors
from bench.record import Failed, Measured
from bench.selfcheck_bench import Bench, Check, known_case
from bench.steady import Pace
from bench.visit import Request
from bench.worker import Worker

SWEEPS = 8
"""Seconds differ by several per cent, and measurements in one go see that whole."""


def failures(bench: Bench) -> Iterator[Check]:
    """Workers that misbehave: rows with a reason, and all other cases complete."""
    cases = [known_case(kind) for kind in ("null", "crash", "hang", "hog")] + [known_case("null", name="again")]
    done = bench.measure(cases, 1, timeout_s=8.0, memory_limit_bytes=700_000_000, pace=Pace(measure_s=0.1))
    for case, words in zip(cases[1:4], ("killed by SIGKILL", "no answer within", "over its memory limit"), strict=True):
        outcomes = [record.outcome for record in done.of(case.id)]
        reason = next((outcome.reason for outcome in outcomes if isinstance(outcome, Failed)), "no row")
        yield Check(f"{case.loader}", f"a row that says {words!r}", reason, words in reason)
    complete = sum(isinstance(r.outcome, Measured) for case in (cases[0], cases[4]) for r in done.of(case.id))
    yield Check("all other cases", "2 measured", f"{complete} measured", complete == 2)


def isolation(bench: Bench) -> Iterator[Check]:
    """Workers shared within a sweep, in turns, as any run has them, against the strictest: one a measurement, in one go."""
    if bench.small:
        return
    from storage.conversion import convert
    from storage.demo import draw

    images = bench.folder / "images"
    draw(images, count=400)
    requests: dict[str, Request] = {}
    for format_, payload, loader in (
        ("directory", "encoded", "tfdata"),
        ("hdf5", "raw", "tfdata"),
        ("lmdb", "encoded", "threaded"),
    ):
        out = bench.folder / f"{format_}-{payload}"
        convert(images, to=format_, out=out, payload=payload, image_size=(160, 160))
        case = Case(format=format_, payload=payload, loader=loader, step=StepSpec(step="none"))  # type: ignore[arg-type]
        requests[case.id] = Request(do="measure", case=case, path=out)
    shared: dict[str, dict[int, float]] = {name: {} for name in requests}
    own: dict[str, dict[int, float]] = {name: {} for name in requests}
    for sweep in range(SWEEPS):
        order = random.Random(sweep)
        workers = Workers(lambda: Worker(processors()))
        try:
            for name, answer in zip(requests, workers.measure(list(requests.values()), order), strict=True):
                bench.keep(answer, shared[name], sweep)
        finally:
            workers.close()
        for name in order.sample(list(requests), len(requests)):
            with Worker(processors()) as worker:
                bench.keep(worker.ask(requests[name]), own[name], sweep)
    compared = [compare(shared[name], own[name], case_a=name, case_b="in a worker of its own") for name in requests]
    mean = exp(fmean(log(one.ratio) for one in compared)) - 1
    beyond = [one.case_a for one in compared if one.low > 1.02 or one.high < 0.98]
    yield Check(
        "workers shared within a sweep, in turns, against one a measurement",
        "within 2% on average, no case beyond",
        f"{mean:+.1%}" + (f"; {', '.join(beyond)} beyond" if beyond else ""),
        abs(mean) <= 0.02 and not beyond,
    )
