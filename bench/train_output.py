"""What ``feedbench train`` shows: a bar while an epoch runs, a line when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.both_ways import BothWays
from bench.history import Epoch
from bench.model import image_size_of, scaling_of
from bench.quiet import import_tensorflow
from bench.train import Training, train

INTERRUPTED = 130
"""The exit code that shells give a program ended by Ctrl-C."""


class Screen:
    """Tells a console how a training goes; draws a bar only on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    def resumed(self, rows: list[Epoch]) -> None:
        """Say what stands already."""
        if rows:
            self.say(f"going on after epoch {rows[-1].epoch}")

    def started(self, epoch: int, regime: str, batches: int) -> None:
        """A bar for one epoch."""
        self._bar.start()
        self._task = self._bar.add_task(f"epoch {epoch}, {regime}", total=batches)

    def batch(self, images: int, loss: float) -> None:  # noqa: ARG002
        """One batch further."""
        if self._task is not None:
            self._bar.advance(self._task)

    def ended(self, row: Epoch) -> None:
        """A line with what the epoch brought and what it cost."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._bar.stop()
        val = "" if row.val_loss is None else f", validation loss {row.val_loss:.4f} accuracy {row.val_accuracy:.1%}"
        self.say(
            f"epoch {row.epoch} {row.regime}: loss {row.loss:.4f} accuracy {row.accuracy:.1%}{val}; "
            f"{row.seconds:.1f} s, {row.images / row.seconds:,.0f} images/s, {row.wait_share:.1%} waiting"
        )

    def both_ways(self, found: BothWays) -> None:
        """The training images seen both ways, in words and numbers."""
        for line in found.lines():
            self.say(line)

    def stop(self) -> None:
        """Give the terminal back."""
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line."""
        self._console.print(text, highlight=False, soft_wrap=True)


def new_folder(results: Path) -> Path:
    """``results/train-DATE-TIME``, or the next free name after it."""
    name = datetime.now().astimezone().strftime("train-%Y%m%d-%H%M%S")
    free = (results / f"{name}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(path for path in free if not path.exists())


def with_model_fitted(training: Training, *, image_size: str | None) -> Training:
    """The training with the image size and the scaling that its model wants, unless ``image_size`` says otherwise."""
    size = training.spec.image_size if image_size else image_size_of(training.step.model) or training.spec.image_size
    return replace(training, spec=replace(training.spec, image_size=size, scaling=scaling_of(training.step.model)))


def train_and_print(training: Training, console: Console | None = None) -> int:
    """Train with a line an epoch, and say where everything is and how to go on if it is interrupted. Returns the exit code."""
    console = console or Console()
    screen = Screen(console)
    import_tensorflow()
    screen.say(f"results in {training.results}; if interrupted, the same command with --results {training.results} goes on")
    try:
        rows = train(training, screen)
    except KeyboardInterrupt:
        screen.stop()
        screen.say(f"interrupted; go on with the same command and --results {training.results}")
        return INTERRUPTED
    finally:
        screen.stop()
    screen.say(_sum(rows))
    left = [
        "model.keras",
        "base.weights.h5",
        "history.csv",
        "accuracy.svg",
        "loss.svg",
        *(["export"] if training.export else []),
    ]
    screen.say(f"left in {training.results}: {', '.join(left)}")
    return 0


def _sum(rows: Sequence[Epoch]) -> str:
    """The best epoch, and what the whole took."""
    seconds = sum(row.seconds + row.val_seconds for row in rows)
    waited = sum(row.seconds * row.wait_share for row in rows) / sum(row.seconds for row in rows)
    took = f"{len(rows)} epochs in {seconds:.0f} s, {waited:.1%} of training spent waiting for images"
    judged = [row for row in rows if row.val_accuracy is not None]
    if not judged:
        return took
    best = max(judged, key=lambda row: row.val_accuracy or 0.0)
    return f"best validation accuracy {best.val_accuracy:.1%} after epoch {best.epoch}; {took}"
