"""Where a training stands, on disk: every number that its next epoch depends on."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.errors import DataError

if TYPE_CHECKING:
    import keras


def save(path: Path, model: keras.Model, epochs: int) -> None:
    """Weights, batch statistics, the optimizer's state and that of every random layer, after so many epochs.

    Written beside its place, synced, renamed: after a crash there is this state or the one before.
    """
    beside = path.with_suffix(".partial")
    with beside.open("wb") as file:
        np.savez(file, epochs=epochs, **_arrays("model", model.variables), **_arrays("optimizer", model.optimizer.variables))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def epochs_done(path: Path) -> int:
    """How many epochs stand behind the state at ``path``; 0 if there is none."""
    return int(_read(path)["epochs"]) if path.is_file() else 0


def restore_model(path: Path, model: keras.Model) -> None:
    """Put back everything but the optimizer: fine-tuning starts with a new one."""
    _assign(path, "model", model.variables)


def restore_optimizer(path: Path, model: keras.Model) -> None:
    """Put back the state of an optimizer that has been built."""
    _assign(path, "optimizer", model.optimizer.variables)


def _arrays(kind: str, variables: list[Any]) -> dict[str, Any]:
    return {f"{kind}{number}": variable.numpy() for number, variable in enumerate(variables)}


def _read(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is not a checkpoint of feedbench train: {error}; delete its folder to train anew"
        ) from error


def _assign(path: Path, kind: str, variables: list[Any]) -> None:
    stored = _read(path)
    names = [name for name in stored if name.startswith(kind)]
    shapes = [tuple(stored[f"{kind}{number}"].shape) for number in range(len(names))]
    if shapes != [tuple(variable.shape) for variable in variables]:
        raise DataError(f"{path} belongs to another model: delete its folder to train anew")
    for number, variable in enumerate(variables):
        variable.assign(stored[f"{kind}{number}"])
