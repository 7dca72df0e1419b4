"""Convolutions: the formulas against a convolution done by hand, one multiplication at a time; rounds; the chart's numbers."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bench.convolutions import KINDS, Shape, measure, save, table

SHAPE = Shape(size=5, channels=4, kernel=3, groups=2, batch=1)
ROOT = Path(__file__).parents[2]


def by_hand(image: NDArray[Any], kernel: NDArray[Any], groups: int = 1) -> tuple[NDArray[Any], int]:
    """A convolution of (size, size, channels), padded to its own size, and how many multiplications it took.

    ``kernel`` is (k, k, channels in a group, channels out), as Keras has it.
    """
    k, _, depth, out_channels = kernel.shape
    size = len(image)
    padded = np.pad(image, [(k // 2, k // 2), (k // 2, k // 2), (0, 0)])
    out = np.zeros((size, size, out_channels))
    multiplied = 0
    for row in range(size):
        for column in range(size):
            for channel in range(out_channels):
                first = channel // (out_channels // groups) * depth
                for y in range(k):
                    for x in range(k):
                        for d in range(depth):
                            out[row, column, channel] += padded[row + y, column + x, first + d] * kernel[y, x, d, channel]
                            multiplied += 1
    return out, multiplied


def depthwise(image: NDArray[Any], kernel: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Keras' kernel is (k, k, channels, 1): a grouped convolution with as many groups as channels."""
    return by_hand(image, kernel.transpose(0, 1, 3, 2), groups=kernel.shape[2])


def convolve(name: str, image: NDArray[Any], weights: list[NDArray[Any]]) -> tuple[NDArray[Any], int]:
    if name == "depthwise separable":
        middle, first = depthwise(image, weights[0])
        out, second = by_hand(middle, weights[1])
        return out, first + second
    if name == "depthwise":
        return depthwise(image, weights[0])
    return by_hand(image, weights[0], groups=SHAPE.groups if name == "grouped" else 1)


@pytest.mark.parametrize("name", KINDS)
def test_counts_are_those_of_a_convolution_by_hand(name: str) -> None:
    layer = KINDS[name].layer(SHAPE)
    image = np.random.default_rng(0).standard_normal((SHAPE.size, SHAPE.size, SHAPE.channels))
    seen = np.asarray(layer(image[None].astype(np.float32)))[0]
    out, multiplied = convolve(name, image, [np.asarray(weight) for weight in layer.weights])
    np.testing.assert_allclose(seen, out, atol=1e-5)
    assert multiplied == KINDS[name].multiply_adds(SHAPE)
    assert layer.count_params() == KINDS[name].weights(SHAPE)


def test_the_counts_of_the_shape_that_is_measured() -> None:
    """By hand: 56 x 56 pixels, 128 channels, kernel 3 x 3, four groups."""
    shape = Shape()
    assert {name: kind.weights(shape) for name, kind in KINDS.items()} == {
        "standard": 147_456,
        "grouped": 36_864,
        "1x1": 16_384,
        "depthwise": 1_152,
        "depthwise separable": 17_536,
    }
    assert KINDS["standard"].multiply_adds(shape) == 3136 * 147_456
    # The notes' ratio: 1 / channels out + 1 / kernel squared.
    assert KINDS["depthwise separable"].multiply_adds(shape) / KINDS["standard"].multiply_adds(shape) == pytest.approx(
        1 / 128 + 1 / 9
    )


def test_rounds_are_interleaved_and_timed_by_the_clock() -> None:
    readings: Counter[str] = Counter()

    def clock() -> int:
        readings["clock"] += 1
        return readings["clock"] * 500_000_000

    taken = measure(Shape(size=4, channels=4, groups=2, batch=1), rounds=3, seconds=1.0, clock=clock)
    # Half a second passes at every reading: a round is two batches long, half a second each.
    assert taken == {name: [0.5, 0.5, 0.5] for name in KINDS}
    assert readings["clock"] == 3 * len(KINDS) * 3


def test_table_and_files(tmp_path: Path) -> None:
    taken = {name: [0.001 * n, 0.004 * n, 0.003 * n] for n, name in enumerate(KINDS, 1)}
    found = table(SHAPE, taken)
    assert list(found["ms_a_batch"]) == pytest.approx([3, 6, 9, 12, 15])
    assert list(found["ms_a_batch_relative"]) == pytest.approx([1, 2, 3, 4, 5])
    assert found["multiply_adds_relative"][2] == pytest.approx(1 / 9)
    # Within rounds: 1, 3 and 1 times the standard one; the ratio of medians would be 1.5.
    uneven = taken | {"standard": [1.0, 2.0, 3.0], "1x1": [1.0, 6.0, 3.0]}
    assert table(SHAPE, uneven)["ms_a_batch_relative"][2] == 1
    csv, svg, png = save(SHAPE, taken, tmp_path)
    assert list(pd.read_csv(csv)["parameters"]) == list(found["parameters"])
    assert all(text in svg.read_text() for text in ("depthwise separable", "multiply-adds an image", "time a batch, ms"))
    assert png.read_bytes().startswith(b"\x89PNG")


def test_runs_only_when_named() -> None:
    def collected(*what: str) -> str:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *what]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "test_convolution[depthwise separable]" in collected("bench/test_convolutions.py")
    assert "test_convolution" not in collected("bench")
