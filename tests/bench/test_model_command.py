"""``feedbench model`` and ``feedbench train`` as a user types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import history
from bench.cli import app
from bench.model_output import draw
from storage.errors import DataError, UsageError


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A small base of the user's, for images of 24x32."""
    import keras

    path = tmp_path / "own.keras"
    keras.Sequential([keras.Input((24, 32, 3)), keras.layers.Conv2D(4, 3, strides=4, activation="relu")]).save(path)
    return path


def test_model_prints_layers_and_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["model", "MobileNet"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "conv_pw_13" in done.output
    assert "MobileNet, images of 224x224: 4,253,864 parameters" in done.output
    drawn = tmp_path / "results" / "MobileNet.png"
    assert drawn.is_file() == ("drawn: results/MobileNet.png" in done.output)


def test_model_shows_what_is_trained(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["model", str(own), "--classes", "2"], catch_exceptions=False)
    assert "images of 24x32: 117 parameters" in done.output
    assert "Trainable params: 5" in done.output


def test_without_graphviz_a_hint_says_what_to_install(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["model", str(own)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "not drawn: Graphviz is not installed: python -m pip install pydot, and Graphviz from" in done.output
    with pytest.raises(DataError, match=r"asked\.png cannot be drawn: Graphviz is not installed"):
        CliRunner().invoke(app, ["model", str(own), "--plot", "asked.png"], catch_exceptions=False)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_with_graphviz_it_is_drawn(own: Path, tmp_path: Path) -> None:
    from bench.model import load

    pytest.importorskip("pydot", reason="pydot is not installed")
    path = tmp_path / "deep" / "own.png"
    assert draw(load(own), path) is None
    assert path.read_bytes().startswith(b"\x89PNG")


def test_train_from_the_command_line(own: Path, tmp_path: Path) -> None:
    from storage.conversion import convert
    from storage.demo import draw as draw_images

    draw_images(tmp_path / "images", count=40)
    convert(tmp_path / "images", to="hdf5", out=tmp_path / "stored", payload="raw", image_size=(24, 32))
    run = tmp_path / "run"
    arguments = ["train", str(tmp_path / "stored"), "--loader", "from_generator", "--model", str(own), "--batch-size", "8"]
    arguments += ["--epochs", "1", "--fine-tune-epochs", "1", "--fine-tune-at", "0", "--steps-per-execution", "3"]
    arguments += ["--results", str(run), "--no-augment"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "epoch 2 fine_tune: loss" in done.output
    assert [row.images for row in history.read(run / "history.csv")] == [32, 32]
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "going on after epoch 2" in again.output
    with pytest.raises(UsageError, match="unknown model 'MobilNet'"):
        CliRunner().invoke(app, ["model", "MobilNet"], catch_exceptions=False)
