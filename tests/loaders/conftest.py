"""Stored datasets for the tests of loaders: the demo images, small, in any format and payload."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path

import pytest

import storage
from loaders.base import Option
from loaders.service import LocalService
from storage.dataset import read_info
from storage.demo import draw

Stored = Callable[[str, str], Path]
Options = Callable[[str], tuple[tuple[str, Option], ...]]

SIZE = 48
IMAGES = 60
TRAIN = 48
"""How many of them are in the split train; the rest are in validation."""


def damaged_shard(stored: Path, copy: Path) -> tuple[Path, Path]:
    """A copy of a stored dataset with a bit flipped in its second shard of the split train, and that shard's file."""
    shutil.copytree(stored, copy)
    shard = copy / read_info(copy).splits["train"].shards[1].file
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)
    return copy, shard


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


@pytest.fixture(scope="session")
def service() -> Iterator[Callable[[], LocalService]]:
    """One tf.data service for all tests, started when it is first asked for: that takes seconds."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(closing(LocalService(2))))


@pytest.fixture(scope="session")
def options(service: Callable[[], LocalService]) -> Options:
    """The options that a loader is tested with."""
    return lambda loader: (("service", service().address),) if loader == "tfdata_service" else ()
