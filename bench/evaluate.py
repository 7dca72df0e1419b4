"""Loss and accuracy of a model over a feed, without training on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bench.model import Transfer
from bench.step import count_correct

if TYPE_CHECKING:
    import tensorflow as tf

Evaluate = Callable[[Iterable[tuple[Any, Any]]], tuple[float, float]]


def evaluator(transfer: Transfer, *, training: bool = False) -> Evaluate:
    """A function from batches to (mean loss, accuracy) over their samples.

    ``training=True`` runs the model as it is while it trains: dropout drops, batch normalisation normalises by the batch
    (in a base that trains), random layers augment. Its batch statistics are then put back to what they were.
    """
    import tensorflow as tf

    network, loss_of = transfer.model, transfer.loss()
    specs = [tf.TensorSpec((None, *network.input_shape[1:]), network.inputs[0].dtype), tf.TensorSpec((None,), tf.int64)]

    def batch(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scores = transfer.forward(images, training=training)
        return loss_of(labels, scores), count_correct(transfer, labels, scores)

    function = tf.function(batch, input_signature=specs, autograph=False)
    function.get_concrete_function()  # Traced now, and not in the first evaluation.

    def evaluate(batches: Iterable[tuple[Any, Any]]) -> tuple[float, float]:
        before = [variable.numpy() for variable in network.non_trainable_variables] if training else []
        loss = correct = samples = 0.0
        for images, labels in batches:
            one_loss, one_correct = function(images, labels)
            loss += float(one_loss) * len(labels)
            correct += int(one_correct)
            samples += len(labels)
        for variable, value in zip(network.non_trainable_variables, before, strict=False):
            variable.assign(value)
        return loss / samples, correct / samples

    return evaluate
