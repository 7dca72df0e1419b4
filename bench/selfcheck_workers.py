"""Two checks of worker processes: what misbehaves stays inside, and forking them changes no result."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from math import exp, log
from statistics import fmean

from bench.case import Case, StepSpec
from bench.compare import compare
from bench.options import processors
from bench.record import Failed, Measured
from bench.selfcheck_bench import Bench, Check, known_case
from bench.steady import Pace
from bench.visit import Answer, Request
from bench.worker import Worker

ANSWER_S = 300
"""As long as a worker has by default."""


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


def forked(bench: Bench) -> Iterator[Check]:
    """A worker that is forked measures as a process does that imports for itself: real pipelines, one after the other, by turns."""
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
    fork: dict[str, dict[int, float]] = {name: {} for name in requests}
    anew: dict[str, dict[int, float]] = {name: {} for name in requests}
    for sweep in range(4):
        for name in random.Random(sweep).sample(list(requests), len(requests)):
            for by_itself in random.Random(f"{sweep} {name}").sample([False, True], 2):
                answer = _by_itself(requests[name]) if by_itself else _forked(requests[name])
                bench.keep(answer, (anew if by_itself else fork)[name], sweep)
    compared = [compare(fork[name], anew[name], case_a=name, case_b="by itself") for name in requests]
    mean = exp(fmean(log(one.ratio) for one in compared)) - 1
    beyond = [one.case_a for one in compared if one.low > 1.02 or one.high < 0.98]
    yield Check(
        "a forked worker, against a process started anew",
        "within 2% on average, no case beyond",
        f"{mean:+.1%}" + (f"; {', '.join(beyond)} beyond" if beyond else ""),
        abs(mean) <= 0.02 and not beyond,
    )


def _forked(request: Request) -> Answer:
    with Worker(processors()) as worker:
        return worker.ask(request)


def _by_itself(request: Request) -> Answer:
    """The answer of a process that nobody forked."""
    code = f"from bench.forkserver import set_up; set_up({processors()}); from bench.visit import serve; serve()"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            input=request.model_dump_json() + "\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_S,
        )
    except subprocess.TimeoutExpired:
        return Answer(error=f"no answer within {ANSWER_S} s: ended")
    if done.returncode:
        return Answer(error=done.stderr.strip()[-300:])
    return Answer.model_validate_json(done.stdout)
