"""Peak anonymous memory of the process tree, less what it held before the feed was opened and did not use again.

Pages of mapped files are the page cache's, and not in it. Records without the reading before count all of the tree's.
"""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    if one.anon_memory_bytes is None:
        return None
    return max(0, one.anon_memory_bytes - (one.anon_before_bytes or 0)) + (one.anon_reused_bytes or 0)


METRIC = Metric("anon_memory_bytes", "bytes", False, over_sweeps(_each))
