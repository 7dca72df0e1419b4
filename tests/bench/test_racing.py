"""Racing and budgets, over measurements that are made up: the same leader, in less time; and what a budget holds."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from bench.case import Case
from bench.compare import leader, rates
from bench.record import Run, RunRecord, Skipped, load_run
from bench.schedule import Schedule, resume, run
from tests.bench.synthetic import OWN_NOISE, SHARED_NOISE
from tests.bench.test_schedule import Quiet, known, options, record

VISIT_S = 2.0
RATES = {"best": 3000.0, "close": 2940.0, "near": 2700.0, **{f"slow{n}": 400.0 + 150 * n for n in range(9)}}


class Clock:
    """Time that passes only while a case is measured; in the first visit of a sweep, ``start_s`` longer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.visit_s = dict.fromkeys(RATES, VISIT_S)
        self.start_s = 0.0
        self.started: set[int] = set()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Every visit takes ``VISIT_S`` and gives the case's rate under the sweep's weather."""
    clock = Clock()

    def visit(self: Schedule, block: list[Case], sweep: int, order: Random, turns: bool) -> list[RunRecord]:
        (case,) = block
        began = clock.now
        clock.now += clock.visit_s[case.name] + clock.start_s * (sweep not in clock.started)
        clock.started.add(sweep)
        weather = np.random.default_rng(sweep + 1000 * self.info.seed).normal(0, SHARED_NOISE)
        own = np.random.default_rng([self.info.seed, sweep, *case.name.encode()]).normal(0, OWN_NOISE)
        return [
            record(case, sweep, RATES[case.name] * np.exp(weather + own)).model_copy(update={"visit_s": clock.now - began})
        ]

    whole = Schedule.run

    def on_this_clock(self: Schedule) -> None:
        self.clock = clock
        whole(self)

    monkeypatch.setattr(Schedule, "_visit", visit)
    monkeypatch.setattr(Schedule, "run", on_this_clock)
    return clock


def measured(folder: Path, **more: Any) -> Run:
    return load_run(
        run(options(folder, turns=1, **more), Quiet(), "test", planned=[known("null", n) for n in RATES], reported=False)
    )


def leading(done: Run) -> str:
    return leader({case.name: rates(done.of(case.id)) for case in done.info.cases})


def visits(done: Run) -> int:
    return sum(not isinstance(one.outcome, Skipped) for one in done.records)


@pytest.mark.parametrize("seed", range(5))
def test_racing_finds_the_same_leader_in_less_of_the_time(tmp_path: Path, clock: Clock, seed: int) -> None:
    full = measured(tmp_path, sweeps=10, seed=seed)
    took = clock.now
    clock.now = 0.0
    raced = measured(tmp_path, sweeps=10, budget_s=1e6, seed=seed)
    assert leading(raced) == leading(full)
    assert visits(full) == 10 * len(RATES)
    assert clock.now <= 0.6 * took
    dropped = {one.case.name for one in raced.records if isinstance(one.outcome, Skipped)}
    assert {name for name in RATES if name.startswith("slow")} <= dropped
    assert not dropped & {"best", "close"}
    assert all(isinstance(one.outcome, Skipped) == ("racing" in str(one.outcome)) for one in raced.records)


def test_the_time_saved_goes_to_those_that_are_left(tmp_path: Path, clock: Clock) -> None:
    done = measured(tmp_path, sweeps=None, budget_s=VISIT_S * len(RATES) * 5)
    assert clock.now <= VISIT_S * len(RATES) * 5
    counts = {case.name: len(rates(done.of(case.id))) for case in done.info.cases}
    assert counts["slow0"] == 3
    assert counts["best"] > 5


@pytest.mark.parametrize("visits", [5, 2 * len(RATES) + 1], ids=["in the first sweep", "in a later one"])
def test_a_run_that_goes_on_has_what_is_left_of_its_budget(tmp_path: Path, clock: Clock, visits: int) -> None:
    budget_s = VISIT_S * len(RATES) * 5
    asked = options(tmp_path, sweeps=None, budget_s=budget_s, turns=1)
    with pytest.raises(KeyboardInterrupt):
        run(asked, Quiet(visits), "test", planned=[known("null", name) for name in RATES], reported=False)
    (folder,) = [path.parent for path in tmp_path.glob("*/run.json")]
    assert load_run(folder).info.spent_s >= clock.now == visits * VISIT_S
    resume(folder, Quiet(), reported=False)
    assert budget_s / 2 < clock.now <= budget_s


@pytest.mark.parametrize("left", [0, 1], ids=["after the third", "in the third"])
def test_a_run_that_goes_on_begins_no_sweep_that_its_budget_does_not_hold(tmp_path: Path, clock: Clock, left: int) -> None:
    """What a sweep takes is on record: it is known also before this process has measured one, or after one visit."""
    budget_s = VISIT_S * (3 * len(RATES) + 2)
    asked = options(tmp_path, sweeps=None, budget_s=budget_s, turns=1)
    planned = [known("null", name) for name in RATES]
    with pytest.raises(KeyboardInterrupt):
        run(asked, Quiet(3 * len(RATES) - left), "test", planned=planned, reported=False)
    (folder,) = [path.parent for path in tmp_path.glob("*/run.json")]
    resume(folder, Quiet(), reported=False)
    assert clock.now == VISIT_S * 3 * len(RATES)


@pytest.mark.parametrize(("beaten_s", "held"), [(VISIT_S / 10, 0), (VISIT_S * 10, 1)], ids=["quick", "slow"])
def test_what_racing_stopped_says_nothing_of_how_long_the_next_sweep_takes(
    tmp_path: Path, clock: Clock, beaten_s: float, held: int
) -> None:
    clock.start_s = 5 * VISIT_S
    clock.visit_s |= {name: beaten_s for name in RATES if name not in ("best", "close")}
    full_s, left_s = clock.start_s + sum(clock.visit_s.values()), clock.start_s + 2 * VISIT_S
    done = measured(tmp_path, sweeps=None, budget_s=3 * full_s + (held + 0.5) * left_s)
    assert clock.now == pytest.approx(3 * full_s + held * left_s)
    further = [one.case.name for one in done.records if one.sweep >= 3 and not isinstance(one.outcome, Skipped)]
    assert sorted(further) == ["best", "close"] * held


def test_no_budget_drops_nothing(tmp_path: Path, clock: Clock) -> None:
    done = measured(tmp_path, sweeps=5)
    assert visits(done) == 5 * len(RATES)
    assert not any(isinstance(one.outcome, Skipped) for one in done.records)


def test_a_budget_that_holds_no_more_ends_the_run_after_three_sweeps(tmp_path: Path, clock: Clock) -> None:
    done = measured(tmp_path, sweeps=None, budget_s=VISIT_S * len(RATES) * 2)
    assert {one.sweep for one in done.records if not isinstance(one.outcome, Skipped)} == {0, 1, 2}
    assert done.info.finished
