"""How every command line of this project behaves: one-line errors, exit codes, no traceback."""

from __future__ import annotations

import sys

import typer

from storage.errors import FeedbenchError

_WrongCall: type[BaseException] = typer.BadParameter.__bases__[0]
"""What Typer raises at an unknown, missing or invalid option; where the class lives differs between its versions."""


def run(app: typer.Typer, program: str) -> None:
    """Run a Typer app; print an error as one line on standard error and exit with its code (1 data, 2 usage)."""
    try:
        code = app(prog_name=program, standalone_mode=False)
    except FeedbenchError as error:
        sys.stderr.write(f"{program}: {error}\n")
        code = error.exit_code
    except _WrongCall as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if message:  # none where help has been printed instead
            sys.stderr.write(f"{program}: {message.rstrip('.')} (see --help)\n")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)
