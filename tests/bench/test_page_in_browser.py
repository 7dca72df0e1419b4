"""The page in a real browser."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.case import Case, StepSpec
from bench.gate import read_side
from bench.gate_words import compared
from bench.report.comparison import write_comparison
from bench.report.csv import write_csv
from bench.report.page import write_page
from bench.sample_images import keep
from tests.bench.synthetic import matrix, synthetic_run

HOSTILE = "</script><script>alert(1)</script>"
SIZES = {"desk": (1280, 900), "phone": (400, 800)}


class Watched:
    """A page of the browser, and everything that it said or asked for while it was open."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.said: list[str] = []
        page.on("console", lambda message: self.said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("dialog", self._asked)
        page.on("request", self._requested)

    def _asked(self, dialog: Any) -> None:
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request: Any) -> None:
        if request.url != self.page.url and not request.is_navigation_request():
            self.said.append(f"request: {request.url}")

    def drawn(self) -> list[Any]:
        """Every chart of the page, when all of them are drawn."""
        charts = self.page.locator("figure.chart")
        for number in range(charts.count()):
            name = charts.nth(number).get_attribute("data-chart")
            self.page.wait_for_selector(f'figure[data-chart="{name}"][data-state="drawn"]')
        return [charts.nth(number) for number in range(charts.count())]


@contextmanager
def opened(browser: Any, path: Path, size: str = "desk", **options: Any) -> Iterator[Watched]:
    """The page from the disk. Whatever it says or asks for, or a dialog, fails the test."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
    watched = Watched(context.new_page())
    watched.page.goto(path.as_uri())
    yield watched
    context.close()
    assert watched.said == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of case: cold ones, failed, skipped, bimodal, three steps, and a name that would be a script."""
    named = Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none"), name=HOSTILE)
    some = matrix(("directory", "lmdb", "tfrecord"), loaders=("image_data_generator", "from_generator", "tfdata"))
    fast = matrix(("directory", "lmdb"), loaders=("tfdata",), steps=("emulated:1800",), limits=False, cold=False)
    run = synthetic_run(tmp_path_factory.mktemp("runs") / "run", cases=[*some, *fast, named])
    write_csv(run)
    image = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)
    keep(run.path / "samples", "hdf5-raw-tfdata-model", "daisy/1.jpg", image, image, "")
    return write_page(run)


@pytest.fixture(scope="module")
def shown(browser: Any, report: Path) -> Iterator[Watched]:
    """The report on a desk with every chart drawn, for tests that leave it as it was: drawing takes seconds."""
    with opened(browser, report) as watched:
        watched.drawn()
        yield watched


@pytest.fixture(scope="module", params=[3, 120])
def sized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(synthetic_run(tmp_path_factory.mktemp("sized"), cases=request.param))


def column(page: Any, name: str) -> list[str | None]:
    """A column of the table as it is shown, from top to bottom; None where nothing was measured."""
    found: list[str | None] = page.eval_on_selector_all(
        f'#cases-table tbody tr:not([hidden]) [data-column="{name}"]',
        "cells => cells.map(cell => cell.dataset.value ?? null)",
    )
    return found


def test_opens_from_the_disk_in_silence_and_draws_every_chart(shown: Watched) -> None:
    charts = shown.drawn()
    assert len(charts) == 7
    for chart in charts:
        assert (
            chart.locator("svg .mark-symbol path, svg .mark-rect path, svg .mark-rule line, svg .mark-line path").count() > 3
        )
        assert all(len(one.get_attribute("aria-label")) > 40 for one in chart.locator(".panel[role=img]").all())
    assert "alert(1)" in shown.page.inner_text("#cases-table")
    assert shown.page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)") == [64, 64, 64]
    assert shown.said == []


def test_without_scripts_the_numbers_stand(browser: Any, report: Path) -> None:
    with opened(browser, report, java_script_enabled=False) as watched:
        assert watched.page.locator("#cases-table tbody tr").count() > 80
        assert watched.page.get_by_text("This chart is drawn when JavaScript runs.").first.is_visible()


@pytest.mark.parametrize("name", ["images_per_s", "accelerator_utilisation", "first_batch_s", "stored_bytes"])
def test_sorting_by_a_number(browser: Any, report: Path, name: str) -> None:
    with opened(browser, report) as watched:
        head = watched.page.locator(f'#cases-table th[data-sort="{name}"]')
        orders = {}
        for _ in range(2):
            head.locator("button").focus()
            watched.page.keyboard.press("Enter")
            cells = column(watched.page, name)
            values = [float(cell) for cell in cells if cell is not None]
            order = head.get_attribute("aria-sort")
            assert values == sorted(values, reverse=order == "descending")
            assert cells[len(values) :] == [None] * (len(cells) - len(values)), "what was not measured comes last"
            assert len(values) > 20
            orders[order] = values
        assert orders.keys() == {"ascending", "descending"}
        assert watched.page.locator('th[aria-sort]:not([aria-sort="none"])').count() == 1


def test_sorting_by_name(browser: Any, report: Path) -> None:
    with opened(browser, report) as watched:
        watched.page.click('#cases-table th[data-sort="case"] button')
        names = [str(name) for name in column(watched.page, "case")]
        assert names[0].startswith("directory-encoded-from_generator")
        assert names[-1].startswith("tfrecord-raw")


def test_filtering(browser: Any, report: Path) -> None:
    with opened(browser, report) as watched:
        page = watched.page
        everything = len(column(page, "case"))
        page.fill("input[name=search]", "TFDATA lmdb")
        names = column(page, "case")
        assert 0 < len(names) < everything
        assert all(name and "tfdata" in name and "lmdb" in name for name in names)
        page.select_option("select[name=step]", "none")
        assert 0 < len(column(page, "case")) < len(names)
        assert page.inner_text("form.filter output") == f"{len(column(page, 'case'))} of {everything} rows"
        page.click("form.filter button[type=reset]")
        page.get_by_text(f"{everything} rows", exact=True).wait_for()
        assert len(column(page, "case")) == everything
        page.select_option("select[name=status]", "failed")
        assert column(page, "case") != []
        assert page.locator("#cases-table tbody tr:not([hidden]) .badge.failed").count() == len(column(page, "case"))


@pytest.mark.parametrize("chart", ["throughput", "stages", "size_throughput", "cold_warm"])
def test_tooltips(shown: Watched, chart: str) -> None:
    figure = shown.page.locator(f'figure[data-chart="{chart}"] .panel:not(.off)').first
    mark = figure.locator(".mark-symbol path, .mark-rect path").first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    tip = shown.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert re.search(r"\d", tip.inner_text())
    assert tip.evaluate("tip => getComputedStyle(tip).visibility") == "visible"
    shown.page.mouse.move(0, 0)
    tip.wait_for(state="hidden")  # The next chart's is another.
    assert shown.said == []


def test_a_panel_a_step(browser: Any, report: Path) -> None:
    with opened(browser, report) as watched:
        watched.drawn()
        figure = watched.page.locator('figure[data-chart="throughput"]')
        shown = figure.locator(".panel:not(.off)")
        assert figure.locator("button[aria-pressed=true]").inner_text() == "the real step (feature_extraction)"
        assert "the real step (feature_extraction)" in shown.text_content()
        figure.get_by_role("button", name="loading alone").click()
        assert figure.locator("button[aria-pressed=true]").inner_text() == "loading alone"
        assert "loading alone" in shown.text_content()
        assert "limit:gather" in shown.text_content()
        assert shown.count() == 1


def test_what_is_shown_is_the_csv_rounded(browser: Any, report: Path) -> None:
    """Within half a unit of its last digit; in the unit that the column's head names."""
    with (report.parent / "results.csv").open(newline="") as file:
        rows = {(row["case"], row["phase"]): row for row in csv.DictReader(file)}
    units = {"images/s": 1.0, "%": 0.01, "ms": 1e-3, "s": 1.0, "µs/image": 1.0, "MB": 1e6, "GB": 1e9}
    with opened(browser, report) as watched:
        page = watched.page
        heads = dict(page.eval_on_selector_all(
            "#cases-table th.num", "heads => heads.map(head => [head.dataset.sort, head.querySelector('.unit').textContent])"
        ))  # fmt: skip
        cells = page.eval_on_selector_all(
            "#cases-table td.num[data-value]",
            """cells => cells.map(cell => {
                const row = cell.closest("tr").dataset;
                return [row.case, row.phase, cell.dataset.column, cell.firstChild.textContent];
            })""",
        )
    assert len(cells) > 400
    for case, phase, name, text in cells:
        number = text.strip().rstrip("%").replace(",", "")
        digits = len(number.partition(".")[2])
        # Three significant digits: of a whole number of four or more, those before the last.
        last = 10.0**-digits if digits or len(number) <= 3 else 10.0 ** (len(number) - 3)
        true = float(rows[case, phase][name]) / units[heads[name]]
        assert abs(float(number) - true) <= 0.501 * last, (case, name, text, true)


@pytest.mark.parametrize("size", SIZES)
def test_few_and_many_cases_fit_the_screen(browser: Any, sized: Path, size: str) -> None:
    with opened(browser, sized, size) as watched:
        for chart in watched.drawn():
            box = chart.locator(".panel:not(.off) svg").first.bounding_box()
            assert 0.9 * chart.locator("..").bounding_box()["width"] < box["width"] <= SIZES[size][0]
        assert watched.page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
        shown = watched.page.locator('figure[data-chart="throughput"] .panel:not(.off)').first
        labels = shown.locator(".role-axis-label text").all_text_contents()
        cut = [label for label in labels if label.endswith("…")]
        assert cut == [], "names of cases are legible whole"


def test_a_phone_shows_legends_names_and_claims_whole(browser: Any, report: Path) -> None:
    outside = """svgs => svgs.flatMap(svg => {
        const { left, right } = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].filter(text => {
            const box = text.getBoundingClientRect();
            return box.width && (box.left < left - 1 || box.right > right + 1);
        }).map(text => text.textContent);
    })"""
    struck = """svgs => svgs.flatMap(svg => [...svg.querySelectorAll(".root > g > .background")].flatMap(frame => {
        if (["none", "transparent"].includes(getComputedStyle(frame).stroke)) return [];
        const { left, top } = frame.getBoundingClientRect();
        return [...svg.querySelectorAll(".role-axis-label text")].filter(text => {
            const box = text.getBoundingClientRect();
            return box.right > left + 1 && box.top < top && box.bottom > top;
        }).map(text => text.textContent);
    }))"""
    broken = "words => words.filter(word => word.getClientRects().length > 1).map(word => word.textContent)"
    with opened(browser, report, "phone") as watched:
        watched.drawn()
        page = watched.page
        legends = page.locator(".role-legend-label text").all_text_contents()
        assert "image_data_generator" in legends
        assert [name for name in legends if name.endswith("…")] == []
        assert page.eval_on_selector_all(".panel svg", outside) == []
        assert page.eval_on_selector_all(".panel svg", struck) == [], "no frame goes through a name"
        assert page.locator(".command .option", has_text="--step").count() > 0
        assert page.eval_on_selector_all(".option", broken) == [], "no line ends inside an option"
        for summary in page.locator("#claims details summary, #break_even details summary").all():
            summary.click()
        fits = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.getAttribute('aria-label'))"
        assert page.eval_on_selector_all("#claims .scroll, #break_even .scroll", fits) == []
        # Without the head of its column, each cell says what it is.
        heads = page.eval_on_selector_all(
            "#claims-table td[data-column='ratio']", "all => all.map(one => getComputedStyle(one, '::before').content)"
        )
        assert set(heads) == {'"times as fast: "'}


@pytest.mark.parametrize("size", SIZES)
def test_the_knees_stand_below_the_curves(browser: Any, report: Path, size: str) -> None:
    """One axis for both panels, on a desk also after the window became narrower; no name leaves the picture."""
    edges = """panels => panels.map(panel => {
        const plot = panel.querySelector(".role-frame.root .background").getBoundingClientRect();
        return [plot.left, plot.right];
    })"""
    outside = """panels => panels.flatMap(panel => {
        const { left, right } = panel.querySelector("svg").getBoundingClientRect();
        const names = [...panel.querySelectorAll(".role-axis-label text")].map(name => name.getBoundingClientRect());
        return names.filter(name => name.left < left - 0.5 || name.right > right + 0.5);
    })"""
    with opened(browser, report, size) as watched:
        watched.drawn()
        panels = 'figure[data-chart="utilisation"] .panel'
        curves, knees = watched.page.eval_on_selector_all(panels, edges)
        assert knees == pytest.approx(curves, abs=0.5)
        assert curves[1] - curves[0] > 200
        assert watched.page.eval_on_selector_all(panels, outside) == []
        if size == "desk":
            watched.page.set_viewport_size({"width": 900, "height": 900})
            right = f"plot => plot.getBoundingClientRect().right < {curves[1]} - 10"
            watched.page.wait_for_function(
                f"() => [...document.querySelectorAll('{panels} .root > g > .background')].every({right})"
            )
            curves, knees = watched.page.eval_on_selector_all(panels, edges)
            assert knees == pytest.approx(curves, abs=0.5)


def test_light_and_dark(browser: Any, report: Path) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        with opened(browser, report, color_scheme=scheme) as watched:
            watched.drawn()
            colours[scheme] = watched.page.evaluate(
                """() => [getComputedStyle(document.body).backgroundColor,
                    getComputedStyle(document.querySelector(".role-axis-label text")).fill]"""
            )
    assert colours == {"light": ["rgb(255, 255, 255)", "rgb(26, 30, 35)"], "dark": ["rgb(21, 24, 28)", "rgb(228, 231, 235)"]}


def test_prints_whole(browser: Any, report: Path, tmp_path: Path) -> None:
    with opened(browser, report, color_scheme="dark") as watched:
        watched.drawn()
        page = watched.page
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.eval_on_selector_all(".scroll", "all => all.every(one => one.scrollHeight <= one.clientHeight + 1)")
        assert page.locator(".panel").count() == page.locator(".panel:visible").count() > 7
        assert not page.locator("form.filter").is_visible()
        # A table's head that comes again on the next page comes without the boxes of its buttons.
        assert page.eval_on_selector_all(
            "thead button", "all => all.every(one => getComputedStyle(one).display === 'contents')"
        )
        paper = page.pdf(prefer_css_page_size=True)
        assert paper.startswith(b"%PDF")
        assert len(re.findall(rb"/Type\s*/Page\b", paper)) > 5


def test_paper_shows_the_charts_that_no_screen_showed_yet(browser: Any, report: Path) -> None:
    """Printing waits for no idle time: what is drawn when the event's listeners have run is on the paper."""
    with opened(browser, report, "desk") as watched:
        page = watched.page
        undrawn = "all => all.filter(one => one.dataset.state !== 'drawn').map(one => one.dataset.chart)"
        assert page.eval_on_selector_all("figure.chart", undrawn) != []
        left = page.evaluate(
            """() => {
                dispatchEvent(new Event("beforeprint"));
                return new Promise(told => {
                    // Behind the promises that the listeners left, and before any timer or idle callback.
                    const turns = (left) => left ? Promise.resolve().then(() => turns(left - 1)) : told(
                        [...document.querySelectorAll("figure.chart")].filter(one => one.dataset.state !== "drawn").length);
                    turns(20000);
                });
            }"""
        )
        assert left == 0


def test_a_comparison_opens_in_silence(browser: Any, tmp_path: Path) -> None:
    runs = [synthetic_run(tmp_path / name, cases=10, seed=seed).path for name, seed in (("a", 1), ("b", 2))]
    path = write_comparison(compared(read_side(runs[0]), read_side(runs[1])), tmp_path / "comparison.html")
    with opened(browser, path) as watched:
        assert len(watched.drawn()) == 1
        watched.page.select_option("select[name=verdict]", "tie")
        shown = watched.page.locator("#comparison-table tbody tr:visible")
        assert shown.count() == shown.locator(".badge.tie").count()
        watched.page.click('th[data-sort="ratio"] button')
        ratios = watched.page.eval_on_selector_all(
            'td[data-column="ratio"]', "cells => cells.map(cell => Number(cell.dataset.value))"
        )
        assert ratios == sorted(ratios)
