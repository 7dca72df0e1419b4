"""What converting, verifying and opening cost, each as a ratio to the unavoidable work, in the same run.

    pytest bench/test_convert.py --benchmark-only -s

It takes minutes, so it runs only when it is named; ``-k cp``, ``-k decoding``, ``-k cat`` and ``-k million`` choose a part. A line
each says what came out, beside what is to be reached. Two variables of the environment choose sizes: ``FEEDBENCH_FILES=20000,100000``
(files of about 16 kB) and ``FEEDBENCH_TINY=10000,1000000`` (from how many tiny images to how many memory is watched). The start of
the interpreter is counted apart: worker processes are warm. Both sides run in turns, from the page cache, on this file system.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import storage
from storage import FORMATS, demo, pixels
from storage.base import PAYLOADS
from storage.verification import verify

FILES = [int(count) for count in os.environ.get("FEEDBENCH_FILES", "20000,100000").split(",")]
TINY = [int(count) for count in os.environ.get("FEEDBENCH_TINY", "10000,1000000").split(",")]
DRAWN = 1000
LINKS = 50_000
SMALL_SHARD = 1 << 22
CORES = len(os.sched_getaffinity(0))
ONE_FILE_FORMATS = [name for name in FORMATS if name != "directory"]


@pytest.fixture(scope="module", params=FILES)
def photos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """So many files: a thousand are drawn, the rest are copies of them under other names."""
    count, home = request.param, tmp_path_factory.mktemp("convert")
    root = home / "photos"
    demo.draw(root, min(DRAWN, count))
    drawn = sorted(root.rglob("*.jpg"))
    for number in range(len(drawn), count):
        original = drawn[number % len(drawn)]
        shutil.copyfile(original, original.with_name(f"{original.stem}-{number:07d}.jpg"))
    os.sync()
    warm(tiny(home / "warm", 200), home)
    yield root
    shutil.rmtree(home)


def warm(few: Path, home: Path) -> None:
    """Have this process, and each worker, import what both sides need: the libraries of each format and of decoding."""
    for name in ONE_FILE_FORMATS:
        for payload in PAYLOADS:
            out = home / f"warm-{name}-{payload}"
            storage.convert(few, to=name, payload=payload, out=out, shard_bytes=20000 if payload == "encoded" else 1 << 20)
    decode_and_drop(sorted(few.rglob("*.jpg")))


def tiny(root: Path, count: int) -> Path:
    """``count`` JPEG files of a few hundred bytes, in ten classes; most are hard links, since making a million files takes minutes."""
    import cv2
    import numpy as np

    data = cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    first = root
    for number in range(count):
        file = root / f"class-{number % 10}" / f"{number:07d}.jpg"
        if number < 10:
            file.parent.mkdir(parents=True)
        if number % LINKS == 0:
            file.write_bytes(data)
            first = file
        else:
            os.link(first, file)
    return root


def rounds(photos: Path) -> int:
    """How often both sides are measured."""
    return 3 if sum(1 for _ in photos.rglob("*.jpg")) <= 20_000 else 1


def compare(
    benchmark: Any, reference: Callable[[], object], candidate: Callable[[], object], least: float, clean: Path, count: int
) -> None:
    """Time both in turns; the ratio of speeds goes with the result. ``clean`` is removed before each."""
    seconds: list[float] = []

    def before() -> None:
        shutil.rmtree(clean, ignore_errors=True)
        os.sync()
        started = time.perf_counter()
        reference()
        seconds.append(time.perf_counter() - started)
        shutil.rmtree(clean, ignore_errors=True)
        os.sync()

    benchmark.pedantic(candidate, setup=before, rounds=count)
    if benchmark.stats is None:
        return
    ratios = [one / other for one, other in zip(seconds[-count:], benchmark.stats.stats.data, strict=True)]
    say(benchmark, ratio=round(statistics.median(ratios), 3), at_least=least, ratios=[round(ratio, 3) for ratio in ratios],
        reference_s=round(statistics.median(seconds), 3))  # fmt: skip


def say(benchmark: Any, **facts: Any) -> None:
    """Into the record, and onto standard error."""
    benchmark.extra_info.update(facts)
    sys.stderr.write(f"\n{benchmark.name}: {', '.join(f'{name} {value}' for name, value in facts.items())}\n")


@pytest.mark.parametrize("name", ONE_FILE_FORMATS)
def test_encoded_against_cp(name: str, photos: Path, tmp_path: Path, benchmark: Any) -> None:
    """Checksums and the final sync included."""
    out = tmp_path / "out"

    def copy() -> None:
        subprocess.run(["cp", "-r", str(photos), str(out)], check=True)
        os.sync()

    compare(benchmark, copy, lambda: storage.convert(photos, to=name, out=out), 0.9, out, rounds(photos))


def decode_and_drop(paths: list[Path]) -> None:
    """Decode by simplejpeg and resize as converting does (by OpenCV, unless ours is compiled), on all cores."""
    import cv2
    import simplejpeg

    def one(path: Path) -> None:
        pixels.resize(simplejpeg.decode_jpeg(path.read_bytes(), fastdct=False, fastupsample=False), (160, 160))

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(one, paths))


@pytest.mark.parametrize("name", ONE_FILE_FORMATS)
def test_raw_against_decoding(name: str, photos: Path, tmp_path: Path, benchmark: Any) -> None:
    """The same files decoded and resized, results dropped: nothing is written, and nothing synced."""
    out, paths = tmp_path / "out", sorted(photos.rglob("*.jpg"))
    compare(
        benchmark, lambda: decode_and_drop(paths), lambda: storage.convert(photos, to=name, payload="raw", out=out),
        0.85, out, rounds(photos),
    )  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_verify_against_cat(name: str, photos: Path, tmp_path: Path, benchmark: Any) -> None:
    """All shards read by ``cat``; both from the page cache."""
    out = tmp_path / "out"
    storage.convert(photos, to=name, out=out)
    assert verify(out) == []

    def cat() -> None:
        with subprocess.Popen(["find", str(out), "-type", "f", "-print0"], stdout=subprocess.PIPE) as files:
            subprocess.run(["xargs", "-0", "cat"], stdin=files.stdout, stdout=subprocess.DEVNULL, check=True)

    compare(benchmark, cat, lambda: verify(out), 0.8, tmp_path / "nothing", 5)


_CONVERT = """
import json, sys, storage
from bench.peak import anonymous_peak
with anonymous_peak() as peak:
    info = storage.convert(sys.argv[1], to=sys.argv[2], out=sys.argv[3], shard_bytes=int(sys.argv[4]))
print(json.dumps([peak.bytes, info.convert_s]))
"""

_OPEN = """
import json, os, sys, time, storage
from bench.peak import anonymous_bytes
with storage.open_dataset(sys.argv[2]) as warm:
    warm.sample(0)
before, started = anonymous_bytes(), time.perf_counter()
dataset = storage.open_dataset(sys.argv[1])
shards = [dataset.shard(number) for number in range(dataset.shards)]
seconds, count = time.perf_counter() - started, len(dataset)
held = anonymous_bytes() - before
started = time.perf_counter()
if dataset.info.format == "directory":
    sum(1 for folder in os.scandir(sys.argv[1] + "/train") for _ in os.scandir(folder))
print(json.dumps([seconds, held / count, time.perf_counter() - started]))
"""


def run(code: str, *arguments: object) -> list[float]:
    """A list of numbers that ``code`` prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    result: list[float] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def tiny_sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Path]]:
    """A folder of tiny images for each of TINY."""
    home = tmp_path_factory.mktemp("tiny")
    yield {count: tiny(home / f"{count}", count) for count in TINY}
    shutil.rmtree(home)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FORMATS)
def test_a_million_in_memory_time_and_opening(
    name: str, tiny_sources: dict[int, Path], tmp_path: Path, benchmark: Any
) -> None:
    """From the smallest to the largest of TINY: anonymous memory of all processes, and time an image; then opening the largest.

    In shards so small that even the smallest has several: one shard is written without worker processes, which take 40 MB each.
    """
    peaks: list[float] = []
    seconds: list[float] = []
    out = tmp_path / "out"
    for count, source in tiny_sources.items():
        shutil.rmtree(out, ignore_errors=True)
        os.sync()
        peak, took = run(_CONVERT, source, name, out, SMALL_SHARD)
        peaks.append(peak)
        seconds.append(took / count)
    small = tmp_path / "small"
    storage.convert(tiny(tmp_path / "few", 10), to=name, out=small, workers=1)
    opened_s, bytes_a_sample, walked_s = benchmark.pedantic(run, (_OPEN, out, small), rounds=1)
    say(
        benchmark,
        images=TINY,
        bytes_an_image=round((peaks[-1] - peaks[0]) / (TINY[-1] - TINY[0]), 1),
        below=100,
        us_an_image=[round(took * 1e6, 1) for took in seconds],
        time_ratio=round(seconds[-1] / seconds[0], 2),
        within=1.1,
        open_s=round(opened_s, 3),
        below_s=f"1.2 x {walked_s:.3f}" if name == "directory" else 0.5,
        open_bytes_a_sample=round(bytes_a_sample, 1),
        fewer_than=32,
    )
    shutil.rmtree(out)
