"""Contenders speak their protocol, and taking turns counts what they say, with nothing that depends on the clock's mood."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.contender import epochs, spec_of
from bench.turns import Turns
from loaders.base import LoaderSpec
from storage import demo
from storage.errors import DataError, UsageError

ROOT = Path(__file__).parents[2]


def answering(*rates: int) -> list[str]:
    """A contender that is as fast as it is told to say, turn by turn."""
    code = (
        "import json, sys\nprint('warming up'); print('ready', flush=True)\n"
        f"for rate, _ in zip({rates!r}, sys.stdin): print(json.dumps({{'images': rate, 'seconds': 2}}), flush=True)"
    )
    return [sys.executable, "-c", code]


def test_ratios_are_taken_round_by_round() -> None:
    with Turns({"limit": answering(20, 40, 80), "ours": answering(10, 30, 80)}) as turns:
        for _ in range(3):
            turns.round()
        assert turns.rates == {"limit": [10, 20, 40], "ours": [5, 15, 40]}
        assert turns.ratio("ours", "limit") == 0.75
        table = turns.table("title", "limit")
        assert [list(column.cells) for column in table.columns] == [
            ["limit", "ours"],
            ["20", "15"],
            ["10", "5"],
            ["40", "40"],
            ["1.000", "0.750"],
        ]


def test_a_contender_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(DataError, match="contender broken did not get ready: it went wrong"):
        Turns({"sound": answering(1), "broken": [sys.executable, "-c", "import sys; sys.exit('so\\nit went wrong')"]})
    with Turns({"short": answering(1)}) as turns:
        turns.round()
        with pytest.raises(DataError, match="contender short died in the middle of a round: it said nothing"):
            turns.round()


def test_a_contender_that_has_ended_before_its_turn_is_named_too() -> None:
    before = psutil.Process().children()
    with Turns({"gone": answering()}) as turns:
        [gone] = (child for child in psutil.Process().children() if child not in before)
        while gone.status() != psutil.STATUS_ZOMBIE:  # pytest's time-out ends it
            time.sleep(0.01)
        with pytest.raises(DataError, match="contender gone died in the middle of a round: it said nothing"):
            turns.round()


def test_epochs_are_whole_and_numbered() -> None:
    seen = []

    def epoch(number: int) -> list[tuple[None, list[int]]]:
        seen.append(number)
        return [(None, [0] * 4), (None, [0] * 3)]

    rounds = epochs(epoch, 0.0)
    assert [next(rounds)[0] for _ in range(3)] == [7, 7, 7]
    assert seen == [0, 1, 2]


def test_a_spec_is_set_by_name() -> None:
    spec = spec_of(LoaderSpec(workers=2), "threaded", ["decode=fast", "task=4", "augment=on"])
    assert (spec.decode, spec.options, spec.augment, spec.placement) == ("fast", (("task", 4),), True, "model")
    for wrong in ("decode=fast,accurate", "step=none"):
        with pytest.raises(UsageError, match="--vary"):
            spec_of(LoaderSpec(), "threaded", [wrong])


@pytest.mark.parametrize("module", ["contender", "textbook"])
def test_a_contender_does_whole_epochs_when_it_is_told_to(tmp_path: Path, module: str) -> None:
    demo.draw(tmp_path / "demo", 20)
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{module}", "--seconds", "0", str(tmp_path / "demo"), "32", "6", "2"],
        input="go\n\ngo\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ready, *answers = done.stdout.splitlines()
    assert ready == "ready"
    assert [json.loads(answer)["images"] for answer in answers] == [16, 16, 16]
