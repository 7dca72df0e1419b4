"""The demo images: the same for a seed, whole or not there, like photographs to a decoder, and learnable."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from storage import demo, pixels
from storage.errors import UsageError

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"
BYTES_A_PIXEL = 0.152
"""Median of the photographs that the demo images are to load like."""


def test_the_same_seed_draws_the_same_images(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    demo.draw(tmp_path / "one", 20, progress=lambda done, count: seen.append((done, count)))
    demo.draw(tmp_path / "two", 20)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.jpg"))
    assert len(files) == 20
    assert seen[-1] == (20, 20)
    assert {path.parts[0] for path in files} == {"train", "validation"}
    assert {path.parts[1] for path in files} == set(demo.CLASSES)
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert demo.picture("roses", 0, 2) != demo.picture("roses", 1, 2)


def test_a_draw_that_is_cut_short_leaves_nothing_to_take_for_whole(tmp_path: Path) -> None:
    def stop(done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.draw(tmp_path / "flowers", 300, progress=stop)
    assert not (tmp_path / "flowers").exists()
    demo.draw(tmp_path / "flowers", 10)
    assert len(list((tmp_path / "flowers").rglob("*.jpg"))) == 10
    with pytest.raises(UsageError, match="exists"):
        demo.draw(tmp_path / "flowers", 10)


def test_they_compress_like_photographs() -> None:
    drawn = [demo.picture(demo.CLASSES[number % 5], 0, number) for number in range(100)]
    ours = statistics.median(_bytes_a_pixel(data) for data in drawn)
    assert ours == pytest.approx(BYTES_A_PIXEL, rel=0.25)
    sizes = {pixels.decode(data).shape[:2] for data in drawn}
    assert len(sizes) > 50
    assert all(180 <= side <= 400 for size in sizes for side in size)
    if PHOTOS.is_dir():
        theirs = statistics.median(_bytes_a_pixel(path.read_bytes()) for path in sorted(PHOTOS.rglob("*.jpg"))[::3])
        assert ours == pytest.approx(theirs, rel=0.25)


def _bytes_a_pixel(data: bytes) -> float:
    height, width = pixels.decode(data).shape[:2]
    return float(len(data) / (height * width))


def test_they_can_be_learnt_but_not_from_one_pixel() -> None:
    numbers = range(300)
    labels = np.array([number % 5 for number in numbers])
    images = np.stack([_thumbnail(demo.picture(demo.CLASSES[number % 5], 0, number)) for number in numbers])
    assert _nearest_neighbour(images.reshape(len(images), -1), labels) > 0.4
    assert _nearest_neighbour(images[:, 8, 8], labels) < 0.8


def _thumbnail(data: bytes) -> NDArray[np.float32]:
    return pixels.resize(pixels.decode(data), (16, 16), "area").astype(np.float32)


def _nearest_neighbour(features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of the last third that the nearest of the first two thirds has the label of."""
    known, asked = features[:200], features[200:]
    nearest = np.square(asked[:, None] - known[None]).sum(-1).argmin(1)
    return float((labels[:200][nearest] == labels[200:]).mean())


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "storage.demo", "--out", str(tmp_path / "flowers"), "--count", "10"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, f"10 images: {tmp_path / 'flowers'}")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "storage.demo", "--out", "file/flowers", "--count", "10"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("storage.demo: file/flowers cannot be written: Not a directory (file/flowers.partial/")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
