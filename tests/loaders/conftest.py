"""Stored datasets for the tests of loaders: the demo images, small, in any format and payload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import storage
from storage.demo import draw

Stored = Callable[[str, str], Path]

SIZE = 48
IMAGES = 60
TRAIN = 48
"""How many of them are in the split train; the rest are in validation."""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "demo"
    draw(folder, count=IMAGES)
    return folder


@pytest.fixture(scope="session")
def stored(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The dataset of one format and payload, made when it is first asked for, in several shards."""
    folder = tmp_path_factory.mktemp("stored")

    def make(format_name: str, payload: str) -> Path:
        path = folder / f"{format_name}-{payload}"
        if not path.exists():
            shard_bytes = SIZE * SIZE * 3 * 20 if payload == "raw" else 450_000
            storage.convert(
                pictures,
                to=format_name,
                out=path,
                payload=payload,
                image_size=SIZE,
                shard_bytes=shard_bytes,
                workers=1,
            )
        return path

    return make
