"""Scaling, written a second time and backwards: from what a model is fed to levels of 0 to 255."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loaders.base import Scaling

MEAN = np.array([0.485, 0.456, 0.406], np.float64)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float64)
MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float64)


def unscale(images: NDArray[np.generic], scaling: Scaling) -> NDArray[np.float32]:
    """Undo ``LoaderSpec.scaling``, as ``keras.applications.imagenet_utils`` defines it: float32 (…, 3), RGB, 0 to 255."""
    values = np.asarray(images, np.float64)
    if scaling == "tf":
        values = (values + 1) * 127.5
    elif scaling == "torch":
        values = (values * DEVIATION + MEAN) * 255
    elif scaling == "caffe":
        values = (values + MEAN_BGR)[..., ::-1]
    return values.astype(np.float32)
