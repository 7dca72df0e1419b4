"""RandomFlip("horizontal") and RandomRotation(0.1) for one image, in plain Python by OpenCV: one interpolation for both.

What is drawn depends on (seed, epoch, number of the sample) and nothing else: not on threads, nor on what ran before.
"""

from __future__ import annotations

from math import cos, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.sample import ROTATION_DEGREES


class Draws:
    """What one epoch does to each sample: ``flips`` bool (n,) and ``angles`` float64 (n,), in radians."""

    def __init__(self, seed: int, epoch: int, samples: int) -> None:
        # The third number keeps this stream apart from the one that shuffles.
        random = np.random.default_rng((seed, epoch, 1))
        self.flips = random.random(samples) < 0.5
        self.angles = np.deg2rad(random.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, samples))


def warp(image: NDArray[Any], flip: bool, angle: float, out: NDArray[Any]) -> None:
    """``image`` (height, width, 3) flipped and turned by ``angle`` about its centre into ``out``, mirrored beyond the edge."""
    import cv2

    height, width = image.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    c, s = cos(angle), sin(angle)
    side = -1 if flip else 1
    # From a place in ``out`` to one in ``image``: about the centre, turned, then mirrored.
    back = np.array(((side * c, -side * s, x - side * (c * x - s * y)), (s, c, y - s * x - c * y)))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, back, (width, height), dst=out, flags=flags, borderMode=cv2.BORDER_REFLECT)
