"""Input pipelines over a stored dataset. Knows nothing of timing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.registry import Table

if TYPE_CHECKING:
    from loaders.base import Feed, Loader

LOADERS: Table[Loader] = Table(
    "loader",
    "feedbench.loaders",
    {
        "dali": "loaders.dali:LOADER",
        "from_generator": "loaders.from_generator:LOADER",
        "grain": "loaders.grain:LOADER",
        "image_data_generator": "loaders.image_data_generator:LOADER",
        "image_dataset_from_directory": "loaders.image_dataset_from_directory:LOADER",
        "tfdata": "loaders.tfdata:LOADER",
        "tfdata_service": "loaders.tfdata_service:LOADER",
        "threaded": "loaders.threaded:LOADER",
        "torch": "loaders.torch:LOADER",
        "webdataset": "loaders.webdataset:LOADER",
    },
)


def load(path: str | Path, loader: str = "auto", **settings: Any) -> Feed:
    """A feed over a stored dataset, ready for ``model.fit``: see :func:`loaders.loading.load`."""
    from loaders import loading

    return loading.load(path, loader, **settings)
