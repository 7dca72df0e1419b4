"""How every command line of this project behaves: one-line errors, exit codes, no traceback."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from storage.errors import FeedbenchError

_WrongCall: type[BaseException] = typer.BadParameter.__bases__[0]
"""What Typer raises at an unknown, missing or invalid option; where the class lives differs between its versions."""


_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control codes, breaks of lines and changes of the direction of writing, bytes that are no text."""


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{number:,} {noun}" + "s"[: number != 1]


def shown(text: str) -> str:
    """``text`` for a terminal, on one line: what would command it is written out, as a name from elsewhere may hold anything."""
    return _COMMANDS.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # a byte of a name that is no UTF-8
    return {10: "\\n", 13: "\\r", 9: "\\t"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def path(given: str | Path) -> Path:
    """A path of a command line, or its default. An empty one (a variable that is not set) would silently be the current folder."""
    if not str(given).strip():
        raise typer.BadParameter("it is empty; expected a path, such as . for the current folder")
    return Path(given)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"feedbench {version('feedbench')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
]
"""The option of every command line. Click answers it before anything else is looked at."""


def run(app: typer.Typer, program: str) -> None:
    """Run a Typer app, with ``-h`` too; print an error as one line on standard error, exit with its code (1 data, 2 usage)."""
    try:
        code = app(prog_name=program, standalone_mode=False, help_option_names=["-h", "--help"])
    except FeedbenchError as error:
        sys.stderr.write(shown(f"{program}: {error}") + "\n")
        code = error.exit_code
    except _WrongCall as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if message:  # none where help has been printed instead
            sys.stderr.write(shown(f"{program}: {message.rstrip('.')} (see --help)") + "\n")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def run_as_main(app: typer.Typer, program: str) -> None:
    """``run``, as all that a process does. Then Ctrl-C is ignored, since worker processes take a moment to end."""
    try:
        run(app, program)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
