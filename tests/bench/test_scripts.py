"""What a page runs: the charts' library is made once, and a failure to make it does not last."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from bench.report import scripts


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "_made", [])


def test_the_library_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Markup] = []

    def make() -> Markup:
        made.append(Markup("vega"))
        return made[-1]

    monkeypatch.setattr(scripts, "_vega", make)
    assert scripts.vega_soon() is scripts.vega_soon()
    assert scripts.vega() == scripts.vega() == "vega"
    assert len(made) == 1


def test_a_failure_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[Markup | OSError] = [OSError("out of memory"), Markup("vega")]

    def make() -> Markup:
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    monkeypatch.setattr(scripts, "_vega", make)
    with pytest.raises(OSError, match="out of memory"):
        scripts.vega_soon().result()
    assert scripts.vega() == "vega"
