"""Image datasets on disk: one dataset, several formats, the same samples. Knows nothing of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.registry import Table

if TYPE_CHECKING:
    from storage.base import Format

FORMATS: Table[Format] = Table(
    "format",
    "feedbench.formats",
    {},
)
