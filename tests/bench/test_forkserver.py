"""Workers are forked: each is new, none outlives the server, and a server that is gone is followed by another."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from bench import forkserver
from bench.options import processors
from bench.worker import Worker
from storage.errors import DataError
from tests.bench.test_blocks import alive, pid_of
from tests.bench.test_blocks import request as in_turns
from tests.bench.test_worker import request


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_worker_has_what_the_server_imported_and_a_process_group_of_its_own() -> None:
    with Worker(processors(), timeout_s=30) as one, Worker(processors(), timeout_s=30) as other:
        assert one.ask(request("null")).error == ""
        pids = [pid_of(one), pid_of(other)]
        assert parent_of(pids[0]) == parent_of(pids[1]) != os.getpid()
        assert [os.getpgid(pid) for pid in pids] == pids
        assert "tensorflow" in Path(f"/proc/{pids[0]}/maps").read_text()
    assert not any(map(alive, pids))


def test_workers_end_with_their_server_and_the_next_has_another() -> None:
    with Worker(processors(), timeout_s=30) as worker:
        worker.begin(in_turns("500"))
        assert worker.go_on().resting
        resting, server = pid_of(worker), parent_of(pid_of(worker))
        os.kill(server, signal.SIGKILL)
        assert "killed by SIGKILL" in worker.go_on().error
    ends = time.monotonic() + 10
    while alive(resting) and time.monotonic() < ends:
        time.sleep(0.02)
    assert not alive(resting)
    with Worker(processors(), timeout_s=30) as worker:
        assert parent_of(pid_of(worker)) != server
        assert worker.ask(request("null")).error == ""


def test_a_server_that_cannot_start_says_why() -> None:
    beyond = [max(os.sched_getaffinity(0)) + 5000]
    with pytest.raises(DataError, match=r"no worker process can be started: OSError: .* Invalid argument"):
        Worker(beyond)
    assert forkserver.server(processors()).alive


def test_a_worker_begins_in_the_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Worker(processors(), timeout_s=30) as worker:
        assert worker.ask(request("null")).error == ""
        assert Path(f"/proc/{pid_of(worker)}/cwd").resolve() == tmp_path
