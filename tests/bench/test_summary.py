"""``summary.md``: every number in it is the CSV's, every name is text, and it stays small."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from statistics import median

import pandas as pd
import pytest

from bench.case import Case, StepSpec
from bench.choices import best, choices
from bench.claims import claims
from bench.racing import beaten
from bench.record import Run, Skipped, append_records, load_run
from bench.report.csv import write_csv
from bench.report.derived import tables
from bench.report.digits import bounds, hidden, ratio, share, significant
from bench.report.first_epoch import first_epoch
from bench.report.markdown import block, code, table, text
from bench.report.summary import LIMIT_OF, MOST_ROWS, summary
from bench.report.verdict import verdict
from bench.speeds import speeds
from tests.bench.synthetic import matrix, synthetic_run

HOSTILE = "<script>alert(1)</script> | `rm` *x* [y](z) @all"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    steps = ("feature_extraction", "none", "emulated:1800")
    return synthetic_run(tmp_path_factory.mktemp("run"), cases=matrix(steps=steps), sweeps=4)


@pytest.fixture(scope="module")
def said(run: Run) -> str:
    return summary(run, tables(run))


def rows(part: str) -> list[dict[str, str]]:
    """The cells of a Markdown table, by its head."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("|")]
    head = [cell.strip() for cell in lines[0]]
    return [dict(zip(head, (cell.strip() for cell in line), strict=True)) for line in lines[2:]]


def section(said: str, title: str) -> str:
    return said.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_number_of_the_tables_is_the_csvs(run: Run, said: str, tmp_path: Path) -> None:
    results = pd.read_csv(write_csv(run, tmp_path)[0])
    measured = results[results["images_per_s"].notna()]
    assert set(measured["phase"]) == {"warm", "cold_epoch", "first_epoch"}
    parts = re.split(r"\n\*\*", section(said, "Cases, fastest first"))[1:]
    words = {"the real step (feature\\_extraction)": "feature_extraction", "loading alone": "none",
             "an accelerator of 1800 images/s": "emulated:1800"}  # fmt: skip
    assert [part.split("**")[0] for part in parts] == list(words), "the step that decides comes first"
    checked = 0
    for part in parts:
        of_step = measured[measured["step"] == words[part.split("**")[0]]].sort_values("images_per_s", ascending=False)
        limits = dict(zip(of_step["loader"], of_step["images_per_s"], strict=True))
        shown = rows(part)
        assert len(shown) == min(MOST_ROWS, len(of_step))
        for cells, (_, row) in zip(shown, of_step.iterrows(), strict=False):
            name, _, phase = re.sub(r"[`*\\]", "", cells["case"]).partition(" (")
            assert phase == ("" if row["cache"] == "warm" else f"{row['phase']})")
            assert name in row["case"].replace(f"-step={row['step']}", "")
            assert cells["images/s"] == significant(row["images_per_s"])
            assert cells["95% interval"] == bounds(row["images_per_s_low"], row["images_per_s_high"])
            assert cells["first batch, s"] == significant(row["first_batch_s"])
            assert cells["CPU, µs/image"] == significant(row["cpu_us_per_image"])
            assert cells["stored, MB"] == ("" if pd.isna(row["stored_bytes"]) else significant(row["stored_bytes"] / 1e6))
            assert cells["pixels"] == ("" if pd.isna(row["pixels"]) else row["pixels"])
            assert ("waiting" in cells) == (row["step"] != "none")
            if "waiting" in cells:
                assert cells["waiting"] == share(row["wait_share"])
            if cells.get("of its limit"):
                assert cells["of its limit"] == share(row["images_per_s"] / limits[LIMIT_OF[row["payload"]]])
            checked += 1
    assert checked > 40
    assert f"and {len(measured[measured['step'] == 'none']) - MOST_ROWS} more in `results.csv`" in said


def test_limits_are_marked(said: str) -> None:
    alone = next(part for part in section(said, "Cases, fastest first").split("\n**") if part.startswith("loading alone"))
    marked = [cells["case"] for cells in rows(alone) if cells["case"].startswith("*")]
    assert marked == ["*limit:gather*", "*limit:decode*"]


def test_the_claims_are_those_of_the_run(run: Run, said: str) -> None:
    answers = {(one.claim.question, one.step): one for one in claims(run)}
    words = {"loading alone": "none", "the real step (feature\\_extraction)": "feature_extraction",
             "an accelerator of 1800 images/s": "emulated:1800"}  # fmt: skip
    question = ""
    shown = rows(section(said, "Three claims"))
    assert len(shown) == 12
    for cells in shown:
        question = cells["claim"] or question
        if cells["answer"] == "open":
            assert (words[cells["measured with"]], cells["single pairs"][:14]) == ("none", "without a step")
            continue
        one = answers.pop((question, words[cells["measured with"]]))
        assert cells["answer"].startswith(f"**{one.answer}**")
        assert cells["times as fast"] == ratio(one.comparison.ratio)
        assert cells["interval"] == bounds(one.comparison.low, one.comparison.high, ratio)
        counted = sum(int(number) for number in re.findall(r"\d+", cells["single pairs"]))
        assert counted == len(one.pairs)
    assert not answers
    assert "An emulated accelerator's speed counts what runs inside the model as done." in said


def test_an_open_claim_says_what_would_answer_it(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=matrix(steps=("none",), formats=("directory",), payloads=("encoded",)), sweeps=3)
    shown = rows(section(summary(run, tables(run)), "Three claims"))
    open_ = [cells["single pairs"] for cells in shown if cells["answer"] == "open"]
    assert "measure it: `feedbench run --images=flowers --step feature_extraction --placements pipeline,model`" in open_


def test_warnings_failures_and_skips_are_there_with_their_reasons(said: str) -> None:
    assert "- `tfrecord-encoded-tfdata-pipeline-step=none`: bimodal:" in section(said, "Warnings")
    assert "not proven cold in 4 of 4 sweeps" in section(said, "Warnings")
    missing = section(said, "Failed and skipped")
    assert "- failed: `lmdb-raw-from_generator-model`: the worker was killed by signal 9 (out of memory?)" in missing
    assert "- skipped: 36 cases, such as `hdf5-encoded-image_dataset_from_directory-pipeline`:" in missing
    assert "racing" not in missing, "nothing is wrong with a case that was beaten"
    fewer = section(said, "Measured in fewer sweeps")
    assert fewer.strip().startswith(
        "- 3 sweeps: `directory-raw-image_data_generator-model`: stopped by racing after 3 sweeps:"
    )


def test_it_says_what_it_ran_on_and_the_command_that_repeats_it(run: Run, said: str) -> None:
    last = section(said, "How to repeat it")
    assert f"```sh\n{run.info.command}\n```" in last
    assert "processor: Synthetic CPU @ 2.00 GHz" in last


def test_it_stays_small(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=120, sweeps=2, most_batches=2)
    assert len(summary(run, tables(run))) < 15_000, "GitHub takes 65,536 characters; a reader less"


def test_names_and_reasons_are_text(tmp_path: Path) -> None:
    cases = [
        replace(case, name=HOSTILE)
        for case in matrix(formats=("directory",), payloads=("encoded",), limits=False, cold=False)
    ]
    run = synthetic_run(tmp_path, cases=cases, sweeps=2)
    append_records(tmp_path, [run.records[0].model_copy(update={"sweep": 2, "outcome": Skipped(reason=HOSTILE)})])
    run = load_run(tmp_path)
    said = summary(run, tables(run))
    outside = re.sub(r"(`+).*?\1", "", said)
    assert "<script>" not in outside
    assert "@all" not in outside
    assert "](z)" not in outside.replace("\\]", "")
    for title in ("Cases, fastest first", "Three claims"):
        rows(section(said, title).split("\n**")[-1])  # Strict: no name makes a cell of its own.


def test_text_code_and_block_hold_anything() -> None:
    assert text("a_b*c|<i>&\n@x `y`") == "a\\_b\\*c\\|&lt;i&gt;&amp; &#64;x \\`y\\`"
    assert code("a`b") == "``a`b``"
    assert code("`") == "`` ` ``"
    assert code("a|b\nc") == "`a\\|b c`"
    assert block("echo ```") == "````sh\necho ```\n````"
    assert table(["a", "b"], [["1", "2"]], [1]) == "| a | b |\n| --- | --: |\n| 1 | 2 |"


def test_an_interval_that_bounds_nothing_is_words() -> None:
    assert bounds(216.4, 233.4) == "216 to 233"
    assert bounds(0.0, float("inf")) == bounds(1.0, 101.0) == bounds(5e-324, 1e300) == "no bounds"


def one(format_: str, loader: str = "tfdata", step: str = "none") -> Case:
    return Case(format=format_, payload="encoded", loader=loader, step=StepSpec(step=step))


def test_the_verdict_names_the_fastest_its_gain_and_its_ties(run: Run) -> None:
    found = verdict(run)
    assert found.change
    assert found.step == "feature_extraction"
    assert found.best is not None
    assert found.today is not None
    assert found.today.id == "directory-encoded-image_data_generator-pipeline"
    assert found.comparison is not None
    between = bounds(found.comparison.low, found.comparison.high, ratio)
    assert (
        f"{ratio(found.comparison.ratio)} times ({between}) as fast as today's image_data_generator on directory"
        in found.lines[0]
    )
    assert found.lines[1].startswith("Loading alone, it is 2")
    assert found.lines[2].startswith("Not told apart from the fastest: ")
    assert found.best not in found.ties
    assert found.today not in found.ties


def test_the_verdict_may_be_to_keep_what_one_has(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=[one("hdf5"), one("lmdb"), one("directory", "image_data_generator")], sweeps=5)
    found = verdict(run, "lmdb-encoded-tfdata-pipeline")
    assert not found.change
    assert found.best == found.today == one("lmdb")
    assert found.lines[0].startswith("Keep what you have, tfdata on lmdb encoded, preprocessing in the pipeline: 3,")
    assert "nothing is established to be faster. The fastest of the others, tfdata on hdf5 encoded" in found.lines[0]
    assert "could hide in that" in found.lines[0]


def test_what_is_held_against_todays_case_is_the_fastest_of_the_others(tmp_path: Path) -> None:
    """Not the one that loads fastest alone, which may be slower under this step than others that tie."""
    today, fastest, alone = (
        Case(format=f, payload=p, loader=name)  # type: ignore[arg-type]
        for f, p, name in (
            ("directory", "encoded", "image_data_generator"), ("hdf5", "raw", "tfdata"), ("tfrecord", "encoded", "tfdata"),
        )
    )  # fmt: skip
    run = synthetic_run(tmp_path, cases=[today, fastest, alone, alone.alone], sweeps=1)
    measured = speeds(run)
    assert max((fastest, alone), key=lambda case: median(measured[case].values())) == fastest
    found = verdict(run)
    assert found.comparison is not None
    assert found.comparison.case_a == fastest.id
    assert "The fastest of the others, tfdata on hdf5 raw" in found.lines[0]


def test_no_two_statements_on_ties_contradict_each_other(tmp_path: Path) -> None:
    """The verdict, the summary's list and choices.json: what is called faster than today's case is in no tie with it."""
    group = [case for case in matrix(("hdf5", "lmdb"), ("encoded",), ("tfdata",), cold=False) if case.step.trains]
    changed = 0
    for seed in (1, 7):  # Today's case is established to be slower there, though not among all pairs.
        run = synthetic_run(tmp_path / str(seed), cases=group, sweeps=3, seed=seed)
        for now in group:
            shown, found = tables(run, now.id), verdict(run, now.id)
            line = section(summary(run, shown, now.id), "The fastest, and what ties with it").strip().splitlines()[0]
            fastest, *tied = re.findall("`(.*?)`", line)
            named = {shown.labels[case.id] for case in (found.best, *found.ties) if case}
            assert set(tied) <= named | {fastest} | {shown.labels[now.id]}
            if found.change:
                changed += 1
                assert shown.labels[now.id] not in tied
            for stored, entry in choices(run, now.id)["choices"].items():
                if fastest.startswith(stored):
                    same = {label for label in (fastest, *tied) if label.startswith(stored)}
                    assert {shown.labels[id_] for id_ in (entry["case"], *entry["ties"])} == same
    assert changed >= 2


def cold(format_: str, loader: str = "tfdata") -> Case:
    return replace(one(format_, loader), cache="cold")


def test_a_cold_run_has_a_verdict_on_the_first_epoch_and_on_the_later_ones(tmp_path: Path) -> None:
    """In these runs LMDB, the fastest from the page cache, is never proven cold."""
    cases = [cold(f, name) for f in ("directory", "hdf5", "lmdb") for name in ("image_data_generator", "tfdata")]
    run = synthetic_run(tmp_path, cases=[*cases, one("memory", "limit:decode")])
    said = summary(run, tables(run))
    later, disk = said.split("\n\n")[2].replace("\\", "").splitlines()[0::2]
    assert later.startswith("**After the first epoch, from the page cache, use tfdata on lmdb encoded")
    assert "as fast as today's image_data_generator on directory encoded" in later
    assert disk.startswith("In the first epoch, from the disk, tfdata on hdf5 encoded")
    assert "from opening the dataset to the last batch" in disk
    assert "as fast as today's image_data_generator on directory encoded" in disk
    assert "lmdb" not in disk
    assert disk.endswith("Not proven cold, and left out: 2 cases.")
    assert set(choices(run)["choices"]) == {"directory-encoded", "hdf5-encoded", "lmdb-encoded"}
    assert [(answer.claim.name, len(answer.pairs)) for answer in claims(run)] == [("hdf5", 2), ("lmdb", 2)]
    assert "\n**loading alone**\n" in said, "limits and later epochs are not cold"
    of_limit = {
        cells["case"].split(" (")[-1]: cells["of its limit"] for cells in rows(section(said, "Cases, fastest first"))
    }
    assert of_limit["warm)`"]
    assert of_limit["cold_epoch)`"] == of_limit["first_epoch)`"] == "", "a limit is one of steady state"


def test_what_was_not_proven_cold_wins_nothing(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=[cold("lmdb")], sweeps=3)
    assert first_epoch(run) == ("Of the first epoch, from the disk, nothing can be said: none was proven cold.",)
    assert first_epoch(synthetic_run(tmp_path / "warm", cases=[one("lmdb")], sweeps=3)) == ()


def test_of_what_was_not_proven_cold_only_the_deciding_step_counts(tmp_path: Path) -> None:
    stored = (cold("hdf5"), cold("lmdb"))
    both = [replace(case, step=StepSpec(step=step)) for step in ("none", "feature_extraction") for case in stored]
    (line,) = first_epoch(synthetic_run(tmp_path, cases=both, sweeps=1))
    assert line.endswith("Not proven cold, and left out: 1 case.")


def test_of_a_first_epoch_that_ties_with_todays_no_ratio_is_told(tmp_path: Path) -> None:
    """One sweep bounds nothing; the fastest by its median may even be the slower one in the mean of pairs."""
    (line,) = first_epoch(synthetic_run(tmp_path, cases=[cold("hdf5"), cold("directory", "image_data_generator")], sweeps=1))
    assert line.startswith(
        "In the first epoch, from the disk, tfdata on hdf5 encoded, preprocessing in the pipeline, is the fastest seen"
    )
    assert "which is not told apart from today's image_data_generator on directory encoded" in line
    assert "times" not in line


def test_limits_alone_are_no_failures(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=[one("memory", "limit:decode")], sweeps=2)
    assert verdict(run).lines == (
        "Nothing can be said: this run has nothing to choose from, only limits and known loaders.",
    )


def test_a_verdict_never_contradicts_its_own_interval(tmp_path: Path) -> None:
    """Whichever case is today's: *use* stands with an interval above 1, *keep* with none that excludes 1 from above."""
    for seed in range(6):
        run = synthetic_run(
            tmp_path / str(seed), cases=matrix(steps=("none",), payloads=("raw",), cold=False), sweeps=3, seed=seed
        )
        for case in run.info.cases:
            if case.format == "memory" or not run.of(case.id) or run.of(case.id)[0].outcome.status != "ok":
                continue
            found = verdict(run, case.id)
            if found.comparison is not None:
                assert found.change == (found.comparison.low > 1), case.id
                assert ("Use " in found.lines[0]) == found.change


def test_without_a_step_whoever_leaves_the_work_to_the_model_wins_nothing(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=matrix(steps=("none",), cold=False), sweeps=5)
    measured = speeds(run)
    loaded = [case for case in measured if case.format != "memory"]
    assert max(loaded, key=lambda case: median(measured[case].values())).spec.placement == "model"
    found = verdict(run)
    assert found.best is not None
    assert found.best.spec.placement == "pipeline"
    assert all(case.spec.placement == "pipeline" for case in found.ties)
    assert all(entry["spec"].get("placement", "pipeline") == "pipeline" for entry in choices(run)["choices"].values())
    assert "model_placement" not in {answer.claim.name for answer in claims(run)}
    reasons = beaten([record for record in run.records if record.sweep < 3])
    assert reasons
    for case, reason in reasons.items():
        assert case.count("-model") == reason.count("-model"), "each is beaten by one that does the same work"


def test_without_todays_case_there_is_a_choice_but_no_comparison(tmp_path: Path) -> None:
    found = verdict(synthetic_run(tmp_path, cases=[one("hdf5"), one("lmdb")], sweeps=5))
    assert found.best is not None
    assert found.comparison is None
    assert "name yours with --today" in found.lines[0]


def test_one_sweep_bounds_nothing_and_the_verdict_says_so(tmp_path: Path) -> None:
    found = verdict(synthetic_run(tmp_path, cases=[one("hdf5"), one("directory", "image_data_generator")], sweeps=1))
    assert not found.change
    assert "(one sweep, so no interval)" in found.lines[0]


def test_a_run_that_was_cut_off_decides_by_what_it_measured(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=[one("hdf5"), one("lmdb"), one("hdf5", step="feature_extraction")], sweeps=3)
    records = [record for record in run.records if record.case.step.step == "none"]
    found = verdict(replace(run, records=records))
    assert found.step == "none"
    assert found.best in (one("hdf5"), one("lmdb"))


def test_a_placement_is_no_disadvantage_where_loading_alone_was_measured_outside_the_model_only(tmp_path: Path) -> None:
    outside = one("hdf5", step="feature_extraction")
    inside = replace(outside, spec=replace(outside.spec, placement="model"))
    cases = [inside, one("tfrecord", step="feature_extraction"), one("hdf5"), one("tfrecord")]
    measured = speeds(synthetic_run(tmp_path, cases=cases, sweeps=2))
    chosen, tied = best(measured, cases[:2])
    assert len(tied) == 2
    assert chosen == inside, "hdf5 loads faster alone, and only outside the model was that measured"


def test_a_tie_that_is_much_slower_stands_in_for_nothing(tmp_path: Path) -> None:
    """One sweep tells nothing apart, though one case is a quarter slower; that it alone was measured without a step is no merit."""
    fast, slow = one("hdf5", step="feature_extraction"), one("hdf5", "image_data_generator", step="feature_extraction")
    measured = speeds(synthetic_run(tmp_path, cases=[fast, slow, slow.alone], sweeps=1))
    assert best(measured, [fast, slow]) == (fast, [fast, slow])


def test_what_does_less_of_the_work_is_said_to_be_left_out_of_the_fastest(said: str) -> None:
    lines = section(said, "The fastest, and what ties with it").strip().splitlines()
    listed = [row["case"] for row in rows(section(said, "Cases, fastest first").split("**loading alone**")[1])]
    assert next(case for case in listed if "limit:" not in case).endswith("-model`")
    (alone,) = (line for line in lines if line.startswith("- loading alone: "))
    assert "-model`" not in alone
    assert [line for line in lines if "cases that leave preprocessing to the model do less of the work here" in line] == [
        alone
    ]


def test_one_of_a_kind_is_counted_as_one(tmp_path: Path) -> None:
    case = Case(format="directory", payload="encoded", loader="tfdata")
    one = synthetic_run(tmp_path, cases=[case], sweeps=1)
    assert " · 1 case · 1 sweep\n" in summary(one, tables(one))


def test_a_share_has_three_digits_and_at_most_one_decimal() -> None:
    shares = (0.0003, 0.0941, 0.97312, 1.0, 1.3034, 20.503)
    assert [share(one) for one in shares] == ["<0.1%", "9.4%", "97.3%", "100%", "130%", "2,050%"]
    assert [hidden(one) for one in shares[1:]] == ["9.4%", "97.3%", "100%", "more than double", "more than double"]
