"""How a case is called where its step is said already: in the rows of tables and charts."""

from __future__ import annotations

import re


def label(case: str, step: str, status: str = "ok") -> str:
    """A case's id without the step, and a limit's name alone; what failed in some sweep says so."""
    short = case.replace(f"-step={step}", "")
    limit = re.fullmatch(r"memory-[a-z]+-(limit:[a-z]+)-pipeline(.*)", short)
    short = limit[1] + limit[2] if limit else short
    return f"{short} (failed)" if status == "failed" else short
