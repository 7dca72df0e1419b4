"""Five kinds of convolution at equal input and output: what each weighs, computes, and takes.

The notes' argument for MobileNet is a count: a depthwise separable convolution needs about a ninth of the multiply-adds of a
standard one. Whether it takes a ninth of the time is another question, and is measured here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

if TYPE_CHECKING:
    import keras

Clock = Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Input and output of every kind: (batch, size, size, channels), stride 1, padded to the same size, without bias."""

    size: int = 56
    channels: int = 128
    kernel: int = 3
    groups: int = 4
    batch: int = 8


@dataclass(frozen=True)
class Kind:
    """One kind of convolution. ``weights`` is how many a shape has; each is used once for every output pixel."""

    name: str
    weights: Callable[[Shape], int]
    layer: Callable[[Shape], keras.Layer]

    def multiply_adds(self, shape: Shape) -> int:
        """Multiplications (each with its addition) an image, those with the padding's zeros counted."""
        return shape.size**2 * self.weights(shape)


def _conv(shape: Shape, **changes: Any) -> keras.Layer:
    import keras

    options = {"kernel_size": shape.kernel, "padding": "same", "use_bias": False} | changes
    return keras.layers.Conv2D(shape.channels, **options)


def _depthwise(shape: Shape) -> keras.Layer:
    import keras

    return keras.layers.DepthwiseConv2D(shape.kernel, padding="same", use_bias=False)


def _separable(shape: Shape) -> keras.Layer:
    import keras

    return keras.layers.SeparableConv2D(shape.channels, shape.kernel, padding="same", use_bias=False)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("standard", lambda s: s.kernel**2 * s.channels**2, _conv),
        Kind("grouped", lambda s: s.kernel**2 * s.channels**2 // s.groups, lambda s: _conv(s, groups=s.groups)),
        Kind("1x1", lambda s: s.channels**2, lambda s: _conv(s, kernel_size=1)),
        Kind("depthwise", lambda s: s.kernel**2 * s.channels, _depthwise),
        Kind("depthwise separable", lambda s: s.kernel**2 * s.channels + s.channels**2, _separable),
    )
}


def measure(
    shape: Shape, *, rounds: int, seconds: float, seed: int = 0, clock: Clock = time.perf_counter_ns
) -> dict[str, list[float]]:
    """Seconds a batch of the forward pass, by kind and round.

    Every round runs each kind once, in a newly shuffled order, for ``seconds`` or one batch: a slow moment hits all alike.
    Each kind is compiled, and run once, before any clock.
    """
    import numpy as np
    import tensorflow as tf

    images = tf.constant(
        np.random.default_rng(seed).standard_normal((shape.batch, shape.size, shape.size, shape.channels)), tf.float32
    )
    run = {name: _one_value(kind.layer(shape), images) for name, kind in KINDS.items()}
    for function in run.values():
        float(function(images))
    taken: dict[str, list[float]] = {name: [] for name in KINDS}
    for number in range(rounds):
        order = list(KINDS)
        random.Random(f"{seed}:{number}").shuffle(order)
        for name in order:
            batches, began, now = 0, clock(), 0
            while not batches or now - began < seconds * 1e9:
                float(run[name](images))
                batches, now = batches + 1, clock()
            taken[name].append((now - began) / 1e9 / batches)
    return taken


def _one_value(layer: keras.Layer, images: Any) -> Callable[[Any], Any]:
    """The whole layer, of whose output one value is fetched: a call is then over when it returns, on a GPU too."""
    import tensorflow as tf

    layer.build(images.shape)
    return tf.function(lambda batch: layer(batch)[0, 0, 0, 0], autograph=False).get_concrete_function(images)  # type: ignore[no-any-return]


def table(shape: Shape, taken: dict[str, list[float]]) -> pd.DataFrame:
    """A row a kind: parameters, multiply-adds an image, median milliseconds a batch, and each relative to the standard one.

    Relative time is the median of the ratios within rounds: a slow round slows both.
    """
    standard = KINDS["standard"]
    return pd.DataFrame(
        [
            {
                "kind": name,
                "parameters": kind.weights(shape),
                "multiply_adds": kind.multiply_adds(shape),
                "ms_a_batch": median(taken[name]) * 1e3,
                "parameters_relative": kind.weights(shape) / standard.weights(shape),
                "multiply_adds_relative": kind.multiply_adds(shape) / standard.multiply_adds(shape),
                "ms_a_batch_relative": median(a / b for a, b in zip(taken[name], taken["standard"], strict=True)),
            }
            for name, kind in KINDS.items()
        ]
    )


MEASURES = (
    ("parameters", "parameters", ",.0f"),
    ("multiply_adds", "multiply-adds an image", ",.3s"),
    ("ms_a_batch", "time a batch, ms", ",.3~r"),
)


def draw(found: pd.DataFrame, shape: Shape) -> alt.HConcatChart:
    """Three panels on one scale, shares of the standard convolution: parameters, multiply-adds, time."""
    order = list(found["kind"])
    panels: list[alt.LayerChart | alt.FacetChart] = []
    for number, (column, title, form) in enumerate(MEASURES):
        relative = f"{column}_relative"
        base = alt.Chart(found).encode(
            x=alt.X(
                relative,
                title="share of the standard one",
                scale=alt.Scale(domain=[0, max(1.0, float(found[relative].max())) * 1.3]),
                axis=alt.Axis(format="%", tickCount=5, grid=False),
            ),
            y=alt.Y("kind", sort=order, title=None, axis=None if number else alt.Axis(labelLimit=200)),
        )
        bars = base.mark_bar(color="#4269d0", height={"band": 0.65})
        panels.append(
            alt.layer(bars, base.mark_text(align="left", dx=4).encode(alt.Text(column, format=form))).properties(
                width=210, height=150, title=title
            )
        )
    size = f"{shape.size} x {shape.size} x {shape.channels}"
    title = f"{size} in and out, kernel {shape.kernel}, {shape.groups} groups, batch {shape.batch}: forward pass"
    return alt.hconcat(*panels, spacing=16).properties(title=title)


def save(shape: Shape, taken: dict[str, list[float]], folder: Path) -> Sequence[Path]:
    """Write ``convolutions.csv``, ``.svg`` and ``.png`` into ``folder``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    found = table(shape, taken)
    chart = draw(found, shape)
    paths = [folder / f"convolutions.{suffix}" for suffix in ("csv", "svg", "png")]
    found.to_csv(paths[0], index=False)
    chart.save(paths[1])
    chart.save(paths[2], scale_factor=2)
    return paths
