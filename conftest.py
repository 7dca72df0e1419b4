"""The benchmark's options for pytest, those of ``feedbench run`` by the same names; and the browser of tests and benchmarks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# TensorFlow's chatter about the machine; a worker's own goes to its own standard error anyway.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Registered here, in the root, so that they are known from wherever pytest starts."""
    if not pluginmanager.hasplugin("timeout"):
        parser.addini("timeout", "seconds that a test may take, where pytest-timeout is installed")
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
        ("workers", "threads that prepare batches; 0, the default: one a processor"),
        ("batch-size", "images a batch; default: 32"),
        ("image-size", "N or HEIGHTxWIDTH; default: 160"),
        ("limit", "take at most so many images"),
        ("results", "where the run's folder is made; default: results"),
        ("sweeps", "how often every case is measured"),
        ("budget", "time to use, such as 10m"),
        ("isolation", "case or sweep"),
        ("turns", "how many cases are measured side by side, in turns; default: 4, with a GPU 1"),
        ("cache", "warm or cold"),
        ("seed", "of shuffling, augmentation and the order of sweeps"),
        ("today", "the case that you have now, by its id or its beginning; default: the plain generator on a directory"),
    ):
        kind = int if name in ("batch-size", "limit", "sweeps", "turns", "seed") else str
        group.addoption(f"--{name}", metavar="VALUE", type=kind, help=text)
    group.addoption(
        "--vary", metavar="NAME=V1,V2", action="append", default=[],
        help="measure with each value of a field of loader or step; may be given several times",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """What pytest-timeout would declare: benchmarks that take long are marked so, and run without the test extra too."""
    if not config.pluginmanager.hasplugin("timeout"):
        config.addinivalue_line("markers", "timeout: seconds that a test may take, where pytest-timeout is installed")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --benchmark-only no test runs, so none is imported: what only tests need may be missing."""
    tests = config.rootpath / "tests" in collection_path.parents
    return True if tests and config.getoption("benchmark_only", default=False) else None


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, object]) -> None:
    """What pytest-benchmark saves names no host."""
    machine_info.pop("node", None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless. Skips where there is none; nothing is ever downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the test extra's playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-dev-shm-usage"]
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=chromium, args=quiet)
        yield launched
        launched.close()
