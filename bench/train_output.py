"""What ``feedbench train`` shows: a bar while an epoch runs, a line when it ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.both_ways import BothWays
from bench.case import StepSpec
from bench.history import Epoch
from bench.model import image_size_of, scaling_of
from bench.quiet import load_tensorflow
from bench.train import Training, train
from bench.writing import writing
from storage.errors import UsageError

INTERRUPTED = 130
"""The exit code that shells give a program ended by Ctrl-C."""


class Screen:
    """Tells a console how a training goes; draws a bar only on a terminal."""

    def __init__(self, console: Console, folder: Path) -> None:
        self._console = console
        self._folder = folder
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    def began(self, rows: list[Epoch], step: StepSpec) -> None:
        """Say where everything will be, what stands there already, and from which layer a base is fine-tuned."""
        self.say(f"results in {self._folder}; if interrupted, the same command with --results {self._folder} goes on")
        if rows:
            self.say(f"going on after epoch {rows[-1].epoch}")
        if step.fine_tune_at is not None:
            self.say(f"fine_tune trains {step.model} from layer {step.fine_tune_at}")

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


def usual_fine_tuning(step: str) -> int:
    """Epochs of fine-tuning where none are asked for: transfer learning is whole, and whoever names another regime gets just that."""
    return 5 if step == "feature_extraction" else 0


def fitted(training: Training, *, image_size: str | None) -> Training:
    """The training at the image size and with the scaling that its model wants.

    ``image_size`` was asked for; else it is the ``.keras`` file's, else that of a raw dataset, else the spec's. Errors about
    dataset, loader and model that can be seen without TensorFlow are raised here.
    """
    from loaders import LOADERS
    from storage.dataset import read_info

    stored = read_info(training.dataset)
    if training.loader not in LOADERS:
        raise UsageError(f"unknown loader {training.loader!r}; expected one of: {', '.join(LOADERS)}")
    if training.step.fine_tune_at is not None and not training.fine_tune_epochs and training.step.step != "fine_tune":
        raise UsageError(
            "--fine-tune-at changes nothing without fine-tuning; name --fine-tune-epochs or --step fine_tune, too"
        )
    size, scaling = training.spec.image_size, scaling_of(training.step.model)
    if not image_size:
        size = image_size_of(training.step.model) or stored.image_size or size
    return replace(training, spec=replace(training.spec, image_size=size, scaling=scaling))


def train_and_print(training: Training, console: Console | None = None) -> int:
    """Train with a line an epoch, and say where everything is and how to go on if it is interrupted. Returns the exit code."""
    console = console or Console()
    screen = Screen(console, training.results)
    screen.say(_plan(training))
    load_tensorflow()
    try:
        with writing(training.results, lambda: _rescued(training)):
            rows = train(training, screen)
    except KeyboardInterrupt:
        screen.stop()
        screen.say(f"interrupted; {_go_on(training)}")
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


def _go_on(training: Training) -> str:
    return f"go on with the same command and --results {training.results}"


def _rescued(training: Training) -> str:
    begun = os.path.isfile(training.results / "train.json")  # noqa: PTH113 - Path's methods raise where one may not look.
    return f"Whole epochs are kept. Once that is mended, {_go_on(training)}" if begun else ""


def _plan(training: Training) -> str:
    """How many epochs of what: fine-tuning also follows where nobody asked for it."""
    phases = [(training.epochs, training.step.step), (training.fine_tune_epochs, "fine_tune")]
    return ", then ".join(f"{_epochs(epochs)} of {regime}" for epochs, regime in phases if epochs)


def _epochs(number: int) -> str:
    return f"{number} epoch" if number == 1 else f"{number} epochs"


def _sum(rows: Sequence[Epoch]) -> str:
    """The best epoch, and what the whole took."""
    seconds = sum(row.seconds + row.val_seconds for row in rows)
    waited = sum(row.seconds * row.wait_share for row in rows) / sum(row.seconds for row in rows)
    took = f"{_epochs(len(rows))} in {seconds:.0f} s, {waited:.1%} of training spent waiting for images"
    judged = [row for row in rows if row.val_accuracy is not None]
    if not judged:
        return took
    best = max(judged, key=lambda row: row.val_accuracy or 0.0)
    return f"best validation accuracy {best.val_accuracy:.1%} after epoch {best.epoch}; {took}"
