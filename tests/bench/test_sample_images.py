"""Sample images of a run: one of each distinct result, by a loader as it is timed, beside the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import storage
from bench.equivalence import prove
from bench.sample_images import AMPLIFIED, INDEX, SHOWN, keep, read
from loaders.base import LoaderSpec
from storage.errors import DataError

RNG = np.random.default_rng(0)
REFERENCE = RNG.integers(0, 240, (12, 10, 3), np.uint8)


def shown(folder: Path, name: str) -> NDArray[np.uint8]:
    with Image.open(folder / name) as image:
        return np.asarray(image)


def test_identical_results_share_one_image_and_others_have_their_own(tmp_path: Path) -> None:
    other = REFERENCE + 3
    keep(tmp_path, "a", "daisy/1.jpg", REFERENCE, REFERENCE, "")
    keep(tmp_path, "b", "daisy/1.jpg", REFERENCE + 1, REFERENCE, "")
    keep(tmp_path, "c", "daisy/1.jpg", other, REFERENCE, "fast DCT")
    keep(tmp_path, "d", "daisy/1.jpg", other, REFERENCE, "fast DCT")
    same, differing = read(tmp_path)
    assert (same.cases, same.verdict, same.cause) == (("a", "b"), "identical", "")
    assert (differing.cases, differing.verdict, differing.cause) == (("c", "d"), "differs", "fast DCT")
    assert (differing.mean_difference, differing.largest_difference) == (3.0, 3.0)
    assert (shown(tmp_path, differing.file("delivered")) == other).all()
    assert (shown(tmp_path, differing.file("reference")) == REFERENCE).all()
    assert (shown(tmp_path, differing.file("difference")) == 3 * AMPLIFIED).all()
    assert {path.name for path in tmp_path.iterdir()} == {
        INDEX,
        *(one.file(kind) for one in (same, differing) for kind in SHOWN),
    }


def test_for_want_of_a_picture_no_case_fails(tmp_path: Path) -> None:
    keep(tmp_path, "a", "k", REFERENCE, REFERENCE, "")
    (tmp_path / f"{INDEX}.partial").mkdir()  # so that nothing can be written there
    keep(tmp_path, "b", "k", REFERENCE, REFERENCE, "")
    assert [one.cases for one in read(tmp_path)] == [("a",)]


def test_a_case_that_is_proven_again_moves(tmp_path: Path) -> None:
    keep(tmp_path, "a", "k", REFERENCE, REFERENCE, "")
    keep(tmp_path, "a", "k", REFERENCE + 9, REFERENCE, "fast DCT")
    (only,) = read(tmp_path)
    assert (only.cases, only.cause) == (("a",), "fast DCT")


def test_a_difference_beyond_white_is_white(tmp_path: Path) -> None:
    keep(tmp_path, "a", "k", np.full((4, 4, 3), 250, np.uint8), np.zeros((4, 4, 3), np.uint8), "fast DCT")
    (only,) = read(tmp_path)
    assert (shown(tmp_path, only.file("difference")) == 255).all()


@pytest.mark.parametrize("name", ["../../etc/passwd", "ABC", "", "0123456789abcdef/x"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    keep(tmp_path, "a", "k", REFERENCE, REFERENCE, "")
    index = tmp_path / INDEX
    index.write_text(index.read_text().replace(read(tmp_path)[0].name, name))
    with pytest.raises(DataError, match=r"samples\.json is not a list of sample images: 0\.name"):
        read(tmp_path)


def test_no_folder_is_no_images(tmp_path: Path) -> None:
    assert read(tmp_path / "samples") == ()


def test_what_is_kept_is_what_the_loader_delivered(tmp_path: Path) -> None:
    """Keras' generator resizes by Pillow: its image is Pillow's, the reference is not."""
    source = tmp_path / "images" / "train"
    for label, name in enumerate(("<script>", "=cmd()")):
        (source / name).mkdir(parents=True)
        for number in range(4):
            noise = np.random.default_rng((label, number)).integers(0, 255, (12, 16, 3), np.uint8)
            Image.fromarray(noise).resize((48, 36)).save(source / name / f"{number}.png")
    stored = tmp_path / "stored"
    storage.convert(tmp_path / "images", to="directory", out=stored)
    spec = LoaderSpec(image_size=(20, 24), batch_size=4, placement="model", augment=False)
    kept: list[tuple[str, NDArray[np.uint8], NDArray[np.uint8], str]] = []
    pixels = prove(stored, "train", "image_data_generator", spec, keep=lambda *one: kept.append(one))
    ((key, delivered, reference, cause),) = kept
    assert key == "<script>/0.png"
    assert cause == pixels.cause == "Pillow's antialiased bilinear"
    with Image.open(source / key) as image:
        expected = np.asarray(image.convert("RGB").resize((24, 20), Image.Resampling.BILINEAR))
    assert (delivered == expected).all()
    assert np.abs(delivered.astype(int) - reference).max() > 1
