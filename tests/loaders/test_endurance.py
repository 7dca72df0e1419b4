"""What a loader must bear: many epochs, users that give up, unreadable samples, company, other processes, several devices."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest

import storage
from bench.equivalence import prove
from loaders import LOADERS
from loaders.base import Feed, LoaderSpec
from storage import FORMATS, open_dataset
from storage.dataset import read_info
from storage.errors import DataError, UsageError
from tests.loaders.conftest import SIZE, TRAIN, Stored

pytestmark = pytest.mark.slow

SPEC = LoaderSpec(image_size=(SIZE, SIZE), workers=2, batch_size=16)
EPOCHS = 200


def dataset_for(stored: Callable[[str, str], Path], loader: str, spec: LoaderSpec, payload: str = "encoded") -> Path:
    """The first dataset that a loader serves under ``spec``; the test is skipped with the reason if there is none."""
    reasons = []
    for format_name in FORMATS:
        path = stored(format_name, payload)
        reason = LOADERS[loader].unsupported(read_info(path), spec)
        if reason is None:
            return path
        reasons.append(reason)
    pytest.skip(reasons[0])


def build(path: Path, loader: str, spec: LoaderSpec) -> Feed:
    return LOADERS[loader].build(open_dataset(path), spec)


def labels_of(feed: Feed, n: int) -> Counter[int]:
    return Counter(int(label) for _, labels in feed.epoch(n) for label in np.asarray(labels))


def anonymous_bytes() -> int:
    """Anonymous memory of this process and its children: pages of a mapped file are the page cache's."""
    gc.collect()
    pids = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) * 1024
    return total


@pytest.mark.timeout(2400)  # webdataset starts its processes anew each pass: 200 times, on a busy machine
@pytest.mark.parametrize("loader", LOADERS)
def test_memory_stays_flat(stored: Stored, loader: str) -> None:
    spec = replace(SPEC, placement="model", image_size=(96, 96))
    feed = build(dataset_for(stored, loader, spec), loader, spec)
    seen = []
    try:
        for number in range(EPOCHS):
            assert labels_of(feed, number).total() == TRAIN
            if number % 20 == 19:
                seen.append(anonymous_bytes())
    finally:
        feed.close()
    # A batch is 0.4 MB of pixels: losing one an epoch would make 62 MB from the 40th epoch to the 180th. DALI's own buffers
    # come and go by 20 MB.
    assert min(seen[-3:]) - max(seen[:2]) < 24 << 20, [size >> 20 for size in seen]


def held(path: Path) -> dict[str, int]:
    """What this process holds: threads, children, and handles and maps of the dataset's files."""
    gc.collect()
    files = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "processes": len(psutil.Process().children(recursive=True)),
        "handles": len(files),
        "handles of the dataset": sum(str(path) in file for file in files),
        "maps of the dataset": sum(str(path) in line for line in maps),
    }


class GaveUpError(Exception):
    """What a user's own code raises in the middle of an epoch."""


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("payload", ["encoded", "raw"])
def test_nothing_is_left_behind(stored: Stored, loader: str, payload: str) -> None:
    spec = replace(SPEC, batch_size=4)
    path = dataset_for(stored, loader, spec, payload)

    def use(give_up: bool) -> None:
        feed = build(path, loader, spec)
        try:
            for number, _ in enumerate(feed.epoch(0)):
                if give_up and number == 3:
                    raise GaveUpError
        finally:
            feed.close()

    use(give_up=False)
    after_first = held(path)
    for give_up in (True, False, True, True):
        try:
            use(give_up)
        except GaveUpError:
            assert give_up
    left = held(path)
    assert left["handles of the dataset"] == left["maps of the dataset"] == 0
    assert all(left[what] <= after_first[what] for what in left), (after_first, left)


@pytest.mark.parametrize("loader", ["torch", "webdataset"])
def test_processes_that_send_a_batch_when_a_pass_is_given_up_end_without_aborting(stored: Stored, loader: str) -> None:
    # 48 MB take longer to send than a process took to come to the end of Python.
    spec = replace(SPEC, image_size=(1024, 1024), placement="model", shuffle=False)
    for _ in range(2):
        with build(dataset_for(stored, loader, spec), loader, spec) as feed:
            coming = iter(feed.epoch(0))
            next(coming)
            processes = multiprocessing.active_children()
            del coming  # where the processes of a pass of webdataset end
        assert {process.exitcode for process in processes} == {0}


class GivesUp(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if batch == 2:
            raise GaveUpError


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")  # fit's own default
@pytest.mark.parametrize("format_name", ["hdf5", "lmdb"])
@pytest.mark.parametrize("loader", ["image_data_generator", "from_generator"])
def test_a_fit_given_up_leaves_no_file_of_a_closed_feed_open(stored: Stored, loader: str, format_name: str) -> None:
    path = stored(format_name, "encoded")
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    for _ in range(5):
        feed = build(path, loader, replace(SPEC, batch_size=4))
        with pytest.raises(GaveUpError):
            model.fit(feed, epochs=1, verbose=0, callbacks=[GivesUp()])
        feed.close()
        left = held(path)
        assert left["handles of the dataset"] == left["maps of the dataset"] == 0


@pytest.fixture
def with_a_broken_file(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Datasets in which one file of train, ``roses/broken.jpg``, is no image (conversion would refuse it; disks decay)."""
    monkeypatch.setattr("storage.pixels.check", lambda *_: "image/jpeg")
    source = tmp_path / "source"
    for file in sorted((pictures / "train").glob("*/*.jpg")):
        copy = source / "train" / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    whole = next((pictures / "train").glob("roses/*.jpg")).read_bytes()
    # Its headers are in order, its pixels are gone.
    (source / "train" / "roses" / "broken.jpg").write_bytes(whole[: whole.index(b"\xff\xda")] + b"\xff\xd9")

    def make(format_name: str, payload: str) -> Path:
        path = tmp_path / f"{format_name}-{payload}"
        if not path.exists():
            storage.convert(source, to=format_name, out=path, payload=payload, workers=1)
        return path

    return make


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("loader", LOADERS)
def test_an_unreadable_sample_is_named(
    with_a_broken_file: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, loader: str, format_name: str
) -> None:
    path = with_a_broken_file(format_name, "encoded")
    monkeypatch.undo()
    reason = LOADERS[loader].unsupported(read_info(path), SPEC)
    if reason:
        pytest.skip(reason)
    feed = build(path, loader, SPEC)
    try:
        with pytest.raises(DataError, match=r"roses/broken\.jpg"):
            labels_of(feed, 0)
    finally:
        feed.close()


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("loader", LOADERS)
def test_an_unreadable_sample_is_skipped_and_the_rest_arrive(
    with_a_broken_file: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, loader: str, format_name: str
) -> None:
    path = with_a_broken_file(format_name, "encoded")
    monkeypatch.undo()
    spec = replace(SPEC, on_error="skip")
    reason = LOADERS[loader].unsupported(read_info(path), spec)
    if reason:
        pytest.skip(reason)
    assert prove(path, "train", loader, spec).samples_checked == TRAIN
    for gone in (False, True) if format_name == "directory" else (False,):
        if gone:
            (path / "train/roses/broken.jpg").unlink()
        feed = build(path, loader, spec)
        try:
            assert labels_of(feed, 0).total() == labels_of(feed, 1).total() == TRAIN
            assert getattr(feed, "skipped", None) == 2
        finally:
            feed.close()


@pytest.mark.parametrize("loader", LOADERS)
def test_two_at_once(stored: Stored, loader: str) -> None:
    path = dataset_for(stored, loader, SPEC)
    one, other = build(path, loader, SPEC), build(path, loader, replace(SPEC, seed=3))
    seen: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    try:
        for first, second in zip(one.epoch(0), other.epoch(0), strict=True):
            seen[0].update(np.asarray(first[1]).tolist())
            seen[1].update(np.asarray(second[1]).tolist())
        one.close()
        # The end of one is not the end of the other.
        assert labels_of(other, 1) == seen[1]
    finally:
        one.close()
        other.close()
    assert seen[0] == seen[1]
    assert seen[0].total() == TRAIN


@pytest.mark.timeout(120)  # torch waited for ever
@pytest.mark.parametrize("loader", ["torch", "grain", "webdataset", "dali"])
def test_two_passes_of_a_feed_at_once_are_both_whole(stored: Stored, loader: str) -> None:
    spec = replace(SPEC, batch_size=4)
    with build(dataset_for(stored, loader, spec), loader, spec) as feed:
        first = iter(feed.epoch(0))
        seen = [int(label) for label in np.asarray(next(first)[1])]
        assert labels_of(feed, 1).total() == TRAIN
        seen += [int(label) for _, labels in first for label in np.asarray(labels)]
        assert Counter(seen) == labels_of(feed, 0)
        assert len(seen) == TRAIN
        broken_off = iter(feed.epoch(2))
        next(broken_off)
    with pytest.raises(UsageError, match="closed"):
        list(broken_off)


COMMON = """
import os, sys, multiprocessing
from pathlib import Path

def use(path, name):
    from loaders import LOADERS
    from loaders.base import LoaderSpec
    from storage import open_dataset
    feed = LOADERS[name].build(open_dataset(Path(path)), LoaderSpec(image_size=(48, 48), workers=2, batch_size=16))
    count = sum(len(labels) for _, labels in feed.epoch(0))
    feed.close()
    assert count == 48, count
"""

SPAWN = """
if __name__ == "__main__":
    use(*sys.argv[1:])
    child = multiprocessing.get_context("spawn").Process(target=use, args=sys.argv[1:])
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""

FORK = """
if __name__ == "__main__":
    import loaders, storage
    dataset = storage.open_dataset(sys.argv[1])
    assert "tensorflow" not in sys.modules
    child = os.fork()
    if child == 0:
        use(*sys.argv[1:])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    use(*sys.argv[1:])
"""

MIRRORED = """
if __name__ == "__main__":
    import keras, tensorflow as tf
    from loaders import LOADERS
    from loaders.base import LoaderSpec
    from storage import open_dataset
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    spec = LoaderSpec(image_size=(48, 48), workers=2, batch_size=16, placement="model")
    feed = LOADERS[sys.argv[2]].build(open_dataset(Path(sys.argv[1])), spec)
    with strategy.scope():
        layers = [*feed.layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
        model = keras.Sequential([keras.Input((48, 48, 3)), *layers])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    history = model.fit(feed, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    assert int(model.optimizer.iterations.numpy()) == 2 * len(feed)
    feed.close()
"""


@pytest.mark.parametrize("script", [SPAWN, FORK, MIRRORED], ids=["spawn", "fork", "mirrored"])
@pytest.mark.parametrize("loader", LOADERS)
def test_elsewhere(stored: Stored, tmp_path: Path, loader: str, script: str) -> None:
    path = dataset_for(stored, loader, SPEC)
    program = tmp_path / "program.py"
    program.write_text(COMMON + script)
    done = subprocess.run(
        [sys.executable, str(program), str(path), loader],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


SLOW = """
import time
import keras, numpy as np, tensorflow as tf
from loaders.base import LoaderSpec
from loaders.stream import StreamFeed

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def passes(n):
    for _ in range(4):
        time.sleep(0.05)
        yield np.zeros((32, 96, 96, 3), np.uint8), np.zeros(32, np.int64)

for _ in range(3):
    feed = StreamFeed(passes, 4, LoaderSpec(image_size=96, placement="model"), layers=[], close=lambda: None, prefetch=2)
    with strategy.scope():
        layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
        model = keras.Sequential([keras.Input((96, 96, 3)), *layers])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.fit(feed, epochs=2, verbose=0)
"""


def test_a_feed_that_is_dropped_while_it_makes_a_batch_ends_no_process() -> None:
    """Before its first epoch ``fit`` under a strategy takes a batch and drops the iterator: TensorFlow could crash."""
    done = subprocess.run(
        [sys.executable, "-c", SLOW],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
