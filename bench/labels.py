"""How cases are called where their step, and what they all share, is said already: in the rows of tables and charts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.case import Case


def labels(cases: Iterable[Case]) -> dict[str, str]:
    """A label for every case, by id: the id without its step and without what all cases share. Unique within a step."""
    known = list(cases)
    dropped = set(alike(known))
    return {case.id: label(case.id, case.step.step, dropped) for case in known}


def shared(cases: Iterable[Case]) -> tuple[str, ...]:
    """What a heading says of all cases, such as ``batch_size=8``.

    Not the state of the cache: a cold case's later epochs are warm, as limits are, so each row says its own.
    """
    return tuple(part for part in alike(cases) if not part.startswith("cache_state="))


def alike(cases: Iterable[Case]) -> tuple[str, ...]:
    """What differs from the defaults alike in all cases; the step and limits left out. Of a lone case only the cache's state."""
    changes = [_parts(case.id)[1] for case in cases if case.format != "memory"]
    if len(changes) == 1:
        return tuple(part for part in changes[0] if part.startswith("cache_state="))
    first = changes[0] if changes else []
    return tuple(part for part in first if not part.startswith("step=") and all(part in other for other in changes))


def label(case: str, step: str, dropped: Iterable[str] = ()) -> str:
    """One case's id without its step and whatever else shall be dropped; a limit's name alone."""
    head, changes = _parts(case)
    limit = re.fullmatch(r"memory-[a-z]+-(limit:[a-z]+)-pipeline", head)
    left_out = {f"step={step}", *dropped}
    return "-".join([limit[1] if limit else head, *(part for part in changes if part not in left_out)])


def marked(name: str, status: str) -> str:
    """A label that says so where its case failed in some sweep."""
    return f"{name} (failed)" if status == "failed" else name


def named(case: Case, dropped: Iterable[str] = ()) -> str:
    """A case in a sentence: ``tfdata on hdf5 raw, preprocessing in the model (batch_size=64)``."""
    left_out = {f"step={case.step.step}", *dropped}
    rest = [part for part in _parts(case.id)[1] if part not in left_out]
    return f"{case.loader} on {case.format} {case.payload}, preprocessing in the {case.spec.placement}" + (
        f" ({', '.join(rest)})" if rest else ""
    )


def with_shared(words: str, dropped: Iterable[str]) -> str:
    """A heading that says once what its labels leave out."""
    said = ", ".join(dropped)
    return f"{words}, {said}" if said else words


def _parts(case: str) -> tuple[str, list[str]]:
    """An id's head (format, payload, loader, placement) and what differs from the defaults; values may hold dashes."""
    head, *changes = re.split(r"-(?=[A-Za-z_][A-Za-z0-9_.]*=)", case)
    return head, changes
