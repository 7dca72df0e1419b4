"""Intervals, pairs and verdicts. What was chosen and what was rejected, with sources: docs/statistics.md.

Rates are compared as logs: a ratio has no natural zero, twice as fast and half as fast are equally far from equal, and a
sweep's weather, which multiplies all cases alike, cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf, log, sqrt
from statistics import fmean, median, stdev
from typing import Literal, TypeAlias

from bench.metrics.images_per_s import rate
from bench.record import Measured, RunRecord
from storage.errors import UsageError

Verdict: TypeAlias = Literal["faster", "slower", "tie"]

LEVEL = 0.95
POWER = 0.8
NEIGHBOURS = 0.35
"""Correlation of a case's rate in one sweep with the next one's, as measured (docs/statistics.md). It cancels in pairs."""


@dataclass(frozen=True)
class Interval:
    """A number with what bounds it. ``low`` 0 and ``high`` infinity mean that there were too few sweeps to bound it."""

    value: float
    low: float
    high: float
    sweeps: int


@dataclass(frozen=True)
class Comparison:
    """Case A against case B: ``ratio`` is A's images/s over B's, so A is *faster* when ``low`` is above 1.

    ``sweeps`` is how many pairs there were, ``compared`` for how many comparisons the interval was widened, and
    ``smallest_effect`` the change (0.05 for 5%) that these sweeps would have established with a probability of 80%:
    what a *tie* could hide.
    """

    case_a: str
    case_b: str
    ratio: float
    low: float
    high: float
    verdict: Verdict
    sweeps: int = 0
    compared: int = 1
    smallest_effect: float = inf


def rates(records: Sequence[RunRecord]) -> dict[int, float]:
    """Images/s by sweep, of one case in one phase."""
    found = {
        record.sweep: value
        for record in records
        if isinstance(record.outcome, Measured) and (value := rate(record.outcome)) is not None and value > 0
    }
    return dict(sorted(found.items()))


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The median over sweeps and a t interval of the logs, widened where it must be to hold the median.

    Neighbouring sweeps share weather, so that n of them are worth fewer than n; the interval is wider for it.
    Raises UsageError without a value.
    """
    if not values:
        raise UsageError("an interval needs at least one sweep that was measured")
    centre = median(values)
    low, high = _bounds([log(value) for value in values], level, _inflation(len(values), NEIGHBOURS))
    return Interval(centre, min(low, centre), max(high, centre), len(values))


def compare(
    a: Mapping[int, float], b: Mapping[int, float], *, case_a: str = "a", case_b: str = "b", compared: int = 1
) -> Comparison:
    """Pair by pair, within sweeps: a t interval of the log ratios of the sweeps that have both.

    ``a`` and ``b`` are images/s by sweep. ``compared`` is how many comparisons are stated together (Bonferroni): all
    their intervals hold at once with 95%, and the verdict is read off the interval, so that the two never disagree.
    """
    return of_logs(log_ratios(a, b), case_a=case_a, case_b=case_b, compared=compared)


def log_ratios(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """The log of ``a`` over ``b`` for each sweep that has both, in their order."""
    return [log(a[n] / b[n]) for n in sorted(a.keys() & b.keys())]


def of_logs(logs: Sequence[float], *, case_a: str, case_b: str, compared: int = 1) -> Comparison:
    """A comparison of log ratios, one a sweep."""
    level = 1 - (1 - LEVEL) / max(compared, 1)
    low, high = _bounds(logs, level)
    effect = _exp(smallest_multiple(len(logs), level) * stdev(logs)) - 1 if len(logs) > 1 else inf
    return Comparison(
        case_a,
        case_b,
        exp(fmean(logs)) if logs else float("nan"),
        low,
        high,
        verdict(low, high),
        len(logs),
        compared,
        effect,
    )


def unpaired(
    a: Sequence[float],
    b: Sequence[float],
    *,
    case_a: str = "a",
    case_b: str = "b",
    compared: int = 1,
    neighbours: float = NEIGHBOURS,
) -> Comparison:
    """Two runs at different times, which share no sweep: Welch's t interval of the difference of mean logs.

    As for a single case, it is wider because neighbouring sweeps share weather; 0 for ``neighbours`` where that has
    cancelled (rates relative to another case's in the same sweep).
    """
    logs_a, logs_b = [log(v) for v in a], [log(v) for v in b]
    if not a or not b:
        return Comparison(case_a, case_b, float("nan"), 0.0, inf, "tie", 0, compared)
    middle = fmean(logs_a) - fmean(logs_b)
    if min(len(a), len(b)) < 2:
        return Comparison(case_a, case_b, exp(middle), 0.0, inf, "tie", min(len(a), len(b)), compared)
    var_a, var_b = (stdev(logs) ** 2 / len(logs) * _inflation(len(logs), neighbours) for logs in (logs_a, logs_b))
    error = sqrt(var_a + var_b)
    level = 1 - (1 - LEVEL) / max(compared, 1)
    freedom = (var_a + var_b) ** 2 / (var_a**2 / (len(a) - 1) + var_b**2 / (len(b) - 1)) if error else 1.0
    half = _quantile(freedom, level) * error
    low, high = exp(middle - half), _exp(middle + half)
    # One-sided POWER is the two-sided level 2 * POWER - 1.
    effect = _exp(half + _quantile(freedom, 2 * POWER - 1) * error) - 1
    return Comparison(case_a, case_b, exp(middle), low, high, verdict(low, high), min(len(a), len(b)), compared, effect)


def verdict(low: float, high: float) -> Verdict:
    """*faster* or *slower* only where the whole interval lies on that side of 1."""
    return "faster" if low > 1 else "slower" if high < 1 else "tie"


def leader(by_case: Mapping[str, Mapping[int, float]]) -> str:
    """The case with the highest median rate; by name, of equals. Raises ValueError without cases."""
    return max(by_case, key=lambda case: (median(by_case[case].values()), case))


def against(reference: str, by_case: Mapping[str, Mapping[int, float]], *, searched: bool = False) -> dict[str, Comparison]:
    """Every other case against one, corrected for their number.

    ``searched``: the reference was chosen by looking at these very rates (the leader), so every pair had its chance to
    come out as the extreme one, and all pairs count.
    """
    others = [case for case in by_case if case != reference]
    pairs = len(others) * (len(others) + 1) // 2 if searched else len(others)
    return {
        case: compare(by_case[case], by_case[reference], case_a=case, case_b=reference, compared=pairs) for case in others
    }


@lru_cache
def smallest_multiple(sweeps: int, level: float = LEVEL, power: float = POWER) -> float:
    """How many standard deviations of the log ratio an effect must have to be established with that power (noncentral t)."""
    if sweeps < 2:
        return inf
    from scipy.special import nctdtrinc

    return float(nctdtrinc(sweeps - 1, 1 - power, _quantile(sweeps - 1, level))) / sqrt(sweeps)


def _bounds(logs: Sequence[float], level: float, inflation: float = 1.0) -> tuple[float, float]:
    if len(logs) < 2:
        return 0.0, inf
    half = _quantile(len(logs) - 1, level) * stdev(logs) * sqrt(inflation / len(logs))
    return exp(fmean(logs) - half), _exp(fmean(logs) + half)


def _inflation(sweeps: int, correlation: float) -> float:
    """How much wider than independent the variance of a mean is, when neighbouring sweeps are correlated (AR(1)).

    The mean varies by more, and the standard deviation within the run shows less, than independent sweeps would.
    """
    if sweeps < 2:
        return 1.0
    more = 1 + 2 * sum((1 - lag / sweeps) * correlation**lag for lag in range(1, sweeps))
    return more / (1 - (more - 1) / (sweeps - 1))


@lru_cache
def _quantile(freedom: float, level: float) -> float:
    """Student's t, two-sided. From ``scipy.special``: importing ``scipy.stats`` takes longer than analysing a run."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + level / 2))


def _exp(power: float) -> float:
    """``exp``, with infinity instead of an error where two wild sweeps bound nothing."""
    return exp(power) if power < 700 else inf
