"""Augmentation and scaling as Keras layers: for the model's entrance, or inside ``Dataset.map``."""

from __future__ import annotations

import keras
import numpy as np

from loaders.base import LoaderSpec

DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)


def augment_and_scale(spec: LoaderSpec) -> list[keras.Layer]:
    """RandomFlip and RandomRotation, if asked for, then scaling: uint8 or float batches in, float32 out.

    Under mixed precision too: in bfloat16, levels of 128 and more would be whole numbers after a rotation.
    """
    layers: list[keras.Layer] = []
    if spec.augment:
        layers += [
            keras.layers.RandomFlip("horizontal", seed=spec.seed, dtype="float32"),
            keras.layers.RandomRotation(0.1, seed=spec.seed + 1, dtype="float32"),
        ]
    if spec.scaling == "tf":
        layers.append(keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32"))
    elif spec.scaling == "torch":
        layers.append(keras.layers.Rescaling(1 / (255 * DEVIATION), offset=-MEAN / DEVIATION, dtype="float32"))
    elif spec.scaling == "caffe":
        layers.append(_caffe())
    return layers


def _caffe() -> keras.Model:
    """RGB to BGR, less the mean. Made of Keras' own operations: a model with a Lambda in it would not load in safe mode."""
    rgb = keras.Input((None, None, 3), name="rgb")
    bgr = keras.ops.flip(rgb, axis=-1)
    bgr._keras_history.operation.name = "rgb_to_bgr"  # Else it counts up, and no two configurations are the same.
    centred = keras.layers.Rescaling(1.0, offset=-MEAN_BGR, name="centred", dtype="float32")(bgr)
    return keras.Model(rgb, centred, name="caffe")
