"""``feedbench selfcheck`` on a terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from bench.progress import Bar
from bench.run_output import wide
from bench.selfcheck import selfcheck
from bench.selfcheck_bench import Check


def check_and_print(*, small: bool) -> int:
    """The table of checks; exit code 1 if one of them failed."""
    started = time.monotonic()
    console = Console(stderr=True)
    checks: list[Check] = []
    with Bar(console) as bar:
        checks.extend(selfcheck(bar, small=small))
    table = Table("", "check", "expected", "seen", box=None, pad_edge=False)
    for check in checks:
        table.add_row("ok" if check.passed else "FAILED", check.question, check.expected, check.seen)
    out = wide()
    out.print(table)
    failed = sum(not check.passed for check in checks)
    out.print(
        f"{len(checks) - failed} of {len(checks)} checks passed in {time.monotonic() - started:.0f} s", highlight=False
    )
    if failed:
        console.print(
            "The instrument cannot be trusted on this machine as it is now. Is something else running? Try again when it is idle.",
            style="bold red",
        )
    return 1 if failed else 0
