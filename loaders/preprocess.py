"""Augmentation and scaling as Keras layers: for the model's entrance, or inside ``Dataset.map``."""

from __future__ import annotations

import keras
import numpy as np

from loaders.base import LoaderSpec

DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)


def augment_and_scale(spec: LoaderSpec) -> list[keras.Layer]:
    """RandomFlip and RandomRotation, if asked for, then scaling: uint8 or float batches in, float32 out."""
    layers: list[keras.Layer] = []
    if spec.augment:
        layers += [
            keras.layers.RandomFlip("horizontal", seed=spec.seed),
            keras.layers.RandomRotation(0.1, seed=spec.seed + 1),
        ]
    if spec.scaling == "tf":
        layers.append(keras.layers.Rescaling(1 / 127.5, offset=-1.0))
    elif spec.scaling == "torch":
        layers.append(keras.layers.Rescaling(1 / (255 * DEVIATION), offset=-MEAN / DEVIATION))
    elif spec.scaling == "caffe":
        layers.append(keras.layers.Lambda(lambda images: keras.ops.flip(images, axis=-1) - MEAN_BGR))
    return layers
