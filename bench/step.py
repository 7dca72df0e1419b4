"""One training step, as ``model.fit`` does it, callable batch by batch and finished when the call returns.

It takes the batches of any feed with the same image size, dtype and layers at the entrance, whatever their length: building
and tracing MobileNetV2 takes seconds, so that cases share a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bench import model
from bench.case import StepSpec
from bench.emulated import EmulatedStep, NoStep
from bench.model import Transfer

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


class Step(Protocol):
    """What is done with a batch. ``jit_compile`` is what took effect, whatever was asked for."""

    @property
    def jit_compile(self) -> bool: ...
    def __call__(self, images: Any, labels: Any) -> None:
        """One step on images (batch, height, width, 3) and labels int64 (batch,); returns when it is done."""

    def close(self) -> None: ...


class TrainingStep:
    """Trains a compiled ``Transfer``.

    With ``steps_per_execution`` = k, k - 1 calls only keep their batch and every k-th does k steps in one go, as in Keras:
    single waits and steps then mean little, and only their sums over whole groups do.

    Attributes
    ----------
    jit_compile
        Whether XLA compiles the step: Keras turns it off, with a warning, for layers that cannot be compiled.
    precision
        The dtype policy that took effect.
    fine_tune_at
        The first layer of the base that is trained, if the regime is ``fine_tune``.
    """

    def __init__(self, transfer: Transfer, step: StepSpec) -> None:
        self.transfer = transfer
        self.jit_compile = bool(transfer.model.jit_compile)
        self.precision = transfer.precision
        self.fine_tune_at = model.fine_tune_at(transfer.base, step) if step.step == "fine_tune" else None
        self._group = step.steps_per_execution
        self._kept: list[tuple[Any, Any]] = []
        self._one, self._many = _functions(transfer, self._group, self.jit_compile)
        # Traced now, which takes seconds: it is no part of the first batch.
        self._one.get_concrete_function()
        if self._group > 1:
            self._many.get_concrete_function()

    def __call__(self, images: Any, labels: Any) -> None:
        """Train on a batch, or keep it until its group is full."""
        self.train(images, labels)

    def train(self, images: Any, labels: Any) -> list[tuple[float, int]]:
        """As a call, but tells (mean loss, correct answers) of each batch that was trained on now."""
        if self._group == 1:
            return [_values(*self._one(images, labels))]
        self._kept.append((images, labels))
        if len(self._kept) < self._group:
            return []
        kept, self._kept = self._kept, []
        losses, correct = self._many([k[0] for k in kept], [k[1] for k in kept])
        return [(float(a), int(b)) for a, b in zip(losses.numpy(), correct.numpy(), strict=True)]

    def flush(self) -> list[tuple[float, int]]:
        """Train on what is kept of a group that will not fill up: the end of an epoch."""
        kept, self._kept = self._kept, []
        return [_values(*self._one(images, labels)) for images, labels in kept]

    def close(self) -> None:
        """Forget kept batches."""
        self._kept = []


def make_step(
    step: StepSpec,
    *,
    layers: Sequence[keras.Layer],
    image_size: tuple[int, int],
    classes: int,
    dtype: str | None = None,
) -> Step:
    """The step that ``step`` names.

    Parameters
    ----------
    layers
        ``Feed.layers``: what placement ``model`` leaves to the model.
    image_size
        (height, width) of the images.
    dtype
        Of the images; by default uint8 if there are ``layers``, else float32.
    """
    if step.step == "none":
        return NoStep()
    if step.rate is not None:
        return EmulatedStep(step.rate)
    transfer = model.build(
        step, layers=layers, image_size=image_size, classes=classes, dtype=dtype or ("uint8" if layers else "float32")
    )
    model.prepare(transfer, step)
    return TrainingStep(transfer, step)


def _values(loss: tf.Tensor, correct: tf.Tensor) -> tuple[float, int]:
    """Python numbers: fetching them is what waits for the device."""
    return float(loss.numpy()), int(correct.numpy())


def _functions(transfer: Transfer, group: int, jit_compile: bool) -> tuple[Any, Any]:
    """TensorFlow functions of (images, labels) and of lists of them, giving (mean loss, correct answers).

    The batch size is left open in the signature: a last short batch must not trace the step anew amid a measurement.
    """
    import tensorflow as tf

    network = transfer.model
    loss_of, optimizer = transfer.loss(), network.optimizer
    variables = network.trainable_variables
    optimizer.build(variables)
    images_spec = tf.TensorSpec((None, *network.input_shape[1:]), network.inputs[0].dtype)
    labels_spec = tf.TensorSpec((None,), tf.int64)

    def plain_step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([one.value for one in variables])
            scores = transfer.forward(images, training=True)
            loss = loss_of(labels, scores)
            scaled = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(scaled, variables), variables)
        # Counted after the update, so that whoever fetches the count has waited for the update too.
        with tf.control_dependencies([optimizer.iterations.value]):
            return loss, count_correct(transfer, labels, scores)

    step = tf.function(plain_step, jit_compile=jit_compile, autograph=False, reduce_retracing=True)
    one = tf.function(step, input_signature=[images_spec, labels_spec], autograph=False)

    def many(images: list[tf.Tensor], labels: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        # Arrays of tensors rather than one stacked tensor: batches are not copied, and may differ in length.
        all_images = tf.TensorArray(images_spec.dtype, group, infer_shape=False, element_shape=images_spec.shape)
        all_labels = tf.TensorArray(tf.int64, group, infer_shape=False, element_shape=labels_spec.shape)
        for number, (some, their) in enumerate(zip(images, labels, strict=True)):
            all_images, all_labels = all_images.write(number, some), all_labels.write(number, their)

        def body(number: tf.Tensor, losses: tf.TensorArray, correct: tf.TensorArray) -> tuple[Any, ...]:
            loss, count = step(all_images.read(number), all_labels.read(number))
            return number + 1, losses.write(number, loss), correct.write(number, count)

        start = (tf.constant(0), tf.TensorArray(tf.float32, group), tf.TensorArray(tf.int64, group))
        _, losses, correct = tf.while_loop(lambda number, *_: number < group, body, start, parallel_iterations=1)
        return losses.stack(), correct.stack()

    signature = [[images_spec] * group, [labels_spec] * group]
    return one, tf.function(many, input_signature=signature, autograph=False)


def count_correct(transfer: Transfer, labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """How many scores name the right class: int64 scalar."""
    import tensorflow as tf

    if transfer.binary:
        answers = tf.cast(tf.squeeze(scores, -1) > transfer.threshold(), tf.int64)
    else:
        answers = tf.argmax(scores, axis=-1, output_type=tf.int64)
    return tf.reduce_sum(tf.cast(answers == labels, tf.int64))
