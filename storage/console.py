"""How every command line of this project behaves: one-line errors, exit codes, no traceback."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from storage.errors import FeedbenchError

if TYPE_CHECKING:
    import typer


def run(app: typer.Typer, program: str) -> None:
    """Run a Typer app; print a FeedbenchError as one line on standard error and exit with its code (1 data, 2 usage)."""
    try:
        app(prog_name=program)
    except FeedbenchError as error:
        sys.stderr.write(f"{program}: {error}\n")
        sys.exit(error.exit_code)
