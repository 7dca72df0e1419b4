"""Transfer learning as a run: what it leaves, that it repeats, that a kill costs it one epoch, that its export predicts alike."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import history
from bench.both_ways import BothWays
from bench.case import StepSpec
from bench.curves import draw, save
from bench.history import Epoch
from bench.train import Training, train
from bench.train_output import train_and_print
from loaders.base import LoaderSpec
from storage.errors import DataError, UsageError

SIZE = (32, 32)


class Silent:
    """A watcher that only counts."""

    def __init__(self) -> None:
        self.batches = 0
        self.resumed_after = 0
        self.fine_tuned_from: int | None = None
        self.ways: list[BothWays] = []

    def began(self, rows: list[Epoch], step: StepSpec) -> None:
        self.resumed_after = len(rows)
        self.fine_tuned_from = step.fine_tune_at

    def started(self, epoch: int, regime: str, batches: int) -> None: ...

    def batch(self, images: int, loss: float) -> None:
        self.batches += 1

    def ended(self, row: Epoch) -> None: ...

    def both_ways(self, found: BothWays) -> None:
        self.ways.append(found)


class Killer(Silent):
    """Kills its own process outright in the middle of an epoch."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.last = batches

    def batch(self, images: int, loss: float) -> None:
        super().batch(images, loss)
        if self.batches == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(training: Training, batches: int) -> None:
    train(training, Killer(batches))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred demo images."""
    from storage.demo import draw as draw_images

    folder = tmp_path_factory.mktemp("train") / "images"
    draw_images(folder, count=100)
    return folder


@pytest.fixture(scope="module")
def stored(images: Path) -> Path:
    """The same, small and raw."""
    from storage.conversion import convert

    convert(images, to="hdf5", out=images.parent / "hdf5", payload="raw", image_size=SIZE)
    return images.parent / "hdf5"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of three layers with weights."""
    import keras

    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((*SIZE, 3)),
        keras.layers.Conv2D(8, 3, strides=2),
        keras.layers.BatchNormalization(momentum=0.5),
        keras.layers.ReLU(),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
    ]
    path = tmp_path_factory.mktemp("base") / "base.keras"
    keras.Sequential(layers).save(path)
    return path


@pytest.fixture
def training(stored: Path, base: Path, tmp_path: Path) -> Training:
    return Training(
        dataset=stored,
        results=tmp_path / "run",
        loader="from_generator",
        spec=LoaderSpec(image_size=SIZE, batch_size=16, seed=3),
        step=StepSpec(model=str(base), fine_tune_at=2),
        epochs=2,
        fine_tune_epochs=2,
    )


def learnt(rows: list[Epoch]) -> list[dict[str, Any]]:
    """What must repeat: everything but times."""
    return [{k: v for k, v in asdict(row).items() if "seconds" not in k and k != "wait_share"} for row in rows]


def test_a_training_leaves_history_curves_and_models(training: Training) -> None:
    import keras

    watcher = Silent()
    rows = train(training, watcher)
    folder = training.results
    assert history.read(folder / "history.csv") == rows
    assert [row.regime for row in rows] == ["feature_extraction"] * 2 + ["fine_tune"] * 2
    assert [row.learning_rate for row in rows] == [1e-4, 1e-4, 1e-5, 1e-5]
    assert all(row.images == 80 and row.seconds > 0 and 0 < row.wait_share < 1 for row in rows)
    assert watcher.batches == 4 * 5
    for what in ("accuracy", "loss"):
        assert (folder / f"{what}.png").read_bytes().startswith(b"\x89PNG")
        assert "fine-tuning starts" in (folder / f"{what}.svg").read_text()
    assert keras.models.load_model(folder / "model.keras").input_shape == (None, *SIZE, 3)
    # Its weights are weights for the next training, and a training that is over stays as it is.
    again = replace(training, results=folder.parent / "next", epochs=1, fine_tune_epochs=0)
    again = replace(again, step=replace(again.step, weights=str(folder / "base.weights.h5")))
    assert len(train(again, Silent())) == 1
    assert train(training, Silent()) == rows


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_it_had_not_been(training: Training) -> None:
    whole = train(replace(training, results=training.results.parent / "whole"), Silent())
    for batches, done in ((7, 1), (13, 3)):  # in the second epoch; in the fourth, which is the second of fine-tuning
        process = multiprocessing.get_context("spawn").Process(target=killed, args=(training, batches))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(history.read(training.results / "history.csv")) == done
    watcher = Silent()
    rows = train(training, watcher)
    assert watcher.resumed_after == 3
    assert learnt(rows) == learnt(whole)


def test_another_seed_is_another_training(training: Training) -> None:
    short = replace(training, epochs=1, fine_tune_epochs=0)
    first = train(short, Silent())
    other = replace(short, results=short.results.parent / "other", spec=replace(short.spec, seed=4))
    assert learnt(train(other, Silent())) != learnt(first)


def test_the_exported_model_predicts_what_the_pipeline_did(training: Training) -> None:
    """Raw uint8 images into the SavedModel, against pixels that the pipeline scaled into the same weights."""
    import tensorflow as tf

    from bench import model
    from loaders import LOADERS
    from storage.dataset import open_dataset

    train(replace(training, spec=replace(training.spec, placement="model"), export=True), Silent())
    folder = training.results
    with open_dataset(training.dataset, "validation") as dataset:
        raw = np.asarray(dataset.read(np.arange(len(dataset))).images)
        names = dataset.info.class_names
    exported = tf.saved_model.load(folder / "export")
    served = exported.serve(raw).numpy()
    assert json.loads((folder / "export" / "class_names.json").read_text()) == list(names)

    plain = model.build(training.step, layers=(), image_size=SIZE, classes=len(names), dtype="float32")
    whole = model.load(folder / "model.keras")
    plain.model.set_weights([weight.numpy() for layer in whole.layers for weight in layer.weights])
    spec = replace(training.spec, augment=False, shuffle=False)
    feed = LOADERS[training.loader].build(open_dataset(training.dataset, "validation"), spec)
    scores = np.concatenate([plain.model(images, training=False).numpy() for images, _ in feed.epoch(0)])
    feed.close()
    np.testing.assert_allclose(served, tf.nn.softmax(scores).numpy(), atol=1e-5)
    assert served.shape == (len(raw), len(names))
    assert np.ptp(served, axis=0).max() > 1e-3


def test_the_documented_example_reads_an_export(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    document = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    [example] = re.findall(r"^```python\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    folder = training.results.parent / "results" / "photos"
    spec = replace(training.spec, placement="model", augment=False)
    train(replace(training, results=folder, spec=spec, epochs=1, fine_tune_epochs=0, export=True), Silent())
    monkeypatch.chdir(training.results.parent)
    names: dict[str, Any] = {}
    exec(compile(example.replace("160, 160", "32, 32"), "training.md", "exec"), names)
    assert names["probabilities"].shape == (1, 5)
    assert names["probabilities"].sum() == pytest.approx(1)
    assert names["names"] == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]


def test_both_ways_ends_with_the_training_images_seen_twice(training: Training) -> None:
    watcher = Silent()
    full = replace(training, step=replace(training.step, step="full"), fine_tune_epochs=0, both_ways=True)
    rows = train(full, watcher)
    [found] = watcher.ways
    assert found.acting == ("dropout", "batch normalisation")
    assert found.during == (rows[-1].loss, rows[-1].accuracy)
    assert found.validation == (rows[-1].val_loss, rows[-1].val_accuracy)
    assert found.on != found.off
    kept = json.loads((training.results / "both_ways.json").read_text())
    assert (kept["on"], kept["off"]) == (list(found.on), list(found.off))
    # Evaluated by Keras itself on the model that was saved, loss and accuracy are those with everything off.
    import keras

    from loaders import LOADERS
    from storage.dataset import open_dataset

    saved = keras.models.load_model(training.results / "model.keras", compile=False)
    saved.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    feed = LOADERS[full.loader].build(open_dataset(full.dataset), replace(full.spec, augment=False, shuffle=False))
    images, labels = (np.concatenate(part) for part in zip(*feed.epoch(0), strict=True))
    feed.close()
    assert saved.evaluate(images, labels, verbose=0) == pytest.approx(found.off, rel=1e-4)


def test_a_frozen_base_leaves_only_dropout_to_differ(training: Training) -> None:
    watcher = Silent()
    train(replace(training, epochs=1, fine_tune_epochs=0, both_ways=True), watcher)
    assert watcher.ways[0].acting == ("dropout",)
    inside = replace(training, results=training.results.parent / "inside", epochs=1, fine_tune_epochs=0, both_ways=True)
    train(replace(inside, spec=replace(inside.spec, placement="model")), watcher)
    assert watcher.ways[1].acting == ("dropout", "augmentation")


def test_batches_seen_again_are_mixed_as_in_training(
    training: Training, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras' generator reads a folder class by class unless it shuffles; batch statistics of one class are no batch's."""
    from storage.conversion import convert

    seen: list[list[int]] = []

    def remembering(*_: object, **__: object) -> Any:
        def evaluate(batches: Any) -> tuple[float, float]:
            seen.append([len(set(np.asarray(labels).tolist())) for _, labels in batches])
            return 1.0, 0.5

        return evaluate

    monkeypatch.setattr("bench.train.evaluator", remembering)
    folder = training.results.parent / "directory"
    convert(images, to="directory", out=folder)
    full = replace(training, dataset=folder, loader="image_data_generator", epochs=1, fine_tune_epochs=0, both_ways=True)
    train(full, Silent())
    validation, on, off = seen
    assert sum(validation) < sum(on) == sum(off)
    assert min(on) > 1


def test_preprocessing_inside_and_outside_learns_the_same(training: Training) -> None:
    """Same seed, no augmentation: the same pixels reach the same weights, so the histories agree to rounding."""
    plain = replace(training, spec=replace(training.spec, augment=False))
    outside = train(plain, Silent())
    inside = replace(plain, spec=replace(plain.spec, placement="model"), results=plain.results.parent / "inside")
    for ours, theirs in zip(train(inside, Silent()), outside, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert ours.val_loss == pytest.approx(theirs.val_loss, rel=1e-3)
        assert ours.val_accuracy == pytest.approx(theirs.val_accuracy, abs=1 / 20 + 1e-9)
    assert outside[0].loss != pytest.approx(outside[-1].loss, rel=1e-3)


def test_what_cannot_be_is_one_line(training: Training, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--export needs --placement model"):
        replace(training, export=True)
    with pytest.raises(UsageError, match="epochs must be 1 or more, got 0 and 0"):
        replace(training, epochs=0, fine_tune_epochs=0)
    with pytest.raises(UsageError, match="step must be feature_extraction, fine_tune or full, for training; got 'none'"):
        replace(training, step=StepSpec(step="none"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(UsageError, match="full is not empty and holds no training"):
        train(replace(training, results=tmp_path / "full"), Silent())
    with pytest.raises(DataError, match=r"^cannot write to .*long/train\.json: File name too long$"):
        train_and_print(replace(training, results=tmp_path / ("long" * 99)))
    train(replace(training, epochs=1, fine_tune_epochs=0), Silent())
    with pytest.raises(UsageError, match="run holds a training with epochs 1, and now it is 2"):
        train(training, Silent())
    with pytest.raises(UsageError, match="run holds a training with batch_size 16, and now it is 8"):
        train(replace(training, epochs=1, fine_tune_epochs=0, spec=replace(training.spec, batch_size=8)), Silent())
    with pytest.raises(UsageError, match="after full there is nothing left to thaw; pass --fine-tune-epochs 0"):
        replace(training, step=replace(training.step, step="full"))
    (training.results / "checkpoint.npz").write_bytes(b"half")
    with pytest.raises(DataError, match=r"checkpoint\.npz is not a checkpoint of feedbench train"):
        train(replace(training, epochs=1, fine_tune_epochs=0), Silent())
    with pytest.raises(UsageError, match="image_dataset_from_directory reads directories only"):
        train(replace(training, results=tmp_path / "b", loader="image_dataset_from_directory"), Silent())


def test_what_cannot_be_fine_tuned_is_said_before_the_first_epoch(training: Training) -> None:
    watcher = Silent()
    late = replace(training, step=replace(training.step, fine_tune_at=100))
    with pytest.raises(UsageError, match=r"fine_tune_at must be below the 4 layers of .*, got 100; pass --fine-tune-at 2"):
        train(late, watcher)
    assert watcher.batches == 0
    # Nothing was learnt yet, so the mended command may use the folder.
    assert len(train(training, watcher)) == 4


def test_a_base_is_fine_tuned_from_two_thirds_where_no_layer_is_named(training: Training) -> None:
    watcher = Silent()
    usual = replace(training, step=replace(training.step, fine_tune_at=None), epochs=1, fine_tune_epochs=1)
    train(usual, watcher)
    assert watcher.fine_tuned_from == 2
    assert json.loads((training.results / "train.json").read_text())["step"]["fine_tune_at"] == 2
    for same in (usual, replace(usual, step=replace(usual.step, fine_tune_at=2))):
        train(same, watcher)
        assert watcher.resumed_after == 2
    with pytest.raises(UsageError, match="a training with fine_tune_at 2, and now it is 1"):
        train(replace(usual, step=replace(usual.step, fine_tune_at=1)), watcher)


def test_a_training_from_another_layer_than_the_usual_goes_on_from_none_but_its_own(training: Training) -> None:
    train(replace(training, step=replace(training.step, fine_tune_at=1)), Silent())
    with pytest.raises(UsageError, match="a training with fine_tune_at 1, and now it is 2"):
        train(replace(training, step=replace(training.step, fine_tune_at=None)), Silent())


def test_a_history_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(DataError, match=r"history\.csv is not a history of feedbench train"):
        history.read(path)


def epoch(number: int, regime: str, val: float | None) -> Epoch:
    return Epoch(
        epoch=number, regime=regime, learning_rate=1e-4, loss=1.0, accuracy=0.5, val_loss=val, val_accuracy=val,
        images=10, seconds=1.0, wait_share=0.1, val_seconds=0.2,
    )  # fmt: skip


def test_history_round_trip_without_validation(tmp_path: Path) -> None:
    rows = [epoch(1, "full", None), epoch(2, "full", 0.25)]
    history.write(tmp_path / "history.csv", rows)
    assert history.read(tmp_path / "history.csv") == rows


def test_fine_tuning_is_marked_between_its_neighbours() -> None:
    rows = [epoch(1, "feature_extraction", 0.4), epoch(2, "feature_extraction", 0.5), epoch(3, "fine_tune", 0.6)]
    marked = draw(rows, "accuracy").to_dict()
    rules = [layer for layer in marked["layer"] if layer["mark"]["type"] == "rule"]
    assert len(rules) == 1
    assert marked["datasets"][rules[0]["data"]["name"]][0]["epoch"] == 2.5
    assert [layer["mark"]["type"] for layer in draw(rows[:2], "loss").to_dict()["layer"]] == ["line"]


@pytest.mark.parametrize(("epochs", "named"), [(3, [1, 2, 3]), (40, list(range(1, 41, 3)))])
def test_each_epoch_is_named_once_below_a_curve(tmp_path: Path, epochs: int, named: list[int]) -> None:
    rows = [epoch(n, "fine_tune" if n == epochs else "feature_extraction", 0.5) for n in range(1, epochs + 1)]
    save(rows, tmp_path)
    drawn = (tmp_path / "accuracy.svg").read_text()
    assert [int(number) for number in re.findall(r">(\d+)</text>", drawn)] == named
