"""``samples/`` of a run: one image as each loader delivered it, beside the reference, with the difference.

A file for each distinct result: loaders whose pixels are identical to the reference share one, others have one as soon as theirs
differ from everybody else's. ``samples.json`` says which case delivered what. Written when a case is proven; imports no TensorFlow.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from storage.errors import DataError
from storage.files import beside

Image = NDArray[np.uint8]

FOLDER = "samples"
INDEX = "samples.json"
AMPLIFIED = 8
"""Differences are shown so many times as large, or most of them could not be seen."""
SHOWN = ("reference", "delivered", "difference")


class SampleImage(BaseModel):
    """One distinct result. Differences are of this image, in levels of 0 to 255; ``cases`` are ids without their step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    key: str
    verdict: Literal["identical", "differs"]
    cause: str
    mean_difference: float
    largest_difference: float
    amplified: int = AMPLIFIED
    cases: tuple[str, ...]

    def file(self, shown: str) -> str:
        """The name of one of its files: ``shown`` is ``reference``, ``delivered`` or ``difference``."""
        return f"{self.name}-{shown}.png"


_INDEX = TypeAdapter(tuple[SampleImage, ...])


def keep(folder: Path, case: str, key: str, delivered: Image, reference: Image, cause: str) -> None:
    """Keep what a case delivered of sample ``key``: uint8 images of one shape (height, width, 3).

    ``cause`` names why the case's pixels differ; empty where they are identical (at most 1 level). Where it cannot be written, as on a
    full disk, it is left out: for want of a picture no case fails, and the run says so itself when it writes its records.
    """
    apart = np.abs(delivered.astype(np.int16) - reference.astype(np.int16))
    # A level more or less is no result of its own.
    telling = delivered.tobytes() if cause else b"identical"
    name = hashlib.sha256(b"\0".join([key.encode(), reference.tobytes(), telling])).hexdigest()[:16]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            known = {one.name: one for one in read(folder)}
            if name not in known:
                pictures = (reference, delivered, np.minimum(apart * AMPLIFIED, 255).astype(np.uint8))
                known[name] = SampleImage(
                    name=name, key=key, verdict="differs" if cause else "identical", cause=cause,
                    mean_difference=float(apart.mean()), largest_difference=float(apart.max()), cases=(),
                )  # fmt: skip
                for shown, picture in zip(SHOWN, pictures, strict=True):
                    _save(picture, folder / known[name].file(shown))
            # Proven again, a case may have come to another result.
            moved = {one.name: tuple(other for other in one.cases if other != case) for one in known.values()}
            moved[name] = (*moved[name], case)
            index = tuple(one.model_copy(update={"cases": moved[one.name]}) for one in known.values() if moved[one.name])
            with beside(folder / INDEX) as partial:
                partial.write_bytes(_INDEX.dump_json(index, indent=1))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: several prove pipelines at once."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def read(folder: Path) -> tuple[SampleImage, ...]:
    """What a run kept, in the order in which it was first seen; empty if nothing. DataError if the index is not one."""
    path = folder / INDEX
    if not path.is_file():
        return ()
    try:
        return _INDEX.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is not a list of sample images: {where}: {first['msg']}") from error


def _save(picture: Image, path: Path) -> None:
    from PIL import Image as Pillow

    with beside(path) as partial:
        Pillow.fromarray(picture).save(partial, "PNG", optimize=True)
