"""How closely a stored dataset is looked at: all of it, or a share that is drawn by a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Depth:
    """How closely each shard is looked at."""

    share: float = 1.0
    seed: int = 0
    untrusted: bool = False

    def rows(self, count: int) -> NDArray[np.int64]:
        """Which of ``count`` samples to read, ascending, int64: all, or a share of them (at least one, if there is one)."""
        if self.share >= 1:
            return np.arange(count)
        chosen = min(count, max(1, round(self.share * count)))
        return np.sort(np.random.default_rng((self.seed, count)).choice(count, chosen, replace=False))
