"""How PyTorch's workers end, without PyTorch: ``multiprocessing`` asks nothing more of a worker than its loop."""

from __future__ import annotations

import atexit
import os
from multiprocessing import get_context

import pytest

from loaders.torch_worker import exit_at_once


def loop(error: str) -> None:
    atexit.register(os.write, 2, b"Python finalizes")
    exit_at_once(0)
    if error:
        raise RuntimeError(error)


@pytest.mark.parametrize(("error", "code"), [("", 0), ("the loop is broken", 1)])
def test_a_worker_ends_at_once_and_by_its_exit_code_says_whether_it_failed(
    error: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = get_context("spawn").Process(target=loop, args=(error,))
    worker.start()
    worker.join()
    assert worker.exitcode == code
    said = capfd.readouterr().err
    assert error in said
    assert "Python finalizes" not in said
