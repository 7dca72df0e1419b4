"""A worker process, seen from outside: it is asked, and it answers, or it is ended and the reason put in words.

Crash, hang and memory stay inside: the caller gets an answer with an error and can start the next worker.
"""

from __future__ import annotations

import os
import selectors
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from queue import SimpleQueue
from threading import Event
from types import TracebackType
from typing import Self

from bench import meter
from bench.forkserver import server
from bench.visit import Answer, Request

POLL_S = 0.05
STOP_POLL_S = 0.0002


class Worker:
    """One process that does requests (``bench/visit.py``), in a process group of its own.

    Parameters
    ----------
    processors
        The processors that it may use.
    timeout_s
        Seconds that a request may take, rests not counted; then the whole group is killed.
    memory_bytes
        Anonymous memory that its process tree may have; None for no limit.
    """

    def __init__(self, processors: Sequence[int], *, timeout_s: float = 300.0, memory_bytes: int | None = None) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        asked, ask = os.pipe()
        hear, answered = os.pipe()
        self._questions, self._answers = os.fdopen(ask, "wb", 0), os.fdopen(hear, "rb", 0)
        try:
            self._process = server(processors).fork(asked, answered, self._said.fileno())
        except BaseException:
            for file in (self._questions, self._answers, self._said):
                file.close()
            raise
        finally:
            os.close(asked)
            os.close(answered)
        self._left_s = timeout_s
        self._received = b""
        self._resting = False
        self._held: list[tuple[float, int]] = []

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, request: Request) -> Answer:
        """The answer; after an answer with an error the worker may be gone (see ``alive``)."""
        self.begin(request)
        return self.go_on()

    def begin(self, request: Request) -> None:
        """Have it begin. Its answer, or its first rest, is waited for with ``go_on``."""
        self._held = []
        self._left_s = self._timeout_s
        self._say(request.model_dump_json())

    def go_on(self) -> Answer:
        """Have its next turn over: an answer, or one that only says that it is ``resting``, its process group stopped.

        After an answer with an error the worker may be gone (see ``alive``).
        """
        if self._resting:
            self._say(str(time.perf_counter_ns()))
            self._process.signal_group(signal.SIGCONT)
        began = time.monotonic()
        answer = self._wait(began + self._left_s)
        if answer.resting and not self._stopped(began + self._left_s):
            return self._late()
        self._resting = answer.resting
        self._left_s -= time.monotonic() - began
        return answer

    def _stopped(self, ends: float) -> bool:
        """Whether it has stopped, or ended, in time."""
        while not self._process.resting():
            if time.monotonic() > ends:
                return False
            time.sleep(STOP_POLL_S)
        return True

    def _late(self) -> Answer:
        self.kill()
        return Answer(error=f"no answer within {self._timeout_s:g} s: ended")

    def _say(self, line: str) -> None:
        with suppress(BrokenPipeError):  # It is gone: waiting for it tells how.
            self._questions.write(line.encode() + b"\n")

    def _wait(self, ends: float) -> Answer:
        """Wait for a line, watching the clock and the tree's memory."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._received:
                # Looked at afterwards: a worker that has just been let go on has the processors to itself.
                if ready.select(POLL_S):
                    part = os.read(self._answers.fileno(), 1 << 20)
                    if not part:
                        return Answer(error=self._death())
                    self._received += part
                held = meter.anonymous_bytes(self._process.pid)
                self._held.append((time.monotonic(), held))
                if self._memory_bytes is not None and held > self._memory_bytes:
                    self.kill()
                    return Answer(error=f"over its memory limit of {_mb(self._memory_bytes)} ({_mb(held)} anonymous): ended")
                if time.monotonic() > ends:
                    return self._late()
        line, _, self._received = self._received.partition(b"\n")
        answer = Answer.model_validate_json(line)
        # Compiling a step may take more than the case does, and comes before it.
        opened = [held for at, held in self._held if answer.opened_s is None or at >= answer.opened_s]
        peak = max(opened or [held for _, held in self._held], default=0)
        if answer.warm is not None:
            answer = answer.model_copy(update={"warm": answer.warm.model_copy(update={"anon_memory_bytes": peak})})
        if answer.cold is not None:
            answer = answer.model_copy(update={"cold": answer.cold.model_copy(update={"anon_memory_bytes": peak})})
        return answer

    def _death(self) -> str:
        """How the process ended, with the last that it said, which need not be why (TensorFlow finds no GPU)."""
        code = self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._said.seek(0)
        lines = self._said.read()[-4000:].decode(errors="replace").strip().splitlines()
        return f"the worker was {how}" + (f"; the last that it said: {lines[-1][:300]}" if lines else "")

    def kill(self) -> None:
        """End it and everything that it started."""
        # Also what an ended leader left behind: stopped, it would stay for ever.
        self._process.signal_group(signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """Ask it to end: no more questions will come. One that rests between two turns is killed."""
        if self._resting:
            self.kill()
        self._questions.close()

    def close(self) -> None:
        """Have it end, and wait for that; kill what is left of it, and what takes more than seconds."""
        self.end()
        self._answers.close()
        with suppress(TimeoutError):
            self._process.wait(timeout=10)
        self.kill()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.kill()
        self.close()


def answers(requests: Sequence[Request], start: Callable[[], Worker], at_once: int) -> Iterator[tuple[int, Answer]]:
    """Ask several workers at once: (number of the request, its answer), as they come. For what is not timed.

    A worker does one request after another; one that has died is followed by a new one. All are gone when this ends.
    """
    idle: SimpleQueue[Worker | None] = SimpleQueue()
    started: list[Worker] = []
    ended = Event()
    for _ in range(at_once):
        idle.put(None)

    def ask(number: int) -> tuple[int, Answer]:
        worker = idle.get()
        try:
            if worker is None or not worker.alive:
                worker = start()
                started.append(worker)
            if ended.is_set():  # While it was started.
                worker.kill()
            return number, worker.ask(requests[number])
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(at_once)
    try:
        for done in as_completed([pool.submit(ask, number) for number in range(len(requests))]):
            yield done.result()
    finally:
        ended.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in started:
            worker.kill()  # Also what a thread may still wait for.
        pool.shutdown()
        for worker in started:
            worker.close()


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
