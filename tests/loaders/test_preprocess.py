"""Scaling at the model's entrance: what Keras' own preprocess_input does, in a model that anyone can load."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest

from loaders.base import LoaderSpec, Scaling
from loaders.preprocess import augment_and_scale


def entrance(scaling: Scaling) -> keras.Model:
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = inputs
    for layer in augment_and_scale(LoaderSpec(scaling=scaling)):
        x = layer(x)
    return keras.Model(inputs, keras.ops.cast(x, "float32"))


@pytest.mark.parametrize("scaling", get_args(Scaling))
def test_a_saved_model_scales_as_keras_does_and_loads_in_safe_mode(scaling: Scaling, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    entrance(scaling).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    meant = images.astype(np.float32)
    if scaling != "none":
        meant = keras.applications.imagenet_utils.preprocess_input(meant.copy(), mode=scaling)
    np.testing.assert_allclose(np.asarray(loaded(images, training=False)), meant, atol=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_gives_a_model_the_same_images(policy: str) -> None:
    images = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    augmented = np.asarray(entrance("tf")(images, training=True))
    keras.mixed_precision.set_global_policy(policy)
    try:
        mixed = entrance("tf")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_allclose(np.asarray(mixed(images, training=True)), augmented, atol=1e-6)


@pytest.mark.parametrize("scaling", get_args(Scaling))
def test_two_entrances_have_the_same_configuration(scaling: Scaling) -> None:
    """So that cases share a compiled step (bench/visit.py)."""

    def bare(config: object) -> object:
        if isinstance(config, dict):
            return {key: bare(value) for key, value in config.items() if key != "name"}
        return [bare(value) for value in config] if isinstance(config, list | tuple) else str(config)

    one, other = ([bare(layer.get_config()) for layer in augment_and_scale(LoaderSpec(scaling=scaling))] for _ in range(2))
    assert one == other
