"""A tf.data service to use: one that is started here, in processes of its own, or one that runs elsewhere."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from signal import Signals
from tempfile import mkdtemp
from typing import Protocol

from storage.errors import DataError, UsageError

LOCAL, REMOTE = "local:", "grpc://"
STOPPING_S = 10.0
CONNECTING_S = 5.0

Process = subprocess.Popen[str]


class Service(Protocol):
    """Where batches are prepared."""

    address: str
    """As tf.data takes it: ``grpc://HOST:PORT``."""
    workers: int
    """How many there are; 0: not known here."""

    def fault(self) -> str | None:
        """What has happened to it, if it cannot go on; None as far as is known here."""

    def close(self) -> None: ...


def check_service(name: str) -> str:
    """``name`` if it is ``local:N`` or ``grpc://HOST:PORT``; UsageError if not."""
    local = name.startswith(LOCAL) and name.removeprefix(LOCAL).isdecimal() and int(name.removeprefix(LOCAL)) > 0
    host, _, port = name.removeprefix(REMOTE).rpartition(":")
    if local or (name.startswith(REMOTE) and host and port.isdecimal()):
        return name
    raise UsageError(f"service must be local:N (workers started here) or grpc://HOST:PORT (a dispatcher); got {name!r}")


def open_service(name: str) -> Service:
    """Start the service, or point at the one that runs."""
    if name.startswith(LOCAL):
        return LocalService(int(name.removeprefix(LOCAL)))
    return RemoteService(name)


def reach(address: str) -> None:
    """DataError if nothing listens there: tf.data itself would go on trying for an hour."""
    host, _, port = address.removeprefix(REMOTE).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTING_S).close()
    except (OSError, OverflowError) as error:
        raise DataError(f"no service at {address}: {error}. Is its dispatcher running?") from None


class RemoteService:
    """A deployment that somebody else looks after."""

    workers = 0

    def __init__(self, address: str) -> None:
        reach(address)
        self.address = address

    def fault(self) -> str | None:
        """Nothing is known here of its processes."""
        return None

    def close(self) -> None:
        """It runs on."""


class LocalService:
    """A dispatcher and workers in processes of this machine. They end with this process, however it ends."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._processes: list[tuple[str, Process]] = []
        self._folder = mkdtemp(prefix="feedbench-service-")
        try:
            # All begin at once: importing TensorFlow takes each of them seconds.
            dispatcher = self._start("the dispatcher", "dispatcher", self._folder)
            started = [self._start(f"worker {number} of {workers}", "worker") for number in range(1, workers + 1)]
            self.address = self._answer(dispatcher)
            for worker in started:
                assert worker.stdin is not None
                worker.stdin.write(self.address + "\n")
                worker.stdin.flush()
            for worker in started:
                self._answer(worker)
        except BaseException:
            self.close()
            raise

    def _start(self, name: str, *part: str) -> Process:
        script = Path(__file__).with_name("service_process.py")
        # glibc keeps eight heaps a processor, which the threads of one pass after another fill with gaps. One cost time.
        heaps = {"MALLOC_ARENA_MAX": str(2 * len(os.sched_getaffinity(0)))}
        process = subprocess.Popen(
            # -P: the script's folder holds modules that are named as libraries are.
            [sys.executable, "-P", str(script), *part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**heaps, **os.environ},
        )
        self._processes.append((name, process))
        return process

    def _answer(self, process: Process) -> str:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            _, said = process.communicate()
            last = said.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise DataError(f"the local tf.data service did not start: {last[0]}")
        return line

    @property
    def pids(self) -> list[int]:
        """Of its processes; the dispatcher's first."""
        return [process.pid for _, process in self._processes]

    def fault(self) -> str | None:
        """Which process has ended, and how."""
        for name, process in self._processes:
            code = process.poll()
            if code is not None:
                how = f"was ended by {Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"{name} of the local tf.data service {how}"
        return None

    def close(self) -> None:
        """End all processes."""
        for _, process in self._processes:
            process.kill()
        for _, process in self._processes:
            process.communicate(timeout=STOPPING_S)
        self._processes = []
        shutil.rmtree(self._folder, ignore_errors=True)
