"""Small sources for the tests of this room, and what a dataset on disk is compared by."""

from __future__ import annotations

import json
from pathlib import Path

from tests.storage.odd import picture, save

CLASSES = ("cat", "dog", "ёж")


def photos(root: Path, count: int = 24, *, splits: tuple[str, ...] = ()) -> Path:
    """``count`` small JPEG files, each different from all others, in three classes of a folder (in each of ``splits``)."""
    for split in splits or (".",):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
        for number in range(count):
            image = picture().rotate(number * 7 + len(split))
            data = save(image, "JPEG", quality=60 + number % 30)
            (root / split / CLASSES[number % 3] / f"{number:04d}.jpg").write_bytes(data)
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a dataset but its manifest (which says how long writing took) and a conversion's own notes."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "dataset.json" and ".writing" not in path.parts
    }


def change_manifest(root: Path, old: str, new: str) -> None:
    """As somebody would who means it: without the digest, which would tell."""
    manifest = root / "dataset.json"
    content = json.loads(manifest.read_bytes())
    content.pop("digest", None)
    text = json.dumps(content)
    assert old in text
    manifest.write_text(text.replace(old, new))
