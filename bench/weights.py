"""Weights of a base from a file: what does not fit is named by its layer."""

from __future__ import annotations

import re
import warnings
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import DataError, UsageError

if TYPE_CHECKING:
    import keras

# How Keras' messages name a layer: "<Conv2D name=Conv1, built=True>", "(named Conv1)".
_LAYER = re.compile(r"name=([\w./-]+)|named ([\w./-]+)")
# The part of a message that speaks of shapes, or of counts; the rest lists every weight's values.
_SHAPES = re.compile(r"variable\.shape=(\([\d, ]*\)),.*?value\.shape=(\([\d, ]*\))", re.DOTALL)
_REASON = re.compile(r"([^.\n]*[Ee]xpect.*?)(\. Target|\n|$)")


def load_weights(base: keras.Model, path: Path) -> None:
    """Fill ``base`` from a ``.weights.h5`` file (Keras 3) or an ``.h5`` file (older).

    DataError names the first layer that does not fit. Where Keras only warns that a part keeps its random weights, that
    is an error too: such a base trains all the same, and nobody sees it.
    """
    if not path.name.endswith(".h5"):
        raise UsageError(f"weights must be none, imagenet, or a .weights.h5 or .h5 file; got {str(path)!r}")
    if not path.is_file():
        raise DataError(f"no such weights file: {path}")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            base.load_weights(path)
        partly = next((str(w.message) for w in caught if "freshly-initialized" in str(w.message)), None)
        if partly:
            raise ValueError(partly)
    except Exception as error:
        text = str(error)
        named = _LAYER.search(text)
        layer = (named.group(1) or named.group(2)) if named else _first_difference(base, path)
        shapes = _SHAPES.search(text)
        if shapes:
            reason = f"expected {shapes.group(1)}, the file has {shapes.group(2)}"
        else:
            told = _REASON.search(text)
            reason = " ".join((told.group(1) if told else text.strip().split("\n")[0]).split())[:300]
        where = f"layer {layer}" if layer else "the file"
        raise DataError(f"{path} does not fit {base.name}: {where}: {reason}") from error


def _first_difference(base: keras.Model, path: Path) -> str | None:
    """The first layer whose name is another in an older file, if it is one: there Keras only counts layers."""
    import h5py

    try:
        with h5py.File(path) as file:
            group = file.get("model_weights", file)
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs["layer_names"]]
    except (OSError, KeyError):
        return None
    ours = [layer.name for layer in base.layers]
    return next((f"{a} (in the file: {b})" for a, b in zip_longest(ours, names, fillvalue="none") if a != b), None)
