"""The instrument against known answers, in the size that continuous integration affords."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.selfcheck import CHECKS, known_rates, selfcheck
from bench.selfcheck_bench import Bench, Check
from bench.selfcheck_loop import clockwork
from bench.selfcheck_workers import failures
from tests.bench.test_schedule import Quiet


@pytest.mark.slow  # test_schedule.py has a quick one
def test_misbehaving_workers_become_rows(tmp_path: Path) -> None:
    checks = list(failures(Bench(tmp_path, Quiet(), small=True)))
    assert len(checks) == 4
    assert all(check.passed for check in checks), checks


def test_known_rates_are_never_exceeded(tmp_path: Path) -> None:
    """A busy machine makes a measurement slower; nothing may make it faster than what the loader can do."""
    checks = list(known_rates(Bench(tmp_path, Quiet(), small=True)))
    for check, promised in zip(checks, (1000, 1500, 1500, 720), strict=True):
        assert 0 < float(check.seen.split(",")[0]) < 1.02 * promised, check


def test_the_clockwork_is_cheap(tmp_path: Path) -> None:
    (check,) = clockwork(Bench(tmp_path, Quiet(), small=True))
    assert float(check.seen.split()[0]) < 50, "microseconds a batch"


@pytest.mark.slow
def test_all_of_it() -> None:
    """Every question has an answer. Whether it is a good one depends on the machine at this moment, and here others run beside it."""
    checks: list[Check] = list(selfcheck(Quiet(), small=True))
    assert len(checks) >= len(CHECKS)
    assert all(check.question and check.expected and check.seen for check in checks), checks
