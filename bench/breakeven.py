"""After how many epochs a conversion has paid for itself, against today's case.

An epoch takes samples / rate, and a turnaround. Converting pays when the seconds saved in each epoch add up to those that
writing took: epochs = convert_s / (today's epoch - the new epoch).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from statistics import median

from bench.case import Case
from bench.compare import Comparison, compare
from bench.metrics import METRICS
from bench.record import DatasetFacts, Run
from bench.speeds import contenders, speeds
from bench.today import todays


@dataclass(frozen=True)
class BreakEven:
    """The best case of one stored format against today's. ``epochs_low`` and ``_high`` follow the interval of the ratio.

    ``epochs`` is 0 where nothing has to be written, and infinite where no gain is established.
    """

    stored: str
    case: str
    today: str
    comparison: Comparison
    convert_s: float
    epoch_s: float
    today_epoch_s: float
    epochs: float
    epochs_low: float
    epochs_high: float

    @property
    def saved_s(self) -> float:
        """Seconds that each epoch saves; negative if it costs."""
        return self.today_epoch_s - self.epoch_s


def break_even(run: Run, step: str, today: str | None = None) -> list[BreakEven]:
    """For every stored format and payload of the run: its fastest case under this step, against today's."""
    now = todays(run, step, today)
    if now is None:
        return []
    cases = speeds(run, lambda case: case.step.step == step)
    best: dict[str, Case] = {}
    for case in contenders(cases, step):
        stored = f"{case.format}-{case.payload}"
        if stored not in best or median(cases[case].values()) > median(cases[best[stored]].values()):
            best[stored] = case
    return [_one(run, stored, case, now, cases, len(best)) for stored, case in best.items()]


def _one(run: Run, stored: str, case: Case, now: Case, cases: dict[Case, dict[int, float]], stated: int) -> BreakEven:
    facts = run.info.datasets[stored]
    compared = compare(cases[case], cases[now], case_a=case.id, case_b=now.id, compared=stated)
    epoch_s, today_s = (seconds_an_epoch(run, facts, cases, one) for one in (case, now))
    free = at_hand(stored, now)
    write_s = 0.0 if free else facts.convert_s
    steady_today = facts.epoch_images / median(cases[now].values())
    # A change of turnaround is part of the epoch, whatever the ratio of the rates.
    turned = _turnaround(run, now) - _turnaround(run, case)

    def epochs(ratio: float) -> float:
        saved = steady_today * (1 - 1 / ratio) + turned if ratio > 0 else -inf
        return write_s / saved if saved > 0 else inf

    if free or compared.verdict != "faster":
        epochs_all = (0.0, 0.0, 0.0) if free else (inf, epochs(compared.high), inf)
    else:
        epochs_all = (epochs(compared.ratio), epochs(compared.high), epochs(compared.low))
    return BreakEven(stored, case.id, now.id, compared, write_s, epoch_s, today_s, *epochs_all)


def seconds_an_epoch(run: Run, facts: DatasetFacts, cases: Mapping[Case, Mapping[int, float]], case: Case) -> float:
    """What an epoch over the images of ``facts`` takes with a case of ``run``, whose images/s by sweep are among ``cases``."""
    return facts.epoch_images / median(cases[case].values()) + _turnaround(run, case)


def at_hand(stored: str, now: Case) -> bool:
    """Whether FORMAT-PAYLOAD takes no conversion: the images are files already, and what today's case reads is there too."""
    return stored in ("directory-encoded", f"{now.format}-{now.payload}")


def _turnaround(run: Run, case: Case) -> float:
    return METRICS["epoch_turnaround_s"].compute(run.of(case.id)) or 0.0
