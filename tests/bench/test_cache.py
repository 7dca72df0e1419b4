"""The page cache, asked on real files."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from bench.cache import drop, resident, warm
from bench.machine import environment

SIZE = 4 << 20


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.bin").write_bytes(bytes(SIZE))
    (tmp_path / "train" / "b.bin").write_bytes(bytes(SIZE))
    return tmp_path


def test_dropped_is_proven_and_warm_is_proven(dataset: Path) -> None:
    if environment(dataset)["filesystem"] in ("tmpfs", "overlay"):
        pytest.skip("pages of a tmpfs cannot be dropped")
    assert resident(dataset).bytes == 2 * SIZE
    assert drop(dataset).share == 0
    with (dataset / "train" / "a.bin").open("rb") as file:
        file.read()
    assert resident(dataset).share == pytest.approx(0.5, abs=0.05)
    assert warm(dataset).share == 1


def test_pages_that_a_map_holds_are_not_called_cold(dataset: Path) -> None:
    with (dataset / "train" / "a.bin").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as held:
        assert sum(held[::4096]) == 0
        assert (drop(dataset).share or 0) > 0


def test_nothing_to_ask_about() -> None:
    assert warm(None).share is None
