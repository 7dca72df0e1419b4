"""``--weights imagenet``: Keras' own download, from a server that stands here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from bench import model
from bench.case import StepSpec
from storage.errors import DataError, UsageError

SIZE = (128, 128)
NAME = "mobilenet_1_0_128_tf_no_top.h5"
STEP = StepSpec(model="MobileNet", weights="imagenet")


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing."""

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that is served in place of Google's, with an empty cache to fetch into."""
    from keras.src.applications import mobilenet

    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as served:
        thread = Thread(target=served.serve_forever)
        thread.start()
        monkeypatch.setattr(mobilenet, "BASE_WEIGHT_PATH", f"http://127.0.0.1:{served.server_port}/")
        (tmp_path / "keras").mkdir()
        monkeypatch.setattr(
            "keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras")
        )  # $KERAS_HOME was read at import.
        yield folder
        served.shutdown()
        thread.join()


def build(step: StepSpec = STEP, size: tuple[int, int] = SIZE) -> model.Transfer:
    return model.build(step, layers=(), image_size=size, classes=3, dtype="float32")


def test_the_base_gets_the_weights_that_were_fetched(server: Path, tmp_path: Path) -> None:
    published = model.application("MobileNet")(input_shape=(*SIZE, 3), include_top=False, weights=None)
    published.save(server / NAME)
    built = build()
    for ours, theirs in zip(built.base.get_weights(), published.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (tmp_path / "keras" / "models" / NAME).is_file()


def test_without_a_network_it_says_what_to_do(server: Path) -> None:
    with pytest.raises(
        DataError, match=r"weights imagenet of MobileNet could not be fetched \(URL fetch failure on http.*404"
    ):
        build()
    with pytest.raises(DataError, match=r"pass --weights FILE, or use --weights none") as raised:
        build()
    assert "\n" not in str(raised.value)


def test_a_size_that_cannot_be_is_no_fault_of_the_network(server: Path) -> None:
    with pytest.raises(UsageError, match="MobileNet cannot be made for images of 16x16"):
        build(size=(16, 16))


def test_imagenet_is_for_the_published_models_only(server: Path, tmp_path: Path) -> None:
    import keras

    path = tmp_path / "own.keras"
    keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Conv2D(4, 3)]).save(path)
    with pytest.raises(UsageError, match=r"own\.keras brings its own: use --weights none"):
        build(StepSpec(model=str(path), weights="imagenet"))
