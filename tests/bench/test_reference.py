"""The reference itself: against numbers computed by hand, and against libraries where they implement the same filter."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from bench.reference import FILTERS, decode, resize
from storage.errors import DataError


def column(*values: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """An image one pixel wide."""
    return np.repeat(np.array(values, np.uint8)[:, None, None], 3, axis=2)


@pytest.mark.parametrize(
    ("filter_name", "source", "height", "expected"),
    [
        # Target pixel 0 has its middle at 1 in the source, between the middles 0.5 and 1.5: half of each.
        ("bilinear", (0, 100, 200, 40), 2, (50, 120)),
        # 8 to 2: the middle is at 2, between pixels 1 and 2, whatever the others hold.
        ("bilinear", (255, 10, 20, 255, 255, 30, 50, 255), 2, (15, 40)),
        # Enlarging: middles at 0.25 (beyond the first pixel's: the edge), 0.75, 1.25, 1.75.
        ("bilinear", (0, 100), 4, (0, 25, 75, 100)),
        # 3 to 2: a target pixel covers one pixel and a half.
        ("area", (90, 30, 60), 2, (70, 50)),
        ("nearest", (1, 2, 3, 4, 5), 2, (2, 4)),
        # The middle of 3 to 2 falls into pixels 0 (0.75) and 2 (2.25).
        ("nearest", (7, 8, 9), 2, (7, 9)),
        # A triangle of half-width 2 around 1: distances 0.25, 0.25, 0.75 of it weigh 3, 3, 1; the far side lies outside.
        ("antialias", (70, 0, 0, 0), 2, (30, 0)),
        # Pillow's box: pixels with their middle in (0, 1.5] and (1.5, 3] of 3.
        ("box", (90, 30, 60), 2, (60, 60)),
    ],
)
def test_filter_by_hand(filter_name: str, source: tuple[int, ...], height: int, expected: tuple[int, ...]) -> None:
    assert tuple(resize(column(*source), (height, 1), filter_name)[:, 0, 0]) == expected


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize("size", [(9, 5), (31, 47), (40, 60)])
def test_a_flat_image_stays_flat(filter_name: str, size: tuple[int, int]) -> None:
    assert (resize(np.full((31, 47, 3), 201, np.uint8), size, filter_name) == 201).all()


@pytest.mark.parametrize("size", [(37, 53), (60, 41), (150, 200)])
def test_agrees_with_libraries(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    height, width = size
    pillow = Image.fromarray(image)
    theirs = {
        "bilinear": cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR),
        "antialias": np.asarray(pillow.resize((width, height), Image.Resampling.BILINEAR)),
        "box": np.asarray(pillow.resize((width, height), Image.Resampling.BOX)),
    }
    if height < 120 and width < 90:
        theirs["area"] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    for filter_name, other in theirs.items():
        difference = np.abs(resize(image, size, filter_name).astype(int) - other.astype(int))
        assert difference.max() <= 1, filter_name


@pytest.mark.parametrize("target", [48, 96, 100, 160])
@pytest.mark.parametrize("source", [76, 104, 167, 188, 202, 213, 240, 500])
def test_a_box_takes_pillows_side_where_a_middle_lies_on_its_edge(source: int, target: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (source, 1, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(image).resize((1, target), Image.Resampling.BOX))
    assert np.abs(resize(image, (target, 1), "box").astype(int) - theirs.astype(int)).max() <= 1


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_decodes_what_is_not_rgb() -> None:
    grey = decode(encoded(Image.new("L", (4, 3), 77), format="PNG"))
    assert grey.shape == (3, 4, 3)
    assert (grey == 77).all()
    deep = decode(encoded(Image.fromarray(np.full((3, 4), 0x4D12, np.uint16)), format="PNG"))
    assert (deep == 0x4D).all()
    see_through = decode(encoded(Image.new("RGBA", (4, 3), (1, 2, 3, 0)), format="PNG"))
    assert (see_through == (1, 2, 3)).all()


def test_scaled_decoding_never_falls_below_the_target() -> None:
    data = encoded(Image.new("RGB", (400, 300), (9, 99, 199)), format="JPEG")
    assert decode(data, scaled_to=(70, 100)).shape == (75, 100, 3)
    assert decode(data, scaled_to=(76, 100)).shape == (150, 200, 3)


def test_says_why_it_cannot_decode() -> None:
    whole = encoded(Image.new("RGB", (64, 64)), format="PNG")
    for data in (b"not an image", whole[: len(whole) // 2]):
        with pytest.raises(DataError, match="Pillow cannot decode it"):
            decode(data)
