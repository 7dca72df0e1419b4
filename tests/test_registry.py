"""The tables: unknown names list the valid ones, and a module without a row is a failing test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.metrics import METRICS
from bench.report.charts import CHARTS
from loaders import LOADERS
from storage import FORMATS
from storage.errors import UsageError
from storage.registry import Table

ROOT = Path(__file__).parent.parent
TABLES: dict[str, Table[Any]] = {
    "storage": FORMATS,
    "loaders": LOADERS,
    "bench/metrics": METRICS,
    "bench/report/charts": CHARTS,
}


def test_unknown_name_lists_the_valid_ones() -> None:
    table: Table[object] = Table("format", "feedbench.none", {"hdf5": "json:dumps", "lmdb": "json:loads"})
    with pytest.raises(UsageError, match="unknown format 'zarr'; expected one of: hdf5, lmdb"):
        table["zarr"]
    with pytest.raises(KeyError):
        table["zarr"]


def test_row_is_imported_on_first_use() -> None:
    import json

    table: Table[object] = Table("format", "feedbench.none", {"hdf5": "json:dumps"})
    assert table["hdf5"] is json.dumps
    assert list(table) == ["hdf5"]
    assert "lmdb" not in table


@pytest.mark.parametrize("folder", TABLES)
def test_every_row_resolves_to_its_name(folder: str) -> None:
    for name in TABLES[folder].built_in:
        assert TABLES[folder][name].name == name
