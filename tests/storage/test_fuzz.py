"""Damaged and hostile datasets: every reader answers with samples or with DataError; it never crashes, hangs or allocates at a lie.

LMDB's engine trusts its files, so a shard that may be hostile goes through ``structure_fault`` first, as ``storage.verify`` does.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storage
from storage import FORMATS, pixels
from storage.base import SupportsStructureCheck
from storage.dataset import read_info
from storage.errors import DataError, FeedbenchError
from storage.verification import verify
from tests.storage.odd import MAKERS

LARGEST_BYTES = 64 << 20
"""The datasets here are a few kilobytes: whoever allocates this much believed a header."""

quickly = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """A small dataset of every format and payload."""
    root = tmp_path_factory.mktemp("fuzz")
    rng = np.random.default_rng(0)
    for number in range(6):
        folder = root / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(pixels.encode_png(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8)))
    made: dict[tuple[str, str], Path] = {}
    for name in FORMATS:
        for payload in ("encoded", "raw"):
            made[name, payload] = root / f"{name}-{payload}"
            storage.convert(root / "photos", to=name, payload=payload, out=made[name, payload], image_size=8, workers=1)
    return made


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, float, bytes]:
    """What is done, where (as a share of the file), and with which bytes."""
    kind = draw(st.sampled_from(("flip", "write", "cut", "insert", "delete")))
    return kind, draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=16))


def damaged(data: bytes, how: list[tuple[str, float, bytes]]) -> bytes:
    """``data`` after all that."""
    changed = bytearray(data)
    for kind, share, content in how:
        at = int(share * max(0, len(changed) - 1))
        if kind == "flip" and changed:
            changed[at] ^= content[0] or 1
        elif kind == "write":
            changed[at : at + len(content)] = content
        elif kind == "cut":
            del changed[at:]
        elif kind == "insert":
            changed[at:at] = content
        else:
            del changed[at : at + len(content)]
    return bytes(changed)


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    """``file`` with other content, for a while."""
    sound = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(sound)


@contextmanager
def no_large_allocation() -> Iterator[None]:
    """Fails if Python and NumPy took LARGEST_BYTES at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < LARGEST_BYTES
    finally:
        tracemalloc.stop()


def read_all(path: Path) -> None:
    """Whatever the reader gives, it gives within the bounds of its own manifest, or says DataError."""
    info = read_info(path)
    form = FORMATS[info.format]
    for split, listed in info.splits.items():
        for shard in listed.shards:
            file = path / shard.file
            if isinstance(form, SupportsStructureCheck) and file.is_file() and (fault := form.structure_fault(file)):
                raise DataError(fault)
        with storage.open_dataset(path, split) as dataset:
            count = sum(1 for _ in dataset)
            assert count == len(dataset)
            if dataset.supports_random_access:
                dataset.read(np.arange(len(dataset)))


@pytest.mark.parametrize("payload", ["encoded", "raw"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_shard_is_read_or_refused(name: str, payload: str, datasets: dict[tuple[str, str], Path]) -> None:
    path = datasets[name, payload]
    shard = path / read_info(path).splits["train"].shards[0].file
    sound = shard.read_bytes()

    @quickly
    @given(st.lists(damage(), min_size=1, max_size=4))
    def hit(how: list[tuple[str, float, bytes]]) -> None:
        with replaced(shard, damaged(sound, how)), no_large_allocation():
            with suppress(DataError):
                read_all(path)
            changed = damaged(sound, how) != sound
            assert bool(verify(path, workers=1)) == changed

    hit()


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_manifest_is_read_or_refused(name: str, datasets: dict[tuple[str, str], Path]) -> None:
    path = datasets[name, "encoded"]
    manifest = path / "dataset.json"
    told = json.loads(manifest.read_bytes())
    del told["digest"]  # which would be found to differ before anything is read
    sound = json.dumps(told, indent=1).encode()

    @quickly
    @given(st.lists(damage(), min_size=1, max_size=3))
    def hit(how: list[tuple[str, float, bytes]]) -> None:
        with replaced(manifest, damaged(sound, how)), no_large_allocation(), suppress(FeedbenchError):
            read_all(path)

    hit()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("samples", [0, 5, 7, 2**40])
def test_a_manifest_that_lies_about_samples_is_refused(
    name: str, samples: int, datasets: dict[tuple[str, str], Path]
) -> None:
    path = datasets[name, "raw"]
    manifest = path / "dataset.json"
    told = json.loads(manifest.read_bytes())
    del told["digest"]
    told["splits"]["train"]["samples"] = told["splits"]["train"]["shards"][0]["samples"] = samples
    with replaced(manifest, json.dumps(told).encode()), no_large_allocation(), pytest.raises(DataError):
        read_all(path)


def test_images_are_decoded_or_refused() -> None:
    kinds = [make() for make in MAKERS.values()]

    @settings(quickly, max_examples=400)
    @given(st.sampled_from(kinds), st.lists(damage(), min_size=1, max_size=4))
    def hit(data: bytes, how: list[tuple[str, float, bytes]]) -> None:
        for action in (pixels.check, pixels.decode):
            with suppress(DataError):
                action(damaged(data, how), max_pixels=1 << 20)

    hit()


@settings(quickly, max_examples=200)
@given(
    st.binary(max_size=200), st.sampled_from((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF....WEBPVP8X", b"BM"))
)
def test_noise_behind_a_magic_number_is_refused(noise: bytes, magic: bytes) -> None:
    with pytest.raises(DataError):
        pixels.decode(magic + noise, max_pixels=1 << 20)


@pytest.mark.parametrize("trick", ["external", "external link", "soft link", "virtual", "huge"])
def test_hostile_hdf5_is_refused(trick: str, datasets: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    import h5py

    path = datasets["hdf5", "encoded"]
    shard = path / read_info(path).splits["train"].shards[0].file
    hostile = tmp_path / "hostile.h5"
    hostile.write_bytes(shard.read_bytes())
    (tmp_path / "secret").write_bytes(b"secret" * 10000)
    with h5py.File(hostile, "r+") as file:
        length = len(file["data"])
        del file["data"]
        if trick == "external":
            file.create_dataset("data", (length,), np.uint8, external=[(str(tmp_path / "secret"), 0, length)])
        elif trick == "external link":
            file["data"] = h5py.ExternalLink(str(shard), "data")
        elif trick == "soft link":
            file["data"] = h5py.SoftLink("/labels")
        elif trick == "virtual":
            layout = h5py.VirtualLayout((length,), np.uint8)
            layout[:] = h5py.VirtualSource(str(shard), "data", (length,))
            file.create_virtual_dataset("data", layout)
        else:
            file.create_dataset("data", (2**40,), np.uint8, chunks=(1 << 20,))
    with replaced(shard, hostile.read_bytes()), no_large_allocation(), pytest.raises(DataError, match=r"data|offsets"):
        read_all(path)


@pytest.mark.parametrize(
    ("shape", "chunks"), [((6, 20000, 20000, 3), None), ((6, 8, 8, 3), (6, 8, 8, 3)), ((6, 8, 8, 0), None)]
)
def test_an_hdf5_whose_images_claim_memory_is_refused(
    shape: tuple[int, ...], chunks: tuple[int, ...] | None, datasets: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """Nothing of them is in the file: the library would make all of it of zeros, or unpack a chunk of any size for one image."""
    import h5py

    path = datasets["hdf5", "raw"]
    shard = path / read_info(path).splits["train"].shards[0].file
    hostile = tmp_path / "hostile.h5"
    hostile.write_bytes(shard.read_bytes())
    with h5py.File(hostile, "r+") as file:
        del file["images"]
        file.create_dataset("images", shape, np.uint8, chunks=chunks)
    with replaced(shard, hostile.read_bytes()), no_large_allocation(), pytest.raises(DataError, match=r"images (of|lie)"):
        read_all(path)
