"""The page as text: every section in order, every number that of the CSV files, no name that can leave its place."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.case import Case, StepSpec
from bench.claims import claims
from bench.gate import Rule, read_side
from bench.gate_words import compared
from bench.record import Run, load_run, write_info
from bench.report.comparison import write_comparison
from bench.report.csv import write_csv
from bench.report.page import write_page
from bench.sample_images import keep
from tests.bench.synthetic import FORMATS, matrix, synthetic_run

SECTIONS = [
    "verdict", "cases", "throughput", "stages", "utilisation", "size_throughput", "break_even", "cold_warm", "claims",
    "samples", "method",
]  # fmt: skip
HOSTILE = (
    "<script>alert(1)</script>",
    "=cmd()",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)</script>",
    "<!--",
)


@dataclass
class Page(HTMLParser):
    """What a parser sees: start tags with their attributes, all text, and what scripts and charts hold."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def of(cls, path: Path) -> Page:
        page = cls()
        page.feed(path.read_text())
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    def ids(self, tag: str) -> list[str]:
        return [attributes["id"] for name, attributes in self.tags if name == tag and "id" in attributes]

    def charts(self) -> list[dict[str, Any]]:
        kinds = [attributes.get("type") for name, attributes in self.tags if name == "script"]
        return [json.loads(text) for kind, text in zip(kinds, self.scripts, strict=True) if kind == "application/json"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    steps = ("feature_extraction", "none", "emulated:1800")
    cases = [
        *matrix(steps=steps),
        *(Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none"), name=name) for name in HOSTILE),
    ]
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", cases=cases)


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return Page.of(write_page(run))


def test_sections_stand_in_the_order_in_which_one_decides(page: Page) -> None:
    assert [name for name in page.ids("section") if name in SECTIONS] == SECTIONS
    links = [attributes["href"] for name, attributes in page.tags if name == "a" and attributes["href"] != "#main"]
    assert links == [f"#{name}" for name in page.ids("section")]


def test_every_number_in_the_table_is_that_of_the_csv(run: Run, page: Page, tmp_path: Path) -> None:
    results, *_ = write_csv(run, tmp_path)
    with results.open(newline="") as file:
        rows = {(row["case"], row["phase"]): row for row in csv.DictReader(file)}
    shown: dict[tuple[str, str], dict[str, str]] = {}
    for _, attributes in page.tags:
        if "data-case" in attributes:
            place = shown.setdefault((attributes["data-case"], attributes["data-phase"]), {})
        if "data-column" in attributes and (value := attributes.get("data-value", attributes.get("value"))):
            place[attributes["data-column"]] = value
    assert shown.keys() == rows.keys()
    numbers = [
        "images_per_s", "images_per_s_low", "images_per_s_high", "accelerator_utilisation", "first_batch_s",
        "cpu_us_per_image", "anon_memory_bytes", "stored_bytes", "convert_s",
    ]  # fmt: skip
    for key, row in rows.items():
        for name in numbers:
            assert (float(row[name]) if row[name] else None) == (float(shown[key][name]) if name in shown[key] else None)
        assert shown[key].get("pixels", "") == row["pixels"]


def test_every_reason_and_warning_is_told(run: Run, page: Page, tmp_path: Path) -> None:
    results, *_ = write_csv(run, tmp_path)
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    told = [row["reason"] for row in rows if row["reason"]]
    told += [flag for row in rows for flag in row["warnings"].split("; ") if flag]
    assert len(set(told)) >= 4
    assert [text for text in told if text not in page.text] == []


def test_charts_hold_the_numbers_of_the_csv(run: Run, page: Page, tmp_path: Path) -> None:
    _, sweeps, *_ = write_csv(run, tmp_path)
    with sweeps.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["images_per_s"] and row["phase"] == "warm"]
    throughput = next(chart for chart in page.charts() if chart["description"].startswith("Throughput"))
    points = [
        value["images_per_s"] for panel in throughput["vconcat"] for layer in panel["layer"]
        for value in throughput["datasets"][layer["data"]["name"]] if "sweep" in value and "epoch" not in value
    ]  # fmt: skip
    assert sorted(points) == sorted(float(row["images_per_s"]) for row in rows)


def test_claims_are_those_of_the_run(run: Run, page: Page) -> None:
    stated = claims(run)
    ratios = [float(attributes["data-value"]) for _, attributes in page.tags if attributes.get("data-column") == "ratio"]
    assert len(stated) == 11
    assert ratios == [answer.comparison.ratio for answer in stated]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_names(name: str, page: Page) -> None:
    allowed = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert "unsafe-eval" not in allowed
    assert allowed.count("sha256-") == 3
    assert any(name in attributes.get("data-case", "") for _, attributes in page.tags)
    assert not any(tag in ("img", "iframe", "object", "link", "base") for tag, _ in page.tags)
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    runs = [
        text
        for (tag, a), text in zip([t for t in page.tags if t[0] == "script"], page.scripts, strict=True)
        if "type" not in a
    ]
    assert len(runs) == 2
    assert not any("alert(1)" in text for text in runs)


def test_class_names_are_text(page: Page) -> None:
    assert "<script>alert(1)</script>, =cmd(), daisy, roses, tulips" in page.text


def test_a_row_of_a_cold_case_says_which_epochs_it_is_of_and_the_verdict_too(page: Page) -> None:
    words = " ".join(page.text.split())
    rows = re.findall(
        "(\\w+)-encoded-tfdata-pipeline-cache_state=coldloading alone, (later epochs|first epoch, (?:not proven )?cold) ",
        words,
    )
    unproven = {"lmdb": "first epoch, not proven cold"}
    assert sorted(rows) == sorted(
        (name, which) for name in FORMATS for which in ("later epochs", unproven.get(name, "first epoch, cold"))
    )
    verdict = words.partition("What to use")[2].partition("All cases")[0]
    assert "In the first epoch, from the disk, tfdata on hdf5 encoded" in verdict
    assert "Not proven cold, and left out: 1 case." in verdict


def test_what_was_not_measured_says_how_to_measure_it(tmp_path: Path) -> None:
    page = Page.of(write_page(synthetic_run(tmp_path, cases=[Case(format="hdf5", payload="raw", loader="tfdata")])))
    assert [name for name in page.ids("section") if name in SECTIONS] == SECTIONS
    for command in (
        "feedbench run --images=flowers --stages", "feedbench run --images=flowers --step none",
        "feedbench run --images=flowers --cache cold", "feedbench run --images=flowers --step none --formats directory,lmdb",
        "feedbench run --images=flowers --loaders image_data_generator,tfdata", "This run kept no images.",
    ):  # fmt: skip
        assert command in page.text


def test_what_loading_alone_cannot_answer_says_why(tmp_path: Path) -> None:
    """As the default matrix has it: loading alone is measured outside the model only."""
    cases = [case for case in matrix(limits=False) if case.step.trains or case.spec.placement == "pipeline"]
    words = " ".join(Page.of(write_page(synthetic_run(tmp_path, cases=cases))).text.split())
    before, claim = words.split("Does preprocessing inside the model cost training time?")
    claim = claim.partition("Does HDF5")[0]
    why = "without a step nothing runs inside the model, so its share of the work would go unmeasured."
    assert f"loading alone open not measured: {why}" in claim
    assert "--step none" not in claim
    assert "Above 1, inside was faster, so it costs no time: no." in claim
    assert "A limit is no case to choose" in before


def test_a_run_without_records_is_a_page(tmp_path: Path) -> None:
    synthetic_run(tmp_path, cases=3)
    (tmp_path / "records.jsonl").write_text("")
    page = Page.of(write_page(load_run(tmp_path)))
    assert "Nothing can be said" in page.text
    assert page.charts() == []
    assert (tmp_path / "report.html").stat().st_size < 100_000


def test_the_ratio_to_free_memory_is_told_and_no_host(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=3)
    machine = {"free_memory_bytes": 100_000_000, "hostname": "secret", "libraries": {"keras": "3.15"}, "processors": [0, 1]}
    write_info(tmp_path, run.info.model_copy(update={"environments": {"e0": machine}}))
    page = Page.of(write_page(load_run(tmp_path)))
    assert "The largest of them is 50% of the memory that was free" in page.text
    assert "secret" not in (tmp_path / "report.html").read_text()


def test_pictures_of_each_distinct_result(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=3)
    flat, striped = np.full((300, 300, 3), 90, np.uint8), np.full((300, 300, 3), 90, np.uint8)
    striped[::2] = 110
    keep(tmp_path / "samples", "hdf5-raw-tfdata-model", "<b>/1.jpg", flat, flat, "")
    keep(tmp_path / "samples", "directory-raw-tfdata-model", "<b>/1.jpg", striped, flat, "named_cause")
    page = Page.of(write_page(run))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 6
    assert all(one["src"].startswith("data:image/webp;base64,") and one["alt"].startswith("<b>/1.jpg, ") for one in pictures)
    assert "named cause mean difference 10.0, largest 20.0 of 255 levels" in " ".join(page.text.split())
    (tmp_path / "samples" / next((tmp_path / "samples").glob("*-delivered.png")).name).unlink()
    assert "the file is missing" in Page.of(write_page(run)).text


def test_one_file_under_five_megabytes(tmp_path: Path) -> None:
    path = write_page(synthetic_run(tmp_path, cases=120, sweeps=10))
    assert path.stat().st_size < 5_000_000
    assert [one.name for one in tmp_path.iterdir() if one.suffix in (".html", ".js", ".css", ".partial")] == ["report.html"]
    assert not re.search(r'(?:src|href)="(?!#)', path.read_text().partition('<script type="text/plain"')[0])


def test_templates_are_installed() -> None:
    root = Path(__file__).parent.parent.parent
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    files = list((root / "bench/report/templates").iterdir())
    assert len(files) > 5
    assert [file.name for file in files if not any(file.match(pattern) for pattern in patterns)] == []


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    one, other = (
        synthetic_run(tmp_path / name, cases=cases, seed=seed) for name, cases, seed in (("a", 10, 1), ("b", 8, 2))
    )
    a, b = read_side(one.path), replace(read_side(other.path), name="<b>")
    rules = [Rule.parse("slower:30%")]
    page = Page.of(write_comparison(compared(a, b, rules), tmp_path / "comparison.html"))
    assert "Of 8 cases that both runs measured" in page.text
    assert "2 could not be compared" in page.text
    assert page.text.count("measured only in A") == 2
    assert "Passed: no case is established to be slower by more than 30.0%." in page.text
    assert "It would have failed, with a probability of 80%, for a case that is" in page.text
    assert "A and B are medians over sweeps." in page.text
    assert not any(tag == "b" for tag, _ in page.tags)
    ratios = [a for _, a in page.tags if a.get("data-column") == "ratio"]
    assert len(ratios) == 8
    half = {row: {n: rate / 2 for n, rate in rates.items()} for row, rates in b.rates.items() if not row.is_limit}
    page = Page.of(write_comparison(compared(a, replace(b, rates=half), rules), tmp_path / "comparison.html"))
    assert page.text.count("is slower by more than 30.0%") == 6
    assert "Passed" not in page.text
