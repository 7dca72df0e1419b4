"""``feedbench compare`` as a user runs it: exit codes, warnings, baselines, and what is established or merely seen."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from math import exp
from pathlib import Path

import numpy as np
import pytest

from bench.agreement import Agreement, Share, agreement
from bench.case import Case, StepSpec
from bench.gate import Row, Rule, Side, apart, broken, changes, environment_differences, fails, read_side, slowdowns_seen
from bench.gate_output import compare_and_print
from bench.gate_words import result, warning
from bench.record import Measured, Run, RunRecord, append_records, load_run, write_info
from bench.report.csv import write_csv
from storage.errors import DataError, UsageError
from tests.bench.synthetic import matrix, synthetic_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs before, after (nothing changed), slower (all but the limits by 12%) and tired (the machine, limits too)."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("before", 1), ("after", 2), ("slower", 3), ("tired", 4)):
        synthetic_run(folder / name, cases=8, seed=seed)
    slow_down(load_run(folder / "slower"), 0.88, limits=False)
    slow_down(load_run(folder / "tired"), 0.80, limits=True)
    write_csv(load_run(folder / "before"))
    return folder


def slow_down(run: Run, factor: float, *, limits: bool) -> None:
    (run.path / "records.jsonl").unlink()
    append_records(run.path, [slower(r, factor) if limits or r.case.format != "memory" else r for r in run.records])


def slower(record: RunRecord, factor: float) -> RunRecord:
    assert isinstance(record.outcome, Measured)
    waits = [round(ns / factor) for ns in record.outcome.wait_ns]
    return record.model_copy(update={"outcome": record.outcome.model_copy(update={"wait_ns": waits})})


def unproven(record: RunRecord) -> RunRecord:
    assert isinstance(record.outcome, Measured)
    return record.model_copy(update={"outcome": record.outcome.model_copy(update={"cold_proven": False})})


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bench.cli import main; main()", "compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def said_of_ratios(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("How fast one case is beside another")]


def test_nothing_changed_passes(runs: Path) -> None:
    done = run_cli(runs / "before", runs / "after", "--fail-if", "slower:5%", "--fail-if", "failed")
    assert done.returncode == 0, done.stdout + done.stderr
    said = "Passed: no case is established to be slower by more than 5.0%, and none that A measured failed in B."
    assert said in done.stdout.splitlines()
    assert "Warning" not in done.stdout


def test_an_established_slowdown_fails(runs: Path) -> None:
    done = run_cli(runs / "before", runs / "slower", "--fail-if", "slower:5%")
    assert done.returncode == 1
    assert "FAILED: directory-raw-tfdata-pipeline-step=none is slower by more than 5.0%" in done.stdout
    assert run_cli(runs / "before", runs / "slower").returncode == 0
    assert run_cli(runs / "before", runs / "slower", "--fail-if", "slower:20%").returncode == 0


def test_a_slower_machine_is_no_regression(runs: Path) -> None:
    done = run_cli(runs / "before", runs / "tired", "--fail-if", "slower:5%")
    assert done.returncode == 0, done.stdout
    assert "before the limit's own change is counted out" in done.stdout
    assert re.search(r"^limit:decode .*\nlimit:gather ", done.stdout, re.MULTILINE)
    assert (
        "A and B are medians over sweeps. B / A is of each case relative to limit:decode in the same sweeps" in done.stdout
    )
    assert done.stdout.count("  tie  ") == 7


def test_a_stored_baseline_is_one_small_file(runs: Path) -> None:
    baseline = runs / "before" / "sweeps.csv"
    folder, file = read_side(runs / "before"), read_side(baseline)
    assert file.rates.keys() == folder.rates.keys()
    done = run_cli(baseline, runs / "slower", "--fail-if", "slower:5%")
    assert done.returncode == 1
    assert "does not say what it ran on" in done.stdout


def test_cold_runs_are_compared_too_and_only_what_was_proven_cold_fails(tmp_path: Path) -> None:
    """LMDB's pages could not be dropped in the synthetic runs."""
    cold = [case for case in matrix() if case.cache == "cold"]
    for name, seed in (("a", 1), ("b", 2)):
        synthetic_run(tmp_path / name, cases=cold, seed=seed)
    slow_down(load_run(tmp_path / "b"), 0.5, limits=False)
    sides = [read_side(tmp_path / name) for name in "ab"]
    found = {change.case: change for change in changes(*sides)}
    assert all(case.id in found for case in cold)
    proven = {name for name in found if name.endswith(" (cold_epoch)")}
    unproven = {name for name in found if name.endswith(" (first_epoch)")}
    assert len(proven) + len(unproven) == len(cold)
    assert unproven
    assert all(name.startswith("lmdb") for name in unproven)
    assert all(change.verdict == "slower" for change in found.values())
    failed = " ".join(fails([Rule.parse("slower:5%")], list(found.values()), {}))
    assert all(name in failed for name in proven)
    assert not any(name in failed for name in unproven)
    for name in "ab":
        write_csv(load_run(tmp_path / name))
    assert read_side(tmp_path / "a" / "sweeps.csv").rates.keys() == sides[0].rates.keys()


@pytest.mark.slow
def test_a_case_proven_cold_in_one_run_only_is_one_line_that_says_so(tmp_path: Path) -> None:
    cold = [case for case in matrix() if case.cache == "cold" and case.format == "hdf5"]
    runs = [synthetic_run(tmp_path / name, cases=cold, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    (runs[1].path / "records.jsonl").unlink()
    first_visit = [record.phase == "cold_epoch" and record.sweep == 0 for record in runs[1].records]
    append_records(
        runs[1].path,
        [unproven(record) if first else record for record, first in zip(runs[1].records, first_visit, strict=True)],
    )
    write_csv(load_run(runs[1].path))
    assert read_side(runs[1].path / "sweeps.csv").rates.keys() == read_side(runs[1].path).rates.keys()
    for order, proven in (("ab", "A"), ("ba", "B")):
        done = run_cli(*(tmp_path / name for name in order), "--html")
        warm, first = [" ".join(line.split()) for line in done.stdout.splitlines() if line.startswith(cold[0].id)]
        assert "not compared" not in warm
        assert first == f"{cold[0].id} (first_epoch) not compared: proven cold only in {proven}"
        page = (tmp_path / order[1] / "compare.html").read_text()
        assert "1 could not be compared" in page
        assert f"<dt>{cold[0].id} (first_epoch)</dt><dd>proven cold only in {proven}</dd>" in page


def test_what_failed_is_not_compared_and_says_where(runs: Path) -> None:
    a = read_side(runs / "before")
    one, other, third, limit = (row for row in [*a.rates][2:5] + [*a.rates][:1])
    left = {row: rates for row, rates in a.rates.items() if row not in (one, other, third, limit)}
    b = replace(a, rates=left, failed={one.case: "hung", other.case: "crashed", limit.case: "crashed"})
    a = replace(
        a, rates=left | {row: a.rates[row] for row in (one, third)}, failed={other.case: "no memory", limit.case: "crashed"}
    )
    assert dict(apart(a, b)) == {
        one.name: "failed in B: hung",
        other.name: "failed in A: no memory; and in B: crashed",
        third.name: "measured only in A",
        "limit:decode": "failed in both: crashed",
    }


def test_how_many_ratios_agree_is_said(runs: Path) -> None:
    """All but the two limits ran 12% slower: 6 x 2 of the 28 pairs have another ratio, and 16 have the same."""
    (line,) = said_of_ratios(run_cli(runs / "before", runs / "slower", "--html"))
    assert re.fullmatch(
        r"How fast one case is beside another is the same within 5% in both runs for 16 of 28 pairs of cases \(57%\)\. "
        r"By how much sweeps vary within either run, 95% of pairs are to be expected from \d sweeps? a run on; there were 5\. "
        r"Look for what else differs, and look for flags in both reports\.",
        line,
    )
    assert line in (runs / "slower" / "compare.html").read_text()
    (line,) = said_of_ratios(run_cli(runs / "before", runs / "tired"))
    assert re.search(r"28 of 28 pairs of cases \(100%\)\. By how much .* from \d sweeps? a run on; there were 5\.$", line)


def test_ratios_that_agree_by_hand() -> None:
    """Ratios are paired within sweeps, so that weather cancels; first epochs, and what one run lacks, are left out."""
    x, y, z, first = Row("x"), Row("y"), Row("z"), Row("x", "cold_epoch")
    a = Side("a", {x: {0: 100.0, 1: 200.0}, y: {0: 100.0, 1: 200.0, 2: 900.0}, z: {0: 100.0}, first: {0: 9.0}})
    b = Side("b", {x: {0: 100.0}, y: {0: 104.0}, z: {0: 106.0}, first: {0: 1.0}, Row("new"): {0: 1.0}})
    # x:y is 1 and 1 / 1.04, within 5%; x:z is 1 and 1 / 1.06, not; y:z is 1 and 104 / 106, within.
    # Two sweeps are in x:y of a alone: 1 in both, so that one sweep would do.
    assert agreement(a, b) == Agreement(Share(3, 2), sweeps=1, enough=1)
    assert agreement(a, Side("c", {x: {0: 1.0}})).in_words == ""
    once = agreement(Side("d", {x: {0: 1.0}, y: {0: 2.0}}), b)
    assert once == Agreement(Share(1, 0), sweeps=1)
    assert once.in_words.endswith("(0%). Below 95%, raise --sweeps or --budget.")
    # A training step and loading alone do not slow down by the same: such pairs are told apart, and no more sweeps are asked for them.
    split = agreement(replace(a, steps={"x": "none", "y": "none", "z": "full"}), b)
    assert split == Agreement(Share(1, 1), Share(2, 1), sweeps=1, enough=1)
    assert (
        "for 1 of 1 pair of cases with the same step (100%) and 1 of 2 pairs of cases with different steps (50%)."
        in split.in_words
    )


def test_sweeps_that_would_be_enough_by_hand() -> None:
    """Two pairs whose log ratios vary by 0.0707 within runs, and one of a constant ratio, need 14 sweeps a run."""
    # Log ratios z:x in either run: 0.05 and -0.05, so that the pooled variance is (2 + 2) 0.0025 / (1 + 1) = 0.005.
    # x:y always agrees; of the other two, P must be (3 x 0.95 - 1) / 2 = 0.925, and a table of the normal has 1.7805 for it:
    # 1.7805 x sqrt(0.005 x 2 / n) < log 1.05 = 0.04879 for n > 0.01 (1.7805 / 0.04879)^2 = 13.3.
    rates = {
        Row("x"): {0: 100.0, 1: 100.0},
        Row("y"): {0: 300.0, 1: 300.0},
        Row("z"): {0: 100 * exp(0.05), 1: 100 * exp(-0.05)},
    }
    assert agreement(Side("a", rates), Side("b", rates)) == Agreement(Share(3, 3), sweeps=2, enough=14)
    # One pair alone: 1.9600 instead, and 0.01 (1.9600 / 0.04879)^2 = 16.1.
    b = {Row("x"): rates[Row("x")], Row("z"): {n: 1.1 * rate for n, rate in rates[Row("z")].items()}}
    one = agreement(Side("a", rates), Side("b", b))
    assert one == Agreement(Share(1, 0), sweeps=2, enough=17)
    assert "from 17 sweeps a run on; there were 2. Raise --sweeps or --budget, and look for flags" in one.in_words


def test_another_machine_is_warned_of(runs: Path, tmp_path: Path) -> None:
    synthetic_run(tmp_path / "other", cases=8, seed=2)
    info = json.loads((tmp_path / "other" / "run.json").read_text())
    info["environments"]["e0"]["cpu_model"] = "Another CPU"
    info["environments"]["e0"]["load_1m"] = 7
    (tmp_path / "other" / "run.json").write_text(json.dumps(info))
    assert environment_differences(read_side(runs / "before"), read_side(tmp_path / "other")) == [
        "cpu_model: Synthetic CPU @ 2.00 GHz and Another CPU"
    ]
    assert "Warning: These runs come from different environments" in run_cli(runs / "before", tmp_path / "other").stdout


def test_another_way_of_measuring_is_warned_of(runs: Path) -> None:
    before, after = read_side(runs / "before"), read_side(runs / "after")
    a = replace(before, design={"isolation": "case", "turns": 4, "pace": {"measure_s": 1.25}})
    assert warning(a, replace(after, design=a.design)) == ""
    assert warning(a, replace(after, design={"isolation": "sweep", "turns": 4, "pace": {"measure_s": 1.0}})) == (
        "These runs measured in different ways (isolation: case and sweep; pace.measure_s: 1.25 and 1.0): "
        "a change may be the measurement's."
    )


@pytest.mark.parametrize("changed", [{"samples": 40, "name": "dogs"}, {"source_digest": "xxh3:2", "name": "dogs"}])
def test_other_images_are_warned_of(runs: Path, changed: dict[str, object]) -> None:
    before, after = read_side(runs / "before"), read_side(runs / "after")
    (name, one), *_ = before.datasets.items()
    kept = one.model_copy(update={"source_digest": "xxh3:1"})
    a = replace(before, datasets={name: kept})
    assert warning(a, after) == ""
    assert warning(a, replace(after, datasets={name: kept.model_copy(update=changed)})) == (
        f"These runs measured different images ({one.samples:,} of flowers and {changed.get('samples', one.samples):,} of dogs): "
        "a change may be the images'."
    )


def test_a_run_that_was_resumed_elsewhere_is_warned_of(runs: Path, tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "moved", cases=8, seed=2)
    first = run.info.environments["e0"]
    moved = {"e0": first, "e1": {**first, "cpu_model": "Another CPU"}}
    write_info(run.path, run.info.model_copy(update={"environments": moved}))
    assert environment_differences(read_side(runs / "before"), read_side(run.path)) == [
        "cpu_model: Synthetic CPU @ 2.00 GHz and Synthetic CPU @ 2.00 GHz, then Another CPU"
    ]


def test_a_gate_that_passes_says_what_it_would_have_seen(runs: Path, tmp_path: Path) -> None:
    assert re.search(
        r"would have failed, with a probability of 80%, for a case that is \d+% slower \(the median of 6 cases",
        run_cli(runs / "before", runs / "after", "--fail-if", "slower:5%").stdout,
    )
    for name, seed in (("a", 1), ("b", 2)):
        synthetic_run(tmp_path / name, cases=8, sweeps=1, seed=seed)
    done = run_cli(tmp_path / "a", tmp_path / "b", "--fail-if", "slower:5%")
    assert done.returncode == 0
    assert "6 of 6 cases had too few sweeps to establish even half the speed: raise --sweeps or --budget." in done.stdout


def test_what_a_gate_would_have_seen_by_hand() -> None:
    """What is slower by 11.7% would have failed a limit of 5% with 80%; a rule about failures sees no slowdown."""
    # Logs of case over limit, on either side: -0.04, -0.02, 0, 0.02, 0.04.
    # Variance of a side's mean: (16 + 4 + 0 + 4 + 16)e-4 / 4 / 5 = 2e-4; of the difference: 4e-4; standard error: 0.02.
    # Welch: (4e-4)^2 / (2 (2e-4)^2 / 4) = 8 degrees of freedom. Two comparisons (the limit is one): 1.25% in each tail.
    # From a table of t: t(8; 98.75%) = 2.7515 and t(8; 80%) = 0.8889, so that 0.02 (2.7515 + 0.8889) = 0.07281 is found.
    # e^0.07281 = 1.07552; counted from the rule's 0.95: 1 - 0.95 / 1.07552 = 0.1167.
    logs = {n: 100 * exp(0.02 * (n - 2)) for n in range(5)}
    rates = {Row("case"): logs, Row("limit:decode"): dict.fromkeys(range(5), 400.0)}
    (change, _) = changes(Side("a", rates), Side("b", rates))
    assert slowdowns_seen(Rule.parse("slower:5%"), [change]) == pytest.approx([0.1167], abs=5e-5)
    assert slowdowns_seen(Rule.parse("failed"), [change]) == []
    wild = Side("a", {Row("case"): {0: 100.0, 1: 300.0}})
    (_, said) = result([Rule.parse("slower:5%")], changes(wild, wild), [])
    assert said == "1 of 1 cases had too few sweeps to establish even half the speed: raise --sweeps or --budget."


def test_merely_seen_is_not_established() -> None:
    """Two noisy sweeps a side show 30% less; that proves nothing."""
    a = Side("a", {Row("case"): {0: 100.0, 1: 150.0}})
    b = Side("b", {Row("case"): {0: 70.0, 1: 105.0}})
    (change,) = changes(a, b)
    assert change.comparison.ratio == pytest.approx(0.7)
    assert not change.slower_by(0.05)


def test_equal_runs_rarely_fail_the_gate() -> None:
    """Eight equal cases, weather that lasts longer than a run: fewer than one gate in twenty fails."""
    rng, failed = np.random.default_rng(8), 0
    for _ in range(300):
        sides = []
        for name in "ab":
            machine = rng.normal(0, 0.05)
            weather = [machine + rng.normal(0, 0.02) for _ in range(5)]
            rows = [Row("limit:decode" if n == 0 else f"case{n}") for n in range(8)]
            rates = {row: {s: 100 * float(np.exp(w + rng.normal(0, 0.01))) for s, w in enumerate(weather)} for row in rows}
            sides.append(Side(name, rates))
        failed += any(change.slower_by(0.0) for change in changes(*sides) if change.case != "limit:decode")
    assert failed / 300 < 0.05


def test_a_case_that_failed_is_named_and_fails_when_asked(runs: Path) -> None:
    a = read_side(runs / "before")
    row = next(iter(a.rates))
    b = replace(a, rates={k: v for k, v in a.rates.items() if k != row}, failed={row.case: "hung for 60 s"})
    assert fails([Rule.parse("failed")], changes(a, b), broken(a, b)) == [f"{row.name} failed: hung for 60 s"]
    assert fails([Rule.parse("slower:5%")], changes(a, b), broken(a, b)) == []


@pytest.mark.parametrize("rule", ["slower", "slower:5", "slower:-1%", "slower:200%", "faster:5%", ""])
def test_a_bad_rule_is_refused(rule: str) -> None:
    with pytest.raises(UsageError, match="--fail-if takes slower:PERCENT%"):
        Rule.parse(rule)


def test_a_page_that_cannot_be_written_is_one_line_after_the_comparison(tmp_path: Path) -> None:
    synthetic_run(tmp_path, cases=1, sweeps=2)
    (tmp_path / "compare.html.partial").mkdir()
    said: list[str] = []
    with pytest.raises(DataError, match=r"^cannot write to .*compare\.html\.partial: Is a directory$"):
        compare_and_print(tmp_path, tmp_path, [], said.append, html=True)
    assert any("tie" in line for line in said)


def test_a_bad_rule_is_one_line_and_exit_code_2(runs: Path) -> None:
    done = run_cli(runs / "before", runs / "after", "--fail-if=slower")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--fail-if takes slower:PERCENT%, such as slower:5%, or failed; got 'slower'" in done.stderr


def test_what_is_no_run_is_named(runs: Path, tmp_path: Path) -> None:
    done = run_cli(runs / "before", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path} is not a run" in done.stderr
    (tmp_path / "latest").symlink_to(runs / "after")
    assert read_side(tmp_path / "latest").name == "after", "of the page, since what is the latest changes"
    (tmp_path / "some.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"some\.csv is not a run's sweeps\.csv: it has no column"):
        read_side(tmp_path / "some.csv")
    (tmp_path / "some.csv").write_text("case,phase,sweep,images_per_s,status,reason\nx,warm,0,100,ok,\nx,warm,1,-3,ok,\n")
    with pytest.raises(DataError, match=r"some\.csv is not .*: images_per_s should be a number from 0 on, got '-3'"):
        read_side(tmp_path / "some.csv")
    synthetic_run(tmp_path / "empty", cases=[], sweeps=1)
    said = run_cli(runs / "before", tmp_path / "empty").stderr
    assert re.search("have no case in common that both measured: before has .*-tfdata-.*; empty has none", said)


def test_a_gate_that_has_nothing_to_judge_does_not_pass(tmp_path: Path) -> None:
    """Another step: the limits are all that both runs have. What is in one only is listed."""
    limit = Case(format="memory", payload="encoded", loader="limit:decode", step=StepSpec(step="none"))
    for name, step in (("a", "none"), ("b", "feature_extraction")):
        case = Case(format="hdf5", payload="encoded", loader="tfdata", step=StepSpec(step=step))
        synthetic_run(tmp_path / name, cases=[case, limit])
    shown = run_cli(tmp_path / "a", tmp_path / "b")
    assert shown.returncode == 0
    assert re.search(
        "^hdf5-encoded-tfdata-pipeline-step=none +not compared: measured only in A$", shown.stdout, re.MULTILINE
    )
    assert re.search("^hdf5-encoded-tfdata-pipeline +not compared: measured only in B$", shown.stdout, re.MULTILINE)
    gate = run_cli(tmp_path / "a", tmp_path / "b", "--fail-if", "slower:5%", "--fail-if", "failed")
    assert (gate.returncode, gate.stdout) == (2, "")
    assert gate.stderr.endswith(
        "b have no case in common that both measured but what never fails a gate (limit:decode): "
        "a has hdf5-encoded-tfdata-pipeline-step=none; b has hdf5-encoded-tfdata-pipeline\n"
    )
