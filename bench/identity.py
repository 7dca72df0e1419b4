"""Which image is this? Told from its pixels alone, and also after it was flipped and rotated.

An image is sampled on rings around its centre. A horizontal flip and a rotation move what lies on a ring along that ring
and never off it: the mean colour of each ring stays (it nominates candidates), and the ring read from another angle, or
backwards, is the ring of the image before (it decides between them, and says which angle and flip it was).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float32]

RINGS = 20
ANGLES = 240
ROTATION_DEGREES = 36
"""RandomRotation(0.1): a tenth of a turn, to either side."""


@dataclass(frozen=True)
class Alignment:
    """How an image was augmented: ``angle`` in degrees, whether ``flipped``, and the difference that remains, in levels."""

    angle: float
    flipped: bool
    residual: float


@dataclass(frozen=True)
class Rings:
    """Rings in images of ``size`` (height, width)."""

    SHAPE: ClassVar[tuple[int, int, int]] = (RINGS, ANGLES, 3)

    size: tuple[int, int]

    @cached_property
    def _sampling(self) -> csr_array:
        """Bilinear weights (RINGS * ANGLES, height * width) of the points on all rings."""
        from scipy.sparse import csr_array

        height, width = self.size
        middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
        radii = np.linspace(0.12, 1.0, RINGS) * max(min(middle_y, middle_x) - 1, 0)
        angles = np.arange(ANGLES) * (2 * np.pi / ANGLES)
        y = np.clip(middle_y + np.outer(radii, np.sin(angles)).ravel(), 0, height - 1)
        x = np.clip(middle_x + np.outer(radii, np.cos(angles)).ravel(), 0, width - 1)
        top, left = np.floor(y).astype(int), np.floor(x).astype(int)
        bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
        down, along = y - top, x - left
        columns = np.concatenate([top * width + left, top * width + right, bottom * width + left, bottom * width + right])
        weights = np.concatenate([(1 - down) * (1 - along), (1 - down) * along, down * (1 - along), down * along])
        rows = np.tile(np.arange(len(y)), 4)
        return csr_array((weights.astype(np.float32), (rows, columns)), shape=(len(y), height * width))

    def unroll(self, images: NDArray[np.generic]) -> Floats:
        """Images (n, height, width, 3) as what lies on their rings: float32 (n, RINGS, ANGLES, 3)."""
        count = len(images)
        flat = np.ascontiguousarray(images, dtype=np.float32).reshape(count, -1, 3)
        columns = np.ascontiguousarray(flat.transpose(1, 0, 2)).reshape(flat.shape[1], count * 3)
        return np.asarray(self._sampling @ columns).reshape(RINGS, ANGLES, count, 3).transpose(2, 0, 1, 3)


def fingerprints(unrolled: Floats) -> Floats:
    """What neither flip nor rotation changes: the mean colour of each ring, float32 (n, RINGS * 3)."""
    means: Floats = unrolled.mean(axis=2).reshape(len(unrolled), -1)
    return means


def align(delivered: Floats, reference: Floats) -> Alignment:
    """The angle and flip at which two unrolled images (RINGS, ANGLES, 3) agree best, by circular correlation."""
    spectrum = np.fft.rfft(delivered, axis=1)
    best: tuple[float, int, bool] | None = None
    for flipped in (False, True):
        # A horizontal flip sends the angle a to 180 degrees - a.
        source = _flip(reference) if flipped else reference
        correlation = np.fft.irfft((spectrum * np.fft.rfft(source, axis=1).conj()).sum(axis=(0, 2)), ANGLES)
        shift = int(np.argmax(correlation))
        if best is None or correlation[shift] > best[0]:
            best = (float(correlation[shift]), shift, flipped)
    assert best is not None
    _, shift, flipped = best
    source = np.roll(_flip(reference) if flipped else reference, shift, axis=1)
    angle = (shift if shift <= ANGLES // 2 else shift - ANGLES) * 360 / ANGLES
    return Alignment(angle, flipped, float(np.abs(source - delivered).mean()))


def augmented_otherwise(alignments: Sequence[Alignment]) -> str | None:
    """Why images were not flipped and turned over the whole stated range and not beyond it; None if they were, or are too few."""
    angles = np.array([alignment.angle for alignment in alignments])
    if len(angles) < 32:
        return None
    outside = float((np.abs(angles) > ROTATION_DEGREES + 3).mean())
    flipped = float(np.mean([alignment.flipped for alignment in alignments]))
    spread, uniform = float(angles.std()), ROTATION_DEGREES / np.sqrt(3)
    if outside <= 0.1 and 0.6 * uniform < spread < 1.4 * uniform and abs(flipped - 0.5) <= 2.5 / np.sqrt(len(angles)):
        return None
    return (
        f"augmentation is not as asked: {flipped:.0%} flipped (expected 50%), rotations spread by "
        f"{spread:.1f} degrees (expected {uniform:.1f}), {outside:.0%} beyond {ROTATION_DEGREES}"
    )


def _flip(unrolled: Floats) -> Floats:
    return np.roll(unrolled[:, ::-1], ANGLES // 2 + 1, axis=1)
