"""Keras' ``ImageDataGenerator`` wrapped in ``tf.data.Dataset.from_generator``, with an output signature and prefetch.

The generator is the one of ``image_data_generator``, with the same ``workers`` and the same limits; ``prefetch`` is
``tf.data``'s, which a pass of this loader has and a bare loop over the generator has not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loaders.base import LoaderSpec, Stage
from loaders.image_data_generator import generator_differences, generator_feed, generator_unsupported
from loaders.stream import StreamFeed
from storage.base import DatasetInfo

if TYPE_CHECKING:
    from storage.dataset import StoredDataset


class FromGeneratorLoader:
    """See the module."""

    name = "from_generator"
    stages: tuple[Stage, ...] = ()

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """What the generator cannot serve."""
        return generator_unsupported(info, spec)

    def differences(self, info: DatasetInfo, spec: LoaderSpec) -> tuple[str, ...]:
        """Pillow's filters."""
        return generator_differences(info, spec)

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> StreamFeed:
        """The generator's batches, pass by pass, behind ``tf.data``."""
        del until  # no stages: image_data_generator has them
        generator = generator_feed(dataset, spec)
        return StreamFeed(
            generator.batches,
            len(generator),
            spec,
            layers=generator.layers,
            close=generator.close,
            prefetch=spec.prefetch,
        )


LOADER = FromGeneratorLoader()
