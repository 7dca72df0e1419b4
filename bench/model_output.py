"""What ``feedbench model`` shows: a model's layers and parameters, and a picture of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.case import StepSpec
from bench.model import application, build, image_size_of, is_own, load, prepare
from bench.quiet import load_tensorflow
from storage.errors import DataError, UsageError

if TYPE_CHECKING:
    import keras

HINT = "python -m pip install pydot, and Graphviz from https://graphviz.org/download (apt install graphviz)"


def show(
    name: str,
    *,
    image_size: tuple[int, int] | None,
    top: bool,
    classes: int | None,
    plot: Path | None,
    say: Callable[[str], None],
) -> None:
    """Print the summary and draw the model; without Graphviz say how to get it, and fail only if ``plot`` was asked for."""
    load_tensorflow()
    network = _model(name, image_size, top=top, classes=classes)
    network.summary(print_fn=say, line_length=100)
    size = "x".join(str(side or "any") for side in network.input_shape[1:3])
    say(f"{name}, images of {size}: {network.count_params():,} parameters")
    path = plot or Path("results") / f"{Path(name).stem}.png"
    problem = draw(network, path)
    if problem and plot:
        raise DataError(f"{path} cannot be drawn: {problem}")
    say(f"not drawn: {problem}" if problem else f"drawn: {path}")


def draw(network: keras.Model, path: Path) -> str | None:
    """Draw with ``plot_model``; what is missing for it, in words, or None."""
    import keras

    if shutil.which("dot") is None:
        return f"Graphviz is not installed: {HINT}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        keras.utils.plot_model(network, path, show_shapes=True, dpi=72)
    except ImportError:
        return f"pydot is not installed: {HINT}"
    except (OSError, AssertionError, ValueError) as error:
        return str(error).strip().splitlines()[0]
    return None


def _model(name: str, image_size: tuple[int, int] | None, *, top: bool, classes: int | None) -> keras.Model:
    """A model as Keras has it, or (with ``classes``) as it is trained here."""
    if classes is not None:
        step = StepSpec(model=name)
        size = image_size or image_size_of(name) or (160, 160)
        transfer = build(step, layers=(), image_size=size, classes=classes, dtype="float32")
        prepare(transfer, step)
        return transfer.model
    if is_own(name):
        return load(Path(name))
    make = application(name)
    shape = (*image_size, 3) if image_size else None
    try:
        return make(weights=None, include_top=top, **({"input_shape": shape} if shape else {}))
    except ValueError as error:
        raise UsageError(f"{name}: {str(error).splitlines()[0]}") from error
