"""What the loaders reach, as ratios to the unavoidable work and to what a user could pick instead, each in one run.

``pytest bench/test_loaders.py --benchmark-only -s``; it takes half an hour, so it runs only when it is named, and never fails for
slowness. ``--images=DIR`` names photographs; without it, ``FEEDBENCH_DEMO`` (2,000) demo images are drawn. ``FEEDBENCH_ROUNDS``
(7) says how often everyone has a turn, ``FEEDBENCH_SAMPLES`` (1,000,000) how many images start-up is tried with.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from rich.console import Console

import storage
from bench.tiny import tiny
from bench.turns import Turns
from storage import FORMATS, demo

DEMO = int(os.environ.get("FEEDBENCH_DEMO", "2000"))
ROUNDS = int(os.environ.get("FEEDBENCH_ROUNDS", "7"))
SAMPLES = int(os.environ.get("FEEDBENCH_SAMPLES", "1000000"))
RAW_ROWS, ENCODED_ROWS = 6_000, 4_000
"""Rows of an epoch where its own length matters: so many that the start of an epoch is a small part of it."""
CORES = len(os.sched_getaffinity(0))
OURS = ("threaded", "tfdata")
RIVALS = {
    "torch": ("directory", "hdf5", "lmdb"),
    "grain": ("directory", "hdf5", "lmdb"),
    "nvidia.dali": ("directory", "hdf5", "lmdb"),
    "webdataset": ("tfrecord",),
}
"""By the module that has to be installed: the formats that our loader of that name reads."""


@pytest.fixture(scope="module")
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is timed: ``--images``, or demo images."""
    given = request.config.getoption("images")
    if given:
        return Path(given)
    root = tmp_path_factory.mktemp("loaders") / "demo"
    demo.draw(root, DEMO)
    return root


def rows(images: Path, folder: Path, count: int) -> Path:
    """At least ``count`` training images: those that there are, copied under other names as often as it takes."""
    source = images / "train" if (images / "train").is_dir() else images
    files = sorted(file for file in source.glob("*/*") if file.is_file())
    for copy in range(-(-count // len(files))):
        for file in files:
            target = folder / "train" / file.parent.name / f"{copy}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return folder


@pytest.fixture(scope="module")
def camera_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty JPEG files of 2,000 x 1,500 pixels: demo images enlarged, with the grain of a sensor."""
    import cv2
    import numpy as np
    import simplejpeg

    root = tmp_path_factory.mktemp("camera")
    for number in range(60):
        name = demo.CLASSES[number % len(demo.CLASSES)]
        small = simplejpeg.decode_jpeg(demo.picture(name, 0, number))
        large = cv2.resize(small, (2000, 1500), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        large += np.random.default_rng(number).normal(0, 5, large.shape)
        (root / "train" / name).mkdir(parents=True, exist_ok=True)
        data = simplejpeg.encode_jpeg(np.clip(large, 0, 255).astype(np.uint8), 90, "RGB", "420")
        (root / "train" / name / f"{number}.jpg").write_bytes(data)
    return root


def contender(root: Path, loader: str, *options: str, format_name: str = "lmdb", payload: str = "encoded") -> list[str]:
    """The command of one contender."""
    chosen = ["--loader", loader, "--format", format_name, "--payload", payload, *options]
    return [sys.executable, "-m", "bench.contender", *chosen, str(root), "160", "32", str(CORES)]


def race(benchmark: Any, title: str, to: str, commands: Mapping[str, Sequence[str]]) -> None:
    """Let all take turns; print the table and keep the ratios with the result."""
    with Turns(commands) as turns:
        benchmark.pedantic(turns.round, rounds=ROUNDS if benchmark.enabled else 1)
        ratios = {name: round(turns.ratio(name, to), 3) for name in commands}
        say(benchmark, turns.table(title, to), to=to, ratios=ratios)


def say(benchmark: Any, shown: Any, **facts: Any) -> None:
    """Print to standard error, beside pytest's own output, and keep with the result."""
    benchmark.extra_info.update(facts)
    Console(stderr=True, width=110).print("\n", shown)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("format_name", FORMATS)
def test_encoded(format_name: str, images: Path, benchmark: Any) -> None:
    """Identical pixels, against decoding alone and against what else there is."""
    rivals = [module for module, formats in RIVALS.items() if format_name in formats and find_spec(module.split(".")[0])]
    commands = {
        "limit:decode": contender(images, "limit:decode"),
        **{name: contender(images, name, format_name=format_name) for name in OURS},
        **{name: contender(images, name.split(".")[-1], format_name=format_name) for name in rivals},
        "textbook": [sys.executable, "-m", "bench.textbook", str(images), "160", "32", str(CORES)],
    }
    race(benchmark, f"encoded, {format_name}", "limit:decode", commands)


@pytest.mark.timeout(1800)
def test_fast_decoding(images: Path, benchmark: Any) -> None:
    """``decode=fast``, against accurate decoding alone."""
    commands = {name: contender(images, name, "--vary", "decode=fast") for name in OURS}
    race(
        benchmark,
        "decode=fast, lmdb",
        "limit:decode",
        {"limit:decode": contender(images, "limit:decode"), **commands},
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("loader", OURS)
def test_scaled_decoding(loader: str, camera_photographs: Path, benchmark: Any) -> None:
    """``jpeg_scale=auto``, against the same loader without it, on camera photographs."""
    commands = {
        "whole": contender(camera_photographs, loader),
        "scaled": contender(camera_photographs, loader, "--vary", "jpeg_scale=auto"),
    }
    race(benchmark, f"jpeg_scale=auto, {loader}, 2,000 x 1,500", "whole", commands)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("format_name", ["hdf5", "lmdb", "tfrecord"])
def test_raw(format_name: str, images: Path, tmp_path: Path, benchmark: Any) -> None:
    """Pixels as they are stored, against gathering them from memory.

    Over RAW_ROWS rows: an epoch of 500 takes 4 ms, as long as its start, and would time that.
    """
    root = rows(images, tmp_path / "rows", RAW_ROWS)
    commands = {name: contender(root, name, format_name=format_name, payload="raw") for name in OURS}
    limit = contender(root, "limit:gather", payload="raw")
    race(benchmark, f"raw, {format_name}", "limit:gather", {"limit:gather": limit, **commands})


def run(code: str, *arguments: object) -> Any:
    """What a script prints last, as JSON, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return json.loads(done.stdout.splitlines()[-1])


_COMMON = """
import json, sys, time
import cv2, h5py, keras, lmdb, numpy, simplejpeg, tensorflow
from contextlib import closing
from loaders import LOADERS
from loaders.base import LoaderSpec
from storage import open_dataset

def build(path, loader, **changed):
    return LOADERS[loader].build(open_dataset(path), LoaderSpec(placement="model", augment=False, **changed))
"""

_START_UP = """
path, loader = sys.argv[1:]
LOADERS[loader]
started = time.perf_counter()
with closing(build(path, loader)) as feed:
    next(iter(feed.epoch(0)))
    print(json.dumps(time.perf_counter() - started))
"""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format_name", FORMATS)
def test_start_up(format_name: str, images: Path, tmp_path: Path, benchmark: Any) -> None:
    """Seconds from opening to the first batch, after the imports: these images, and FEEDBENCH_SAMPLES tiny ones."""
    from rich.table import Table

    few, many = tmp_path / "few", tmp_path / "many"
    storage.convert(images, to=format_name, out=few)
    storage.convert(tiny(tmp_path / "tiny", SAMPLES), to=format_name, out=many)
    listing = benchmark.pedantic(_listing, (many,), rounds=1)
    table = Table("loader", "first batch, s", f"of {SAMPLES:,}, s", "listing their folders, s", title=format_name)
    found = {}
    for loader in OURS:
        found[loader] = [median(run(_COMMON + _START_UP, path, loader) for _ in range(3)) for path in (few, many)]
        table.add_row(loader, *(f"{seconds:.3f}" for seconds in (*found[loader], listing)))
    say(benchmark, table, first_batch_s=found, listing_s=listing)


def _listing(path: Path) -> float:
    import time

    started = time.perf_counter()
    for folder in path.glob("train/*"):
        sum(1 for _ in os.scandir(folder))
    return time.perf_counter() - started


_EPOCHS = """
path, loader, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
found = []
with closing(build(path, loader)) as feed:
    for number in range(count + 2):
        begun = time.perf_counter()
        first = None
        for images, labels in feed.epoch(number):
            first = first or time.perf_counter() - begun
        found.append((first, time.perf_counter() - begun))
print(json.dumps(found[2:]))
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("loader", OURS)
def test_turnaround_and_spread(loader: str, images: Path, tmp_path: Path, benchmark: Any) -> None:
    """Over 30 epochs of ENCODED_ROWS images, about a second each: the wait for an epoch's first batch; the slowest to the median.

    In shorter epochs, the scheduler alone makes one or other of them slow.
    """
    storage.convert(rows(images, tmp_path / "rows", ENCODED_ROWS), to="lmdb", out=tmp_path / "stored")
    passes = benchmark.pedantic(run, (_COMMON + _EPOCHS, tmp_path / "stored", loader, 30), rounds=1)
    turnaround = median(first for first, _ in passes)
    whole = [seconds for _, seconds in passes]
    facts = {
        "turnaround_s": round(turnaround, 4),
        "turnaround_share": round(median(first / seconds for first, seconds in passes), 3),
        "slowest_to_median": round(median(whole) / max(whole), 3),
    }
    say(benchmark, f"{loader}: {facts}; an epoch takes {median(whole):.2f} s", **facts)


_GENERATORS = """
from statistics import median
from loaders.image_data_generator import generator_feed
path, rounds = sys.argv[1], int(sys.argv[2])
spec = LoaderSpec(placement="model", augment=False)
bare = generator_feed(open_dataset(path), spec)
feeds = {name: build(path, name) for name in ("image_data_generator", "from_generator")}

def loop(number):
    bare.iterator.index_array = bare.order(number)
    for index in range(len(bare)):
        bare.iterator[index]

def seconds(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun

found = {name: [] for name in feeds}
for number in range(rounds):
    plain = seconds(lambda: loop(number))
    for name, feed in feeds.items():
        found[name].append(plain / seconds(lambda: sum(1 for _ in feed.epoch(number))))
print(json.dumps({name: median(ratios[1:]) for name, ratios in found.items()}))
"""


@pytest.mark.timeout(1800)
def test_generators_are_not_handicapped(images: Path, tmp_path: Path, benchmark: Any) -> None:
    """Keras' generator behind our two loaders, against a bare loop over it."""
    storage.convert(images, to="directory", out=tmp_path / "stored")
    ratios = benchmark.pedantic(run, (_COMMON + _GENERATORS, tmp_path / "stored", 6), rounds=1)
    say(benchmark, f"against a bare loop over Keras' generator: {ratios}", ratios=ratios)
