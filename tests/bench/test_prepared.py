"""References are prepared once, and never taken for those of other contents, sizes, filters or causes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bench import prepared as module
from bench import reference
from bench.causes import Expected, expected
from bench.prepared import prepared
from loaders.base import LoaderSpec
from storage.base import Sample
from storage.errors import DataError

PLAIN = expected((), "bilinear")


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)


def jpeg(seed: int) -> Sample:
    out = io.BytesIO()
    Image.fromarray(picture(seed)).save(out, "JPEG")
    return Sample(key=f"{seed}.jpg", label=0, image=out.getvalue())


def test_the_same_content_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LoaderSpec(image_size=(20, 24))
    first = prepared(jpeg(1), spec, PLAIN)
    monkeypatch.setattr(reference, "decode", lambda *_, **__: pytest.fail("decoded again"))
    again = prepared(jpeg(1), spec, PLAIN)
    assert again.pixels is first.pixels
    assert again.rolled is first.rolled
    assert first.expected is first.pixels


def test_whatever_differs_is_prepared_anew() -> None:
    spec = LoaderSpec(image_size=(20, 24))
    stored = jpeg(2)
    assert isinstance(stored.image, bytes)
    antialiased = Expected(filter="antialias", scaled=False, largest=1, mean=1, psnr_db=40)
    results = [
        prepared(jpeg(1), spec, PLAIN).pixels,
        prepared(stored, spec, PLAIN).pixels,
        prepared(stored, LoaderSpec(image_size=(24, 20)), PLAIN).pixels,
        prepared(stored, LoaderSpec(image_size=(20, 24), resize="area"), expected((), "area")).pixels,
        prepared(stored, spec, antialiased).expected,
        prepared(Sample(key="raw", label=0, image=picture(2)), spec, PLAIN).pixels,
        prepared(Sample(key="raw", label=0, image=picture(2).reshape(60, 40, 3)), spec, PLAIN).pixels,
    ]
    assert len({image.tobytes() for image in results}) == len(results)
    assert np.array_equal(results[4], reference.resize(reference.decode(stored.image), (20, 24), "antialias"))


def test_a_broken_image_is_an_error_each_time() -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="Pillow cannot decode it"):
            prepared(Sample(key="x", label=0, image=b"no image"), LoaderSpec(), PLAIN)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 10 * 20 * 24 * 3)
    for seed in range(30):
        prepared(jpeg(seed), LoaderSpec(image_size=(20, 24)), PLAIN)
    assert len(module._kept) <= 11
