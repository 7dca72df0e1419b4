"""Today's case: the pipeline that a user has now, and which cases of a run ``--today`` means by a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches

from bench.case import Case
from bench.record import Run
from bench.speeds import speeds
from storage.errors import UsageError

TODAY = ("directory", "encoded", "image_data_generator", "pipeline")
"""Where none is named: Keras' plain generator over a directory."""

MOST_LISTED = 5


def meant(name: str, cases: Iterable[Case]) -> list[Case]:
    """The cases that a name means, one a step at most: an id, with or without its step, or a beginning that no others share.

    Raises UsageError, listing some that there are, if it means none, a limit, or several of one step.
    """
    pipelines = [case for case in cases if not case.loader.startswith("limit:")]
    found = [case for case in pipelines if case.is_named(name)]
    found = found or [case for case in pipelines if case.id.startswith(f"{name}-")]
    if not found:
        why = "a limit is no pipeline that one could have" if "limit:" in name else "there is no such pipeline here"
        raise UsageError(f"--today {name}: {why}; name one, such as {_nearest(name, pipelines)}")
    if max(Counter(case.step.step for case in found).values()) > 1:
        raise UsageError(f"--today {name} means several cases: {_nearest(name, found)}; name one of them")
    return found


def todays(run: Run, step: str, named: str | None = None) -> Case | None:
    """Today's case under a step: the one that was named, be it by its id under another step, or the plain generator.

    Raises UsageError if the named one was not measured; None if the default one was not.
    """
    cases = speeds(run, lambda case: case.step.step == step)
    if named is None:
        default = (c for c in cases if (c.format, c.payload, c.loader, c.spec.placement) == TODAY and not c.name)
        return next(default, None)
    found = meant(named, run.cases)
    under = [case for case in found if case.step.step == step]
    pipelines = {case.alone for case in found}
    now = next((case for case in cases if (case in under if under else case.alone in pipelines)), None)
    if now is None:
        raise UsageError(f"--today {named}: no such case was measured with step {step}; there are {_nearest(named, cases)}")
    return now


def todays_if_any(run: Run, step: str, named: str | None = None) -> Case | None:
    """As ``todays``, but None also where the one that was named was not measured under this step."""
    try:
        return todays(run, step, named)
    except UsageError:
        return None


def _nearest(name: str, cases: Iterable[Case]) -> str:
    """Some ids, those first that look like the name."""
    ids = [case.id for case in cases]
    return ", ".join([*get_close_matches(name, ids, MOST_LISTED, cutoff=0), *(["..."] if len(ids) > MOST_LISTED else [])])
