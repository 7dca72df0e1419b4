"""Comparisons: worked out by hand, and simulated with known answers (seeded, so that none fails by chance)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.random import Generator

from bench.compare import Comparison, against, compare, interval, leader, smallest_multiple, unpaired
from storage.errors import UsageError

SHARED, OWN, CORRELATED = 0.022, 0.010, 0.42
"""As measured on four copies of one pipeline: see docs/statistics.md."""


def sweeps(rng: Generator, rates: list[float], count: int) -> list[dict[int, float]]:
    """Images/s of cases with those true rates, by sweep: one weather for all of a sweep, correlated with the last."""
    weather = [rng.normal(0, SHARED)]
    for _ in range(count - 1):
        weather.append(CORRELATED * weather[-1] + rng.normal(0, SHARED * math.sqrt(1 - CORRELATED**2)))
    return [{n: rate * math.exp(w + rng.normal(0, OWN)) for n, w in enumerate(weather)} for rate in rates]


def drawn(rates: list[float], count: int, draws: int, seed: int) -> Iterator[list[dict[int, float]]]:
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield sweeps(rng, rates, count)


def test_a_pair_by_hand() -> None:
    # Log ratios 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1; t(2) at 97.5% is 4.3027.
    a = {n: 100 * math.exp(0.1 * (n + 1)) for n in range(3)}
    found = compare(a, dict.fromkeys(range(3), 100.0), case_a="a", case_b="b")
    half = 4.3027 * 0.1 / math.sqrt(3)
    assert found.ratio == pytest.approx(math.exp(0.2))
    assert (found.low, found.high) == pytest.approx((math.exp(0.2 - half), math.exp(0.2 + half)), rel=1e-4)
    assert (found.verdict, found.sweeps) == ("tie", 3)


def test_only_sweeps_that_have_both_count() -> None:
    found = compare({0: 110.0, 1: 111.0, 3: 500.0}, {0: 100.0, 1: 100.0, 2: 7.0})
    assert found.sweeps == 2
    assert found.ratio == pytest.approx(math.sqrt(1.10 * 1.11))


def test_weather_cancels_within_sweeps() -> None:
    weather = [1.0, 0.5, 2.0, 0.7, 1.3]
    own = [1.0, 1.001, 0.999, 1.002, 1.0]
    b = {n: 100 * w for n, w in enumerate(weather)}
    found = compare({n: 1.03 * b[n] * own[n] for n in b}, b)
    assert found.verdict == "faster"
    assert found.ratio == pytest.approx(1.03, rel=0.001)


def test_one_sweep_establishes_nothing() -> None:
    found = compare({0: 300.0}, {0: 100.0})
    assert (found.verdict, found.low, found.high) == ("tie", 0.0, math.inf)
    assert found.ratio == pytest.approx(3)


def test_swapping_the_two_mirrors_the_interval() -> None:
    a, b = sweeps(np.random.default_rng(5), [100.0, 104.0], 6)
    one, other = compare(a, b), compare(b, a)
    assert (one.ratio * other.ratio, one.low * other.high, one.high * other.low) == pytest.approx((1, 1, 1))
    assert {one.verdict, other.verdict} == {"slower", "faster"}


def test_interval_holds_the_median_even_of_two_modes() -> None:
    values = [100.0] * 6 + [50.0] * 4
    found = interval(values)
    assert found.low <= found.value == 100.0 <= found.high
    with pytest.raises(UsageError, match="at least one sweep"):
        interval([])


def test_verdict_never_disagrees_with_the_interval() -> None:
    for a, b in drawn([100.0, 103.0], 5, 200, seed=1):
        for compared in (1, 10):
            found = compare(a, b, compared=compared)
            assert found.verdict == ("faster" if found.low > 1 else "slower" if found.high < 1 else "tie")


def different(found: Comparison) -> bool:
    return found.verdict != "tie"


@pytest.mark.parametrize("count", [3, 5, 10])
def test_equal_pairs_are_called_different_in_one_of_twenty(count: int) -> None:
    called = sum(different(compare(a, b)) for a, b in drawn([100.0, 100.0], count, 2000, seed=count))
    assert 0.03 <= called / 2000 <= 0.07


def test_planted_slowdowns() -> None:
    """At five sweeps: 5% is found in nine of ten, 2% is never called the wrong way round."""
    five = [compare(b, a).verdict for a, b in drawn([100.0, 95.0], 5, 500, seed=2)]
    two = [compare(b, a).verdict for a, b in drawn([100.0, 98.0], 5, 2000, seed=3)]
    assert five.count("slower") / 500 >= 0.9
    assert two.count("faster") <= 2


def test_the_interval_of_a_ratio_covers_the_truth() -> None:
    covered = sum(
        found.low <= 0.9 <= found.high for found in (compare(a, b) for a, b in drawn([90.0, 100.0], 5, 2000, seed=4))
    )
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.parametrize("count", [3, 5, 10])
def test_the_interval_of_a_case_covers_the_truth(count: int) -> None:
    """Although neighbouring sweeps share weather."""
    found = [interval(list(case.values())) for (case,) in drawn([100.0], count, 2000, seed=9)]
    assert 0.92 <= sum(one.low <= 100 <= one.high for one in found) / 2000 <= 0.97


def test_effects_of_the_stated_size_are_found_in_four_of_five() -> None:
    spread = math.sqrt(2) * OWN
    effect = math.exp(smallest_multiple(5) * spread)
    found = sum(compare(a, b).verdict == "faster" for a, b in drawn([100.0 * effect, 100.0], 5, 2000, seed=6))
    assert found / 2000 == pytest.approx(0.8, abs=0.03)


def test_intervals_stated_together_hold_together() -> None:
    """Twelve equal cases against a named one, and against a leader found by looking: rarely is any called different."""
    named = searched = 0
    for cases in drawn([100.0] * 12, 5, 400, seed=7):
        by_case = {f"case{n}": by_sweep for n, by_sweep in enumerate(cases)}
        named += any(different(found) for found in against("case0", by_case).values())
        searched += any(different(found) for found in against(leader(by_case), by_case, searched=True).values())
    assert named / 400 <= 0.07
    assert searched / 400 <= 0.07


def test_runs_at_different_times_by_hand() -> None:
    # Logs +-0.01 about 0.1 and 0: Welch with equal variances has 2 degrees of freedom; t at 97.5% is 4.3027.
    a, b = [math.exp(0.11), math.exp(0.09)], [math.exp(0.01), math.exp(-0.01)]
    found = unpaired(a, b)
    # Two sweeps that correlate by 0.35: the mean varies (1 + 0.35) as much, and the spread shows (1 - 0.35) of itself.
    half = 4.3027 * math.sqrt(2 * 0.0002 / 2 * 1.35 / 0.65)
    assert found.ratio == pytest.approx(math.exp(0.1))
    assert (found.low, found.high) == pytest.approx((math.exp(0.1 - half), math.exp(0.1 + half)), rel=1e-4)
    assert unpaired([1.0], [2.0, 2.0]).verdict == "tie"
