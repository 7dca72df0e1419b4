"""Numbers for people: as many digits as a measurement is good for. The full number stands in the CSV files, and beside it."""

from __future__ import annotations

from collections.abc import Callable
from math import floor, isfinite, log10

NO_BOUNDS = "no bounds"


def significant(value: float, digits: int = 3) -> str:
    """``1,050`` for 1048.2, ``0.143`` for 0.14321: rates vary by 2% from sweep to sweep, and a fourth digit is noise."""
    if not isfinite(value):
        return "∞" if value > 0 else "–"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(digits - 1 - floor(log10(abs(rounded))), 0)
    return f"{rounded:,.{decimals}f}"


def share(value: float) -> str:
    """``97.3%`` for 0.9731, ``2,050%`` for 20.503; at most one decimal."""
    if not isfinite(value):
        return significant(value)
    percent = 100 * value
    if 0 < abs(percent) < 0.05:
        return "<0.1%"
    if abs(percent) >= 100:
        return f"{significant(percent)}%"
    return f"{percent:.0f}%" if percent == round(percent) else f"{percent:.1f}%"


def hidden(effect: float) -> str:
    """How large a change a tie could hide. Above 100% it says that the sweeps are too few, and no more."""
    return "more than double" if effect > 1 else share(effect)


def ratio(value: float) -> str:
    """``1.012``, ``2.35``, ``14.2``: what is near 1 needs the third decimal to be told from it."""
    if not isfinite(value):
        return significant(value)
    return f"{value:.3f}" if abs(value - 1) < 0.1 else significant(value)


def in_bytes(value: float) -> str:
    """``154 MB``, in powers of ten as storage is sold."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= size:
            return f"{significant(value / size)} {unit}"
    return f"{value:.0f} B"


def bounds(low: float, high: float, show: Callable[[float], str] = significant) -> str:
    """``216 to 233``. Words where an interval spans so much (a hundredfold) that it bounds nothing."""
    if low <= 0 or not isfinite(high) or high / low > 100:
        return NO_BOUNDS
    return f"{show(low)} to {show(high)}"
