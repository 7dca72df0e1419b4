"""The same learning whatever the loader: each trains a small model on the demo data, three seeds, and is held to the others.

A loader that is fast and wrong is found here if nowhere else. What was learnt is judged by accuracy on validation images that
no loader touched: decoded and resized by ``storage.pixels``, labelled by the stored dataset. It takes minutes:
``tox -e learning``, and with all that is slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.both_ways import BothWays
from bench.case import StepSpec
from bench.history import Epoch
from bench.train import Training, train
from loaders import LOADERS
from loaders.base import LoaderSpec, Placement, Stage
from storage.base import DatasetInfo
from storage.dataset import StoredDataset, open_dataset, read_info
from storage.pixels import decode, resize

pytestmark = pytest.mark.slow

SIZE = (64, 64)
IMAGES = 600
SEEDS = (0, 1, 2)
EPOCHS = 5
WELL_ABOVE_CHANCE = 0.8
"""Of five equally frequent classes; chance is 0.2, and a right loader gets 0.95."""
POINTS = 0.05
"""How far apart the mean accuracies of two loaders may lie."""


@dataclass(frozen=True)
class Learnt:
    """Accuracy on the untouched validation images, and what the training's own history said of its validation split."""

    accuracy: float
    said: float


class Silent:
    """A watcher that says nothing."""

    def began(self, rows: list[Epoch], step: StepSpec) -> None: ...
    def started(self, epoch: int, regime: str, batches: int) -> None: ...
    def batch(self, images: int, loss: float) -> None: ...
    def ended(self, row: Epoch) -> None: ...
    def both_ways(self, found: BothWays) -> None: ...


class School:
    """Trains with any loader, and remembers what came of it: the comparison needs all of them."""

    def __init__(self, folder: Path) -> None:
        from storage.conversion import convert
        from storage.demo import draw

        self.folder = folder
        draw(folder / "images", count=IMAGES)
        for name in ("directory", "tfrecord"):
            convert(folder / "images", to=name, out=folder / name)
        self._model()
        self._images, self._labels = self._untouched()
        self._learnt: dict[str, Learnt] = {}

    def _model(self) -> None:
        """Four convolutions with batch normalisation: seconds an epoch, and learns within five at the fixed learning rate."""
        import keras

        keras.utils.set_random_seed(0)
        layers = [keras.Input((*SIZE, 3))]
        for channels in (32, 64, 128, 256):
            layers += [
                keras.layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.ReLU(),
            ]
        keras.Sequential(layers).save(self.folder / "model.keras")

    def _untouched(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        with open_dataset(self.folder / "directory", "validation") as dataset:
            samples = list(dataset)
        pixels = [resize(decode(sample.image), SIZE) for sample in samples if isinstance(sample.image, bytes)]
        return np.stack(pixels).astype(np.float32) / 127.5 - 1, np.array([sample.label for sample in samples])

    def dataset(self, loader: str, spec: LoaderSpec) -> Path:
        """The first dataset that a loader serves; skips the test where its packages are not installed."""
        reasons = []
        for name in ("directory", "tfrecord"):
            reason = LOADERS[loader].unsupported(read_info(self.folder / name), spec)
            if reason is None:
                return self.folder / name
            reasons.append(reason)
        if any("pip install" in reason for reason in reasons):
            pytest.skip(reasons[0])
        raise AssertionError(f"{loader} serves neither: {reasons}")

    def learn(self, loader: str, seed: int, placement: Placement = "pipeline") -> Learnt:
        """Train from random weights; the same model, images and steps whatever the loader."""
        import keras

        name = f"{loader}-{seed}-{placement}"
        if name not in self._learnt:
            spec = LoaderSpec(batch_size=16, image_size=SIZE, placement=placement, seed=seed)
            training = Training(
                dataset=self.dataset(loader, spec),
                results=self.folder / name,
                loader=loader,
                spec=spec,
                step=StepSpec(step="full", model=str(self.folder / "model.keras")),
                epochs=EPOCHS,
                fine_tune_epochs=0,
            )
            rows = train(training, Silent())
            model = keras.models.load_model(training.results / "model.keras", compile=False)
            images = self._images if placement == "pipeline" else np.round((self._images + 1) * 127.5).astype(np.uint8)
            answers = np.argmax(model.predict(images, verbose=0), axis=-1)
            said = rows[-1].val_accuracy
            assert said is not None
            self._learnt[name] = Learnt(float(np.mean(answers == self._labels)), said)
        return self._learnt[name]

    def lessons(self, loader: str, placement: Placement = "pipeline") -> list[Learnt]:
        """What came of each seed."""
        return [self.learn(loader, seed, placement) for seed in SEEDS]


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> School:
    return School(tmp_path_factory.mktemp("school"))


def check_learns(lessons: list[Learnt]) -> None:
    """Every seed well above chance, and the loader's own validation split tells the same of it."""
    for one in lessons:
        assert one.accuracy >= WELL_ABOVE_CHANCE, f"learnt {one.accuracy:.1%}, not {WELL_ABOVE_CHANCE:.0%}"
        assert one.said == pytest.approx(one.accuracy, abs=POINTS)


def check_alike(lessons: Mapping[str, list[Learnt]]) -> None:
    """No loader's mean over seeds is further than ``POINTS`` from another's."""
    means = {name: fmean(one.accuracy for one in each) for name, each in lessons.items()}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    assert means[best] - means[worst] <= POINTS, f"{best} {means[best]:.1%}, {worst} {means[worst]:.1%}"


@pytest.mark.parametrize("loader", LOADERS)
def test_learns_well_above_chance(school: School, loader: str) -> None:
    check_learns(school.lessons(loader))


@pytest.mark.timeout(1200)  # By itself it trains with every loader.
def test_all_learn_alike(school: School) -> None:
    lessons = {}
    for loader in LOADERS:
        try:
            lessons[loader] = school.lessons(loader)
        except pytest.skip.Exception:
            continue
    assert len(lessons) >= 4
    check_alike(lessons)


@pytest.mark.parametrize("loader", [name for name in ("tfdata",) if name in LOADERS])
def test_preprocessing_inside_the_model_learns_alike(school: School, loader: str) -> None:
    inside = school.lessons(loader, "model")
    check_learns(inside)
    check_alike({"inside": inside, "outside": school.lessons(loader)})


class Shuffled:
    """A loader that is fast and wrong: the right images with each other's labels."""

    name = "shuffled"
    stages: tuple[Stage, ...] = ()

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        return None

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> Any:
        feed: Any = LOADERS["from_generator"].build(dataset, spec)
        right = feed.epoch

        def wrong(n: int) -> Iterator[tuple[Any, Any]]:
            import tensorflow as tf

            rng = np.random.default_rng((spec.seed, n))
            for images, labels in right(n):
                yield images, tf.constant(rng.permutation(np.asarray(labels)), tf.int64)

        feed.epoch = wrong
        return feed


def test_shuffled_labels_are_found(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOADERS._loaded, "shuffled", Shuffled())
    wrong = school.learn("shuffled", 0)
    with pytest.raises(AssertionError, match=rf"learnt {wrong.accuracy:.1%}, not 80%"):
        check_learns([wrong])
    right = school.learn("from_generator", 0)
    with pytest.raises(AssertionError, match=r"from_generator 9.*shuffled"):
        check_alike({"shuffled": [wrong], "from_generator": [right]})


def test_a_validation_split_that_flatters_is_found() -> None:
    check_learns([Learnt(0.95, 0.97)])
    with pytest.raises(AssertionError):
        check_learns([Learnt(0.85, 0.97)])
    with pytest.raises(AssertionError, match=r"learnt 75\.0%, not 80%"):
        check_learns([Learnt(0.95, 0.97), Learnt(0.75, 0.75)])
    with pytest.raises(AssertionError, match=r"a 96.0%, b 90.0%"):
        check_alike({"a": [Learnt(0.96, 0.96)], "b": [Learnt(0.95, 0.95), Learnt(0.85, 0.85)]})
