"""The model that is trained: a base from ``keras.applications`` or the user's own ``.keras`` file, and a head for the classes.

Built as in transfer learning: what placement ``model`` leaves to the model stands at its entrance, then the base, global
average pooling, Dropout(0.2) and a Dense head with logits. A ``.keras`` file that ends in feature maps is a base; one that
ends in class scores is a whole model, whose own head is kept.
"""

from __future__ import annotations

import difflib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.case import FINE_TUNE_AT, StepSpec
from bench.weights import load_weights
from loaders.base import Scaling
from storage.errors import DataError, UsageError

if TYPE_CHECKING:
    import keras

LEARNING_RATE = 1e-4
DROPOUT = 0.2

# What each family's own preprocess_input does; "none": the model scales for itself. The longest prefix that fits counts.
SCALING_OF_FAMILY: dict[str, Scaling] = {
    "ConvNeXt": "none",
    "DenseNet": "torch",
    "EfficientNet": "none",
    "Inception": "tf",
    "MobileNet": "tf",
    "MobileNetV3": "none",
    "NASNet": "tf",
    "ResNet": "caffe",
    "VGG": "caffe",
    "Xception": "tf",
}


@dataclass(frozen=True)
class Transfer:
    """A model and the part of it that the regimes freeze.

    ``model`` takes images (batch, height, width, 3) and gives class scores: (batch, classes), or (batch, 1) for two
    classes; ``base`` is the part before the head; ``logits`` tells whether scores come before the softmax (or sigmoid);
    ``precision`` is the dtype policy that took effect; ``base_trains`` tells whether the base runs in training mode while
    the model trains, with its dropout and batch normalisation; if not, ``ends`` are the parts before and behind it.
    """

    model: keras.Model
    base: keras.Model
    classes: int
    logits: bool
    precision: str
    own_head: bool = False
    base_trains: bool = False
    ends: tuple[keras.Model, keras.Model] | None = None

    def forward(self, images: Any, *, training: bool) -> Any:
        """Class scores; the base runs in training mode only where ``base_trains``.

        Not by ``model(images, training=True)``: Keras 3 hands that ``training`` on to a base that was called with
        ``training=False`` (keras-team/keras#20285), and what is thawed for fine-tuning would lose its batch statistics.
        """
        if not training or self.base_trains or self.ends is None:
            return self.model(images, training=training)
        entrance, head = self.ends
        return head(self.base(entrance(images, training=True), training=False), training=True)

    @property
    def binary(self) -> bool:
        """One score for two classes."""
        return int(self.model.output_shape[-1]) == 1

    def loss(self) -> keras.losses.Loss:
        """The cross-entropy that fits the head."""
        import keras

        kind = keras.losses.BinaryCrossentropy if self.binary else keras.losses.SparseCategoricalCrossentropy
        return kind(from_logits=self.logits)

    def threshold(self) -> float:
        """The score of a binary head from which the answer is class 1."""
        return 0.0 if self.logits else 0.5


def is_own(model: str) -> bool:
    """Whether ``model`` names a file of the user's rather than one of ``keras.applications``."""
    return model.endswith(".keras")


def scaling_of(model: str) -> Scaling:
    """What pixels a model wants, as ``LoaderSpec.scaling`` names it. Imports no TensorFlow.

    A ``.keras`` file that has a Rescaling or Normalization layer scales for itself (``none``); any other is taken to
    want [-1, 1], as MobileNetV2 does.
    """
    if is_own(model):
        return "none" if {"Rescaling", "Normalization"} & set(_class_names(_config(Path(model)))) else "tf"
    families = [family for family in SCALING_OF_FAMILY if model.startswith(family)]
    if model.startswith("ResNet") and model.endswith("V2"):
        return "tf"
    return SCALING_OF_FAMILY[max(families, key=len)] if families else "tf"


def image_size_of(model: str) -> tuple[int, int] | None:
    """(height, width) that a ``.keras`` file wants; None if it takes any, as those of ``keras.applications`` do here."""
    if not is_own(model):
        return None
    config = _config(Path(model))
    shape = config.get("build_config", {}).get("input_shape")
    if not _is_shape(shape):
        layers = config.get("config", {}).get("layers") or [{}]
        shape = layers[0].get("config", {}).get("batch_shape")
    if not _is_shape(shape) or None in shape[1:3]:
        return None
    return int(shape[1]), int(shape[2])


def application(name: str) -> Callable[..., keras.Model]:
    """The constructor in ``keras.applications``; UsageError, with the nearest names, if there is none."""
    import keras

    found = getattr(keras.applications, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    names = [n for n in dir(keras.applications) if callable(getattr(keras.applications, n))]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or ["MobileNetV2"]
    raise UsageError(
        f"unknown model {name!r}: expected a .keras file or a keras.applications name, such as {', '.join(near)}"
    )


def build(
    step: StepSpec, *, layers: Sequence[keras.Layer], image_size: tuple[int, int], classes: int, dtype: str
) -> Transfer:
    """The whole model, not yet compiled or frozen.

    ``layers`` go to its entrance; ``dtype`` is that of the images it will get. UsageError or DataError, in one line, when
    the model, its weights and the dataset do not fit together.
    """
    import keras

    if classes < 2:
        raise UsageError(f"a model needs at least two classes to tell apart; the dataset has {classes}")
    with _policy(step) as precision:
        base = _base(step, image_size)
        images = keras.Input((*image_size, 3), dtype=dtype)
        if len(base.output_shape) == 2:
            return _whole(images, _enter(images, layers), base, classes=classes, precision=precision, name=step.model)
        head = [
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(DROPOUT),
            keras.layers.Dense(1 if classes == 2 else classes, dtype="float32", name="logits"),
        ]
        # What the notes write; see Transfer.forward for what it takes to have it.
        features = base(_enter(images, layers), training=None if step.step == "full" else False)
        alone, pooled = keras.Input((*image_size, 3), dtype=dtype), keras.Input(features.shape[1:], dtype=features.dtype)
        return Transfer(
            keras.Model(images, _through(features, head)),
            base,
            classes,
            logits=True,
            precision=precision,
            base_trains=step.step == "full",
            ends=(keras.Model(alone, _enter(alone, layers)), keras.Model(pooled, _through(pooled, head))),
        )


def _enter(images: Any, layers: Sequence[keras.Layer]) -> Any:
    """What placement ``model`` leaves to the model; at least a cast to float32."""
    import keras

    return _through(images, layers) if layers else keras.ops.cast(images, "float32")


def _through(x: Any, layers: Sequence[keras.Layer]) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def prepare(transfer: Transfer, step: StepSpec) -> None:
    """Freeze what the regime freezes, and compile. Called again to go from feature extraction to fine-tuning."""
    import keras

    base = transfer.base
    # Setting True where True already stands does nothing, not even to layers that were frozen one by one.
    base.trainable = False
    base.trainable = True
    if step.step == "feature_extraction":
        for layer in _before_head(transfer):
            layer.trainable = False
    elif step.step == "fine_tune":
        for layer in base.layers[: fine_tune_at(base, step)]:
            layer.trainable = False
        if transfer.own_head:
            # A whole model runs in training mode for its dropout; a frozen batch normalisation stays put all the same.
            for layer in base._flatten_layers():
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
    rate = LEARNING_RATE / 10 if step.step == "fine_tune" else LEARNING_RATE
    optimizer = keras.optimizers.RMSprop(rate)
    if transfer.precision == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    transfer.model.compile(
        optimizer=optimizer,
        loss=transfer.loss(),
        metrics=[
            keras.metrics.BinaryAccuracy("accuracy", threshold=transfer.threshold()) if transfer.binary else "accuracy"
        ],
        jit_compile=step.jit_compile,
        steps_per_execution=step.steps_per_execution,
    )


def fine_tune_at(base: keras.Model, step: StepSpec) -> int:
    """The first layer of the base that ``fine_tune`` trains: the one that ``step`` names, or the usual one.

    Raises UsageError, with a layer to start from, if the base has no layer of that number.
    """
    layers = len(base.layers)
    # As large a share of it frozen as layer 100 leaves of MobileNetV2's 154.
    like = layers * FINE_TUNE_AT // 154
    if step.fine_tune_at is None:
        return FINE_TUNE_AT if layers > FINE_TUNE_AT else like
    if not 0 <= step.fine_tune_at < layers:
        raise UsageError(
            f"fine_tune_at must be below the {layers} layers of {step.model}, got {step.fine_tune_at}; "
            f"pass --fine-tune-at {like} to leave as large a share of it frozen as layer 100 does of MobileNetV2"
        )
    return step.fine_tune_at


def _base(step: StepSpec, image_size: tuple[int, int]) -> keras.Model:
    if is_own(step.model):
        base = load(Path(step.model))
        height, width = base.input_shape[1:3]
        if (height or image_size[0], width or image_size[1]) != image_size:
            raise UsageError(
                f"{step.model} takes images of {height}x{width}, got image_size {image_size[0]}x{image_size[1]}; "
                f"pass --image-size {height}x{width}"
            )
    else:
        make = application(step.model)
        try:
            base = make(
                input_shape=(*image_size, 3), include_top=False, weights="imagenet" if step.weights == "imagenet" else None
            )
        except Exception as error:
            fetching = step.weights == "imagenet" and (not isinstance(error, ValueError) or "hash" in str(error))
            if fetching:
                raise DataError(
                    f"weights imagenet of {step.model} could not be fetched ({_line(error)}); "
                    "fetch the file elsewhere and pass --weights FILE, or use --weights none"
                ) from error
            if not isinstance(error, ValueError):
                raise
            raise UsageError(
                f"{step.model} cannot be made for images of {image_size[0]}x{image_size[1]}: {_line(error)}"
            ) from error
    if step.weights not in ("none", "imagenet"):
        load_weights(base, Path(step.weights))
    elif step.weights == "imagenet" and is_own(step.model):
        raise UsageError(
            f"weights imagenet go with a keras.applications model; {step.model} brings its own: use --weights none"
        )
    return base


def load(path: Path) -> keras.Model:
    """A user's ``.keras`` file, with one image tensor in and one tensor out. Code hidden in it is not run (safe mode)."""
    import keras

    if not path.is_file():
        raise DataError(f"no such model file: {path}")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise DataError(f"{path} cannot be read as a Keras model: {_line(error)}") from error
    shape, out = model.input_shape, model.output_shape
    if not _is_shape(shape) or shape[3] not in (3, None) or not isinstance(out, tuple) or len(out) not in (2, 4):
        raise DataError(
            f"{path} takes {shape} and gives {out}; expected one input (batch, height, width, 3) and one output, "
            "(batch, classes) or feature maps"
        )
    return model


def _whole(inputs: Any, x: Any, own: keras.Model, *, classes: int, precision: str, name: str) -> Transfer:
    """A user's whole model: its head is kept, and must fit the classes."""
    import keras

    units = int(own.output_shape[-1])
    if units != classes and not (classes == 2 and units == 1):
        raise DataError(
            f"{name} ends in {units} outputs, but the dataset has {classes} classes; cut its head off, or save one that fits"
        )
    activation = getattr(getattr(own.layers[-1], "activation", None), "__name__", "linear")
    squashed = activation in ("softmax", "sigmoid") or isinstance(own.layers[-1], keras.layers.Softmax)
    return Transfer(
        keras.Model(inputs, own(x)), own, classes, logits=not squashed, precision=precision, own_head=True, base_trains=True
    )


def _before_head(transfer: Transfer) -> list[keras.Layer]:
    """Every layer of the base; of a whole model, all but its last layer that has weights."""
    if not transfer.own_head:
        return list(transfer.base.layers)
    flat = [layer for layer in transfer.base._flatten_layers(include_self=False) if not hasattr(layer, "layers")]
    heads = [layer for layer in flat if layer.weights]
    return [layer for layer in flat if layer is not heads[-1]] if heads else flat


@contextmanager
def _policy(step: StepSpec) -> Iterator[str]:
    """Keras takes the dtype policy of an application only from the global one, so it is set for the time of building."""
    import keras
    import tensorflow as tf

    if not step.mixed_precision:
        yield "float32"
        return
    if is_own(step.model):
        raise UsageError(f"mixed_precision: {step.model} brings its own dtype policy; save it with the one you want")
    # Processors compute in bfloat16; float16 is for GPUs, and needs its loss scaled.
    policy = "mixed_float16" if tf.config.list_physical_devices("GPU") else "mixed_bfloat16"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield policy
    finally:
        keras.config.set_dtype_policy(before)


def _config(path: Path) -> dict[str, Any]:
    """``config.json`` of a ``.keras`` file."""
    if not path.is_file():
        raise DataError(f"no such model file: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a .keras file: {_line(error)}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is not a .keras file: its config.json is not an object")
    return config


def _class_names(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("class_name"), str):
            yield node["class_name"]
        for child in node.values():
            yield from _class_names(child)
    elif isinstance(node, list):
        for child in node:
            yield from _class_names(child)


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list | tuple) and len(shape) == 4


def _line(error: Exception) -> str:
    """The first line of a library's message, which may be a page long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
