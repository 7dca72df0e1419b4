"""A made-up run that looks like a real one: same files, same nouns, known truths. For tests of statistics and reports.

What is true in it, whatever the seed: rates come from ``RATES``; a sweep's weather moves all cases together (a single case
varies by about 2.4%, the ratio of two by 1.4%, neighbouring sweeps are correlated); TFRecord encoded through tfdata, loading
alone, is bimodal (about half of its epochs at half speed); one case fails, some have no meaning and are skipped; in the
cold cases nobody could prove that LMDB's pages were gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator

from bench.case import Case, StepSpec
from bench.record import (
    DatasetFacts,
    Failed,
    Measured,
    Outcome,
    Pixels,
    Run,
    RunInfo,
    RunRecord,
    Skipped,
    append_records,
    load_run,
    write_info,
)
from loaders.base import PLACEMENTS, LoaderSpec
from storage.base import PAYLOADS

FORMATS = ("directory", "hdf5", "lmdb", "tfrecord")
LOADERS = ("from_generator", "image_data_generator", "image_dataset_from_directory", "tfdata")
CLASSES = ("<script>alert(1)</script>", "=cmd()", "daisy", "roses", "tulips")
RATES = {
    ("encoded", "image_data_generator"): 520.0,
    ("encoded", "from_generator"): 580.0,
    ("encoded", "image_dataset_from_directory"): 1500.0,
    ("encoded", "tfdata"): 2900.0,
    ("encoded", "limit:decode"): 4400.0,
    ("raw", "image_data_generator"): 900.0,
    ("raw", "from_generator"): 1050.0,
    ("raw", "image_dataset_from_directory"): 1700.0,
    ("raw", "tfdata"): 9000.0,
    ("raw", "limit:gather"): 140_000.0,
}
"""Images/s that a pipeline can load, outside the model, from a directory."""
FORMAT_FACTORS = {"directory": 1.0, "hdf5": 1.04, "lmdb": 1.06, "tfrecord": 0.97, "memory": 1.0}
STEP_IMAGES_PER_S = 237.0
SAMPLES = 2000
SHARED_NOISE, OWN_NOISE, AUTOCORRELATION = 0.022, 0.010, 0.42
PHASES: dict[str, tuple[Literal["cold_epoch", "warm"], ...]] = {"cold": ("cold_epoch", "warm"), "warm": ("warm",)}
MACHINE = {
    "cpu_model": "Synthetic CPU @ 2.00 GHz", "cpu_count": 2, "memory_bytes": 8 << 30, "kernel": "6.1.0",
    "filesystem": "ext4", "python": "3.11.9", "tensorflow": "2.21.0",
}  # fmt: skip


def matrix(
    formats: Sequence[str] = FORMATS,
    payloads: Sequence[str] = PAYLOADS,
    loaders: Sequence[str] = LOADERS,
    steps: Sequence[str] = ("feature_extraction", "none"),
    *,
    limits: bool = True,
    cold: bool = True,
) -> list[Case]:
    """Every cell, as the default matrix has it, then the limits, then four cold cases."""
    cases = [
        Case(format=f, payload=p, loader=name, spec=LoaderSpec(placement=where), step=StepSpec(step=step))  # type: ignore[arg-type]
        for step, f, p, name, where in product(steps, formats, payloads, loaders, PLACEMENTS)
    ]
    alone = StepSpec(step="none")
    if limits:
        cases.append(Case(format="memory", payload="encoded", loader="limit:decode", step=alone))
        cases.append(Case(format="memory", payload="raw", loader="limit:gather", step=alone))
    if cold:
        cases += [Case(format=f, payload="encoded", loader="tfdata", step=alone, cache="cold") for f in formats]
    return cases


def synthetic_run(
    folder: Path, *, cases: int | Sequence[Case] | None = None, sweeps: int = 5, seed: int = 0, most_batches: int = 80
) -> Run:
    """Write ``run.json`` and ``records.jsonl`` into ``folder`` (made if missing) and read them back.

    ``cases`` is None for the whole default matrix, a list of your own, or a number: so many, with several batch sizes
    where the matrix is not enough. ``most_batches`` bounds what one measurement holds, so that files stay small.
    """
    chosen = _chosen(cases)
    rng = np.random.default_rng(seed)
    weather = _weather(rng, sweeps)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = {(case.format, case.payload) for case in chosen if case.format != "memory"}
    info = RunInfo(
        name=folder.name, command="feedbench run --images=flowers", started_at="2026-01-05T10:00:00Z",
        options={"images": "flowers", "budget": None}, sweeps=sweeps, seed=seed, environments={"e0": MACHINE},
        datasets={f"{f}-{p}": _facts(f, p) for f, p in sorted(pairs)}, cases=chosen, finished=True,
    )  # fmt: skip
    write_info(folder, info)
    (folder / "records.jsonl").unlink(missing_ok=True)
    for sweep in range(sweeps):
        records: list[RunRecord] = []
        for number in rng.permutation(len(chosen)):
            case = chosen[int(number)]
            for phase in PHASES[case.cache]:
                outcome = _why_not(case, sweep) or _measure(rng, case, phase, weather[sweep], most_batches)
                started = f"2026-01-05T10:{sweep:02d}:{len(records) % 60:02d}Z"
                records.append(
                    RunRecord(case=case, sweep=sweep, phase=phase, outcome=outcome, environment_id="e0", started_at=started)
                )
        append_records(folder, records)
    return load_run(folder)


def _chosen(cases: int | Sequence[Case] | None) -> list[Case]:
    if not isinstance(cases, int):
        return list(matrix() if cases is None else cases)
    found = [case for case in matrix(cold=False) if _why_not(case, 0) is None]
    # Limits and the fastest first, so that a small number still shows a spread.
    found.sort(key=lambda case: (case.step.step != "none", not case.loader.startswith("limit"), case.loader != "tfdata"))
    for batch_size in (16, 64, 128):
        found += [
            Case(format=c.format, payload=c.payload, loader=c.loader, step=c.step,
                 spec=LoaderSpec(placement=c.spec.placement, batch_size=batch_size))
            for c in matrix(limits=False, cold=False) if _why_not(c, 0) is None
        ]  # fmt: skip
    return found[:cases]


def _why_not(case: Case, sweep: int) -> Outcome | None:
    if case.loader == "image_dataset_from_directory" and case.format != "directory":
        return Skipped(reason="image_dataset_from_directory reads directories only")
    if case.format == "tfrecord" and case.loader in ("image_data_generator", "from_generator"):
        return Skipped(reason="tfrecord has no random access, which the generator needs")
    if case.id == "lmdb-raw-from_generator-model":
        return Failed(reason="the worker was killed by signal 9 (out of memory?)")
    if case.id == "directory-raw-image_data_generator-model" and sweep >= 3:
        return Skipped(reason="stopped by racing after 3 sweeps: wholly below the leader")
    return None


def _weather(rng: Generator, sweeps: int) -> list[float]:
    """Log factors, one a sweep, that all cases share: an AR(1) walk."""
    kept = np.sqrt(1 - AUTOCORRELATION**2)
    log = [rng.normal(0, SHARED_NOISE)]
    for _ in range(sweeps - 1):
        log.append(AUTOCORRELATION * log[-1] + kept * rng.normal(0, SHARED_NOISE))
    return log


def true_rate(case: Case) -> float:
    """Images/s that the case's pipeline can load, without noise."""
    rate = RATES[case.payload, case.loader] * FORMAT_FACTORS[case.format]
    if case.spec.placement == "model":
        rate *= 1.25
    return rate


def _measure(rng: Generator, case: Case, phase: str, weather: float, most_batches: int) -> Measured:
    speed = np.exp(weather + rng.normal(0, OWN_NOISE))
    size = case.spec.batch_size
    load_s = size / (true_rate(case) * speed * (0.4 if phase == "cold_epoch" else 1.0))
    step_s = _step_s(case, load_s) / speed
    per_epoch = min(-(-SAMPLES // size), 25)
    batches = int(np.clip(np.ceil(1.0 / max(load_s, step_s)), 2 * per_epoch, max(most_batches, 2 * per_epoch)))
    epochs = np.arange(batches) // per_epoch
    slow = np.ones(batches)
    if case.id.startswith("tfrecord-encoded-tfdata-pipeline-step=none") and case.cache == "warm":
        # As autotuning does it: some epochs at half speed, from the first batch to the last.
        slow = np.where(rng.random(int(epochs[-1]) + 1) < 0.5, 2.0, 1.0)[epochs]
    load = load_s * slow * rng.lognormal(0, 0.05, batches)
    step = step_s * rng.lognormal(0, 0.02, batches)
    wait = np.maximum(load - np.concatenate([[0.0], step[:-1]]), 20e-6)
    wait[np.concatenate([[False], np.diff(epochs) > 0])] += 0.05
    threads, pixels = (2 if case.loader.startswith("image_data") else 9), _pixels(case)
    images = batches * size
    unproven = case.format == "lmdb"
    return Measured(
        images=[size] * batches,
        wait_ns=_ns(wait),
        step_ns=_ns(step),
        epochs=epochs.tolist(),
        warmup_images=[size] * 4,
        warmup_wait_ns=_ns(load[:4] * 1.5),
        warmup_step_ns=_ns(step[:4] * 1.2),
        buffered_images=0 if case.loader.startswith("limit") else 2 * size,
        scan_ns=int(2e7 * rng.lognormal(0, 0.1)),
        startup_ns=int(1.5e8 * rng.lognormal(0, 0.1)),
        first_batch_ns=int(1e9 * (3 * load_s + 0.08) * rng.lognormal(0, 0.1)),
        cpu_ns=int(1.9e9 * images * size / true_rate(case) / size * rng.lognormal(0, 0.01)),
        anon_memory_bytes=int(6.5e8 * rng.lognormal(0, 0.02)),
        minor_faults=int(1000 * rng.lognormal(0, 0.2)),
        major_faults=0,
        asked_read_bytes=images * 25_000,
        device_read_bytes=images * 25_000 if phase == "cold_epoch" else 0,
        threads=threads,
        resident_before=(0.6 if unproven else 0.0) if phase == "cold_epoch" else 1.0,
        cold_proven=not unproven if phase == "cold_epoch" else None,
        jit_compile=False,
        stages_ns={} if case.loader.startswith("limit") or case.step.step != "none" else _stages(case, load_s / size),
        tuned={"map_parallelism": "2"} if case.loader == "tfdata" else {},
        steal_share=0.0,
        load_1m=2.1,
        pixels=pixels,
    )


def _step_s(case: Case, load_s: float) -> float:
    """Seconds that a step takes, the cores shared with the loading."""
    if case.step.step == "none":
        return 5e-6
    if case.step.rate is not None:
        return case.spec.batch_size / case.step.rate
    return case.spec.batch_size / STEP_IMAGES_PER_S + 0.8 * load_s


def _stages(case: Case, image_s: float) -> dict[str, float]:
    """Cumulative, ns an image, as the record has them."""
    shares = {"read": 0.05, "decode": 0.65, "resize": 0.82, "augment": 0.94, "batch": 0.97, "hand_over": 1.0}
    if case.payload == "raw":
        shares |= {"read": 0.5, "decode": 0.5, "resize": 0.5}
    return {stage: share * image_s * 1e9 for stage, share in shares.items()}


def _pixels(case: Case) -> Pixels | None:
    if case.loader.startswith("limit"):
        return None
    if case.loader in ("image_data_generator", "from_generator") and case.payload == "encoded":
        return Pixels(
            verdict="differs", cause="pillow_bilinear_is_antialiased", mean_difference=1.7, largest_difference=61.0,
            psnr_db=38.2, samples_checked=256,
        )  # fmt: skip
    return Pixels(verdict="identical", mean_difference=0.01, largest_difference=1.0, samples_checked=256)


def _facts(format_: str, payload: str) -> DatasetFacts:
    a_sample = {"encoded": 25_000, "raw": 45_000 if format_ == "directory" else 76_800}[payload]
    seconds = {"encoded": 0.1, "raw": 1.2}[payload] * {"directory": 1.3, "hdf5": 1.1, "lmdb": 1.0, "tfrecord": 1.2}[format_]
    return DatasetFacts(
        name="flowers", format=format_, payload=payload, samples=SAMPLES, classes=len(CLASSES), class_names=CLASSES,
        stored_bytes=SAMPLES * a_sample, convert_s=seconds, media_types={"image/jpeg": SAMPLES},
    )  # fmt: skip


def _ns(seconds: np.ndarray) -> list[int]:
    return [int(ns) for ns in np.rint(seconds * 1e9)]
