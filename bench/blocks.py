"""Cases that take turns: a few at a time, each in a worker of its own, a slice of a second each, round after round.

Where memory is shared with other machines, a training step takes a tenth more or less from one second to the next, and
neighbouring batches are the most alike. So the cases of a block are measured side by side: whoever has no turn is stopped
(SIGSTOP), with all its threads and processes, and its clock stands still. A slow moment then falls on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from random import Random
from time import monotonic

from bench.case import Case
from bench.visit import Answer, Request
from bench.worker import Worker


def blocks(cases: Sequence[Case], most: int, order: Random) -> list[list[Case]]:
    """Cases of the same step in blocks of nearly the same size, at most ``most``, all in a random order.

    What begins from the disk stands alone: pages that another pipeline has mapped cannot be dropped.
    """
    cases = order.sample(cases, len(cases))
    found = [[case] for case in cases if case.cache == "cold"]
    by_step: dict[str, list[Case]] = {}
    for case in cases:
        if case.cache != "cold":
            by_step.setdefault(case.step.step, []).append(case)
    for same in by_step.values():
        count = ceil(len(same) / most)
        found += [same[number::count] for number in range(count)]
    return order.sample(found, len(found))


class Workers:
    """As many workers as are asked at once, kept from one request to the next; one that has died is followed by a new one."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        self._start = start
        self._workers: list[Worker] = []

    def ask(self, request: Request) -> Answer:
        """One answer, of the first worker."""
        return self._take(1)[0].ask(request)

    def measure(self, requests: Sequence[Request], order: Random) -> list[tuple[Answer, float]]:
        """An answer to each request and the seconds that it took. Those that want ``turns`` have them in rounds, in any order."""
        began = monotonic()
        workers = self._take(len(requests))
        for worker, request in zip(workers, requests, strict=True):
            worker.begin(request.model_copy(update={"do": "know"}))
        # What they import and compile, they do all at once.
        answers = [worker.go_on() for worker in workers]
        took = [(monotonic() - began) / len(requests)] * len(requests)

        def go_on(number: int) -> None:
            began = monotonic()
            answers[number] = workers[number].go_on()
            took[number] += monotonic() - began

        left = [number for number, answer in enumerate(answers) if not answer.error]
        for number in left:
            workers[number].begin(requests[number])
            go_on(number)
        while left := [number for number in left if answers[number].resting]:
            for number in order.sample(left, len(left)):
                go_on(number)
        return list(zip(answers, took, strict=True))

    def close(self) -> None:
        """End them all, at the same time: each takes a moment."""
        for worker in self._workers:
            worker.end()
        while self._workers:
            self._workers.pop().close()

    def _take(self, count: int) -> list[Worker]:
        for number, worker in enumerate(self._workers):
            if not worker.alive:
                worker.close()
                self._workers[number] = self._start()
        self._workers += [self._start() for _ in range(count - len(self._workers))]
        return self._workers[:count]
