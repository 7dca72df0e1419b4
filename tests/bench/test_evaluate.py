"""Evaluation: sums over samples, and the training set seen both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.evaluate import evaluator
from bench.model import Transfer


def transfer(classes: int) -> Transfer:
    """A model that answers by the mean of an image's first channels, with dropout and batch normalisation behind them."""
    import keras

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(momentum=0.5)(inputs)
    x = keras.layers.Dropout(0.5, seed=0)(keras.layers.GlobalAveragePooling2D()(x))
    outputs = keras.layers.Dense(1 if classes == 2 else classes, kernel_initializer="identity")(x)
    network = keras.Model(inputs, outputs)
    return Transfer(network, network, classes, logits=True, precision="float32")


def batches() -> list[tuple[Any, Any]]:
    """Bright in the channel of the label; the last batch is short."""
    import tensorflow as tf

    labels = np.array([0, 1, 2, 0, 1])
    images = np.zeros((5, 8, 8, 3), np.float32)
    images[np.arange(5), :, :, labels] = 4.0
    return [(tf.constant(images[i : i + 3]), tf.constant(labels[i : i + 3], tf.int64)) for i in (0, 3)]


def test_loss_and_accuracy_are_means_over_samples() -> None:
    made = transfer(3)
    loss, accuracy = evaluator(made)(batches())
    # Batch normalisation has its initial statistics: 4 / sqrt(1 + 0.001) in the right channel, 0 in the others.
    right = 4 / np.sqrt(1.001)
    assert loss == pytest.approx(np.log(np.exp(right) + 2) - right, rel=1e-4)
    assert accuracy == 1.0
    images, labels = batches()[0]
    # A wrong label in the short batch of two counts a fifth, not half of a half.
    assert evaluator(made)([(images, labels), (batches()[1][0], np.array([0, 2]))])[1] == pytest.approx(4 / 5)


def test_in_training_mode_dropout_drops_and_statistics_return() -> None:
    made = transfer(3)
    before = [variable.numpy() for variable in made.model.non_trainable_variables]
    on, off = evaluator(made, training=True)(batches()), evaluator(made)(batches())
    assert on[0] > off[0]
    for variable, value in zip(made.model.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_two_classes() -> None:
    import tensorflow as tf

    made = transfer(2)
    images = np.zeros((4, 8, 8, 3), np.float32)
    images[:, :, :, 0] = np.array([-2.0, 2.0, 2.0, -2.0])[:, None, None]
    assert evaluator(made)([(tf.constant(images), tf.constant([0, 1, 0, 0], tf.int64))])[1] == 3 / 4
