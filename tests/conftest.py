"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def subprocesses_are_on_their_own() -> Iterator[None]:
    """Tests that run pytest as a user does: pytest-benchmark takes this variable for a sign that others run beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        yield
