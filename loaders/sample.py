"""One sample, prepared in plain Python by C libraries: for loaders that call a function a sample (torch, grain, webdataset).

No TensorFlow and no Keras here: worker processes import this module.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from loaders.base import LoaderSpec
from storage.base import DatasetInfo
from storage.errors import UsageError

T = TypeVar("T")

IN_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}

ROTATION_DEGREES = 36
"""RandomRotation(0.1): a tenth of a turn, to either side."""


def prepare(image: bytes | NDArray[np.uint8], spec: LoaderSpec, where: tuple[int, int]) -> NDArray[Any]:
    """One image as ``spec`` wants it: (height, width, 3), ``float32`` for placement pipeline, else ``spec.dtype``.

    ``where`` is (epoch, number of the sample): with ``spec.seed`` it decides the augmentation, whichever worker does it.
    Raises DataError if the image cannot be decoded.
    """
    from storage.pixels import decode, resize

    pixels = decode(image) if isinstance(image, bytes) else image
    if pixels.shape[:2] != spec.image_size:
        pixels = resize(pixels, spec.image_size, spec.resize)
    if spec.placement == "model":
        return pixels.astype(spec.dtype, copy=False)
    if spec.augment:
        return scale(augment(pixels, np.random.default_rng((spec.seed, *where))), spec.scaling)
    return scale(pixels, spec.scaling)


def augment(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float32]:
    """A horizontal flip in half of the cases, and a rotation about the centre, mirrored beyond the edge."""
    import cv2

    height, width = pixels.shape[:2]
    image = pixels.astype(np.float32)
    if random.random() < 0.5:
        image = image[:, ::-1]
    angle = random.uniform(-ROTATION_DEGREES, ROTATION_DEGREES)
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def scale(pixels: NDArray[Any], scaling: str) -> NDArray[np.float32]:
    """Levels of 0 to 255 as the model wants them, float32, as ``keras.applications`` names it."""
    image = pixels.astype(np.float32)
    if scaling == "tf":
        return image / np.float32(127.5) - np.float32(1)
    if scaling == "torch":
        mean, deviation = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
        return (image / np.float32(255) - mean) / deviation
    if scaling == "caffe":
        return image[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    return image


def order(samples: int, spec: LoaderSpec, epoch: int) -> NDArray[np.int64]:
    """The samples of one epoch, in order: int64 (n,). The same for the same seed and epoch, whatever ran before."""
    if not spec.shuffle:
        return np.arange(samples)
    return np.random.default_rng((spec.seed, epoch)).permutation(samples)


def batches_in(samples: int, spec: LoaderSpec) -> int:
    """How many batches make an epoch."""
    whole, rest = divmod(samples, spec.batch_size)
    return whole + (rest > 0 and not spec.drop_remainder)


def not_installed(*libraries: str) -> str | None:
    """Says how to install those that are not there; None if all are. Imports nothing, not even a package that one is part of."""
    missing = list(dict.fromkeys(library for library in libraries if not _is_there(library)))
    if not missing:
        return None
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: pip install 'feedbench[peers]'"


def _is_there(library: str) -> bool:
    top, *parts = library.split(".")
    found, name = find_spec(top), top
    for part in parts:
        name = f"{name}.{part}"
        found = found and PathFinder.find_spec(name, found.submodule_search_locations)
    return found is not None


def peer_unsupported(library: str, info: DatasetInfo, spec: LoaderSpec) -> str | None:
    """What none of the peers does, and whether the library is there at all."""
    if missing := not_installed(library):
        return missing
    if spec.decode == "fast" or spec.jpeg_scale == "auto":
        return f"the {library} loader decodes JPEG accurately and at full size only"
    if spec.cache:
        return f"the {library} loader does not cache"
    if info.payload == "raw" and info.image_size != spec.image_size:
        return f"the stored images are {info.image_size}, and image_size is {spec.image_size}"
    return None


def options_of(kind: type[T], spec: LoaderSpec) -> T:
    """``spec.options`` as a loader's own dataclass. UsageError for one that it has not, naming those there are, or of another type."""
    known = get_type_hints(kind)
    for name, value in spec.options:
        if name not in known:
            raise UsageError(f"unknown option {name!r}; this loader has: {', '.join(known)}")
        wanted = known[name]
        if wanted in IN_WORDS and type(value) is not wanted and (wanted, type(value)) != (float, int):
            raise UsageError(f"{name} must be {IN_WORDS[wanted]}, got {value!r}")
    return kind(**dict(spec.options))
