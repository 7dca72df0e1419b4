"""Metrics: one a file, each a pure function of a case's records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.registry import Table

if TYPE_CHECKING:
    from bench.metrics.base import Metric

METRICS: Table[Metric] = Table(
    "metric",
    "feedbench.metrics",
    {
        "accelerator_utilisation": "bench.metrics.accelerator_utilisation:METRIC",
        "anon_memory_bytes": "bench.metrics.anon_memory_bytes:METRIC",
        "asked_read_bytes": "bench.metrics.asked_read_bytes:METRIC",
        "cpu_cores": "bench.metrics.cpu_cores:METRIC",
        "cpu_us_per_image": "bench.metrics.cpu_us_per_image:METRIC",
        "device_read_bytes": "bench.metrics.device_read_bytes:METRIC",
        "epoch_turnaround_s": "bench.metrics.epoch_turnaround_s:METRIC",
        "first_batch_s": "bench.metrics.first_batch_s:METRIC",
        "images_per_s": "bench.metrics.images_per_s:METRIC",
        "major_faults": "bench.metrics.major_faults:METRIC",
        "minor_faults": "bench.metrics.minor_faults:METRIC",
        "scan_s": "bench.metrics.scan_s:METRIC",
        "startup_s": "bench.metrics.startup_s:METRIC",
        "step_ms": "bench.metrics.step_ms:METRIC",
        "threads": "bench.metrics.threads:METRIC",
        "transfer_ms": "bench.metrics.transfer_ms:METRIC",
        "wait_share": "bench.metrics.wait_share:METRIC",
    },
)
