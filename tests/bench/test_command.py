"""``feedbench`` as a user runs it: whole runs over loaders of known behaviour, exit codes, one line for what is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from bench.record import load_run
from storage import demo

FEEDBENCH = [sys.executable, "-c", "from bench.cli import main; main()"]
KNOWN = [
    "--loaders",
    "known:4000",
    "--placements",
    "model",
    "--image-size",
    "8",
    "--step",
    "none,emulated:2000",
    "--sweeps",
    "2",
]
HEAVY = "tensorflow keras pandas scipy h5py lmdb cv2 altair pydantic"


def feedbench(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FEEDBENCH, *map(str, arguments)], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was made."""
    folder = tmp_path_factory.mktemp("as a user")
    done = feedbench(folder, "run", *KNOWN)
    assert done.returncode == 0, done.stderr
    assert re.search(r"loading alone.*known:4000", done.stdout, re.DOTALL)
    assert "results/" in done.stdout
    return folder


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['feedbench', '--help']; from bench.cli import main\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        f"print('heavy:', *(set({HEAVY!r}.split()) & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"
    for command in ("advise", "compare", "model", "report", "run", "selfcheck", "train"):
        assert re.search(rf"│ {command} ", done.stdout), command


@pytest.mark.parametrize("command", ["advise", "compare", "model", "report", "run", "selfcheck", "train"])
def test_every_command_shows_an_example_and_cuts_no_option_in_a_usual_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = feedbench(Path(), command, "-h")
    assert done.returncode == 0
    assert f"Example: feedbench {command}" in done.stdout
    assert "…" not in done.stdout


def test_the_version_is_said_whatever_else_is_missing() -> None:
    asked = [[*FEEDBENCH, "--version"], [sys.executable, "-m", "storage.demo", "--version"]]  # it needs an --out
    said = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in asked]
    assert said == [f"feedbench {version('feedbench')}\n"] * 2


@pytest.mark.parametrize("command", ["run", "train"])
def test_help_says_that_batches_of_a_group_are_not_seen_one_by_one(command: str) -> None:
    done = feedbench(Path(), command, "--help")
    said = " ".join(done.stdout.replace("│", " ").split())
    assert re.search("Batches asked for, then trained on in one go; [^.]* a group", said)


def test_a_run_leaves_what_the_architecture_names(ran: Path) -> None:
    names = {path.name for path in (ran / "results" / "latest").iterdir()}
    expected = {
        "run.json",
        "records.jsonl",
        "results.csv",
        "sweeps.csv",
        "stages.csv",
        "starvation.csv",
        "charts",
        "summary.md",
        "report.html",
        "choices.json",
    }
    assert expected <= names
    (run,) = (ran / "results").glob("2*")
    assert (ran / "results" / "latest").resolve() == run
    assert {path.name for path in ran.iterdir()} == {"results"}


def test_a_record_says_what_ran_it_and_names_no_host_user_or_path(ran: Path) -> None:
    run = load_run(ran / "results" / "latest")
    (environment,) = run.info.environments.values()
    for key in ("cpu_model", "cpus", "processors", "threads_a_pool", "governor", "memory_bytes", "cgroup", "kernel", "python",
                "libraries", "bilinear_resize", "git_revision", "free_memory_bytes", "load_1m", "throttled_us", "gpus"):  # fmt: skip
        assert key in environment, key
    assert environment["libraries"]["tensorflow"]
    assert run.info.command == f"feedbench run {' '.join(KNOWN)}" or run.info.command.endswith(f"run {' '.join(KNOWN)}")
    assert run.info.options["seed"] == 0
    outcome = run.records[0].outcome.model_dump()
    for key in (
        "steal_share",
        "neighbour_share",
        "load_1m",
        "cpu_ns",
        "minor_faults",
        "asked_read_bytes",
        "anon_memory_bytes",
    ):
        assert outcome[key] is not None, key
    for name in ("run.json", "records.jsonl", "results.csv", "summary.md"):
        text = (ran / "results" / "latest" / name).read_text()
        assert socket.gethostname() not in text
        assert str(ran) not in text


def test_runs_are_compared_and_a_report_is_made_again(ran: Path) -> None:
    run = ran / "results" / "latest"
    done = feedbench(ran, "compare", run / "sweeps.csv", run, "--fail-if", "slower:5%")
    assert done.returncode == 0, done.stderr
    assert "memory-raw-known:4000-model" in done.stdout
    before = (run / "results.csv").read_bytes()
    (run / "results.csv").unlink()
    assert feedbench(ran, "report", run).returncode == 0
    assert (run / "results.csv").read_bytes() == before


def test_a_finished_run_cannot_be_resumed(ran: Path) -> None:
    done = feedbench(ran, "run", "--resume", ran / "results" / "latest")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "nothing to resume" in done.stderr


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_measured_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [*FEEDBENCH, "run", *KNOWN[:-1], "50"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not any(path.stat().st_size for path in tmp_path.glob("results/2*/records.jsonl")):
        assert run.poll() is None
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == 130
    (folder,) = (path.parent for path in tmp_path.glob("results/2*/run.json"))
    assert f"Go on with: feedbench run --resume {folder.relative_to(tmp_path)}" in said.splitlines()[-1]
    stored = load_run(folder)
    assert stored.records
    assert not stored.info.finished
    options = json.loads((folder / "resume.json").read_text())
    (folder / "resume.json").write_text(json.dumps({**options, "sweeps": 1}))
    assert feedbench(tmp_path, "run", "--resume", folder).returncode == 0
    assert load_run(folder).info.finished


def test_an_interrupt_before_the_run_has_a_folder_sends_nobody_to_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench import run_output

    (tmp_path / "20200101-000000").mkdir()
    (tmp_path / "20200101-000000" / "resume.json").write_text("{}")

    def interrupted(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_output, "run", interrupted)
    assert run_output.run_and_print({"results": tmp_path, "loaders": "known:null"}, None) == 130
    assert "interrupted before anything was measured" in capsys.readouterr().err


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that are no datasets, each in its way."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "empty").mkdir()
    (folder / "loose").mkdir()
    (folder / "loose" / "a.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "words" / "cats").mkdir(parents=True)
    (folder / "words" / "cats" / "a.txt").write_text("a")
    (folder / "file").write_text("")
    return folder


def around(folder: Path) -> set[Path]:
    """All files there but what conversions keep, to go on with."""
    return {path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != "data"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--images=nowhere"], 1, "--images: nowhere is not a folder"),
        (["run", "--images=empty"], 1, "empty"),
        (["run", "--images=loose"], 1, "loose"),
        (["run", "--images=words"], 1, "words"),
        (["run", "--loaders=tfdat"], 2, "--loaders: unknown name 'tfdat'; expected one or more of: .*tfdata"),
        (["run", "--formats=zarr"], 2, "--formats: unknown name 'zarr'; expected one or more of: directory"),
        (["run", "--images="], 2, "'--images': it is empty; expected a path, such as . for"),
        (["run", "--loaders=known:null", "--results="], 2, "'--results': it is empty; expected a path"),
        (["run", "--step=emulated"], 2, "--step emulated:RATE takes .* emulated:1800"),
        (["run", "--vary=workers"], 2, "--vary takes NAME=VALUE,VALUE, such as workers=1,2; got 'workers'"),
        (["run", "--sweeps=0"], 2, "--sweeps must be a whole number of at least 1"),
        (["run", "--isolation=none"], 2, "--isolation: unknown name 'none'; expected one of: case, sweep"),
        (["run", "--today=limit:decode"], 2, "--today limit:decode: a limit is no pipeline .* such as lmdb-"),
        (["run", "--loaders=known:null", "--results=file"], 1, "--results: cannot write to file: Not a directory"),
        (["run", "--resume=nowhere"], 1, r"there is no folder nowhere"),
        (["run", "--resume=nowhere", "--formats=lmdb", "--sweeps=2"], 2, "--resume stands alone: .*--formats, --sweeps"),
        (["report", "nowhere"], 1, "there is no folder nowhere"),
        (["report", "empty"], 1, "empty is not a run"),
        (["compare", "nowhere", "nowhere"], 2, "there is no folder nowhere"),
        (["compare", "nowhere", "nowhere", "--fail-if=5%"], 2, "--fail-if takes slower:PERCENT%"),
        (["advise", "nowhere"], 1, "nowhere is not a folder"),
        (["advise", "empty"], 1, "empty"),
        (["advise", "words", "--disk=big"], 2, "--disk takes a size such as 50GB"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(odd: Path, arguments: list[str], code: int, words: str) -> None:
    before = around(odd)
    done = feedbench(odd, *arguments)
    lines = [line for line in done.stderr.splitlines() if line.startswith("feedbench: ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert re.search(words, lines[0])
    assert "Traceback" not in done.stderr
    assert around(odd) == before
    assert not list(odd.rglob("dataset.json")), "what is half written is no dataset"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = feedbench(tmp_path, "run", *KNOWN)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "--results: cannot write to results" in done.stderr


@pytest.mark.slow
def test_where_all_is_skipped_nothing_is_measured_and_the_reason_is_told(tmp_path: Path) -> None:
    demo.draw(tmp_path / "photos", 20)
    (tmp_path / "results" / "before").mkdir(parents=True)
    (tmp_path / "results" / "latest").symlink_to("before")
    asked = ["--formats=tfrecord", "--payloads=encoded", "--loaders=image_data_generator", "--placements=pipeline"]
    done = feedbench(tmp_path, "run", "--images=photos", "--step=none", *asked)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if "TFRecord has no random access" in line]
    assert said.startswith("Nothing was measured. 1 case: ")
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "results").glob("2*/report.html"))
    assert (tmp_path / "results" / "latest").readlink() == Path("before")
