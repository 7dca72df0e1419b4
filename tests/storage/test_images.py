"""Odd images: each is stored or rejected by a written rule, and what is stored looks the same to every decoder that takes it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import storage
from storage import pixels
from storage.errors import DataError
from tests.storage.odd import HEIGHT, MAKERS, WIDTH

REJECTED = {
    "jpeg truncated": "truncated JPEG",
    "jpeg without end marker": "truncated JPEG",
    "jpeg bomb": "decompression bomb",
    "png 16 bits grey": "16 bits",
    "png truncated": "broken image",
    "png bomb": "decompression bomb",
    "gif small first frame": "does not fill its screen",
    "gif truncated": "broken image",
    "bmp palette": "palette",
    "bmp one bit": "1 bits a pixel",
    "bmp run lengths": "compressed BMP",
    "bmp os/2": "OS/2",
    "bmp truncated": "broken image",
    "webp truncated": "broken image",
    "tiff": "not a JPEG",
    "empty": "empty",
    "text": "not a JPEG",
}
NOT_IN_TENSORFLOW = {"image/webp;alpha", "image/webp;animated"}
ROOT = Path(__file__).parents[2]


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    """As Keras' load_img makes RGB of a file."""
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB") if opened.mode != "RGB" else opened)


def by_tensorflow(data: bytes) -> Any:
    """As the loaders decode: JPEG accurately, anything else by content."""
    import tensorflow as tf

    if data[:2] == b"\xff\xd8":
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()


@pytest.mark.parametrize("name", sorted(set(MAKERS) - set(REJECTED)))
def test_what_is_stored_looks_the_same_to_every_decoder(name: str) -> None:
    data = MAKERS[name]()
    kind = pixels.check(data)
    assert kind in pixels.MEDIA_TYPES
    ours = pixels.decode(data)
    assert ours.shape == (HEIGHT, WIDTH, 3)
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, by_pillow(data))
    if kind in NOT_IN_TENSORFLOW:
        with pytest.raises(Exception, match=r"channels|Animation"):
            by_tensorflow(data)
    else:
        np.testing.assert_array_equal(ours, by_tensorflow(data))


@pytest.mark.parametrize(("name", "reason"), REJECTED.items())
def test_what_is_rejected_has_a_reason(name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        pixels.check(MAKERS[name]())
    with pytest.raises(DataError, match=reason):
        pixels.decode(MAKERS[name]())


def test_every_kind_has_a_rule_in_the_page() -> None:
    page = (ROOT / "docs" / "images.md").read_text()
    for name in MAKERS:
        assert f"| {name} |" in page, f"docs/images.md says nothing of: {name}"


def test_the_limit_of_pixels_is_adjustable() -> None:
    data = MAKERS["png"]()
    with pytest.raises(DataError, match="limit is 100 "):
        pixels.check(data, max_pixels=100)
    assert pixels.check(data, max_pixels=HEIGHT * WIDTH) == "image/png"


def test_conversion_stores_and_skips_by_the_rules(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "all"
    folder.mkdir(parents=True)
    for number, (name, make) in enumerate(MAKERS.items()):
        # One suffix for all: what a file is, its content says.
        (folder / f"{number:02d} {name.replace('/', ' ')}.jpg").write_bytes(make())
    out = tmp_path / "out"
    info = storage.convert(tmp_path / "photos", to="hdf5", out=out, on_error="skip", workers=1)
    assert (info.found_samples, info.skipped_samples) == (len(MAKERS), len(REJECTED))
    assert info.stored_samples == sum(info.media_types.values()) == len(MAKERS) - len(REJECTED)
    assert info.media_types["image/webp;alpha"] == 2
    with (out / "skipped.csv").open(newline="") as file:
        rows = {row["file"].removesuffix(".jpg").split(" ", 1)[1]: row["reason"] for row in csv.DictReader(file)}
    assert set(rows) == {name.replace("/", " ") for name in REJECTED}
    for name, reason in REJECTED.items():
        assert reason in rows[name.replace("/", " ")]
    raw = storage.convert(
        tmp_path / "photos", to="lmdb", payload="raw", image_size=8, out=tmp_path / "raw", on_error="skip", workers=1
    )
    assert raw.stored_samples == info.stored_samples


def test_conversion_takes_another_limit(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "large.jpg").write_bytes(MAKERS["jpeg"]())
    with pytest.raises(DataError, match=r"large\.jpg: 36 x 24 pixels; the limit is 800 "):
        storage.convert(tmp_path / "photos", to="hdf5", out=tmp_path / "out", workers=1, max_pixels=800)
    storage.convert(tmp_path / "photos", to="hdf5", out=tmp_path / "out", workers=1, max_pixels=864)


def test_conversion_stops_at_a_broken_image_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "half.jpg").write_bytes(MAKERS["jpeg truncated"]())
    with pytest.raises(DataError, match=r"cat/half\.jpg: truncated JPEG.*--on-error skip"):
        storage.convert(tmp_path / "photos", to="hdf5", out=tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
