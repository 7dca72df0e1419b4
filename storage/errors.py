"""Errors that a user can act on: one line, an exit code, no traceback."""

from __future__ import annotations


def option(name: str) -> str:
    """A parameter as a command line spells it: ``image_size`` is ``--image-size``."""
    return f"--{name.replace('_', '-')}"


class FeedbenchError(Exception):
    """Something the user can mend. The message names the file or option, what was expected, what came, what to do."""

    exit_code = 1


class DataError(FeedbenchError):
    """The data is at fault: a missing folder, a broken image, a malformed shard."""

    exit_code = 1


class UsageError(FeedbenchError):
    """The call is at fault: an unknown format, an option out of range, a combination without meaning."""

    exit_code = 2
