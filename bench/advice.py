"""From a run's records to what to do: is the model input-bound, what to change it to, what that saves, code to paste.

Pure: measuring is the business of ``advise.py``. The choice, among the cases that fit on the disk, is the fastest under
the real step; among those that the run cannot tell from it, the one that needs no conversion, then the smallest.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from bench.breakeven import at_hand, seconds_an_epoch
from bench.case import Case
from bench.choices import best, decisive_step, nearly
from bench.compare import Comparison, compare
from bench.flags import warnings
from bench.metrics import METRICS
from bench.record import DatasetFacts, Measured, Run
from bench.speeds import contenders, in_words, speeds
from bench.starvation import kept_ready, knee, loading
from bench.today import todays
from storage.errors import DataError

BOUND = 0.05
"""Waiting for more than this share of the time, or gaining more than it, is being input-bound."""


@dataclass(frozen=True)
class Limits:
    """What the user can spend: bytes for the stored dataset (None: no limit), and how many epochs will be trained."""

    disk_bytes: int | None = None
    epochs: int = 30


@dataclass(frozen=True)
class Source:
    """The user's images: ``path`` as the pasted command shall name it, and how many there are.

    A run may have measured a part of them. Sizes and conversion times then grow with ``images`` (all splits), an epoch with
    ``fed_images`` (of ``split``); None stands for what the run had. ``standing`` are the FORMAT-PAYLOAD that are stored
    already where the pasted command would write them.
    """

    path: str
    out: str = "data"
    name: str | None = None
    split: str = "train"
    images: int | None = None
    fed_images: int | None = None
    standing: frozenset[str] = frozenset()

    def whole(self, facts: DatasetFacts) -> DatasetFacts:
        """A stored dataset as it will be when all images are in it."""
        share = (self.images or facts.samples) / facts.samples
        return facts.model_copy(
            update={
                "name": self.name or facts.name,
                "fed_samples": self.fed_images or facts.epoch_images,
                "stored_bytes": round(facts.stored_bytes * share),
                "convert_s": facts.convert_s * share,
            }
        )


@dataclass(frozen=True)
class Advice:
    """What to do. ``convert`` and ``code`` are empty when nothing should change."""

    today: Case
    best: Case
    comparison: Comparison
    """Best over today's."""
    saved_s: float
    """Over all epochs, the conversion paid."""
    place: str
    """Of the stored dataset that ``code`` loads."""
    convert: str
    code: str
    lines: tuple[str, ...]

    @property
    def change(self) -> bool:
        """Whether to change anything."""
        return bool(self.code)


def advise(run: Run, source: Source, *, today: str | None = None, limits: Limits | None = None) -> Advice:
    """Advice from a run that measured today's case and its contenders under a real step, and loading alone.

    Raises DataError where the run cannot answer: today's case was not measured, or failed.
    """
    limits = limits or Limits()
    reasons = [record.outcome.reason for record in run.of(today or "") if not isinstance(record.outcome, Measured)]
    if reasons and len(reasons) == len(run.of(today or "")):
        raise DataError(
            f"today's case ({today}) could not be measured: {reasons[-1]}. Mend that, or name another with --today."
        )
    measured = speeds(run)
    step = decisive_step(run)
    now = todays(run, step, today) if step else None
    if step is None or now is None:
        raise DataError(
            f"{run.path} did not measure today's case, so there is nothing to compare with: name it with --today"
        )
    stored = {name: source.whole(facts) for name, facts in run.info.datasets.items()}
    group = list(dict.fromkeys([*contenders(measured, step), now]))
    room = float("inf") if limits.disk_bytes is None else limits.disk_bytes
    fitting = [case for case in group if case == now or stored[_store(case)].stored_bytes <= room]
    free = {name for name in stored if name in source.standing or at_hand(name, now)}
    best, tied = _choose(stored, measured, fitting, now, free)
    compared = compare(measured[best], measured[now], case_a=best.id, case_b=now.id, compared=max(len(fitting) - 1, 1))
    facts = stored[_store(best)]
    a_epoch = seconds_an_epoch(run, facts, measured, now) - seconds_an_epoch(run, facts, measured, best)
    write_s = 0.0 if _store(best) in free else facts.convert_s
    saved = limits.epochs * a_epoch - write_s
    change = best != now and compared.verdict == "faster" and saved > 0
    lines = [
        _bound(run, now, compared, step),
        *_verdict(run, best, now, compared, tied, change),
        *_left_out(group, fitting, limits),
        *_saving(change, a_epoch, write_s, saved, limits, stands=_store(best) in source.standing),
        *_room(run, now, best),
        *_memory(run, facts),
        *(f"Careful, {_with_time(flag)}." for flag in warnings(run.of(best.id))[:2]),
    ]
    place = f"{source.out}/{facts.name}/{_store(best)}"
    command, code = (_convert(best, source.path, place), _code(best, place, source.split)) if change else ("", "")
    return Advice(now, best, compared, saved, place, command, code, tuple(lines))


def _with_time(flag: str) -> str:
    """A warning to whoever gave no sweeps but a time."""
    return flag.replace("--sweeps or --budget", "--budget").replace("--sweeps", "--budget")


def _choose(
    stored: Mapping[str, DatasetFacts],
    measured: Mapping[Case, Mapping[int, float]],
    group: Sequence[Case],
    now: Case,
    free: Collection[str],
) -> tuple[Case, list[Case]]:
    """The case to take and those that tie with the fastest. Today's, where it ties: changing nothing costs nothing.

    ``free`` are the FORMAT-PAYLOAD that need no conversion.
    """
    _, tied = best(measured, group)

    def cost(case: Case) -> tuple[bool, bool, int, float]:
        alone = measured.get(case.alone, {0: 0.0})
        return case != now, _store(case) not in free, stored[_store(case)].stored_bytes, -median(alone.values())

    return min(nearly(measured, tied), key=cost), tied


def _store(case: Case) -> str:
    return f"{case.format}-{case.payload}"


def _bound(run: Run, now: Case, compared: Comparison, step: str) -> str:
    wait = METRICS["wait_share"].compute(run.of(now.id)) or 0.0
    speed = METRICS["images_per_s"].compute(run.of(now.id)) or 0.0
    gains = compared.verdict == "faster" and compared.low > 1 + BOUND
    if wait >= BOUND:
        answer = "Input-bound: yes"
    elif gains:
        answer = "Input-bound: yes, by processors: model and pipeline compete for them"
    else:
        answer = "Input-bound: no"
    return f"{answer}. Today ({_named(now)}) trains at {speed:,.0f} images/s and waits {wait:.0%} of the time (with {in_words(step)})."


def _verdict(run: Run, best: Case, now: Case, compared: Comparison, tied: Sequence[Case], change: bool) -> list[str]:
    if not change:
        why = "nothing that was measured is established to be faster" if best == now or compared.verdict != "faster" else (
            "what is faster does not earn its conversion back in these epochs"
        )  # fmt: skip
        return [f"Change nothing: {why}."]
    speed = METRICS["images_per_s"].compute(run.of(best.id)) or 0.0
    others = [_named(case) for case in tied if case != best]
    ties = f" Not told apart from it: {', '.join(others[:2])}{' …' if len(others) > 2 else ''}." if others else ""
    return [
        f"Use {_named(best)}: {speed:,.0f} images/s, {compared.ratio:.2f} times today's, sweep by sweep "
        f"[{compared.low:.2f}, {compared.high:.2f}].{ties}"
    ]


def _left_out(group: Sequence[Case], fitting: Sequence[Case], limits: Limits) -> list[str]:
    stored = sorted({_store(case) for case in group} - {_store(case) for case in fitting})
    if not stored or limits.disk_bytes is None:
        return []
    return [f"Left out, being larger than --disk ({limits.disk_bytes / 1e9:,.3g} GB): {', '.join(stored)}."]


def _saving(change: bool, a_epoch: float, write_s: float, saved: float, limits: Limits, *, stands: bool) -> list[str]:
    if not change:
        return []
    if stands:
        cost = "it is stored already, so nothing is to be earned back"
    elif not write_s:
        cost = "the images stay as they are stored today, so nothing is converted: the command below only copies them"
    else:
        cost = f"writing it takes {_duration(write_s)} once, earned back after {write_s / a_epoch:.2g} epochs"
    return [f"It saves {_duration(a_epoch)} an epoch and {_duration(saved)} in {limits.epochs} epochs; {cost}."]


def _room(run: Run, now: Case, best: Case) -> list[str]:
    """How fast an accelerator each could feed, from loading alone."""
    knees = []
    for case in dict.fromkeys((now, best)):
        alone = case.alone
        one = next((r.outcome for r in run.of(alone.id) if isinstance(r.outcome, Measured)), None)
        feed = loading(one) if one else None
        if feed:
            knees.append(f"{_named(case)} up to {knee(feed, ready=kept_ready(case)):,.0f}")
    here = next(reversed(run.info.environments.values()), {}).get("gpus")
    yours = "" if here else " There is none here: for one of RATE images/s, ask with --step emulated:RATE."
    return [f"Accelerators it could feed (images/s, at 90% utilisation): {'; '.join(knees)}.{yours}"] if knees else []


def _memory(run: Run, facts: DatasetFacts) -> list[str]:
    free = next(reversed(run.info.environments.values()), {}).get("free_memory_bytes")
    if not isinstance(free, int) or facts.stored_bytes <= free:
        return []
    return [
        f"Careful, {facts.stored_bytes / 1e9:,.3g} GB do not stay in {free / 1e9:,.3g} GB of free memory, where this was "
        "measured: the disk's speed then decides (feedbench run --cache cold)."
    ]


def _convert(case: Case, source: str, place: str) -> str:
    words = ["python", "-m", "storage.convert", "--from", source, "--to", case.format, "--payload", case.payload]
    if case.payload == "raw":
        height, width = case.spec.image_size
        words += ["--image-size", f"{height}x{width}"]
        words += ["--resize", case.spec.resize] if case.spec.resize != "bilinear" else []
    return shlex.join([*words, "--out", place])


def _code(case: Case, place: str, split: str) -> str:
    """Python that builds the feed, as printed; for placement ``model`` also what goes to the model's entrance."""
    changed = case.spec.changed()
    options = dict(changed.pop("options", ()))
    arguments = {"loader": case.loader, "split": split, "batch_size": case.spec.batch_size, **changed, **options}
    call = ", ".join([repr(place), *(f"{key}={value!r}" for key, value in arguments.items())])
    lines = ["import loaders", f"train = loaders.load({call})"]
    if case.spec.placement == "model":
        lines += ["# model = keras.Sequential([*train.layers, model]): the layers that scale and augment go in front"]
    return "\n".join([*lines, "# model.fit(train, epochs=..., shuffle=False): the feed shuffles"])


def _named(case: Case) -> str:
    return f"{case.loader} on {case.format} {case.payload}, placement {case.spec.placement}"


def _duration(seconds: float) -> str:
    if not isfinite(seconds):
        return "for ever"
    for unit, name in ((3600, "h"), (60, "min")):
        if abs(seconds) >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.2g} s" if abs(seconds) < 10 else f"{seconds:.0f} s"
