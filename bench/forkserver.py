"""A server that has imported TensorFlow once, and forks worker processes that are as new as if they had done so themselves.

Importing TensorFlow takes longer than measuring a case does. Nothing of it runs in the server (no device, no thread of
TensorFlow's), so that a fork of it is safe, and what one case leaves in a process's memory meets no other case.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from bench.visit import serve
from storage.errors import DataError

PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``."""
LIBRARIES = ("tensorflow", "keras.preprocessing", "loaders", "storage")
POLL_S = 0.002
LONGEST = 1 << 16
"""Bytes of a message, at most."""
RUNNING, STOPPED = "running", "stopped"


class ForkServer:
    """The server, seen from the run. All its workers end with it, and it ends with the run."""

    def __init__(self, processors: Sequence[int]) -> None:
        self.processors = tuple(processors)
        self._lock = Lock()
        self._forked = False
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Safe path: a user's code.py or json.py in the folder that he happens to be in is not for a worker to import.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bench.forkserver", ",".join(map(str, processors)), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._control.fileno() >= 0

    def fork(self, stdin: int, stdout: int, stderr: int) -> Child:
        """A new worker (``bench.visit.serve``) with these file descriptors, in this folder and a process group of its own.

        Raises DataError, with the last that the server said, if it cannot start.
        """
        said = self._ask(os.fsencode(Path.cwd()), [stdin, stdout, stderr])
        self._forked = True
        if not said:
            self._said.seek(0)
            last = self._said.read()[-4000:].decode(errors="replace").strip().splitlines()[-1:]
            raise DataError(f"no worker process can be started: {last[0][:300] if last else 'the system ended it'}")
        return Child(self, int(said))

    def state(self, pid: int) -> str:
        """``running``, ``stopped``, or the exit code of a worker that has ended; asked once more, that one is unknown."""
        return self._ask(str(pid).encode(), []) or str(-signal.SIGKILL)  # With the server, its workers are killed.

    def close(self) -> None:
        """End it, and all its workers."""
        self._control.close()
        if not self._forked:
            self._process.kill()  # It may still import, and has no worker.
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _ask(self, message: bytes, descriptors: list[int]) -> str:
        """Its answer; empty if it is gone."""
        with self._lock:
            try:
                socket.send_fds(self._control, [message], descriptors)
                answer = self._control.recv(LONGEST).decode()
            except OSError:
                answer = ""
            except BaseException:
                # An answer that nobody waited for would be taken for the next one.
                self._control.close()
                raise
            if not answer:
                self._control.close()
            return answer


class Child:
    """A worker process: what ``subprocess.Popen`` would be, had the run started it itself."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self._server = server
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        self._look()
        return self._code

    def resting(self) -> bool:
        """Whether it has stopped, all threads of it, or ended."""
        return self._look() != RUNNING

    def _look(self) -> str:
        """What the server says of it, who tells an exit code only once."""
        if self._code is not None:
            return str(self._code)
        state = self._server.state(self.pid)
        if state not in (RUNNING, STOPPED):
            self._code = int(state)
        return state

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, as soon as it has ended. Raises TimeoutError."""
        ends = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if ends is not None and time.monotonic() > ends:
                raise TimeoutError
            time.sleep(POLL_S)
        return code

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it started, also to what it left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


_lock = Lock()
_server: ForkServer | None = None


def server(processors: Sequence[int]) -> ForkServer:
    """The server for workers on these processors, started if there is none; it lives until ``close``, or as long as the run.

    Its environment, and its workers', is this process's when it started. There is one at a time: for other processors it is
    ended, with its workers, and another is started.
    """
    global _server
    with _lock:
        if _server is not None and (not _server.alive or _server.processors != tuple(processors)):
            _server.close()
            _server = None
        if _server is None:
            _server = ForkServer(processors)
        return _server


@atexit.register
def close() -> None:
    """End the server, if there is one; the next worker starts another."""
    global _server
    with _lock:
        if _server is not None:
            _server.close()
            _server = None


def main() -> None:
    """Fork and tell, until the run's end of the control socket is closed; in a fork, be a worker."""
    control = socket.socket(fileno=int(sys.argv[2]))
    control.set_inheritable(False)
    set_up([int(part) for part in sys.argv[1].split(",")])
    for library in LIBRARIES:
        with suppress(ImportError):  # Whoever needs it says so better.
            importlib.import_module(library)
    gc.freeze()
    server = os.getpid()
    birth = _serve(control)
    if birth is not None:
        _be_a_worker(server, birth)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # What TensorFlow would take down piece by piece, the system frees at once.


class _Birth(NamedTuple):
    """What a worker is given: its folder, and what shall be its standard input, output and error."""

    folder: str
    descriptors: list[int]


def _serve(control: socket.socket) -> _Birth | None:
    """Returns in each worker what it was born with, and in the server, at the end, nothing: all workers are gone then."""
    children: set[int] = set()
    try:
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, LONGEST, 3)
            if not message:
                break
            if descriptors:
                if not (pid := _fork()):
                    children.clear()  # They are not its own.
                    control.close()
                    return _Birth(os.fsdecode(message), descriptors)
                # Before anybody knows of it, so that a signal to its group finds it.
                os.setpgid(pid, pid)
                children.add(pid)
                for descriptor in descriptors:
                    os.close(descriptor)
                control.send(str(pid).encode())
            else:
                state = _state(int(message))
                if state not in (RUNNING, STOPPED):
                    children.discard(int(message))
                control.send(state.encode())
    except ConnectionError:  # The run is gone.
        pass
    finally:
        for pid in children:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    return None


def _fork() -> int:
    with warnings.catch_warnings():
        # The threads that there are, OpenBLAS' and Arrow's, are idle, and know what to do when they are forked.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _be_a_worker(server: int, birth: _Birth) -> None:
    for target, descriptor in enumerate(birth.descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    # A run that is killed leaves no worker behind, not even one that hangs.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == server:  # Else it was gone before.
        os.chdir(birth.folder)
        serve()


def _state(pid: int) -> str:
    try:
        found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return str(-signal.SIGKILL)
    if found is None:
        return RUNNING
    if found.si_code == os.CLD_STOPPED:
        return STOPPED
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def set_up(processors: list[int]) -> None:
    """The processors of this run, and pools of exactly as many threads, whatever else the environment says. To be
    called before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.sched_setaffinity(0, processors)
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[variable] = str(len(processors))


if __name__ == "__main__":
    main()
