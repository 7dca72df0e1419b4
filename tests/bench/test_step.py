"""The training step: what it trains, what it leaves alone, and that it trains as Keras' own fit does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import model
from bench.case import StepSpec
from bench.emulated import EmulatedStep, NoStep
from bench.step import TrainingStep, make_step
from storage.errors import DataError, UsageError

SIZE = (32, 32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base: convolution, batch normalisation, feature maps."""
    import keras

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model") / "base.keras"
    layers = [
        keras.Input((*SIZE, 3)),
        keras.layers.Conv2D(8, 3, strides=2, name="first"),
        keras.layers.BatchNormalization(momentum=0.5),
        keras.layers.ReLU(),
        keras.layers.Conv2D(8, 3, name="second"),
    ]
    keras.Sequential(layers).save(path)
    return path


def batch(n: int = 8, dtype: str = "float32", classes: int = 3) -> tuple[Any, Any]:
    """Images and labels as a feed gives them."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    images = rng.integers(0, 256, (n, *SIZE, 3))
    return tf.constant(images / 127.5 - 1 if dtype == "float32" else images, dtype), tf.constant(labels, tf.int64)


def training_step(spec: StepSpec, layers: Any = (), classes: int = 3) -> TrainingStep:
    step = make_step(spec, layers=layers, image_size=SIZE, classes=classes)
    assert isinstance(step, TrainingStep)
    return step


def values(layers: Any) -> list[Any]:
    return [weight.numpy() for layer in layers for weight in layer.weights]


def changed(before: list[Any], after: list[Any]) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_feature_extraction_moves_the_head_and_no_batch_statistics(base: Path) -> None:
    step = training_step(StepSpec(model=str(base)))
    head = step.transfer.model.get_layer("logits")
    frozen, trained = values([step.transfer.base]), values([head])
    for _ in range(3):
        step(*batch())
    assert not changed(frozen, values([step.transfer.base]))
    assert changed(trained, values([head]))


def test_fine_tune_starts_at_its_layer_with_a_tenth_of_the_learning_rate(base: Path) -> None:
    step = training_step(StepSpec(model=str(base), step="fine_tune", fine_tune_at=3))
    below, above = step.transfer.base.layers[:3], step.transfer.base.layers[3:]
    before_below, before_above = values(below), values(above)
    step(*batch())
    assert not changed(before_below, values(below))
    assert changed(before_above, values(above))
    assert float(step.transfer.model.optimizer.learning_rate) == pytest.approx(1e-5)


@pytest.mark.parametrize("regime", ["feature_extraction", "fine_tune"])
def test_batch_statistics_stay_put_also_of_what_is_thawed(base: Path, regime: str) -> None:
    """``training=False`` alone does not do it: Keras 3's own fit moves them once the base is thawed (keras#20285)."""
    step = training_step(StepSpec(model=str(base), step=regime, fine_tune_at=0))
    [normalisation] = [layer for layer in step.transfer.base.layers if "normalization" in layer.name]
    statistics = [normalisation.moving_mean.numpy(), normalisation.moving_variance.numpy()]
    learnt = [normalisation.gamma.numpy(), normalisation.beta.numpy()]
    for _ in range(3):
        step(*batch())
    assert not changed(statistics, [normalisation.moving_mean.numpy(), normalisation.moving_variance.numpy()])
    assert changed(learnt, [normalisation.gamma.numpy(), normalisation.beta.numpy()]) == (regime == "fine_tune")


def test_a_base_that_does_not_train_has_no_dropout_of_its_own(tmp_path: Path) -> None:
    import keras

    path = tmp_path / "dropping.keras"
    keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Conv2D(4, 3), keras.layers.Dropout(0.5)]).save(path)
    images, _ = batch()
    for regime, drops in (("fine_tune", False), ("full", True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "DROPOUT", 0.0)
            step = training_step(StepSpec(model=str(path), step=regime, fine_tune_at=0))
        scores = [step.transfer.forward(images, training=True).numpy() for _ in range(2)]
        assert changed(scores[:1], scores[1:]) == drops


def test_both_ways_through_the_model_are_the_same(base: Path) -> None:
    """The parts that training goes through and the whole that is saved, with nothing acting that acts only in training."""
    import keras

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "DROPOUT", 0.0)
        step = training_step(StepSpec(model=str(base)), layers=[keras.layers.Rescaling(1 / 127.5, -1.0)])
    images, _ = batch(dtype="uint8")
    parts, whole = (step.transfer.forward(images, training=training).numpy() for training in (True, False))
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert np.ptp(whole) > 0


@pytest.mark.parametrize(("name", "layers", "start"), [("MobileNetV2", 154, 100), ("MobileNet", 86, 55)])
def test_the_notes_models_are_fine_tuned_from_a_layer_that_they_have(name: str, layers: int, start: int) -> None:
    base = model.application(name)(include_top=False, weights=None, input_shape=(32, 32, 3))
    assert (len(base.layers), model.fine_tune_at(base, StepSpec(model=name))) == (layers, start)


def test_a_step_tells_from_where_it_fine_tunes(base: Path) -> None:
    assert training_step(StepSpec(model=str(base), step="fine_tune")).fine_tune_at == 2
    assert training_step(StepSpec(model=str(base))).fine_tune_at is None


def test_fine_tuning_after_feature_extraction_trains_what_fine_tuning_trains(base: Path) -> None:
    first, then = StepSpec(model=str(base)), StepSpec(model=str(base), step="fine_tune", fine_tune_at=3)
    made = [model.build(first, layers=(), image_size=SIZE, classes=3, dtype="float32") for _ in range(2)]
    model.prepare(made[0], first)
    for transfer in made:
        model.prepare(transfer, then)
    trained = [[variable.path for variable in transfer.model.trainable_variables] for transfer in made]
    assert trained[0] == trained[1]
    assert trained[0] == ["second/kernel", "second/bias", "logits/kernel", "logits/bias"]


def test_full_moves_batch_statistics_too(base: Path) -> None:
    step = training_step(StepSpec(model=str(base), step="full"))
    normalisation = step.transfer.base.layers[1]
    before = normalisation.moving_mean.numpy()
    step(*batch())
    assert changed([before], [normalisation.moving_mean.numpy()])


def test_trains_as_fit_does(base: Path) -> None:
    """Same start, same batches, no dropout: our step and ``model.fit`` end with the same weights."""
    import keras
    import tensorflow as tf

    spec = StepSpec(model=str(base), step="full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "DROPOUT", 0.0)
        transfer = model.build(spec, layers=(), image_size=SIZE, classes=3, dtype="float32")
    model.prepare(transfer, spec)
    twin = keras.models.clone_model(transfer.model)
    twin.set_weights(transfer.model.get_weights())
    model.prepare(replace(transfer, model=twin), spec)
    step = TrainingStep(transfer, spec)
    images, labels = batch(16)
    told = [step.train(images[i : i + 8], labels[i : i + 8])[0] for i in (0, 8)]
    history = twin.fit(tf.data.Dataset.from_tensor_slices((images, labels)).batch(8), shuffle=False, verbose=0).history
    for ours, theirs in zip(transfer.model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert np.mean([loss for loss, _ in told]) == pytest.approx(history["loss"][0], rel=1e-5)
    assert sum(correct for _, correct in told) / 16 == pytest.approx(history["accuracy"][0])


def test_two_classes_have_one_logit_and_learn(base: Path) -> None:
    step = training_step(StepSpec(model=str(base), step="full"), classes=2)
    assert step.transfer.model.output_shape == (None, 1)
    _, labels = batch(16, classes=2)
    images = np.ones((16, *SIZE, 3), np.float32) * (2 * labels.numpy() - 1)[:, None, None, None]
    step.transfer.model.optimizer.learning_rate = 0.01
    told = [step.train(images, labels)[0] for _ in range(40)]
    assert told[-1][1] == 16
    assert told[-1][0] < told[0][0] / 2


def test_steps_per_execution_trains_group_by_group_on_every_batch(base: Path) -> None:
    step = training_step(StepSpec(model=str(base), steps_per_execution=3))
    told = [step.train(*batch(n)) for n in (8, 8, 5, 8)]
    assert [len(t) for t in told] == [0, 0, 3, 0]
    assert len(step.flush()) == 1
    assert int(step.transfer.model.optimizer.iterations) == 4


def test_layers_at_the_entrance_take_uint8(base: Path) -> None:
    import keras

    step = training_step(StepSpec(model=str(base)), layers=[keras.layers.Rescaling(1 / 127.5, -1.0)])
    step(*batch(dtype="uint8"))
    assert step.transfer.model.input_shape == (None, *SIZE, 3)
    assert step.transfer.model.inputs[0].dtype == "uint8"


def test_jit_compile_records_what_took_effect(base: Path) -> None:
    import keras

    spec = StepSpec(model=str(base), jit_compile=True)
    compiled = training_step(spec)
    compiled(*batch())
    assert compiled.jit_compile
    rotation = keras.layers.RandomRotation(0.1)
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        assert not training_step(spec, layers=[rotation]).jit_compile
    assert not training_step(StepSpec(model=str(base))).jit_compile


def test_mixed_precision_computes_in_half_and_answers_in_whole() -> None:
    import keras

    step = training_step(StepSpec(model="MobileNet", mixed_precision=True))
    assert step.precision in ("mixed_bfloat16", "mixed_float16")
    assert step.transfer.base.layers[-1].compute_dtype == step.precision.removeprefix("mixed_")
    assert step.transfer.model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    assert np.isfinite(step.train(*batch())[0][0])


def test_none_and_emulated_need_no_model() -> None:
    assert isinstance(make_step(StepSpec(step="none"), layers=(), image_size=SIZE, classes=3), NoStep)
    emulated = make_step(StepSpec(step="emulated:100"), layers=(), image_size=SIZE, classes=3)
    assert isinstance(emulated, EmulatedStep)
    assert emulated.rate == 100


def test_a_whole_model_keeps_its_head(tmp_path: Path) -> None:
    import keras

    layers = [
        keras.Input((*SIZE, 3)),
        keras.layers.Conv2D(4, 3),
        keras.layers.BatchNormalization(momentum=0.5),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax", name="mine"),
    ]
    path = tmp_path / "whole.keras"
    keras.Sequential(layers).save(path)
    step = training_step(StepSpec(model=str(path)))
    assert not step.transfer.logits
    own = step.transfer.base
    frozen, head = values(own.layers[:-1]), values(own.layers[-1:])
    step(*batch())
    assert not changed(frozen, values(own.layers[:-1]))
    assert changed(head, values(own.layers[-1:]))
    with pytest.raises(DataError, match="ends in 3 outputs, but the dataset has 7 classes"):
        training_step(StepSpec(model=str(path)), classes=7)
    with pytest.raises(UsageError, match="takes images of 32x32, got image_size 64x64; pass --image-size 32x32"):
        make_step(StepSpec(model=str(path)), layers=(), image_size=(64, 64), classes=3)


def test_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="at least two classes"):
        training_step(StepSpec(), classes=1)
