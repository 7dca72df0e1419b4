"""What ``--from`` names, before anything of it is read: where the images are, what they are called, where a dataset of them goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from storage.dataset import read_info
from storage.files import alone

TF_FLOWERS = "tf_flowers"


def default_out(name: str, to: str, payload: str) -> Path:
    """``data/NAME/FORMAT-PAYLOAD``, below the working directory."""
    return Path("data") / name / f"{to}-{payload}"


def origin(source: str | Path | None, progress: Callable[[str, int, int], None]) -> tuple[Path, str | None]:
    """Where the images are, drawn or downloaded if need be; and the dataset's name, where the place does not tell it.

    ``progress("drawing", images, of)`` or ``progress("downloading", bytes, of)`` is called on the way.
    """
    if source is None:
        return demo_images(lambda done, count: progress("drawing", done, count)), "demo"
    if str(source) == TF_FLOWERS and not Path(source).exists():
        from storage import tf_flowers

        folder = Path("data") / TF_FLOWERS
        return tf_flowers.fetch(folder, progress=lambda done, of: progress("downloading", done, of)), TF_FLOWERS
    return Path(source), None


def demo_images(progress: Callable[[int, int], None] | None = None) -> Path:
    """The built-in demo images, drawn on first use, by one process at a time."""
    from storage import demo

    folder = Path("data") / "demo" / "images"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.with_name(".images.lock"), wait=True):
            if not folder.is_dir():
                demo.draw(folder, progress=progress)
    return folder


def source_name(root: Path) -> str:
    """What a source is called: the folder's name, or the name that a stored dataset was given."""
    return (
        read_info(root).name
        if (root / "dataset.json").is_file()
        else root.resolve().stem
        if root.is_file()
        else root.resolve().name or "images"
    )
