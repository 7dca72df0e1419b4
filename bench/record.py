"""What a run leaves behind, raw: integers of nanoseconds per batch. Everything else is derived from it, later and again.

``run.json`` holds a ``RunInfo``, ``records.jsonl`` one ``RunRecord`` a line. Both carry a version; old ones stay readable.
Imports no TensorFlow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.case import Case
from storage.errors import DataError

M = TypeVar("M", bound=BaseModel)

RECORD_VERSION: Literal[1] = 1


class _Recorded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _planned(case: Case) -> Case:
    """A case as it is planned today: layer 100 was once written down where nobody had named a layer."""
    return case if case.step == case.step.plain else replace(case, step=case.step.plain)


RecordedCase = Annotated[Case, AfterValidator(_planned)]


class Pixels(_Recorded):
    """What the equivalence gate saw: pixels against the independent reference, in levels of 0 to 255.

    ``cause`` names why they differ (a row in the table of named causes); empty when identical (at most 1 level).
    """

    verdict: Literal["identical", "differs"]
    cause: str = ""
    mean_difference: float = 0.0
    largest_difference: float = 0.0
    psnr_db: float | None = None
    samples_checked: int = 0


class Measured(_Recorded):
    """One measurement of one case. Lists have one entry a batch, in order; warm-up is kept, apart.

    With ``steps_per_execution`` = k an entry is a group of k batches: k waits, then k steps in one go.

    A batch's ``wait_ns`` is from asking for it to having it where the step runs; ``step_ns`` from there to the step being
    done. ``transfer_ns`` is the part of the wait in which it was copied to the accelerator; empty without one.
    ``epochs`` numbers the epoch of each batch. Where it changes, an epoch began: that batch's wait is turnaround, and the
    batch as a whole (images, wait, step) no part of steady state. The first batch listed never begins an epoch.
    ``buffered_images`` is what the pipeline may have held ready when the measurement began; it is counted out. Where it may
    hold a whole epoch ready, steady state is ``whole_epochs``, turnarounds included, and the first batch listed begins one. So it
    is with a cold epoch, which has no warm-up.
    Bytes: ``asked`` through read calls, ``device`` from the block device. Faults and CPU are of the process tree, over
    the batches listed, but for a last one that opens an epoch: it was asked for only to see a turnaround. Memory is the peak of
    anonymous memory.
    """

    status: Literal["ok"] = "ok"
    images: list[int]
    wait_ns: list[int]
    step_ns: list[int]
    epochs: list[int]
    warmup_images: list[int] = Field(default_factory=list)
    warmup_wait_ns: list[int] = Field(default_factory=list)
    warmup_step_ns: list[int] = Field(default_factory=list)
    warmup_steady: bool = True
    buffered_images: int = 0
    whole_epochs: bool = False
    scan_ns: int = 0
    startup_ns: int = 0
    first_batch_ns: int = 0
    transfer_ns: list[int] = Field(default_factory=list)
    hand_over_ns: list[int] = Field(default_factory=list)
    """Of loading alone: waits for batches asked for after a pause, so that they lay ready. Empty where it would take long."""
    cpu_ns: int | None = None
    anon_memory_bytes: int | None = None
    anon_before_bytes: int | None = None
    """Anonymous memory of the process tree just before the feed was opened; None in records that do not have it."""
    anon_reused_bytes: int | None = None
    """Of that, what the case used again: TensorFlow's pool keeps what earlier cases freed. What its step needs is left out."""
    minor_faults: int | None = None
    major_faults: int | None = None
    asked_read_bytes: int | None = None
    device_read_bytes: int | None = None
    opening_read_bytes: int | None = None
    """Of a cold epoch: what the device delivered before it, while the dataset was scanned and the pipeline built."""
    threads: int | None = None
    resident_before: float | None = None
    cold_proven: bool | None = None
    jit_compile: bool | None = None
    precision: str | None = None
    """Of the step, as it took effect: a Keras dtype policy; None where nothing is trained."""
    fine_tune_at: int | None = None
    """Of the step, as it took effect; None where nothing is fine-tuned."""
    stages_ns: dict[str, float] = Field(default_factory=dict)
    """Nanoseconds an image of running the pipeline up to (and including) each stage."""
    tuned: dict[str, str] = Field(default_factory=dict)
    """What tf.data chose for itself."""
    steal_share: float | None = None
    throttled_share: float | None = None
    """Share of the measured time in which the control group's limit held its processes up."""
    neighbour_share: float | None = None
    """Share of the machine's processor time that other processes used meanwhile."""
    load_1m: float | None = None
    pixels: Pixels | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        warmup = (self.warmup_images, self.warmup_wait_ns, self.warmup_step_ns)
        for lists in ((self.images, self.wait_ns, self.step_ns, self.epochs), warmup):
            if len({len(one) for one in lists}) > 1:
                raise ValueError("images, wait_ns, step_ns and epochs must have an entry for each batch")
            if any(min(one, default=0) < 0 for one in (*lists, self.hand_over_ns)):
                raise ValueError("images, wait_ns, step_ns, epochs and hand_over_ns must not be negative")
        return self


class Failed(_Recorded):
    """The case crashed, hung, ran out of memory or did not deliver the right samples."""

    status: Literal["failed"] = "failed"
    reason: str


class Skipped(_Recorded):
    """The case has no meaning here, or racing stopped it."""

    status: Literal["skipped"] = "skipped"
    reason: str


Outcome = Annotated[Measured | Failed | Skipped, Field(discriminator="status")]


class RunRecord(_Recorded):
    """What one sweep saw of one case: measured raw, or how it failed, or why it was skipped."""

    version: Literal[1] = RECORD_VERSION
    case: RecordedCase
    sweep: int = Field(ge=0)
    phase: Literal["warm", "cold_epoch"] = "warm"
    outcome: Outcome
    environment_id: str
    started_at: str = ""
    """ISO 8601, UTC."""
    visit_s: float | None = None
    """From asking a worker to having its answer, rests left out, a start of that worker included (of cases that took turns, an equal
    part of it). None in older records, and where none was asked."""
    block: int | None = None
    """Cases of a sweep that took turns with one another have the same number. None for a case that was measured in one go, as in
    older records."""


class DatasetFacts(_Recorded):
    """What a report needs of a stored dataset, copied from its ``dataset.json``."""

    name: str
    source_digest: str = ""
    """Of the images that were stored; empty in records that do not have it."""
    format: str
    payload: str
    samples: int
    """In all splits."""
    fed_samples: int | None = None
    """In the split that was fed; None in records that do not have it."""
    classes: int
    class_names: tuple[str, ...] = ()
    stored_bytes: int
    convert_s: float
    media_types: dict[str, int] = Field(default_factory=dict)
    skipped: int = 0
    """Images of the source that could not be stored, over all splits."""
    skipped_first: tuple[str, ...] = ()
    """The first few of them, as one can print them."""
    skipped_list: str = ""
    """Where all of them are, from the folder in which this dataset lies: FORMAT-PAYLOAD/skipped.csv."""

    @property
    def epoch_images(self) -> int:
        """How many images an epoch has."""
        return self.fed_samples or self.samples


class RunInfo(_Recorded):
    """``run.json``: options, environments, datasets, and every case of the run in the order in which it was planned."""

    version: Literal[1] = RECORD_VERSION
    name: str
    command: str
    started_at: str
    options: dict[str, Any]
    sweeps: int
    """How many were asked for; of a finished run, how many were measured."""
    seed: int = 0
    environments: dict[str, dict[str, Any]]
    datasets: dict[str, DatasetFacts]
    """By ``FORMAT-PAYLOAD``."""
    cases: list[RecordedCase]
    finished: bool = False
    spent_s: float = 0.0
    """What the run has taken, converting and proving included: of a budget, so much is used.

    Written after proving, after every sweep, and on an interrupt; what a run that is killed took since then is not in it.
    """

    @property
    def left_out(self) -> str:
        """How many images could not be stored, the first of them, and where all are listed; empty if all were stored."""
        from storage.console import counted  # Brings Typer, which no worker needs.

        facts = max(self.datasets.values(), key=lambda facts: facts.skipped, default=None)
        if facts is None or not facts.skipped:
            return ""
        more = facts.skipped - len(facts.skipped_first)
        named = ", ".join(facts.skipped_first) + (f" and {more:,} more" if more else "")
        first = f": {named}" if facts.skipped_first else ""
        listed = (
            f"{facts.skipped_list}, among the stored datasets"
            if facts.skipped_list
            else "skipped.csv in the stored dataset's folder"
        )
        return f"{counted(facts.skipped, 'unreadable image')} left out{first} (reasons in {listed})"


@dataclass(frozen=True)
class Run:
    """A stored run, read back."""

    path: Path
    info: RunInfo
    records: list[RunRecord]

    @property
    def cases(self) -> list[Case]:
        """Cases as planned, then any that nobody planned."""
        cases = {case.id: case for case in self.info.cases}
        for record in self.records:
            cases.setdefault(record.case.id, record.case)
        return list(cases.values())

    def groups(self) -> Iterator[tuple[Case, str, list[RunRecord]]]:
        """All cases, their phases, and the records of each in the order of sweeps; a case without any has one empty phase."""
        by_case: dict[str, dict[str, list[RunRecord]]] = {}
        for record in sorted(self.records, key=lambda record: record.sweep):
            by_case.setdefault(record.case.id, {}).setdefault(record.phase, []).append(record)
        for case in self.cases:
            for phase, records in by_case.get(case.id, {"warm": []}).items():
                yield case, phase, records

    def of(self, case_id: str, phase: str = "warm") -> list[RunRecord]:
        """The records of one case in one phase, in the order of sweeps."""
        return sorted(
            (r for r in self.records if r.case.id == case_id and r.phase == phase), key=lambda record: record.sweep
        )


def write_info(folder: Path, info: RunInfo) -> None:
    """Write ``run.json`` beside its place, sync it, rename it."""
    beside = folder / "run.json.partial"
    with beside.open("wb") as file:
        file.write(info.model_dump_json(indent=1).encode())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / "run.json")


def append_records(folder: Path, records: Iterable[RunRecord]) -> None:
    """Append to ``records.jsonl`` and sync: after this returns, a crash loses none of them."""
    with (folder / "records.jsonl").open("ab") as file:
        for record in records:
            file.write(record.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def load_info(folder: Path) -> RunInfo:
    """Read ``run.json``. Raises DataError where there is none that can be read."""
    path = folder / "run.json"
    text = _read(path)
    if text is None and not folder.is_dir():
        raise DataError(f"there is no folder {folder}. Expected one that `feedbench run` wrote, such as results/latest.")
    if text is None:
        raise DataError(f"{folder} is not a run: it has no run.json. Expected a folder that `feedbench run` wrote.")
    return _parse(RunInfo, text, path, 0)


def load_run(folder: Path) -> Run:
    """Read ``run.json`` and ``records.jsonl``. A last line cut short by a crash is left out; any other is an error."""
    info = load_info(folder)
    stored = folder / "records.jsonl"
    # Bytes, since a reason may hold what ends a line of text elsewhere (U+2028), and a torn one half a letter.
    lines = (_read(stored) or b"").split(b"\n")[:-1]
    return Run(folder, info, [_parse(RunRecord, line, stored, number) for number, line in enumerate(lines, 1)])


def _read(path: Path) -> bytes | None:
    """None if there is no such file. DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _parse(kind: type[M], text: bytes, path: Path, line: int) -> M:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{path}:{line}" if line else str(path)
        version = _version(text)
        if isinstance(version, int) and version > RECORD_VERSION:
            raise DataError(f"{where} has version {version}; this feedbench reads up to {RECORD_VERSION}.") from error
        said = ": ".join(filter(None, [".".join(str(part) for part in first["loc"]), first["msg"]]))
        raise DataError(f"{where} is not a {kind.__name__}: {said}") from error


def _version(text: bytes) -> object:
    try:
        parsed = json.loads(text)
    except ValueError:
        return None
    return parsed.get("version") if isinstance(parsed, dict) else None


def measured(records: Sequence[RunRecord]) -> list[Measured]:
    """The outcomes that are measurements, in order."""
    return [record.outcome for record in records if isinstance(record.outcome, Measured)]
