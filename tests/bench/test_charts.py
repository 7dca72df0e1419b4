"""Charts as specs and pictures: axes with units, a mark for every case, colours that colour-blind readers tell apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench.case import Case, StepSpec
from bench.compare import Comparison
from bench.gate import Change
from bench.record import Run
from bench.report.charts import CHARTS
from bench.report.charts.base import Tables
from bench.report.charts.size_throughput import front, named
from bench.report.charts.stages import STAGES
from bench.report.charts.throughput import cut
from bench.report.comparison import _chart, ticks
from bench.report.derived import tables
from bench.report.palette import COLOURS, FORMATS, LIMIT, LOADERS, colours, shapes
from bench.report.panels import number_axis, rate_scale
from bench.report.pictures import as_png, as_svg
from loaders.base import LoaderSpec, Stage
from tests.bench.synthetic import matrix, synthetic_run

UNITS = ("images/s", "milliseconds", "µs", "MB", "epochs", "AU")
WHERE = {
    "throughput": "a row each, of those that were measured",
    "waiting": "a row each, limits left out",
    "stages": "a row a pipeline",
    "utilisation": "a row each that was measured for loading alone",
    "size_throughput": "a point each that is stored",
    "break_even": "a row a stored format",
    "cold_warm": "a row each that was measured cold",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("run"), cases=matrix(formats=("directory", "lmdb", "tfrecord")), sweeps=4)


@pytest.fixture(scope="module")
def shown(run: Run) -> Tables:
    return tables(run)


def spec(name: str, shown: Tables) -> dict[str, Any]:
    picture = CHARTS[name].draw(shown)
    assert picture is not None, name
    found: dict[str, Any] = picture.to_dict()  # Altair checks it against Vega-Lite's schema.
    return found


def encodings(tree: Any) -> Iterator[dict[str, Any]]:
    """Every ``encoding`` of a spec, however deep."""
    if isinstance(tree, dict):
        if "encoding" in tree:
            yield tree["encoding"]
        for key, value in tree.items():
            if key != "datasets":
                yield from encodings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from encodings(value)


def drawn(found: dict[str, Any], field: str) -> set[str]:
    return {str(row[field]) for rows in found["datasets"].values() for row in rows if field in row}


def expected(name: str, shown: Tables) -> set[str]:
    """The cases that must have a mark, by id."""
    results = shown.results
    warm = results[(results["phase"] == "warm") & results["images_per_s"].notna()]
    cold = results[results["phase"].isin(["cold_epoch", "first_epoch"])]
    return {
        "throughput": lambda: set(warm["case"]),
        "waiting": lambda: set(warm[warm["format"] != "memory"]["case"]),
        "stages": lambda: set(shown.stages["case"]),
        "utilisation": lambda: set(warm[(warm["step"] == "none") & (warm["format"] != "memory") & (warm["status"] == "ok")
                                        & (warm["cache"] == "warm")]["case"]),
        "size_throughput": lambda: set(warm[warm["format"] != "memory"]["case"]),
        "break_even": lambda: set(shown.break_even["case"]),
        "cold_warm": lambda: set(cold["case"]),
    }[name]()  # fmt: skip


def test_every_chart_is_held_to_these_tests() -> None:
    assert list(CHARTS.built_in) == list(WHERE)
    modules = {path.stem for path in (Path(__file__).parents[2] / "bench" / "report" / "charts").glob("*.py")}
    assert modules - {"__init__", "base"} == set(CHARTS.built_in), "a module without a row, or a row without a module"


@pytest.mark.parametrize("name", CHARTS.built_in)
def test_every_case_has_a_mark(name: str, shown: Tables) -> None:
    found = expected(name, shown)
    assert found
    assert drawn(spec(name, shown), "case") == found, WHERE[name]


@pytest.mark.parametrize("name", CHARTS.built_in)
def test_axes_are_titled_with_units(name: str, shown: Tables) -> None:
    titles = [
        channel["title"]
        for encoding in encodings(spec(name, shown))
        for axis, channel in encoding.items()
        if axis in ("x", "y") and channel.get("type") == "quantitative" and channel.get("title")
    ]
    assert titles
    for title in titles:
        assert any(unit in title for unit in UNITS), title


@pytest.mark.parametrize("name", CHARTS.built_in)
def test_a_chart_says_what_it_shows(name: str) -> None:
    chart = CHARTS[name]
    assert chart.name == name
    assert chart.title
    assert chart.about.endswith(".")


@pytest.mark.parametrize("name", CHARTS.built_in)
def test_nothing_to_show_is_no_chart(name: str, tmp_path: Path) -> None:
    assert CHARTS[name].draw(tables(synthetic_run(tmp_path, cases=[], sweeps=1))) is None


@pytest.mark.parametrize("name", ["throughput", "waiting", "size_throughput", "utilisation"])
def test_a_single_sweep_of_a_single_case_is_a_chart(name: str, tmp_path: Path) -> None:
    alone = Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none"))
    picture = CHARTS[name].draw(tables(synthetic_run(tmp_path, cases=[alone], sweeps=1)))
    assert as_svg(picture.to_dict()).startswith("<svg")


def test_where_no_conversion_pays_there_is_no_axis_of_epochs(shown: Tables) -> None:
    found = shown.break_even
    never = found["epochs"].where(found["epochs"] == 0, float("inf"))
    nothing_pays = found.assign(epochs=never, epochs_low=never, epochs_high=never).query("step == 'none'")
    asked = spec("break_even", replace(shown, break_even=nothing_pays))
    assert [encoding["x"]["axis"] for encoding in encodings(asked)] == [None] * 3
    assert all(encoding["x"].get("axis") for encoding in encodings(spec("break_even", shown)))


def test_a_bimodal_case_shows_each_of_its_epochs(shown: Tables) -> None:
    assert set(shown.epochs["case"]) == {"tfrecord-encoded-tfdata-pipeline-step=none"}
    rates = sorted(
        row["images_per_s"] for rows in spec("throughput", shown)["datasets"].values() for row in rows if "epoch" in row
    )
    assert len(rates) == len(shown.epochs)
    assert rates[-1] / rates[0] == pytest.approx(2, rel=0.15)


def test_every_sweep_has_a_point(shown: Tables) -> None:
    points = sum(
        len(rows) for rows in spec("throughput", shown)["datasets"].values() if rows and set(rows[0]) >= {"sweep", "format"}
    )
    sweeps = shown.sweeps
    assert points == ((sweeps["phase"] == "warm") & sweeps["images_per_s"].notna()).sum()


def test_limits_are_drawn_as_lines(shown: Tables) -> None:
    rates = shown.results.set_index("case")["images_per_s"]
    for name in ("throughput", "size_throughput"):
        found = spec(name, shown)
        rules = [layer for panel in found["vconcat"] for layer in panel["layer"] if layer["mark"]["type"] == "rule" and "y2" not in
                 layer["encoding"] and "x2" not in layer["encoding"]]  # fmt: skip
        at = {row["images_per_s"] for layer in rules for row in found["datasets"][layer["data"]["name"]]}
        assert at == {rates[case] for case in rates.index if "limit:" in case}, name


@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_what_emulated_accelerators_showed_is_held_against_the_curves_with_its_turnarounds(
    cache: str, tmp_path: Path
) -> None:
    cases = [
        Case(format="hdf5", payload="encoded", loader="tfdata", step=StepSpec(step=step), cache=cache)  # type: ignore[arg-type]
        for step in ("none", "emulated:90000")
    ]
    run = synthetic_run(tmp_path, cases=cases, sweeps=2)
    shown = tables(run)
    (point,) = [
        row for rows in spec("utilisation", shown)["datasets"].values() for row in rows if row.get("case") == cases[1].id
    ]
    warm = shown.results[shown.results["phase"] == "warm"]
    measured = warm.set_index("case").loc[cases[1].id]
    computes_s = run.info.datasets["hdf5-encoded"].epoch_images / 90_000
    waits_s = computes_s / measured["accelerator_utilisation"] - computes_s + measured["epoch_turnaround_s"]
    assert point["accelerator_images_per_s"] == 90_000
    assert point["accelerator_utilisation"] == pytest.approx(computes_s / (computes_s + waits_s))
    assert measured["epoch_turnaround_s"] > 0
    scales = [
        encoding["x"]["scale"]["domain"]
        for encoding in encodings(spec("utilisation", shown))
        if "scale" in encoding.get("x", {})
    ]
    assert all(high >= 90_000 for _, high in scales), "clamped to an edge, a point would lie"


def test_of_points_on_top_of_each_other_the_fastest_is_named() -> None:
    best = pd.DataFrame({"case": ["a", "b", "c"], "stored_mb": [10.0, 10.5, 100.0], "images_per_s": [199.0, 200.0, 200.5]})
    across, up = alt.Scale(type="log", domain=[10.0, 1000.0]), alt.Scale(domain=[0.0, 400.0])
    found = named(best, across, up)
    assert found["case"].tolist() == ["b", "c"]
    assert found["across"].tolist() == pytest.approx([0.0106, 0.5], abs=1e-4)


def test_the_front_is_what_none_beats_in_both() -> None:
    cases = pd.DataFrame(
        [
            ("small", 10, 5.0),
            ("small, slower", 10, 4.0),
            ("larger, no faster", 20, 5.0),
            ("larger, faster", 30, 7.0),
            ("huge", 40, 6.0),
        ],
        columns=["case", "stored_bytes", "images_per_s"],
    )
    assert front(cases)["case"].tolist() == ["small", "larger, faster"]


def test_a_stage_that_adds_nothing_is_not_drawn_backwards(shown: Tables) -> None:
    stages = pd.DataFrame(
        [("directory-encoded-tfdata-pipeline-step=none", "read", 0, 10.0, 10.0),
         ("directory-encoded-tfdata-pipeline-step=none", "decode", 1, 400.0, 410.0),
         ("directory-encoded-tfdata-pipeline-step=none", "resize", 2, -20.0, 390.0),
         ("directory-encoded-tfdata-pipeline-step=none", "batch", 3, 60.0, 450.0)],
        columns=list(shown.stages.columns),
    )  # fmt: skip
    (rows,) = spec("stages", replace(shown, stages=stages))["datasets"].values()
    assert [(row["stage"], row["from"], row["upto"]) for row in rows] == [
        ("read", 0, 10), ("decode", 10, 410), ("resize", 410, 410), ("batch", 410, 450),
    ]  # fmt: skip
    assert [row["share"] for row in rows] == [pytest.approx(part / 450, rel=1e-3) for part in (10, 400, 0, 40)]


def test_the_legend_knows_every_stage() -> None:
    assert tuple(stage.value for stage in Stage) == STAGES


def test_an_interval_without_bounds_does_not_stretch_the_axis(tmp_path: Path) -> None:
    cases = [Case(format=f, payload="encoded", loader="tfdata", step=StepSpec(step="none")) for f in ("hdf5", "lmdb")]
    shown = tables(synthetic_run(tmp_path, cases=cases, sweeps=2))
    wild = shown.results.assign(images_per_s_low=1e-9, images_per_s_high=float("inf"))
    found = spec("throughput", replace(shown, results=wild))
    (panel,) = found["vconcat"]
    domains = [encoding["x"]["scale"]["domain"] for encoding in encodings(panel) if "scale" in encoding.get("x", {})]
    assert all(low > 1000 and high < 10_000 for low, high in domains)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("name", CHARTS.built_in)
def test_names_are_data(name: str, tmp_path: Path) -> None:
    """Names of third parties' loaders, however odd, come out as text in an SVG."""
    odd = "<script>alert('1')</script>"
    cases = [replace(case, name=odd) for case in matrix(formats=("directory",), payloads=("encoded",), limits=False)]
    picture = CHARTS[name].draw(tables(synthetic_run(tmp_path, cases=cases, sweeps=2)))
    if picture is not None:
        svg = as_svg(picture.to_dict())
        assert "<script" not in svg


def test_what_all_cases_share_is_said_once(tmp_path: Path) -> None:
    spec_ = LoaderSpec(batch_size=8, image_size=(96, 128))
    cases = [Case(format=f, payload="raw", loader="tfdata", spec=spec_) for f in ("hdf5", "lmdb")]
    shown = tables(synthetic_run(tmp_path, cases=cases, sweeps=2))
    assert set(shown.labels.values()) == {"hdf5-raw-tfdata-pipeline", "lmdb-raw-tfdata-pipeline"}
    (panel,) = spec("throughput", shown)["vconcat"]
    assert panel["title"] == "the real step (feature_extraction), batch_size=8, image_size=96x128"


@pytest.mark.parametrize("count", [3, 32, 120])
def test_rows_have_room_whatever_their_number(count: int, tmp_path: Path) -> None:
    shown = tables(synthetic_run(tmp_path, cases=count, sweeps=2, most_batches=2))
    for name in ("throughput", "waiting"):
        for panel in spec(name, shown)["vconcat"]:
            labels = max(len(encoding["y"]["sort"]) for encoding in encodings(panel) if "sort" in encoding.get("y", {}))
            assert panel["height"] >= 16 * labels


def test_a_picture_is_white_and_not_empty(shown: Tables) -> None:
    """Legible on a dark page too: the ground is its own."""
    import io

    with Image.open(io.BytesIO(as_png(as_svg(spec("throughput", shown))))) as image:
        picture = image.convert("RGB")
    assert picture.width > 1000
    assert (np.asarray(picture)[0, 0] >= 250).all()
    assert len(picture.getcolors(1 << 24) or ()) > 20


def test_a_very_large_picture_is_not_doubled() -> None:
    import io

    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="2000" height="4000" viewBox="0 0 2000 4000"></svg>'
    with Image.open(io.BytesIO(as_png(svg))) as image:
        assert image.size == (2000, 4000)


def test_an_interval_that_goes_on_beyond_the_frame_says_so(shown: Tables) -> None:
    results = shown.results.copy()
    warm = results[(results["phase"] == "warm") & results["images_per_s"].notna() & (results["step"] == "none")]
    far = warm["images_per_s"].idxmax()
    results.loc[far, "images_per_s_high"] = 1e9
    found = spec("throughput", replace(shown, results=results))
    cut_off = [
        (row["case"], row["end"])
        for rows in found["datasets"].values()
        for row in rows
        if row.get("images_per_s_high") == 1e9 and "end" in row
    ]
    assert [case for case, _ in cut_off] == [warm.sort_values("images_per_s")["case"].iloc[-1]]
    assert warm["images_per_s"].max() < cut_off[0][1] < 1e9
    assert "triangle" in CHARTS["throughput"].about.lower()


def test_only_the_ends_beyond_the_frame_are_cut() -> None:
    part = pd.DataFrame(
        {"case": list("abc"), "images_per_s_low": [5.0, 10.0, 20.0], "images_per_s_high": [30.0, 41.0, float("inf")]}
    )
    ends = cut(part, 10, 40)
    assert {shape: list(zip(some["case"], some["end"], strict=True)) for shape, some in ends.items()} == {
        "triangle-left": [("a", 10)],
        "triangle-right": [("b", 40), ("c", 40)],
    }


def test_ticks_of_a_logarithmic_axis_are_round() -> None:
    assert number_axis(rate_scale([500, 11_000])).to_dict()["values"] == [500, 1000, 2000, 5000, 10_000]
    assert "values" not in number_axis(rate_scale([200, 230])).to_dict()


# Machado, Oliveira and Fernandes 2009: what a reader without one kind of cone sees, in linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def linear(colour: str) -> NDArray[np.float64]:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@cache
def lab(colour: str, blindness: str) -> tuple[float, ...]:
    """CIE L*a*b* of a colour as a reader sees it."""
    rgb = np.clip(np.array(BLINDNESS[blindness]) @ linear(colour), 0, 1) if blindness else linear(colour)
    x, y, z = (np.array(TO_XYZ) @ rgb) / [0.95047, 1.0, 1.08883]
    f = [value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z)]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize("blindness", ["", *BLINDNESS])
@pytest.mark.parametrize("names", [FORMATS, LOADERS[:4]], ids=["formats", "loaders"])
def test_colours_are_told_apart_by_colour_blind_readers(names: tuple[str, ...], blindness: str) -> None:
    scale = colours([*names, "memory"], names).to_dict()["range"]
    for one, other in combinations(scale, 2):
        apart = float(np.linalg.norm(np.subtract(lab(one, blindness), lab(other, blindness))))
        assert apart > 15, f"{one} and {other} with {blindness or 'all cones'}"


@pytest.mark.parametrize("colour", [*COLOURS, LIMIT])
def test_colours_stand_out_on_white_and_on_dark(colour: str) -> None:
    luminance = float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour))
    assert 1.05 / (luminance + 0.05) > 2
    assert (luminance + 0.05) / (float(np.array([0.2126, 0.7152, 0.0722]) @ linear("#1b1b1f")) + 0.05) > 2


def test_colour_and_shape_together_never_come_twice() -> None:
    names = [f"loader{number:02d}" for number in range(40)]
    pairs = list(zip(colours(names, LOADERS).to_dict()["range"], shapes(names, LOADERS).to_dict()["range"], strict=True))
    assert len(set(pairs)) == 40


def test_a_name_keeps_its_colour_whatever_else_is_shown() -> None:
    alone = colours(["tfdata"], LOADERS).to_dict()
    among = colours(["tfdata", "another", "limit:decode", "image_data_generator"], LOADERS).to_dict()
    assert dict(zip(among["domain"], among["range"], strict=True))["tfdata"] == alone["range"][0]
    assert among["domain"] == ["image_data_generator", "tfdata", "another", "limit:decode"]
    assert among["range"][-1] == LIMIT


def test_twice_as_fast_lies_as_far_from_one_as_half_as_fast() -> None:
    found = [
        Change("a", 100, 200, Comparison("a", "a", 2.0, 1.9, 2.1, "faster"), None),
        Change("b", 100, 90, Comparison("b", "b", 0.9, 0.0, float("inf"), "tie"), None),
    ]
    picture = _chart(found).to_dict()
    scales = [each["x"]["scale"] for each in encodings(picture) if "x" in each]
    assert {scale["type"] for scale in scales} == {"log"}
    assert scales[0]["domain"] == pytest.approx([1 / 2.1, 2.1])
    found[1] = replace(found[1], comparison=Comparison("b", "b", 0.9, 1e-20, 1e20, "tie"))
    assert [each["x"]["scale"] for each in encodings(_chart(found).to_dict()) if "x" in each] == scales, "it bounds nothing"
    assert as_svg(picture)


@pytest.mark.parametrize("reach", [1.05, 1.13, 1.5, 2.1, 9, 150, 1e5])
def test_ticks_of_ratios_lie_on_both_sides_of_one_and_apart(reach: float) -> None:
    found = ticks(reach)
    assert 1.0 in found
    assert 5 <= len(found) <= 11
    assert found[0] >= 1 / reach
    assert found[-1] <= reach
    assert all(later / earlier >= reach**0.2 * 0.999 for earlier, later in pairwise(found))


def test_a_limit_strikes_no_name_through(shown: Tables) -> None:
    results = shown.results.copy()
    alone = (results["step"] == "none") & (results["phase"] == "warm")
    stored = results[alone & results["stored_bytes"].notna()]
    results.loc[alone & (results["format"] == "memory"), "images_per_s"] = stored["images_per_s"].max() * 1.05
    found = json.dumps(spec("size_throughput", replace(shown, results=results)))
    assert '"dy": 10' in found
    assert '"dy": -8' in found
