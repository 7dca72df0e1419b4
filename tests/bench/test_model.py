"""Models: the published parameter counts, the user's own files, scaling, weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bench import model
from bench.case import StepSpec
from bench.weights import load_weights
from storage.errors import DataError, UsageError


def test_parameter_counts_are_the_published_ones() -> None:
    assert model.application("MobileNet")(weights=None).count_params() == 4_253_864
    base = model.application("MobileNetV2")(input_shape=(160, 160, 3), include_top=False, weights=None)
    assert base.count_params() == 2_257_984


def test_the_default_is_mobilenet_v2_with_a_head_of_logits() -> None:
    built = model.build(StepSpec(), layers=(), image_size=(160, 160), classes=5, dtype="float32")
    assert built.base.count_params() == 2_257_984
    assert [type(layer).__name__ for layer in built.model.layers[-3:]] == ["GlobalAveragePooling2D", "Dropout", "Dense"]
    assert built.model.layers[-2].rate == 0.2
    model.prepare(built, StepSpec())
    assert sum(int(np.prod(weight.shape)) for weight in built.model.trainable_weights) == 1280 * 5 + 5
    assert float(built.model.optimizer.learning_rate) == pytest.approx(1e-4)


def test_unknown_model_names_near_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'MobilNetV2'.*MobileNetV2"):
        model.application("MobilNetV2")


def test_too_small_an_image_is_one_line() -> None:
    with pytest.raises(UsageError, match="InceptionV3 cannot be made for images of 32x32"):
        model.build(StepSpec(model="InceptionV3"), layers=(), image_size=(32, 32), classes=3, dtype="float32")


def test_scaling_is_what_each_models_own_preprocess_input_does() -> None:
    """Every model of keras.applications: the table against a white and a black pixel sent through Keras itself."""
    import sys

    import keras

    names = [name for name in dir(keras.applications) if name[0].isupper()]
    assert len(names) > 30
    for name in names:
        module = sys.modules[model.application(name).__module__]
        white = module.preprocess_input(np.full((1, 1, 1, 3), 255.0), data_format="channels_last")[0, 0, 0]
        seen = {1.0: "tf", 255.0: "none", 255 - 103.939: "caffe", (1 - 0.485) / 0.229: "torch"}
        [meant] = [kind for value, kind in seen.items() if abs(white[0] - value) < 1e-3]
        assert model.scaling_of(name) == meant, name


def test_size_and_scaling_are_read_from_an_own_file(tmp_path: Path) -> None:
    import keras

    plain, scaled = tmp_path / "plain.keras", tmp_path / "scaled.keras"
    keras.Sequential([keras.Input((48, 64, 3)), keras.layers.Conv2D(2, 3)]).save(plain)
    inputs = keras.Input((None, None, 3))
    keras.Model(inputs, keras.layers.Conv2D(2, 3)(keras.layers.Rescaling(1 / 255)(inputs))).save(scaled)
    assert model.image_size_of(str(plain)) == (48, 64)
    assert model.image_size_of(str(scaled)) is None
    assert model.image_size_of("MobileNetV2") is None
    assert model.scaling_of(str(plain)) == "tf"
    assert model.scaling_of(str(scaled)) == "none"


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    import keras

    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"no zip")
    for read in (model.image_size_of, model.scaling_of, lambda name: model.load(Path(name))):
        with pytest.raises(DataError, match=r"broken\.keras"):
            read(str(broken))
        with pytest.raises(DataError, match="no such model file: /nowhere"):
            read("/nowhere.keras")
    flat = tmp_path / "flat.keras"
    keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)]).save(flat)
    with pytest.raises(DataError, match=re.escape("expected one input (batch, height, width, 3)")):
        model.load(flat)


def test_code_hidden_in_a_model_file_is_not_run(tmp_path: Path) -> None:
    import keras

    path = tmp_path / "lambda.keras"
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Conv2D(2, 3)]).save(path)
    with pytest.raises(DataError, match=r"lambda\.keras cannot be read as a Keras model"):
        model.load(path)


def test_weights_of_the_base_come_from_a_file(tmp_path: Path) -> None:
    import keras

    def base(filters: int) -> keras.Model:
        layers = [keras.layers.Conv2D(filters, 3, name="stem"), keras.layers.Conv2D(4, 3, name="last")]
        return keras.Sequential([keras.Input((16, 16, 3)), *layers])

    path = tmp_path / "base.weights.h5"
    source = base(8)
    source.save_weights(path)
    target = base(8)
    load_weights(target, path)
    for ours, theirs in zip(target.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("old", [False, True], ids=["weights.h5", "h5"])
def test_a_mismatch_names_the_layer(tmp_path: Path, old: bool) -> None:
    import keras

    def base(filters: int) -> keras.Model:
        first, last = keras.layers.Conv2D(8, 3, name="stem"), keras.layers.Conv2D(filters, 3, name="misfit")
        return keras.Sequential([keras.Input((16, 16, 3)), first, last])

    path = tmp_path / ("base.h5" if old else "base.weights.h5")
    if old:
        base(4).save(path)
    else:
        base(4).save_weights(path)
    with pytest.raises(DataError, match=r"base\.(weights\.)?h5 does not fit .*: layer misfit: .*\(3, 3, 8, 5\)") as raised:
        load_weights(base(5), path)
    assert "\n" not in str(raised.value)
    if not old:
        assert str(raised.value).endswith(": layer misfit: expected (3, 3, 8, 5), the file has (3, 3, 8, 4)")


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    import keras

    stem, more = keras.layers.Conv2D(8, 3, name="stem"), keras.layers.Conv2D(8, 3, name="more")
    path = tmp_path / "short.h5"
    keras.Sequential([keras.Input((16, 16, 3)), stem]).save(path)
    longer = keras.Sequential([keras.Input((16, 16, 3)), stem, more])
    with pytest.raises(DataError, match=r"layer more \(in the file: none\): Model expected 2 layers, found 1 saved layers"):
        load_weights(longer, path)
    longer.save_weights(tmp_path / "long.weights.h5")
    other = keras.Sequential([keras.Input((16, 16, 3)), stem, more, keras.layers.BatchNormalization(name="norm")])
    with pytest.raises(DataError, match=r"layer norm: .*expected 4 variables, but received 0"):
        load_weights(other, tmp_path / "long.weights.h5")


def test_weights_that_are_none(tmp_path: Path) -> None:
    import keras

    base = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(8, 3, name="stem")])
    with pytest.raises(UsageError, match=r"weights must be none, imagenet, or a \.weights\.h5 or \.h5 file; got 'imagnet'"):
        load_weights(base, Path("imagnet"))
    with pytest.raises(DataError, match="no such weights file: /nowhere"):
        load_weights(base, Path("/nowhere.weights.h5"))
    text = tmp_path / "text.weights.h5"
    text.write_text("text")
    with pytest.raises(DataError, match=r"text\.weights\.h5 does not fit"):
        load_weights(base, text)
