"""The history of a training: a row an epoch, as ``history.csv`` keeps it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from storage.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch, numbered from 1.

    Losses are means over samples and accuracies shares of them: of the training split while the weights moved, with dropout
    and augmentation on; with ``val_`` of the validation split after the epoch, with both off (None without such a split).
    ``seconds`` is the training part of the epoch, ``wait_share`` the share of it spent waiting for batches, the first
    batch included; ``val_seconds`` came on top.
    """

    epoch: int
    regime: str
    learning_rate: float
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    images: int
    seconds: float
    wait_share: float
    val_seconds: float


def write(path: Path, rows: Sequence[Epoch]) -> None:
    """Write ``history.csv`` beside its place, then rename it: a reader sees a whole history or the one before."""
    beside = path.with_suffix(".partial")
    with beside.open("w", newline="") as file:
        out = csv.DictWriter(file, [f.name for f in fields(Epoch)])
        out.writeheader()
        out.writerows(asdict(row) for row in rows)
    beside.replace(path)


def read(path: Path) -> list[Epoch]:
    """The rows of a ``history.csv``; DataError if it cannot be read or a line is not a row of a history."""
    try:
        with path.open(newline="") as file:
            return [_row(raw) for raw in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a history of feedbench train: {error!r}") from error


def _row(raw: dict[str, str]) -> Epoch:
    return Epoch(
        epoch=int(raw["epoch"]),
        regime=raw["regime"],
        learning_rate=float(raw["learning_rate"]),
        loss=float(raw["loss"]),
        accuracy=float(raw["accuracy"]),
        val_loss=float(raw["val_loss"]) if raw["val_loss"] else None,
        val_accuracy=float(raw["val_accuracy"]) if raw["val_accuracy"] else None,
        images=int(raw["images"]),
        seconds=float(raw["seconds"]),
        wait_share=float(raw["wait_share"]),
        val_seconds=float(raw["val_seconds"]),
    )
