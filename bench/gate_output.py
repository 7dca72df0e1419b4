"""What ``feedbench compare`` prints: a line a case, warnings before it, the reasons for failing after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path

from bench.gate import Change, Rule, Side, read_side
from bench.gate_words import compared
from bench.report.digits import NO_BOUNDS, bounds
from bench.writing import writing
from storage.errors import DataError


def compare_and_print(a: Path, b: Path, fail_if: Sequence[str], say: Callable[[str], None], *, html: bool = False) -> int:
    """Compare two runs and say how they differ. The exit code: 1 if a rule of ``fail_if`` is established, else 0.

    ``html`` also writes ``compare.html``: into B's folder, or beside its file.

    Raises UsageError for a rule that cannot be read and DataError for a path that is no run, or without a case in common; with rules,
    without one that they could fail for: a gate that judges nothing does not pass.
    """
    rules = [Rule.parse(text) for text in fail_if]
    one, other = read_side(a), read_side(b)
    made = compared(one, other, rules)
    told = made.failed or any(change.gated for change in made.changes) if rules else made.changes or made.broken
    if not told:
        shown = ", ".join(change.case for change in made.changes)
        common = f" but what never fails a gate ({shown})" if shown else ""
        measured = "; ".join(f"{side.name} has {_first(side)}" for side in (one, other))
        raise DataError(f"{a} and {b} have no case in common that both measured{common}: {measured}")
    if made.warning:
        say(f"Warning: {made.warning}")
    width = max(len(case) for case in [*(change.case for change in made.changes), *(case for case, _ in made.apart)])
    say(f"{'case':{width}}  {'A images/s':>10}  {'B images/s':>10}  B / A, with its interval")
    for change in made.changes:
        say(f"{change.case:{width}}  {change.a_images_per_s:10.4g}  {change.b_images_per_s:10.4g}  {_words(change)}")
    for case, why in made.apart:
        say(f"{case:{width}}  not compared: {why}")
    for line in (made.method, made.summary, made.agreement, *made.gate):
        if line:
            say(line)
    if html:
        from bench.report.comparison import write_comparison

        page = (b if b.is_dir() else b.parent) / "compare.html"
        with writing(page.parent):
            say(f"The page: {write_comparison(made, page)}")
    return 1 if made.failed else 0


def _first(side: Side) -> str:
    """A case that was measured, as an example; a limit only if there is nothing else."""
    return next((row.name for row in sorted(side.rates, key=lambda row: row.is_limit)), "none")


def _words(change: Change) -> str:
    one = change.decisive
    if not isfinite(one.high):
        return f"{change.comparison.ratio:.3f}  too few sweeps to tell"
    limit = f"  ({change.comparison.ratio:.3f} before the limit's own change is counted out)" if change.against_limit else ""
    hides = "more than double" if one.smallest_effect > 1 else f"{one.smallest_effect:.1%}"
    hidden = f"  (could hide {hides})" if change.verdict == "tie" else ""
    interval = NO_BOUNDS if bounds(one.low, one.high) == NO_BOUNDS else f"{one.low:.3f}, {one.high:.3f}"
    return f"{one.ratio:.3f} [{interval}]  {change.verdict}{hidden}{limit}"
