"""Two checks of worker processes: what misbehaves stays inside, and sharing one within a sweep changes no result."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import exp, log
from statistics import fmean

from bench.case import Case, StepSpec
from bench.compare import compare
from bench.options import processors
from bench.record import Failed, Measured
from bench.selfcheck_bench import Bench, Check, known_case
from bench.steady import Pace
from bench.visit import Request
from bench.worker import Worker


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
    """Sharing a worker within a sweep changes no result: real pipelines, in turn in a shared worker and in their own."""
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
    for sweep in range(4):
        order = random.Random(sweep).sample(list(requests), len(requests))
        with Worker(processors()) as worker:
            for name in order:
                bench.keep(worker.ask(requests[name]), shared[name], sweep)
        for name in order:
            with Worker(processors()) as worker:
                bench.keep(worker.ask(requests[name]), own[name], sweep)
    compared = [compare(shared[name], own[name], case_a=name, case_b="in a worker of its own") for name in requests]
    mean = exp(fmean(log(one.ratio) for one in compared)) - 1
    beyond = [one.case_a for one in compared if one.low > 1.02 or one.high < 0.98]
    yield Check(
        "a worker shared within a sweep, against one a measurement",
        "within 2% on average, no case beyond",
        f"{mean:+.1%}" + (f"; {', '.join(beyond)} beyond" if beyond else ""),
        abs(mean) <= 0.02 and not beyond,
    )
