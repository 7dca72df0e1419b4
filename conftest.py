"""The benchmark's options for pytest: those of ``feedbench run``, by the same names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# TensorFlow's chatter about the machine; a worker's own goes to its own standard error anyway.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registered here, in the root, so that they are known from wherever pytest starts."""
    group = parser.getgroup("feedbench", "what is measured with --benchmark-only (write values with =)")
    for name, text in (
        ("images", "folder CLASS/FILE or SPLIT/CLASS/FILE; default: the demo images"),
        ("formats", "storage formats, several with commas"),
        ("payloads", "encoded,raw"),
        ("loaders", "loaders, several with commas"),
        ("placements", "pipeline,model"),
        ("step", "feature_extraction,none by default; fine_tune, full, emulated:RATE, calibrate"),
        ("model", "a keras.applications name or a .keras file; default: MobileNetV2"),
        ("weights", "none, imagenet, or a file of the base's; default: none"),
        ("fine-tune-at", "first layer that fine_tune trains; default: 100, or earlier in smaller bases"),
        ("workers", "threads that prepare batches; default: one a processor"),
        ("batch-size", "images a batch; default: 32"),
        ("image-size", "N or HEIGHTxWIDTH; default: 160"),
        ("limit", "take at most so many images"),
        ("results", "where the run's folder is made; default: results"),
        ("sweeps", "how often every case is measured"),
        ("budget", "time to use, such as 10m"),
        ("isolation", "case or sweep"),
        ("cache", "warm or cold"),
        ("seed", "of shuffling, augmentation and the order of sweeps"),
    ):
        group.addoption(f"--{name}", metavar="VALUE", help=text)
    group.addoption(
        "--vary", metavar="NAME=V1,V2", action="append", default=[],
        help="measure with each value of a field of loader or step; may be given several times",
    )  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --benchmark-only no test runs, so none is imported: what only tests need may be missing."""
    tests = config.rootpath / "tests" in collection_path.parents
    return True if tests and config.getoption("benchmark_only", default=False) else None


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, object]) -> None:
    """What pytest-benchmark saves names no host."""
    machine_info.pop("node", None)
