"""What converting, verifying and opening cost, each as a ratio to the unavoidable work, in the same run.

``pytest bench/test_convert.py --benchmark-only -s``; it takes minutes, so it runs only when it is named. ``FEEDBENCH_FILES`` (20,000)
and ``FEEDBENCH_TINY`` (10000,100000) say how many images. The interpreter's start-up is counted apart: worker processes are warm.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import storage
from bench.tiny import tiny
from storage import FORMATS, demo
from storage.verification import verify

FILES = int(os.environ.get("FEEDBENCH_FILES", "20000"))
TINY = [int(count) for count in os.environ.get("FEEDBENCH_TINY", "10000,100000").split(",")]
DRAWN = 1000
ROUNDS = 3
CORES = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FILES files of about 20 kB: a thousand are drawn, the rest are copies of them under other names."""
    root = tmp_path_factory.mktemp("convert") / "photos"
    demo.draw(root, min(DRAWN, FILES))
    drawn = sorted(root.rglob("*.jpg"))
    for number in range(len(drawn), FILES):
        original = drawn[number % len(drawn)]
        shutil.copyfile(original, original.with_name(f"{original.stem}-{number:07d}.jpg"))
    os.sync()
    warm = tiny(root.parent / "warm", 200)
    storage.convert(warm, to="lmdb", out=root.parent / "warmed", shard_bytes=20000)
    return root


def _copy(photos: Path, to: Path) -> None:
    subprocess.run(["cp", "-r", str(photos), str(to)], check=True)
    os.sync()


def _compare(
    benchmark: Any, reference: Callable[[], object], candidate: Callable[[], object], least: float, clean: Path
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

    benchmark.pedantic(candidate, setup=before, rounds=ROUNDS)
    if benchmark.stats is None:
        return
    ratios = [one / other for one, other in zip(seconds[-ROUNDS:], benchmark.stats.stats.data, strict=True)]
    _say(benchmark, ratio=statistics.median(ratios), least=least, ratios=[round(ratio, 3) for ratio in ratios],
         reference_s=round(statistics.median(seconds), 3))  # fmt: skip


def _say(benchmark: Any, **facts: Any) -> None:
    benchmark.extra_info.update(facts)
    sys.stderr.write(f"\n{benchmark.name}: {', '.join(f'{name} {value}' for name, value in facts.items())}\n")


@pytest.mark.parametrize("name", ["hdf5", "lmdb", "tfrecord"])
def test_encoded_against_cp(name: str, photos: Path, tmp_path: Path, benchmark: Any) -> None:
    """Checksums and the final sync included."""
    out = tmp_path / "out"
    _compare(benchmark, lambda: _copy(photos, out), lambda: storage.convert(photos, to=name, out=out), 0.9, out)


def _decode_and_drop(paths: list[Path]) -> None:
    import cv2
    import simplejpeg

    def one(path: Path) -> None:
        image = simplejpeg.decode_jpeg(path.read_bytes(), fastdct=False, fastupsample=False)
        cv2.resize(image, (160, 160), interpolation=cv2.INTER_LINEAR)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(one, paths, chunksize=64))


@pytest.mark.parametrize("name", ["hdf5", "lmdb", "tfrecord"])
def test_raw_against_decoding(name: str, photos: Path, tmp_path: Path, benchmark: Any) -> None:
    """The same files decoded and resized by simplejpeg and OpenCV on all cores, results dropped."""
    out, paths = tmp_path / "out", sorted(photos.rglob("*.jpg"))
    _compare(
        benchmark,
        lambda: _decode_and_drop(paths),
        lambda: storage.convert(photos, to=name, payload="raw", out=out),
        0.85,
        out,
    )


@pytest.mark.parametrize("name", FORMATS)
def test_verify_against_cat(name: str, photos: Path, tmp_path: Path, benchmark: Any) -> None:
    """All shards read by ``cat``; both from the page cache."""
    out = tmp_path / "out"
    storage.convert(photos, to=name, out=out)
    assert verify(out) == []

    def cat() -> None:
        with subprocess.Popen(["find", str(out), "-type", "f", "-print0"], stdout=subprocess.PIPE) as files:
            subprocess.run(["xargs", "-0", "cat"], stdin=files.stdout, stdout=subprocess.DEVNULL, check=True)

    _compare(benchmark, cat, lambda: verify(out), 0.8, tmp_path / "nothing")


_CONVERT = """
import json, sys, storage
from bench.peak import anonymous_peak
with anonymous_peak() as peak:
    info = storage.convert(sys.argv[1], to=sys.argv[2], out=sys.argv[3])
print(json.dumps([peak.bytes, info.convert_s]))
"""

_OPEN = """
import json, sys, time, storage
from bench.peak import anonymous_bytes
with storage.open_dataset(sys.argv[2]) as warm:
    warm.sample(0)
before, started = anonymous_bytes(), time.perf_counter()
dataset = storage.open_dataset(sys.argv[1])
count, last = len(dataset), dataset.shards and dataset.shard(0) and [dataset.shard(n) for n in range(dataset.shards)][-1]
seconds = time.perf_counter() - started
print(json.dumps([seconds, (anonymous_bytes() - before) / count]))
"""


def _run(code: str, *arguments: object) -> list[float]:
    import json

    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    result: list[float] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("name", FORMATS)
def test_memory_and_opening_by_size(name: str, tmp_path: Path, benchmark: Any) -> None:
    """From the smallest to the largest of FEEDBENCH_TINY: anonymous memory and time an image; then opening the largest."""
    peaks: list[float] = []
    seconds: list[float] = []
    out = tmp_path / "out"
    for count in TINY:
        source = tiny(tmp_path / f"tiny-{count}", count)
        shutil.rmtree(out, ignore_errors=True)
        peak, took = _run(_CONVERT, source, name, out)
        peaks.append(peak)
        seconds.append(took / count)
    small = tmp_path / "small"
    storage.convert(tiny(tmp_path / "few", 10), to=name, out=small, workers=1)
    opened_s, bytes_a_sample = benchmark.pedantic(_run, (_OPEN, out, small), rounds=1)
    started = time.perf_counter()
    if name == "directory":
        sum(1 for folder in os.scandir(out / "train") for _ in os.scandir(folder))
    _say(
        benchmark,
        images=TINY,
        bytes_an_image=round((peaks[-1] - peaks[0]) / (TINY[-1] - TINY[0]), 1),
        time_an_image=round(seconds[-1] / seconds[0], 2),
        open_s=round(opened_s, 3),
        scandir_s=round(time.perf_counter() - started, 3),
        open_bytes_a_sample=round(bytes_a_sample, 1),
    )
