"""Training loss against validation loss, in words: every sentence's numbers add up."""

from __future__ import annotations

import pytest

from bench.both_ways import BothWays


def found(val: float | None, *, during: float = 0.9, on: float = 0.8, off: float = 0.5) -> BothWays:
    held_out = None if val is None else (val, 0.5)
    acting = ("dropout", "batch normalisation")
    return BothWays(during=(during, 0.6), on=(on, 0.7), off=(off, 0.8), validation=held_out, acting=acting)


def test_the_parts_of_a_training_loss() -> None:
    lines = found(None).lines()
    assert lines == [
        "training images with dropout and batch normalisation on, as in training: loss 0.8000, accuracy 70.0%",
        "the same images and weights with dropout and batch normalisation off, as in validation: loss 0.5000, accuracy 80.0%",
        "training loss 0.9000 = 0.5000, the loss as in validation, +0.3000 for dropout and batch normalisation, "
        "+0.1000 for weights still moving and what the pipeline augments",
    ]


@pytest.mark.parametrize(
    ("val", "says"),
    [
        (0.6, "validation loss (0.6000) is below training loss (0.9000) only because the two are not measured the same way"),
        (0.4, "measured the same way, training images have 0.5000, so validation images are the easier ones"),
        (
            1.2,
            "validation loss (1.2000) is not below training loss (0.9000); measured the same way, training images have 0.5",
        ),
    ],
)
def test_validation_loss_below_training_loss(val: float, says: str) -> None:
    assert says in found(val).lines()[-1]
