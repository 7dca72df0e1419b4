"""Two checks of the measuring loop: what it costs, and that it trains as fast as ``model.fit``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from bench import known
from bench.emulated import NoStep
from bench.options import processors
from bench.run import ticks
from bench.selfcheck_bench import Bench, Check, known_case
from bench.visit import Request
from bench.worker import Worker
from loaders.base import LoaderSpec


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
    case = known_case("null", step="feature_extraction")
    with Worker(processors()) as worker:
        answer = worker.ask(Request(do="fit", case=case))
    if answer.error:
        yield Check("the loop against model.fit", "within 3%", answer.error, False)
        return
    ratio = answer.stages_ns["loop"] / answer.stages_ns["fit"]
    yield Check("the loop's time against model.fit's", "within 3%", f"{ratio - 1:+.1%}", abs(ratio - 1) <= 0.03)


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
