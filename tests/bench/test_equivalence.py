"""The gate's finer points: copies, subsets, unreadable files, scaling undone. What it catches: tests/loaders/test_broken.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from keras.applications.imagenet_utils import preprocess_input

import storage
from bench.causes import CAUSES
from bench.equivalence import NotEquivalentError, prove
from bench.samples import subset
from bench.scaling import unscale
from loaders import LOADERS
from loaders.base import LoaderSpec, Scaling
from storage import FORMATS, open_dataset
from storage.base import DatasetInfo
from storage.demo import draw
from storage.errors import UsageError

SPEC = LoaderSpec(image_size=(40, 40), workers=1, resize="antialias", batch_size=8)


@pytest.fixture(scope="module")
def with_copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 different pictures; one of them also twice more in its class, and once in another class."""
    folder = tmp_path_factory.mktemp("copies") / "pictures"
    draw(folder, count=30)
    one = sorted((folder / "train" / "daisy").iterdir())[0]
    for copy in ("daisy/copy-1.jpg", "daisy/copy-2.jpg", "roses/copy-3.jpg"):
        shutil.copy(one, folder / "train" / copy)
    return folder


def lmdb(source: Path, out: Path, **options: Any) -> Path:
    storage.convert(source, to="lmdb", out=out, workers=1, **options)
    return out


@pytest.mark.parametrize("augment", [True, False])
def test_copies_count_as_a_multiset(with_copies: Path, tmp_path: Path, augment: bool) -> None:
    spec = LoaderSpec(image_size=(40, 40), workers=1, resize="antialias", augment=augment, batch_size=8)
    assert prove(lmdb(with_copies, tmp_path / "d"), "train", "image_data_generator", spec).samples_checked == 27


def test_a_copy_with_the_wrong_label_is_caught(with_copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = LOADERS["image_data_generator"]

    class Mislabels:
        name = "mislabels"

        def __getattr__(self, attribute: str) -> Any:
            return getattr(honest, attribute)

        def build(self, dataset: Any, spec: LoaderSpec) -> Any:
            feed = honest.build(dataset, spec)
            keys = [dataset.key(i) for i in range(len(dataset))]
            feed.iterator.classes = dataset.labels.copy()  # type: ignore[attr-defined]
            # Both labels belong to these pixels, but not three times one and once the other.
            feed.iterator.classes[keys.index("roses/copy-3.jpg")] = 0  # type: ignore[attr-defined]
            return feed

    monkeypatch.setitem(LOADERS._loaded, "mislabels", Mislabels())
    with pytest.raises(NotEquivalentError, match="copy"):
        prove(lmdb(with_copies, tmp_path / "d"), "train", "mislabels", SPEC)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("payload", ["encoded", "raw"])
def test_a_subset_is_a_dataset_of_the_same_format(with_copies: Path, tmp_path: Path, format_name: str, payload: str) -> None:
    path = tmp_path / "d"
    storage.convert(with_copies, to=format_name, out=path, payload=payload, image_size=40, shard_bytes=50_000, workers=1)
    with open_dataset(path) as whole:
        images = {sample.key: np.asarray(sample.image).tobytes() for sample in whole}
    with subset(path, "train", 11, seed=3) as small, open_dataset(small) as chosen:
        assert chosen.info.format == format_name
        assert len(chosen) == 11
        samples = list(chosen)
        assert len({sample.key for sample in samples}) == 11
        assert all(images[sample.key] == np.asarray(sample.image).tobytes() for sample in samples)
    assert not small.exists()
    with subset(path, "train", 27, seed=3) as all_of_it:
        assert all_of_it == path


def test_a_large_dataset_is_proven_on_a_subset(with_copies: Path, tmp_path: Path) -> None:
    path = lmdb(with_copies, tmp_path / "d", shard_bytes=100_000)
    assert prove(path, "train", "image_data_generator", SPEC, limit=20).samples_checked == 20


def test_what_a_loader_cannot_serve_is_not_proven(with_copies: Path, tmp_path: Path) -> None:
    path = lmdb(with_copies, tmp_path / "d")
    with pytest.raises(UsageError, match="reads directories only"):
        prove(path, "train", "image_dataset_from_directory", SPEC)


@pytest.mark.parametrize("scaling", get_args(Scaling))
def test_scaling_is_undone(scaling: Scaling) -> None:
    levels = np.arange(2 * 3 * 4 * 3, dtype=np.float32).reshape(2, 3, 4, 3)
    scaled = levels if scaling == "none" else preprocess_input(levels.copy(), mode=scaling)
    assert np.allclose(unscale(scaled, scaling), levels, atol=1e-3)


def test_every_cause_that_a_loader_names_is_in_the_table(with_copies: Path, tmp_path: Path) -> None:
    info = storage.convert(with_copies, to="directory", out=tmp_path / "d", workers=1)
    assert isinstance(info, DatasetInfo)
    for loader in LOADERS.values():
        for resize in ("bilinear", "area", "nearest", "antialias"):
            names = getattr(loader, "differences", lambda *_: ())(info, LoaderSpec(resize=resize))
            assert set(names) <= set(CAUSES)
