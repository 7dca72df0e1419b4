"""How a report's files come into their place: whole, or not at all."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, content: str | bytes) -> Path:
    """Write a file beside its place, then rename it: a reader sees all of it, or the one before. Text is UTF-8."""
    beside = path.with_name(path.name + ".partial")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    return beside.replace(path)
