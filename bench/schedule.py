"""A whole run: datasets, proofs, sweeps in newly shuffled order, records on disk after each, a report at the end."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path

from bench import forkserver, machine, run_folder, sample_images
from bench.blocks import Workers, blocks
from bench.budget import expected_s
from bench.case import Case
from bench.datasets import facts, prepare
from bench.limits import too_large
from bench.matrix import Stored, cases, dataset_of, skip_reason
from bench.options import RunOptions, processors
from bench.quiet import load_tensorflow
from bench.racing import LEAST_SWEEPS, beaten
from bench.record import (
    Failed,
    Measured,
    Pixels,
    Run,
    RunInfo,
    RunRecord,
    Skipped,
    append_records,
    load_info,
    load_run,
    write_info,
)
from bench.today import meant
from bench.visit import Answer, Request
from bench.watcher import Watcher
from bench.worker import Worker, answers
from bench.writing import writing
from storage.errors import DataError, UsageError

DEFAULT_SWEEPS = 5
MOST_SWEEPS = 100
PROVEN = 256
"""Samples that the equivalence gate looks at, in a dataset that has more."""
ALONE = "all that was asked for is skipped, and a limit alone says nothing"
MOST_PROOFS = 4
"""At once: each has a TensorFlow of its own in memory."""


@dataclass
class Schedule:
    """A run under way. ``folder`` holds everything that another process needs to go on with it."""

    options: RunOptions
    folder: Path
    watcher: Watcher
    info: RunInfo
    stored: dict[str, Stored]
    records: list[RunRecord] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic
    started: float = 0.0
    _pixels: dict[str, Pixels] = field(default_factory=dict)
    _stages: dict[str, dict[str, float]] = field(default_factory=dict)
    _out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._workers = Workers(self._worker)

    def run(self) -> None:
        """Everything up to the last sweep. An interrupt leaves a run that can be resumed."""
        self.started = self.clock() - self.info.spent_s
        sweeps = self.options.sweeps or (MOST_SWEEPS if self.options.budget_s else DEFAULT_SWEEPS)
        try:
            alive = self._proven(self._meaningful())
            self._keep_spent()
            for sweep in range(sweeps):
                todo = [case for case in alive if case.id not in self._out]
                if not todo or not self._affordable(sweep, todo):
                    break
                self._sweep(sweep, todo, sweeps)
                self._keep_spent()
                if self.options.budget_s is not None and sweep + 1 >= LEAST_SWEEPS:
                    self._race(sweep + 1)
        finally:
            self._workers.close()
            self._keep_spent()
        self.info = self.info.model_copy(update={"finished": True, "sweeps": self._sweeps_done()})
        write_info(self.folder, self.info)

    def _meaningful(self) -> list[Case]:
        if any(case.format != "memory" for case in self.info.cases):
            load_tensorflow()
        reasons = {case.id: skip_reason(case, self.stored) or too_large(case) for case in self.info.cases}
        known = {record.case.id for record in self.records}
        asked = [case for case in self.info.cases if not case.loader.startswith("limit:")]
        if asked and all(reasons[case.id] for case in asked):
            # Limits say nothing about what is skipped altogether.
            reasons = {case_id: reason or ALONE for case_id, reason in reasons.items()}
        self._keep(
            [self._record(case, 0, Skipped(reason=reason)) for case in self.info.cases if (reason := reasons[case.id])
             and case.id not in known]
        )  # fmt: skip
        return [case for case in self.info.cases if not reasons[case.id]]

    def _proven(self, planned: list[Case]) -> list[Case]:
        """Pass every pipeline through the equivalence gate, once for all its steps; what fails it is never timed."""
        for record in self.records:
            if isinstance(record.outcome, Measured) and record.outcome.pixels:
                self._pixels[_pipeline(record.case)] = record.outcome.pixels
            if isinstance(record.outcome, Measured) and record.outcome.stages_ns:
                self._stages[_pipeline(record.case)] = record.outcome.stages_ns
            if isinstance(record.outcome, Skipped) and record.outcome.reason.startswith("racing"):
                self._out[record.case.id] = record.outcome.reason
        failed = {
            r.case.id for r in self.records if isinstance(r.outcome, Failed) and r.outcome.reason.startswith("not proven")
        }
        pipelines: dict[str, list[Case]] = {}
        for case in planned:
            if case.id not in failed:
                pipelines.setdefault(_pipeline(case), []).append(case)
        todo = [p for p, members in pipelines.items() if p not in self._pixels and ":" not in members[0].loader]
        sweeps = self.options.sweeps or (LEAST_SWEEPS if self.options.budget_s else DEFAULT_SWEEPS)
        self.watcher.plan(len(todo) + sweeps * sum(map(len, pipelines.values())))
        self._prove(todo, pipelines)
        if self.options.stages:
            self._time_stages([members[0] for members in pipelines.values()])
        self._workers.close()
        return [case for members in pipelines.values() for case in members]

    def _prove(self, todo: list[str], pipelines: dict[str, list[Case]]) -> None:
        """Several pipelines at once, since nothing is timed yet; those that fail leave ``pipelines``, with a row."""
        if not todo:
            return
        at_once = min(len(processors()), len(todo), MOST_PROOFS)
        self.watcher.now(f"proving {pipelines[todo[0]][0].id}")
        requests = [self._request("prove", pipelines[pipeline][0], limit=PROVEN) for pipeline in todo]
        left = dict(enumerate(todo))
        for number, answer in answers(requests, self._worker, at_once):
            pipeline = left.pop(number)
            if answer.pixels is not None:
                self._pixels[pipeline] = answer.pixels
            else:
                members = pipelines.pop(pipeline)
                self._keep([self._record(case, 0, Failed(reason=f"not proven: {answer.error}")) for case in members])
            self.watcher.done()
            if left:
                self.watcher.now(f"proving {pipelines[next(iter(left.values()))][0].id}")

    def _time_stages(self, firsts: list[Case]) -> None:
        for case in firsts:
            if ":" not in case.loader and _pipeline(case) not in self._stages:
                self.watcher.now(f"timing stages of {case.id}")
                answer = self._workers.ask(self._request("stages", case))
                if self.options.isolation == "case":
                    self._workers.close()
                self._stages[_pipeline(case)] = answer.stages_ns
                if answer.error:
                    sys.stderr.write(f"Careful: the stages of {case.id} are not timed: {answer.error}\n")

    def _sweep(self, sweep: int, todo: list[Case], sweeps: int) -> None:
        """Every case once, in blocks of this sweep's own; on disk when it is over, and also when it is cut short."""
        order = random.Random(f"{self.options.seed}:{sweep}")
        seen = self._seen(sweep)
        for _ in seen:
            self.watcher.done()
        numbers = count(sum(record.sweep == sweep for record in self.records))
        fresh: list[RunRecord] = []
        try:
            for block in blocks([case for case in todo if case.id not in seen], self.options.side_by_side, order):
                which = f"sweep {sweep + 1} of {sweeps}" if sweeps < MOST_SWEEPS else f"sweep {sweep + 1}"
                self.watcher.now(
                    f"{which}: {block[0].id}" + (f" and {len(block) - 1} more, in turns" if len(block) > 1 else "")
                )
                turns = self.options.side_by_side > 1 and block[0].cache != "cold"
                number = next(numbers) if turns else None
                for record in self._visit(block, sweep, order, turns):
                    fresh.append(record.model_copy(update={"block": number}))
                    self.watcher.measured(fresh[-1])
                for _ in block:
                    self.watcher.done()
        finally:
            self._keep(fresh)
            self._workers.close()
            if any(case.format != "memory" for case in todo):
                forkserver.close()  # The next sweep's workers have other addresses and hash seeds.

    def _seen(self, sweep: int) -> set[str]:
        """What has been visited in this sweep: in a run that goes on, maybe a part of it."""
        return {one.case.id for one in self.records if one.sweep == sweep and not isinstance(one.outcome, Skipped)}

    def _visit(self, block: list[Case], sweep: int, order: random.Random, turns: bool) -> list[RunRecord]:
        requests = [self._request("measure", case).model_copy(update={"turns": turns}) for case in block]
        answers = self._workers.measure(requests, order)
        if self.options.isolation == "case":
            self._workers.close()
        return [
            record.model_copy(update={"visit_s": took})
            for case, (answer, took) in zip(block, answers, strict=True)
            for record in self._records(case, sweep, answer)
        ]

    def _records(self, case: Case, sweep: int, answer: Answer) -> list[RunRecord]:
        if answer.error or answer.warm is None:
            return [self._record(case, sweep, Failed(reason=answer.error or "no measurement came"))]
        added = {"pixels": self._pixels.get(_pipeline(case)), "stages_ns": self._stages.get(_pipeline(case), {})}
        records = [self._record(case, sweep, answer.warm.model_copy(update=added))]
        if answer.cold is not None:
            cold = answer.cold.model_copy(update={"pixels": added["pixels"]})
            records.append(self._record(case, sweep, cold).model_copy(update={"phase": "cold_epoch"}))
        return records

    def _request(self, do: str, case: Case, *, limit: int | None = None) -> Request:
        stored = None if case.loader.startswith("known:") else dataset_of(case, self.stored)
        return Request.model_validate(
            {
                "do": do,
                "case": self._with_files(case),
                "path": stored.path if stored else None,
                "split": stored.split if stored else "train",
                "classes": len(stored.info.class_names) if stored else 5,
                "pace": self.options.paced,
                "limit": limit,
                "samples": self.folder / sample_images.FOLDER if do == "prove" else None,
            }
        )

    def _worker(self) -> Worker:
        return Worker(processors(), timeout_s=self.options.timeout_s, memory_bytes=self.options.memory_limit_bytes)

    def _with_files(self, case: Case) -> Case:
        """The case with models and weights where they lie: a record has only their names."""
        paths = {path.name: str(path) for path in self.options.files}
        step = replace(
            case.step,
            model=paths.get(case.step.model, case.step.model),
            weights=paths.get(case.step.weights, case.step.weights),
        )
        return replace(case, step=step)

    def _affordable(self, sweep: int, todo: list[Case]) -> bool:
        """Whether a budget (if there is one) holds what is left of a sweep; the first few are measured whatever it says."""
        budget = self.options.budget_s
        if budget is None or sweep < LEAST_SWEEPS:
            return True
        left = {case.id for case in todo} - self._seen(sweep)
        return self.clock() - self.started + expected_s(self.records, left) <= budget

    def _race(self, sweep: int) -> None:
        for case_id, reason in beaten(self.records).items():
            if case_id not in self._out:
                self._out[case_id] = reason
                case = next(case for case in self.info.cases if case.id == case_id)
                self._keep([self._record(case, sweep, Skipped(reason=reason))])

    def _record(self, case: Case, sweep: int, outcome: Measured | Failed | Skipped) -> RunRecord:
        return RunRecord(
            case=case,
            sweep=sweep,
            outcome=outcome,
            environment_id=next(iter(reversed(self.info.environments))),
            started_at=_now(),
        )

    def _keep(self, fresh: list[RunRecord]) -> None:
        self.records += fresh
        append_records(self.folder, fresh)

    def _keep_spent(self) -> None:
        """On disk, so that a run that goes on has what is left of its budget."""
        self.info = self.info.model_copy(update={"spent_s": self.clock() - self.started})
        write_info(self.folder, self.info)

    def _sweeps_done(self) -> int:
        return max((record.sweep + 1 for record in self.records if isinstance(record.outcome, Measured)), default=0)


def run(
    options: RunOptions, watcher: Watcher, command: str, *, planned: list[Case] | None = None, reported: bool = True
) -> Path:
    """Measure all that ``options`` name (or exactly ``planned``), report on it, and return the run's folder."""
    chosen = planned if planned is not None else cases(options)
    # Said before anything is converted.
    if options.today is not None:
        meant(options.today, chosen)
    run_folder.check_room(options.results)
    began = time.monotonic()
    stored = _datasets(options, chosen, watcher)
    found = machine.environment(options.data if options.data.is_dir() else None)
    # Resolved, so that a run that goes on is measured as it began.
    options = replace(options, turns=options.side_by_side, pace=options.paced)
    folder = run_folder.new_folder(options.results)
    info = RunInfo(
        name=folder.name,
        command=command,
        started_at=_now(),
        options=options.stored(),
        sweeps=options.sweeps or DEFAULT_SWEEPS,
        seed=options.seed,
        environments={machine.environment_id(found): found | machine.weather()},
        datasets={key: facts(one) for key, one in stored.items()},
        cases=chosen,
        spent_s=time.monotonic() - began,
    )
    with writing(folder, partial(run_folder.rescued, folder)), run_folder.claimed(folder):
        write_info(folder, info)
        run_folder.keep_options(folder, options)
        return _finish(Schedule(options, folder, watcher, info, stored), reported)


def resume(folder: Path, watcher: Watcher, *, reported: bool = True) -> Path:
    """Go on with a run that was interrupted, under the options it was started with."""
    load_info(folder)
    with writing(folder, partial(run_folder.rescued, folder)), run_folder.claimed(folder):
        return _resume(folder, watcher, reported)


def _resume(folder: Path, watcher: Watcher, reported: bool) -> Path:
    earlier: Run = load_run(folder)
    if earlier.info.finished:
        raise DataError(f"{folder} is finished: there is nothing to resume. Report on it with: feedbench report {folder}")
    options = run_folder.kept_options(folder)
    began = time.monotonic()
    stored = _datasets(options, earlier.info.cases, watcher)
    _unchanged(folder, earlier.info, stored)
    found = machine.environment(options.data if options.data.is_dir() else None)
    environments = {**earlier.info.environments}
    environments.pop(machine.environment_id(found), None)
    info = earlier.info.model_copy(
        update={
            "environments": {**environments, machine.environment_id(found): found | machine.weather()},
            "spent_s": earlier.info.spent_s + time.monotonic() - began,
        }
    )
    run_folder.drop_torn_line(folder / "records.jsonl")
    write_info(folder, info)
    return _finish(Schedule(options, folder, watcher, info, stored, list(earlier.records)), reported)


def _unchanged(folder: Path, info: RunInfo, stored: dict[str, Stored]) -> None:
    """DataError if a run's images are no longer those that it has proven and measured so far."""
    for name, one in stored.items():
        then, now = info.datasets.get(name), one.info
        if then is not None and then.source_digest and then.source_digest != now.source_digest:
            raise DataError(
                f"{folder} cannot go on: its images have changed since it began ({then.samples:,} then, {now.stored_samples:,} now). "
                "Put them back, or start a new run"
            )


def _finish(schedule: Schedule, reported: bool = True) -> Path:
    schedule.run()
    if reported:
        schedule.watcher.now("writing the report")
        report(schedule.folder, schedule.options.today)
    run_folder.finish(schedule.folder)
    return schedule.folder


def report(folder: Path, today: str | None = None) -> None:
    """Tables, charts and pages, from the records alone; ``today`` is the case that others are compared with.

    If it came to no measurement, standard error says so, and the report compares with the usual one: the rest is worth it.
    """
    write_report = import_module("bench.report.write").write_report
    try:
        write_report(folder, today)
    except UsageError as error:
        if today is None:
            raise
        sys.stderr.write(f"Careful: {error}. The report compares with the plain generator.\n")
        write_report(folder)


def _datasets(options: RunOptions, chosen: list[Case], watcher: Watcher) -> dict[str, Stored]:
    pairs = dict.fromkeys((case.format, case.payload) for case in chosen if case.format != "memory")
    # A limit needs images of its payload, from whatever format there is.
    for case in chosen:
        if case.loader == "limit:step" and pairs:
            continue
        if case.loader.startswith("limit:") and not any(payload == case.payload for _, payload in pairs):
            pairs["directory", case.payload] = None
    return prepare(options, list(pairs), watcher.now) if pairs else {}


def _pipeline(case: Case) -> str:
    """What the equivalence gate proves: all of a case but its step, cache state and name."""
    return f"{case.format}-{case.payload}-{case.loader}-{case.spec}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
