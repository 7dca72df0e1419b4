"""Contenders that take turns: each a process that works for a second when it is told to, so that a slow moment hits all alike.

The other side of ``bench.contender``. Ratios are taken round by round; nobody works while another has its turn.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from statistics import median
from types import TracebackType
from typing import IO, Self

from rich.table import Table

from storage.errors import DataError


class Turns:
    """Processes that are ready, and the images/s of each, round by round."""

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        """Start every command and wait until it says ``ready``. DataError, with its last words, if one does not."""
        self.rates: dict[str, list[float]] = {name: [] for name in commands}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._complaints: dict[str, IO[str]] = {}
        self._open = ExitStack()
        with ExitStack() as started:
            started.callback(self.close)
            for name, command in commands.items():
                self._complaints[name] = complaints = self._open.enter_context(tempfile.TemporaryFile("w+"))
                self._processes[name] = process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
                )
                assert process.stdout is not None
                if not any(line.strip() == "ready" for line in process.stdout):
                    raise self._failed(name, "did not get ready")
            started.pop_all()

    def round(self) -> None:
        """Everyone's turn, once, in a new order."""
        for name in random.sample(sorted(self._processes), len(self._processes)):
            process = self._processes[name]
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # it has ended: its output, which ends too, tells
                process.stdin.write("go\n")
                process.stdin.flush()
            answer = next((json.loads(line) for line in process.stdout if line.startswith("{")), None)
            if answer is None:
                raise self._failed(name, "died in the middle of a round")
            self.rates[name].append(answer["images"] / answer["seconds"])

    def ratio(self, name: str, to: str) -> float:
        """The median over rounds of one's speed as a multiple of another's."""
        return median(one / other for one, other in zip(self.rates[name], self.rates[to], strict=True))

    def table(self, title: str, to: str) -> Table:
        """Fastest first, as multiples of ``to``."""
        table = Table(title=title)
        for heading in ("contender", "images/s", "slowest", "fastest", f"x {to}"):
            table.add_column(heading, justify="left" if heading == "contender" else "right")
        for name, rates in sorted(self.rates.items(), key=lambda item: -median(item[1])):
            table.add_row(
                name, f"{median(rates):,.0f}", f"{min(rates):,.0f}", f"{max(rates):,.0f}", f"{self.ratio(name, to):.3f}"
            )
        return table

    def _failed(self, name: str, how: str) -> DataError:
        self._complaints[name].seek(0)
        words = self._complaints[name].read().strip().splitlines()[-1:]
        return DataError(f"contender {name} {how}: {words[0] if words else 'it said nothing'}")

    def close(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # a word that one which has ended never read
                process.stdin.close()
        for process in self._processes.values():
            with process:
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
