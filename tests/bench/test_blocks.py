"""Cases that take turns: who has none rests, with everything that is its own; what misbehaves takes nobody along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import forkserver, meter
from bench.blocks import Workers, blocks
from bench.case import Case, StepSpec
from bench.metrics.images_per_s import rate
from bench.options import processors
from bench.record import Measured, load_run
from bench.schedule import run
from bench.steady import Pace
from bench.visit import Request
from bench.worker import Worker
from tests.bench.test_schedule import SMALL, Quiet, known, options

SLICES = Pace(window_s=0.01, warmup_max_s=0.05, measure_s=0.2, measure_batches=4, slice_s=0.02)


def request(kind: str, *, step: str = "none", prefetch: int = 2) -> Request:
    case = Case(
        format="memory",
        payload="raw",
        loader=f"known:{kind}",
        spec=replace(SMALL, prefetch=prefetch),
        step=StepSpec(step=step),
    )
    return Request(do="measure", case=case, pace=SLICES, turns=True)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(lambda: Worker(processors(), timeout_s=6))
    yield workers
    workers.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(processors(), timeout_s=20) as worker:
        yield worker


def pid_of(worker: Worker) -> int:
    return worker._process.pid


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def alive(pid: int) -> bool:
    try:
        return state(pid) != "Z"
    except FileNotFoundError:
        return False


@given(
    steps=st.lists(st.sampled_from(["none", "feature_extraction", "emulated:100"]), min_size=1, max_size=40),
    most=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_a_block_is_of_one_step_and_every_case_is_in_one(steps: list[str], most: int, seed: int) -> None:
    cases = [replace(known("null", str(number)), step=StepSpec(step=step)) for number, step in enumerate(steps)]
    found = blocks(cases, most, Random(seed))
    assert sorted(case.name for block in found for case in block) == sorted(case.name for case in cases)
    for step in set(steps):
        sizes = [len(block) for block in found if block[0].step.step == step]
        assert max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1
    assert all(len({case.step for case in block}) == 1 for block in found)


def test_what_begins_from_the_disk_stands_alone() -> None:
    cold = [replace(known("null", str(number)), cache="cold") for number in range(3)]
    assert sorted(map(len, blocks([*cold, known("null", "a"), known("null", "b")], 4, Random(0)))) == [1, 1, 1, 2]


def test_between_its_turns_a_worker_rests_and_its_clock_stands_still(worker: Worker) -> None:
    worker.begin(request("500"))
    answer = worker.go_on()
    turns = 0
    while answer.resting:
        turns += 1
        pid = pid_of(worker)
        assert state(pid) == "T"
        used = Path(f"/proc/{pid}/stat").read_text()
        time.sleep(0.05)
        assert Path(f"/proc/{pid}/stat").read_text() == used
        answer = worker.go_on()
    assert turns >= 5
    assert answer.warm is not None
    # Eight images in 16 ms each; what is made ahead while it rests would let it be faster. A busy machine can only make it slower.
    assert 0 < (rate(answer.warm) or 0) < 510


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_accelerator_rests_with_its_loader(worker: Worker, prefetch: int) -> None:
    worker.begin(request("2000", step="emulated:800", prefetch=prefetch))
    while (answer := worker.go_on()).resting:
        time.sleep(0.03)
    assert answer.warm is not None
    expected = 800 if prefetch else 1 / (1 / 800 + 1 / 2000)
    assert 0 < (rate(answer.warm) or 0) < 1.02 * expected


def test_a_worker_that_is_killed_while_it_rests_says_so(worker: Worker) -> None:
    worker.begin(request("500"))
    assert worker.go_on().resting
    os.kill(pid_of(worker), signal.SIGKILL)
    assert "killed by SIGKILL" in worker.go_on().error


def test_a_worker_that_rests_is_ended_at_once() -> None:
    with Worker(processors(), timeout_s=20) as worker:
        worker.begin(request("500"))
        assert worker.go_on().resting
        began = time.monotonic()
    assert not worker.alive
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_what_misbehaves_in_a_block_takes_nobody_along(workers: Workers) -> None:
    kinds = ["500", "crash", "nonsense", "null"]
    answers = [answer for answer, _ in workers.measure([request(kind) for kind in kinds], Random(0))]
    assert [answer.warm is not None for answer in answers] == [True, False, False, True]
    assert "killed by SIGKILL" in answers[1].error
    assert "unknown loader" in answers[2].error
    again = workers.measure([request("null") for _ in kinds], Random(0))
    assert all(answer.warm is not None for answer, _ in again)


@pytest.mark.slow
def test_seconds_are_those_of_a_case_itself_and_rests_are_none(workers: Workers) -> None:
    (quick, quick_s), (hangs, hangs_s) = workers.measure([request("null"), request("hang")], Random(0))
    assert quick.warm is not None
    assert "no answer within 6 s" in hangs.error
    assert quick_s < 5 < 6 <= hangs_s


def test_what_a_worker_started_ends_with_the_run_even_while_it_rests(tmp_path: Path) -> None:
    """Killed outright, a run can tell nobody; a stopped child of a worker would stay so for ever."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "from bench import visit, worker\n"
        "from tests.bench.test_blocks import request\n"
        "resting = worker.Worker([0])\n"
        "resting.begin(request('child'))\n"
        "assert resting.go_on().resting\n"
        "print(*worker.meter.children(resting._process.pid), resting._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as started:
        assert started.stdout is not None
        pids = [int(pid) for pid in started.stdout.readline().split()]
        assert len(pids) == 2
        assert [state(pid) for pid in pids] == ["T", "T"]
        started.kill()
    ends = time.monotonic() + 10
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < ends:
        time.sleep(0.02)
    assert not left


@pytest.mark.slow
def test_records_say_who_took_turns_with_whom(tmp_path: Path) -> None:
    planned = [known("null", name) for name in "abcde"]
    stored = load_run(run(options(tmp_path, sweeps=2, turns=3), Quiet(), "test", planned=planned))
    # Of five, at most two side by side leave one alone: it has turns of its own, and stays comparable.
    odd = load_run(run(options(tmp_path / "odd", sweeps=1, turns=2), Quiet(), "test", planned=planned))
    assert sorted(Counter(record.block for record in odd.records).values()) == [1, 2, 2]
    for sweep in (0, 1):
        by_block: dict[int | None, int] = {}
        for record in stored.records:
            if record.sweep == sweep:
                assert isinstance(record.outcome, Measured)
                by_block[record.block] = by_block.get(record.block, 0) + 1
        assert None not in by_block
        assert sorted(by_block.values()) == [2, 3]


def test_an_interrupt_between_turns_leaves_no_process_behind(tmp_path: Path) -> None:
    planned = [known("500", name) for name in "abcd"]
    forkserver.server(processors())
    before = set(meter.children(os.getpid()))
    with pytest.raises(KeyboardInterrupt):
        run(options(tmp_path, sweeps=2, turns=2), Quiet(interrupt_after=1), "test", planned=planned)
    assert set(meter.children(os.getpid())) <= before
