"""A run whose caller is killed, between sweeps and within one: what was measured stands, and the rest is measured."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from bench.limits import limit_cases
from bench.record import load_run
from bench.run_folder import RESUME, claimed
from bench.schedule import resume, run
from storage import demo
from storage.errors import DataError
from tests.bench.test_schedule import Quiet, known, options

KILLED = """
import os, signal, sys
from pathlib import Path
from bench.schedule import run
from tests.bench.test_schedule import Quiet, known, options

class Mortal(Quiet):
    def done(self):
        self.visits += 1
        if self.visits == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

run(options(Path(sys.argv[1]), sweeps=3), Mortal(), "test", planned=[known("null", name) for name in "abc"], reported=False)
"""
HANGING = """
import sys
from pathlib import Path
from bench.schedule import run
from tests.bench.test_schedule import Quiet, known, options

run(options(Path(sys.argv[1])), Quiet(), "test", planned=[known("hang")], reported=False)
"""


def killed(program: str, folder: Path, *arguments: str) -> Path:
    """Run a program that is killed; the folder of its run."""
    done = subprocess.run([sys.executable, "-c", program, str(folder), *arguments], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    (run,) = [path.parent for path in folder.glob("*/run.json")]
    return run


@pytest.mark.parametrize(("visits", "kept"), [(3, 0), (4, 3), (8, 6)], ids=["in the first sweep", "between", "within"])
def test_a_killed_run_goes_on(tmp_path: Path, visits: int, kept: int) -> None:
    run = killed(KILLED, tmp_path, str(visits))
    before = (run / "records.jsonl").read_bytes() if (run / "records.jsonl").exists() else b""
    assert before.count(b"\n") == kept
    assert not load_run(run).info.finished
    spent_s = load_run(run).info.spent_s
    assert spent_s > 0
    done = load_run(resume(run, Quiet(), reported=False))
    assert (run / "records.jsonl").read_bytes().startswith(before)
    assert Counter((r.case.name, r.sweep) for r in done.records) == Counter((n, s) for n in "abc" for s in range(3))
    assert done.info.finished
    assert done.info.spent_s > spent_s
    assert not (run / RESUME).exists()


class Filling(Quiet):
    """From its fourth visit on, the disk takes files of 2,000 bytes at most."""

    def done(self) -> None:
        super().done()
        if self.visits == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))


def test_a_run_whose_disk_is_full_says_so_and_goes_on(tmp_path: Path) -> None:
    planned = [known("null", name) for name in "abc"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(DataError) as full:
            run(options(tmp_path, sweeps=2), Filling(), "test", planned=planned, reported=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (folder,) = [path.parent for path in tmp_path.glob("*/run.json")]
    assert str(full.value) == (
        f"cannot write to {folder}: File too large. "
        f"What was measured before is kept. Once that is mended, go on with: feedbench run --resume {folder}"
    )
    before = load_run(folder).records
    assert len(before) >= 3
    done = load_run(resume(folder, Quiet(), reported=False))
    assert done.records[: len(before)] == before
    assert Counter((r.case.name, r.sweep) for r in done.records) == Counter((n, s) for n in "abc" for s in range(2))


def test_a_killed_caller_leaves_no_worker_behind(tmp_path: Path) -> None:
    caller = subprocess.Popen([sys.executable, "-c", HANGING, str(tmp_path)])
    workers: list[psutil.Process] = []
    while not workers:
        assert caller.poll() is None
        time.sleep(0.05)
        workers = psutil.Process(caller.pid).children(recursive=True)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []


class Hasty(Quiet):
    """Interrupts before anything is measured."""

    def plan(self, visits: int) -> None:
        raise KeyboardInterrupt


def test_a_run_goes_on_alone_and_with_the_images_it_began_with(tmp_path: Path) -> None:
    demo.draw(tmp_path / "photos", 20)
    asked = options(tmp_path, images=tmp_path / "photos")
    with pytest.raises(KeyboardInterrupt):
        run(asked, Hasty(), "test", planned=list(limit_cases(4, (8, 8), 0)), reported=False)
    (folder,) = [path.parent for path in tmp_path.glob("*/run.json")]
    (stored,) = {(facts.samples, facts.epoch_images) for facts in load_run(folder).info.datasets.values()}
    assert stored == (20, len(list((tmp_path / "photos" / "train").rglob("*.jpg"))))
    assert stored[1] < 20  # The rest is for validation, and no part of an epoch.
    with claimed(folder), pytest.raises(DataError, match="is being measured by another process"):
        resume(folder, Quiet())
    with pytest.raises(KeyboardInterrupt):
        resume(folder, Hasty())
    next((tmp_path / "photos" / "train").rglob("*.jpg")).unlink()
    with pytest.raises(DataError, match=r"its images have changed since it began \(20 then, 19 now\)"):
        resume(folder, Quiet())
