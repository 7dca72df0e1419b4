"""What a worker process does: prove a case, measure it, time its stages. One request at a time, each a line of JSON.

``serve`` reads requests from standard input and answers on the descriptor that was standard output when it began; whatever
libraries print goes to standard error. Compiled training steps are kept from request to request, so a worker that is shared
within a sweep compiles each only once.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter_ns
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bench import meter, tuned
from bench.accelerator import accelerator
from bench.case import Case
from bench.emulated import EmulatedStep, NoStep
from bench.labels import label
from bench.own_time import Turns
from bench.pool import Pool
from bench.record import Measured, Pixels
from bench.run import Opening, hand_over, images_per_ns, measure, measure_epoch, ticks
from bench.steady import NS, Pace
from loaders.base import Stage
from storage.errors import FeedbenchError

STAGE_ROUNDS = 3
LONG_ROUND_S = 20.0
"""Epochs so long outlast a slow moment by themselves, and a request may not take for ever."""
HAND_OVER_SHARE = 0.2
"""Of the time that a case is measured: so much more for what handing a batch over takes."""
FIT_BATCHES = 80
"""So many by turns tell the loop from ``fit`` to 0.5% (standard error), where single batches vary by 14%."""


class Request(BaseModel):
    """One thing to do. ``path`` is the stored dataset (none for ``known:`` loaders); ``limit`` how many samples to prove, and
    ``samples`` the folder in which one image as it was delivered is kept (None: nowhere). ``turns``: measure turn by turn, and
    stop the process group in between.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal["prove", "know", "measure", "stages", "fit"]
    case: Case
    path: Path | None = None
    split: str = "train"
    classes: int = 5
    pace: Pace = Pace()
    limit: int | None = None
    samples: Path | None = None
    turns: bool = False


class Answer(BaseModel):
    """What came of it: ``error`` is a reason in words, and then nothing else is set. ``resting``: nothing yet; a turn is over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error: str = ""
    resting: bool = False
    pixels: Pixels | None = None
    warm: Measured | None = None
    cold: Measured | None = None
    stages_ns: dict[str, float] = {}
    """Nanoseconds an image, by stage; for ``fit``: of ``fit`` and of the ``loop``."""
    opened_s: float | None = None
    """``time.monotonic()`` just before the feed was opened: from there on memory is the case's."""


class Visitor:
    """Does requests, and keeps the training steps that they compiled. ``tell`` and ``hear`` are as in ``own_time.Turns``."""

    def __init__(self, tell: Callable[[], None] = lambda: None, hear: Callable[[], int] = perf_counter_ns) -> None:
        self._turns = partial(Turns, tell=tell, hear=hear)
        self._steps: dict[str, Any] = {}
        self._pool = Pool()
        self._needed: dict[Any, int] = {}  # bytes of the pool, by step
        self._known: set[Any] = set()
        self._settled = (0, 0)

    def answer(self, request: Request) -> Answer:
        """Do one request; an error of any kind becomes its answer."""
        try:
            return _DO[request.do](self, request)
        except FeedbenchError as error:
            return Answer(error=str(error))
        except Exception as error:
            return Answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        """Collect what the request left, and give it back. Libraries and compiled steps stay: not looked through again."""
        gc.collect()
        _trim()
        now = (len(sys.modules), len(self._steps))
        if now != self._settled:
            gc.freeze()
            self._settled = now

    def prove(self, request: Request) -> Answer:
        """The equivalence gate."""
        from bench import sample_images
        from bench.equivalence import prove

        assert request.path is not None
        case = request.case
        keep = partial(sample_images.keep, request.samples, label(case.id, case.step.step)) if request.samples else None
        return Answer(pixels=prove(request.path, request.split, case.loader, case.spec, limit=request.limit, keep=keep))

    def measure(self, request: Request) -> Answer:
        """One measurement; for cache state ``cold``, the first epoch apart, then warm."""
        from bench import cache

        case = request.case
        self._get_to_know(request)
        cold = case.cache == "cold" and request.path is not None
        state = cache.drop(request.path) if cold and request.path else cache.warm(request.path)
        self._pool.begin()
        before, opened_s = meter.anonymous_bytes(os.getpid()), monotonic()
        unopened = meter.usage()
        feed, opening = _open(request)
        opening_read = (meter.usage() - unopened).device_bytes
        how: dict[str, Any] = {"group": case.step.group, "opening": opening}
        if case.step.trains:
            how["receive"] = accelerator()
        try:
            step = self._step(request, feed)
            step.close()  # A group that another case left half full is none of this one's.
            first = measure_epoch(feed, step, **how) if cold else None
            step.close()
            # The epoch read its own split only, and what it read may have been dropped again.
            later = cache.warm(request.path) if cold else state
            if request.turns:
                how["turns"] = self._turns(request.pace.slice_s)
            warm = measure(feed, step, pace=request.pace, capacity=_capacity(case), chosen=partial(_tuned, feed), **how)
            handed = _hand_over(feed, warm, request.pace) if case.step.step == "none" and case.format != "memory" else []
        finally:
            feed.close()
        reused = max(0, self._pool.reused() - self._needed.get(step, 0))
        common: dict[str, Any] = {
            "jit_compile": bool(step.jit_compile), "anon_before_bytes": before, "anon_reused_bytes": reused,
        }  # fmt: skip
        common |= {name: getattr(step, name, None) for name in ("precision", "fine_tune_at")}
        if first is not None:
            proof = {"resident_before": state.share, "cold_proven": state.share == 0}
            first = first.model_copy(update={**common, **proof, "opening_read_bytes": opening_read})
        warm = warm.model_copy(update={**common, "resident_before": later.share, "hand_over_ns": handed})
        return Answer(warm=warm, cold=first, opened_s=opened_s)

    def know(self, request: Request) -> Answer:
        """Make ready for a case: what is needed for it is imported and compiled."""
        self._get_to_know(request)
        return Answer()

    def stages(self, request: Request) -> Answer:
        """Nanoseconds an image of the pipeline up to each stage at which it can be cut, loading alone.

        In turns, after a first pass of each that is not timed: a slow moment of the machine falls on several, and moves no median.
        """
        from loaders import LOADERS

        found: dict[str, list[float]] = {}
        with ExitStack() as opened:
            feeds = {
                stage.value: opened.enter_context(closing(_open(request, until=stage)[0]))
                for stage in LOADERS[request.case.loader].stages
            }
            for feed in feeds.values():
                images_per_ns(feed, NoStep(), seconds=0)
            for _ in range(STAGE_ROUNDS):
                began = monotonic()
                for stage, feed in feeds.items():
                    found.setdefault(stage, []).append(1 / images_per_ns(feed, NoStep(), seconds=request.pace.stage_s))
                if monotonic() - began > LONG_ROUND_S:
                    break
        return Answer(stages_ns={stage: median(each) for stage, each in found.items()})

    def fit(self, request: Request) -> Answer:
        """Nanoseconds an image of ``model.fit`` and of the measuring loop, training the same model on the same dataset.

        A batch of either by turns: where memory is shared with other machines, a step takes a tenth more or less from one second
        to the next, and neighbours are the most alike.
        """
        import keras
        import numpy as np
        import tensorflow as tf

        from loaders.native import run_options

        feed, _ = _open(request)
        step = self._step(request, feed)
        images, labels = _tensors(*next(iter(feed.epoch(0))))
        batches = 1 + FIT_BATCHES
        # As all feeds of ours: an autotuned epoch of ``fit`` ends up to its own length late (docs/tfdata.md).
        dataset = tf.data.Dataset.from_tensors((images, labels)).repeat(batches).with_options(run_options())
        network = step.transfer.model
        network.fit(dataset.take(2), shuffle=False, verbose=0)  # which traces it
        loop = ticks(_Dataset(dataset, batches), step, perf_counter_ns)
        read = [perf_counter_ns()]

        def turn(batch: int, logs: Any) -> None:  # noqa: ARG001 - Keras names them
            read.append(perf_counter_ns())
            next(loop)
            read.append(perf_counter_ns())

        network.fit(dataset, shuffle=False, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=turn)])
        loop.close()
        # The first of either began its pass.
        spans = np.diff(read)[2:]
        count = FIT_BATCHES * len(labels)
        return Answer(stages_ns={"fit": spans[::2].sum() / count, "loop": spans[1::2].sum() / count})

    def _get_to_know(self, request: Request) -> None:
        """Import what a loader needs and compile the step, by building the feed once: neither seconds nor memory of a case."""
        case = request.case
        needed: set[Any] = {case.loader}
        if case.step.trains:  # Cases that differ in nothing else share a compiled step.
            needed.add((case.step, replace(case.spec, options=()), request.classes))
        if not needed <= self._known:
            feed, _ = _open(request)
            with closing(feed):
                self._step(request, feed).close()
            self._clean_up()
            self._known |= needed

    def _step(self, request: Request, feed: Any) -> Any:
        case = request.case
        if case.step.rate is not None:
            return EmulatedStep(case.step.rate)
        if case.step.step == "none":
            return NoStep()
        key = json.dumps(
            [str(case.step), case.spec.image_size, case.spec.batch_size, request.classes, _dtype(case),
             [_anonymous(layer.get_config()) | {"class": type(layer).__name__} for layer in feed.layers]],
            sort_keys=True, default=str,
        )  # fmt: skip
        if key not in self._steps:
            import numpy as np

            from bench.step import make_step

            step = make_step(
                case.step, layers=feed.layers, image_size=case.spec.image_size, classes=request.classes, dtype=_dtype(case)
            )
            images = np.zeros((case.spec.batch_size, *case.spec.image_size, 3), _dtype(case))
            labels = np.arange(case.spec.batch_size, dtype=np.int64) % request.classes
            # Compiled before any clock runs: a step's compilation is no loader's first batch.
            self._pool.begin()
            for _ in range(case.step.group):
                step(*_tensors(images, labels))
            self._steps[key], self._needed[step] = step, self._pool.needed()
        return self._steps[key]


_DO: dict[str, Callable[[Visitor, Request], Answer]] = {
    "prove": Visitor.prove,
    "know": Visitor.know,
    "measure": Visitor.measure,
    "stages": Visitor.stages,
    "fit": Visitor.fit,
}


class _Dataset:
    """A ``tf.data.Dataset`` as the loop takes it."""

    def __init__(self, dataset: Any, batches: int) -> None:
        self._dataset, self._batches = dataset, batches

    def __len__(self) -> int:
        return self._batches

    def epoch(self, n: int) -> Any:  # noqa: ARG002
        """The same pass again."""
        return self._dataset


def _open(request: Request, until: Stage = Stage.HAND_OVER) -> tuple[Any, Opening]:
    """The feed of a request, and what scanning the dataset and building the pipeline took."""
    from bench import known, limits

    case = request.case
    kind = case.loader.partition(":")[0]
    started = perf_counter_ns()
    if kind == "known":
        return known.build(case.loader, case.spec), Opening(0, perf_counter_ns() - started)
    assert request.path is not None
    if kind == "limit":
        return limits.build(case.loader, request.path, request.split, case.spec), Opening(0, perf_counter_ns() - started)
    from loaders import LOADERS
    from storage import open_dataset

    loader = LOADERS[case.loader]
    started = perf_counter_ns()
    dataset = open_dataset(request.path, request.split)
    len(dataset)
    scanned = perf_counter_ns()
    feed = loader.build(dataset, case.spec, until=until)
    return feed, Opening(scanned - started, perf_counter_ns() - scanned)


def _hand_over(feed: Any, warm: Measured, pace: Pace) -> list[int]:
    """Waits for batches that lie ready: two can be made in each pause, at the pace that was measured."""
    batch_s = sum(warm.wait_ns) / len(warm.wait_ns) / NS
    return hand_over(feed, warm.epochs[-1] + 1, pause_s=2 * batch_s, seconds=pace.measure_s * HAND_OVER_SHARE)


def _capacity(case: Case) -> int:
    """Batches that a pipeline may hold ready: its prefetch, and what its threads have in hand."""
    threads = 0 if case.loader.startswith("known:") and "decode" not in case.loader else case.spec.threads()
    return case.spec.prefetch + 2 * threads


def _trim() -> None:
    """Give freed memory back to the system, so that it is not taken for the next case's; only glibc knows how."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _dtype(case: Case) -> str:
    return "float32" if case.spec.placement == "pipeline" else case.spec.dtype


def _tensors(images: Any, labels: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    return tf.convert_to_tensor(images), tf.convert_to_tensor(labels)


def _anonymous(config: Any) -> Any:
    """A layer's configuration without names, which count up from layer to layer."""
    if isinstance(config, dict):
        return {key: _anonymous(value) for key, value in config.items() if key != "name"}
    return [_anonymous(value) for value in config] if isinstance(config, list | tuple) else config


def _tuned(feed: Any) -> dict[str, str]:
    """What tf.data was asked for and chose; nothing where TensorFlow was never needed."""
    return tuned.asked(feed) | tuned.chosen() if "tensorflow" in sys.modules else {}


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell() -> None:
        answers.write(Answer(resting=True).model_dump_json() + "\n")

    visitor = Visitor(tell, lambda: int(sys.stdin.readline()))
    # Between turns, a line tells when the group was continued; none comes before that, so none is taken for a request.
    for line in iter(sys.stdin.readline, ""):
        answers.write(visitor.answer(Request.model_validate_json(line)).model_dump_json() + "\n")
