"""Why validation loss lies below training loss: the training images seen both ways, under the same weights.

While a model trains, dropout drops, batch normalisation normalises by the batch and random layers augment; in validation all
of that is off. The two losses of a history thus are not of the same model. Evaluating the training images both ways splits
the difference into its parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.history import Epoch
from bench.model import Transfer

Score = tuple[float, float]
"""(mean loss, accuracy) over samples."""


@dataclass(frozen=True, kw_only=True)
class BothWays:
    """The last epoch of a history, and the training images again under the weights that it ended with.

    ``during`` is the history's: while the weights moved, on the images as the pipeline augmented them. ``on`` is with
    ``acting`` (dropout and the like) as in training, ``off`` as in validation, both on plain images. ``validation`` is the
    history's, None without such a split.
    """

    during: Score
    on: Score
    off: Score
    validation: Score | None
    acting: tuple[str, ...]

    def lines(self) -> list[str]:
        """In words and numbers, a sentence a line."""
        acting = " and ".join(self.acting) or "nothing"
        during, on, off = self.during[0], self.on[0], self.off[0]
        said = [
            f"training images with {acting} on, as in training: {_score(self.on)}",
            f"the same images and weights with {acting} off, as in validation: {_score(self.off)}",
            f"training loss {during:.4f} = {off:.4f}, the loss as in validation, {on - off:+.4f} for {acting}, "
            f"{during - on:+.4f} for weights still moving and what the pipeline augments",
        ]
        if self.validation is not None:
            said.append(self._verdict(self.validation[0]))
        return said

    def _verdict(self, val: float) -> str:
        during, off = self.during[0], self.off[0]
        same = f"measured the same way, training images have {off:.4f}"
        if val >= during:
            return f"validation loss ({val:.4f}) is not below training loss ({during:.4f}); {same}"
        why = f"validation loss ({val:.4f}) is below training loss ({during:.4f})"
        if val >= off:
            return f"{why} only because the two are not measured the same way: {same}"
        return (
            f"{why}, and not only because the two are measured differently: {same}, so validation images are the easier ones"
        )


def acting(transfer: Transfer) -> tuple[str, ...]:
    """What a model does while it trains and not otherwise, in words; nothing of a base that runs with ``training=False``."""
    import keras

    inside = [layer for layer in transfer.model.layers if layer is not transfer.base]
    if transfer.base_trains:
        inside += transfer.base._flatten_layers()
    kinds: dict[str, Callable[[Any], bool]] = {
        "dropout": lambda layer: "Dropout" in type(layer).__name__,
        "batch normalisation": lambda layer: isinstance(layer, keras.layers.BatchNormalization) and layer.trainable,
        "augmentation": lambda layer: type(layer).__name__.startswith("Random"),
    }
    return tuple(name for name, fits in kinds.items() if any(fits(layer) for layer in inside))


def of(row: Epoch, *, on: Score, off: Score, acting: tuple[str, ...]) -> BothWays:
    """With what the history's last epoch says."""
    held_out = None if row.val_loss is None or row.val_accuracy is None else (row.val_loss, row.val_accuracy)
    return BothWays(during=(row.loss, row.accuracy), on=on, off=off, validation=held_out, acting=acting)


def write(path: Path, found: BothWays) -> None:
    """Keep the numbers, as ``both_ways.json``."""
    path.write_text(json.dumps(asdict(found), indent=1))


def _score(score: Score) -> str:
    return f"loss {score[0]:.4f}, accuracy {score[1]:.1%}"
