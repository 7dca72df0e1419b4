"""What blocks had in common is taken out, and the intervals that follow hold the truth."""

from __future__ import annotations

from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.blocks import blocks
from bench.case import Case
from bench.compare import compare, rates
from bench.evened import evened
from bench.record import RunRecord
from tests.bench.test_schedule import known, record

OWN, BLOCK, SWEEP = 0.025, 0.06, 0.02
"""Standard deviations of logs: of a measurement, of what a block has in common, and of what a sweep has."""


def measured(truth: list[float], sweeps: int, most: int, seed: int, own: float = OWN) -> dict[Case, list[RunRecord]]:
    """Records of cases with these rates, which took turns in blocks of at most ``most``."""
    noise, order = np.random.default_rng(seed), Random(seed)
    cases = [known("null", str(number)) for number in range(len(truth))]
    found: dict[Case, list[RunRecord]] = {case: [] for case in cases}
    for sweep in range(sweeps):
        weather = noise.normal(0, SWEEP)
        for number, block in enumerate(blocks(cases, most, order)):
            moment = noise.normal(0, BLOCK)
            for case in block:
                speed = truth[int(case.name)] * np.exp(weather + moment + noise.normal(0, own))
                found[case].append(record(case, sweep, speed).model_copy(update={"block": number}))
    return found


@given(sweeps=st.integers(1, 6), count=st.integers(1, 8), seed=st.integers(0, 99))
def test_where_a_block_holds_all_cases_their_rates_stay(sweeps: int, count: int, seed: int) -> None:
    found = measured([100.0 + 10 * n for n in range(count)], sweeps, count, seed)
    for case, by_sweep in evened(found).items():
        assert by_sweep == pytest.approx(rates(found[case]))


def test_who_took_no_turns_keeps_his_rates() -> None:
    case = known("null")
    records = [record(case, sweep, 100.0 + sweep) for sweep in range(3)]
    assert evened({case: records, known("hang"): []}) == {case: rates(records), known("hang"): {}}


def test_without_noise_cases_of_different_blocks_compare_exactly() -> None:
    """By hand: blocks (a b) at full and (c d) at half speed, then (a c) at half and (b d) at full."""
    truth = {"a": 100.0, "b": 200.0, "c": 300.0, "d": 400.0}
    plan = [[("ab", 1.0), ("cd", 0.5)], [("ac", 0.5), ("bd", 1.0)], [("ad", 0.5), ("bc", 1.0)]]
    found: dict[str, list[RunRecord]] = {name: [] for name in truth}
    for sweep, parts in enumerate(plan):
        for block, (members, moment) in enumerate(parts):
            for name in members:
                one = record(known("null", name), sweep, truth[name] * moment)
                found[name].append(one.model_copy(update={"block": block}))
    speeds = evened(found)
    assert rates(found["b"])[1] / rates(found["a"])[1] == pytest.approx(4.0, rel=1e-3)
    for a, b in combinations(truth, 2):
        compared = compare(speeds[a], speeds[b])
        assert compared.ratio == pytest.approx(truth[a] / truth[b], rel=1e-3)


@pytest.mark.parametrize(("count", "most", "sweeps"), [(18, 4, 5), (18, 4, 3), (7, 2, 5), (6, 3, 10)])
def test_intervals_hold_the_truth_and_are_narrower(count: int, most: int, sweeps: int) -> None:
    truth = [100.0 + 5 * n for n in range(count)]
    covered, plain, errors = [], [], []
    for seed in range(60):
        found = measured(truth, sweeps, most, seed)
        speeds = evened(found)
        cases = list(found)
        for one, other in zip(cases[::2], cases[1::2], strict=False):
            ratio = truth[int(one.name)] / truth[int(other.name)]
            compared = compare(speeds[one], speeds[other])
            covered.append(compared.low <= ratio <= compared.high)
            errors.append(np.log(compared.ratio / ratio))
            plain.append(np.log(compare(rates(found[one]), rates(found[other])).ratio / ratio))
    assert 0.93 <= np.mean(covered) <= 0.99
    assert np.std(errors) < 0.85 * np.std(plain)


def test_a_case_that_was_stopped_or_failed_leaves_the_others_comparable() -> None:
    """Without noise of their own, exactly: whatever sweeps and blocks had."""
    truth = [100.0 + 10 * number for number in range(9)]
    found = measured(truth, 8, 3, 0, own=1e-6)
    stopped, failed, *_ = found
    found[stopped] = found[stopped][:3]
    del found[failed][4]
    speeds = evened(found)
    assert list(speeds[stopped]) == [0, 1, 2]
    for one, other in combinations(found, 2):
        compared = compare(speeds[one], speeds[other])
        assert compared.ratio == pytest.approx(truth[int(one.name)] / truth[int(other.name)], rel=1e-3)


def test_intervals_hold_the_truth_where_racing_stopped_some() -> None:
    covered = []
    for seed in range(100):
        found = measured([100.0] * 12, 8, 4, seed)
        for case in list(found)[6:]:
            found[case] = found[case][:3]
        speeds = evened(found)
        cases = list(found)
        pairs = [(cases[0], cases[6]), (cases[1], cases[2]), (cases[7], cases[8])]
        covered += [(c := compare(speeds[a], speeds[b])).low <= 1 <= c.high for a, b in pairs]
    assert 0.92 <= np.mean(covered) <= 0.99


def test_a_single_sweep_of_several_blocks_leaves_what_was_seen() -> None:
    found = measured([100.0] * 6, 1, 2, 0)
    for case, by_sweep in evened(found).items():
        assert by_sweep == pytest.approx(rates(found[case]), rel=0.2)
