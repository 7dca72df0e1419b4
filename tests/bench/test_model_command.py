"""``feedbench model`` and ``feedbench train`` as a user types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import history
from bench.case import StepSpec
from bench.cli import app
from bench.model_output import draw
from bench.train import Training
from bench.train_output import fitted
from loaders.base import LoaderSpec
from storage.errors import DataError, FeedbenchError, UsageError


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


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Forty demo images for a base of 24x32."""
    from storage.conversion import convert
    from storage.demo import draw as draw_images

    draw_images(tmp_path / "images", count=40)
    convert(tmp_path / "images", to="hdf5", out=tmp_path / "stored", payload="raw", image_size=(24, 32))
    return tmp_path / "stored"


def train_arguments(stored: Path, own: Path, run: Path, *more: str) -> list[str]:
    arguments = [
        "train",
        str(stored),
        "--loader",
        "from_generator",
        "--model",
        str(own),
        "--batch-size",
        "8",
        "--no-augment",
    ]
    return [*arguments, "--epochs", "2", "--fine-tune-epochs", "0", "--results", str(run), *more]


def test_fine_tuning_follows_unless_another_regime_is_named(own: Path, stored: Path, tmp_path: Path) -> None:
    arguments = ["train", str(stored), "--model", str(own), "--epochs", "1", "--fine-tune-at", "0", "--results"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "both")], catch_exceptions=False)
    assert "1 epoch of feature_extraction, then 5 epochs of fine_tune\n" in done.output
    assert f"fine_tune trains {own} from layer 0\n" in done.output
    regimes = [row.regime for row in history.read(tmp_path / "both" / "history.csv")]
    assert regimes == ["feature_extraction", *["fine_tune"] * 5]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "one"), "--step", "fine_tune"], catch_exceptions=False)
    assert "1 epoch of fine_tune\n" in done.output
    assert [row.regime for row in history.read(tmp_path / "one" / "history.csv")] == ["fine_tune"]


def test_both_ways_are_printed_with_their_numbers(own: Path, stored: Path, tmp_path: Path) -> None:
    arguments = train_arguments(stored, own, tmp_path / "run", "--both-ways")
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    kept = json.loads((tmp_path / "run" / "both_ways.json").read_text())
    assert f"training images with dropout on, as in training: loss {kept['on'][0]:.4f}" in done.output
    assert f"the same images and weights with dropout off, as in validation: loss {kept['off'][0]:.4f}" in done.output
    last = history.read(tmp_path / "run" / "history.csv")[-1]
    assert f"training loss {last.loss:.4f} = {kept['off'][0]:.4f}, the loss as in validation" in done.output
    assert f"validation loss ({last.val_loss:.4f}) is " in done.output


def test_a_run_says_what_it_came_to(own: Path, stored: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, train_arguments(stored, own, tmp_path / "run"), catch_exceptions=False)
    best = max(history.read(tmp_path / "run" / "history.csv"), key=lambda row: row.val_accuracy or 0)
    assert f"best validation accuracy {best.val_accuracy:.1%} after epoch {best.epoch}; 2 epochs in " in done.output


def test_ctrl_c_says_how_to_go_on(own: Path, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.train_output import Screen

    with monkeypatch.context() as patch:

        def interrupted(self: Screen, epoch: int, regime: str, batches: int) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

        patch.setattr(Screen, "started", interrupted)
        stopped = CliRunner().invoke(app, train_arguments(stored, own, tmp_path / "run"), catch_exceptions=False)
    assert stopped.exit_code == 130
    assert f"interrupted; go on with the same command and --results {tmp_path / 'run'}" in stopped.output
    on = CliRunner().invoke(app, train_arguments(stored, own, tmp_path / "run"), catch_exceptions=False)
    assert "going on after epoch 1" in on.output
    assert on.exit_code == 0


def test_tensorflow_says_nothing_while_it_is_imported() -> None:
    code = (
        "from bench.quiet import load_tensorflow; load_tensorflow(); import tensorflow as tf; print(int(tf.constant(2) + 1))"
    )
    bare = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare)
    assert (done.stdout, done.stderr) == ("3\n", "")
    broken = "import sys; sys.modules['keras.src'] = None\nfrom bench.quiet import load_tensorflow; load_tensorflow()"
    failed = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True, check=False, env=bare)
    assert failed.returncode == 1
    assert "ModuleNotFoundError" in failed.stderr


def test_the_size_is_the_models_else_the_raw_datasets(own: Path, stored: Path, tmp_path: Path) -> None:
    def size(model: str, image_size: str | None = None) -> tuple[int, int]:
        training = Training(
            dataset=stored, results=tmp_path / "run", spec=LoaderSpec(image_size=(48, 48)), step=StepSpec(model=model)
        )
        return fitted(training, image_size=image_size).spec.image_size

    assert size("MobileNetV2") == (24, 32)
    assert size("MobileNetV2", "48") == (48, 48)
    assert size(str(own)) == (24, 32)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (["--loader", "tfdat"], "unknown loader 'tfdat'; expected one of: "),
        (["--weights", "nowhere.h5"], "no such weights file: nowhere.h5"),
        (["--fine-tune-at", "9", "--fine-tune-epochs", "1"], "fine_tune_at must be below the 1 layers of "),
        (["--fine-tune-at", "0"], "--fine-tune-at changes nothing without fine-tuning"),
        (["--image-size", "64"], "cannot feed"),
    ],
)
def test_a_call_that_cannot_work_leaves_no_folder(
    own: Path, stored: Path, tmp_path: Path, change: list[str], text: str
) -> None:
    with pytest.raises(FeedbenchError, match=re.escape(text)):
        CliRunner().invoke(app, [*train_arguments(stored, own, tmp_path / "run"), *change], catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_photographs_is_no_stored_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a stored dataset: .* Make one with python -m storage.convert"):
        CliRunner().invoke(app, ["train", str(tmp_path)], catch_exceptions=False)
