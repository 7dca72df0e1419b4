"""Input pipelines over a stored dataset. Knows nothing of timing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.registry import Table

if TYPE_CHECKING:
    from loaders.base import Loader

LOADERS: Table[Loader] = Table(
    "loader",
    "feedbench.loaders",
    {},
)
