"""Transfer learning as a run: train the head, validate after each epoch, fine-tune, and keep everything on disk.

The loop and the step are those that are timed elsewhere. Batches of epoch n are asked of the feed by number, and a
checkpoint holds all that the next epoch depends on; so a training that was killed goes on as if it had not been.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bench import both_ways, checkpoint, curves, history, model
from bench.both_ways import BothWays
from bench.case import StepSpec
from bench.evaluate import evaluator
from bench.history import Epoch
from bench.model import Transfer
from bench.run import Batches, Clock, epoch_ticks
from bench.step import TrainingStep
from loaders.base import Feed, LoaderSpec
from storage.base import DatasetInfo
from storage.errors import UsageError

VALIDATION = ("validation", "val", "valid", "test")
NS = 1e9


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained, and on what. ``step.step`` is the first regime; ``fine_tune_epochs`` follow it.

    ``export`` also leaves a SavedModel, ``both_ways`` evaluates the training images with dropout on and off at the end.
    """

    dataset: Path
    results: Path
    loader: str = "tfdata"
    spec: LoaderSpec
    step: StepSpec
    epochs: int = 10
    fine_tune_epochs: int = 5
    export: bool = False
    both_ways: bool = False

    def __post_init__(self) -> None:
        if self.step.step not in ("feature_extraction", "fine_tune", "full"):
            raise UsageError(f"step must be feature_extraction, fine_tune or full, for training; got {self.step.step!r}")
        if self.epochs < 0 or self.fine_tune_epochs < 0 or not self.epochs + self.fine_tune_epochs:
            raise UsageError(f"epochs must be 1 or more, got {self.epochs} and {self.fine_tune_epochs} of fine-tuning")
        if self.step.step == "full" and self.fine_tune_epochs:
            raise UsageError(
                "fine-tuning follows --step feature_extraction: after full there is nothing left to thaw; "
                "pass --fine-tune-epochs 0"
            )
        if self.export and self.spec.placement != "model":
            raise UsageError("--export needs --placement model: what the pipeline does to the pixels is in no saved model")

    def phase(self, epoch: int) -> StepSpec:
        """The regime of an epoch, counted from 0."""
        return self.step if epoch < self.epochs else replace(self.step, step="fine_tune")

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on: everything but where it is kept."""
        fields = asdict(self) | {"dataset": str(self.dataset.resolve())}
        del fields["results"], fields["export"], fields["both_ways"]
        return dict(json.loads(json.dumps(fields)))


class Watcher(Protocol):
    """Who is told how a training goes."""

    def began(self, rows: list[Epoch], step: StepSpec) -> None: ...
    def started(self, epoch: int, regime: str, batches: int) -> None: ...
    def batch(self, images: int, loss: float) -> None: ...
    def ended(self, row: Epoch) -> None: ...
    def both_ways(self, found: BothWays) -> None: ...


def train(training: Training, watcher: Watcher, clock: Clock = time.perf_counter_ns) -> list[Epoch]:
    """Train, or go on with what stands in ``training.results``; returns the whole history.

    Leaves ``history.csv``, ``accuracy`` and ``loss`` as SVG and PNG, ``model.keras``, ``base.weights.h5`` (for --weights)
    and, if asked for, ``export``, a SavedModel from raw uint8 images to probabilities, and ``both_ways.json``.
    """
    import keras

    folder = training.results
    done = _done(training)
    keras.utils.set_random_seed(training.spec.seed)
    with ExitStack() as stack:
        feed, info = _feed(training, "train", stack)
        splits = [split for split in VALIDATION if split in info.splits]
        held_out = _feed(training, splits[0], stack, validating=True)[0] if splits else None
        transfer = _build(training, feed, info)
        if training.fine_tune_epochs or training.step.step == "fine_tune":
            start = model.fine_tune_at(transfer.base, training.step)
            training = replace(training, step=replace(training.step, fine_tune_at=start))
            done = _done(training)  # A training that stands there may have started from another layer.
        if done:
            checkpoint.restore_model(folder / "checkpoint.npz", transfer.model)
        rows = history.read(folder / "history.csv")[:done] if done else []
        if not done:
            _begin(training)  # Only now: a call that cannot work leaves no folder behind.
        watcher.began(rows, training.step)
        for number in range(done, training.epochs + training.fine_tune_epochs):
            phase = training.phase(number)
            goes_on = number > 0 and phase == training.phase(number - 1)
            if number == done or not goes_on:
                model.prepare(transfer, phase)
                step, evaluate = TrainingStep(transfer, phase), evaluator(transfer)
                if number == done and goes_on:
                    checkpoint.restore_optimizer(folder / "checkpoint.npz", transfer.model)
            watcher.started(number + 1, phase.step, len(feed))
            learnt = learn(feed, step, clock, number, watcher)
            before = clock()
            val = evaluate(held_out.epoch(0)) if held_out is not None else (None, None)
            row = Epoch(
                epoch=number + 1,
                regime=phase.step,
                learning_rate=float(f"{float(transfer.model.optimizer.learning_rate):.6g}"),  # Keras holds it in float32.
                val_loss=val[0],
                val_accuracy=val[1],
                val_seconds=(clock() - before) / NS,
                **learnt,
            )
            rows.append(row)
            history.write(folder / "history.csv", rows)
            checkpoint.save(folder / "checkpoint.npz", transfer.model, number + 1)
            watcher.ended(row)
        _finish(training, transfer, info, rows)
        if training.both_ways:
            # Shuffled, as in training: batch normalisation by batches of a single class is another thing altogether.
            again = replace(training, spec=replace(training.spec, augment=False, drop_remainder=False))
            plain = _feed(again, "train", stack)[0]
            on, off = (evaluator(transfer, training=way)(plain.epoch(0)) for way in (True, False))
            found = both_ways.of(rows[-1], on=on, off=off, acting=both_ways.acting(transfer))
            both_ways.write(folder / "both_ways.json", found)
            watcher.both_ways(found)
    return rows


def _done(training: Training) -> int:
    """How many epochs of this training stand in its folder. UsageError if the folder is another's."""
    folder, path = training.results, training.results / "train.json"
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(found.suffix != ".partial" for found in folder.iterdir())):
            raise UsageError(f"{folder} is not empty and holds no training; choose another --results")
        return 0
    done = checkpoint.epochs_done(folder / "checkpoint.npz")
    if done:
        stored, ours = _flat(json.loads(path.read_text())), _flat(training.identity())
        if training.step.fine_tune_at is None:
            del ours["fine_tune_at"]
        other = next((key for key in ours if ours[key] != stored.get(key)), None)
        if other:
            raise UsageError(
                f"{folder} holds a training with {other} {stored.get(other)}, and now it is {ours[other]}; "
                "choose another --results, or delete it"
            )
    return done


def _begin(training: Training) -> None:
    """Make the folder, and write down what is trained there."""
    path = training.results / "train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(training.identity(), indent=1))
    beside.replace(path)


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Without the two levels of specs in between."""
    return {
        name: value
        for key, group in fields.items()
        for name, value in (group.items() if isinstance(group, dict) else [(key, group)])
    }


def _feed(training: Training, split: str, stack: ExitStack, *, validating: bool = False) -> tuple[Feed, DatasetInfo]:
    from loaders import LOADERS
    from storage.dataset import open_dataset

    spec = replace(training.spec, augment=False, shuffle=False, drop_remainder=False) if validating else training.spec
    loader = LOADERS[training.loader]
    dataset = open_dataset(training.dataset, split)
    reason = loader.unsupported(dataset.info, spec)
    if reason:
        dataset.close()
        raise UsageError(f"{training.loader} cannot feed {training.dataset}: {reason}")
    feed = stack.enter_context(closing(loader.build(dataset, spec)))
    return feed, dataset.info


def _build(training: Training, feed: Feed, info: DatasetInfo) -> Transfer:
    dtype = "float32" if training.spec.placement == "pipeline" else training.spec.dtype
    return model.build(
        training.step,
        layers=feed.layers,
        image_size=training.spec.image_size,
        classes=len(info.class_names),
        dtype=dtype,
    )


class _Learning:
    """The step, remembering what it learnt: sums over samples."""

    def __init__(self, step: TrainingStep, watcher: Watcher) -> None:
        self.loss = self.correct = self.samples = 0.0
        self._step, self._watcher = step, watcher
        self._lengths: list[int] = []

    def __call__(self, images: Any, labels: Any) -> None:
        self._lengths.append(len(labels))
        self._add(self._step.train(images, labels))

    def flush(self) -> None:
        self._add(self._step.flush())

    def _add(self, told: list[tuple[float, int]]) -> None:
        for loss, correct in told:
            length = self._lengths.pop(0)
            self.loss += loss * length
            self.correct += correct
            self.samples += length
            self._watcher.batch(length, loss)


def learn(feed: Batches, step: TrainingStep, clock: Clock, number: int, watcher: Watcher) -> dict[str, Any]:
    """One epoch of training, as the fields of ``Epoch`` that it fills."""
    learning = _Learning(step, watcher)
    began = clock()
    stepped = sum(tick.step_ns for tick in epoch_ticks(feed, learning, clock, number, began))
    fed = clock()
    learning.flush()
    ended = clock()
    return {
        "loss": learning.loss / learning.samples,
        "accuracy": learning.correct / learning.samples,
        "images": int(learning.samples),
        "seconds": (ended - began) / NS,
        "wait_share": (fed - began - stepped) / (ended - began),
    }


def _finish(training: Training, transfer: Transfer, info: DatasetInfo, rows: list[Epoch]) -> None:
    folder = training.results
    transfer.model.save(folder / "model.keras")
    transfer.base.save_weights(folder / "base.weights.h5")
    curves.save(rows, folder)
    if training.export:
        export(transfer, info, folder / "export")


def export(transfer: Transfer, info: DatasetInfo, path: Path) -> None:
    """A SavedModel from images as the loader hands them over to (batch, classes) probabilities, with the classes' names beside it."""
    import keras
    import tensorflow as tf

    network = transfer.model
    scores = network.output
    if transfer.binary:
        positive = keras.ops.sigmoid(scores) if transfer.logits else scores
        probabilities = keras.ops.concatenate([1 - positive, positive], axis=-1)
    else:
        probabilities = keras.ops.softmax(scores) if transfer.logits else scores
    served = keras.Model(network.inputs, probabilities)
    spec = tf.TensorSpec((None, *network.input_shape[1:]), network.inputs[0].dtype, name="images")
    archive = keras.export.ExportArchive()
    archive.track(served)
    # Said aloud: random layers take themselves to be in training where nothing is said, and Model.export says nothing.
    archive.add_endpoint("serve", lambda images: served(images, training=False), input_signature=[spec])
    archive.write_out(path, verbose=False)
    (path / "class_names.json").write_text(json.dumps(list(info.class_names)))
