"""The folder of a run: made anew, resumable until the run is finished, and then the latest, if it measured anything."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bench.options import RunOptions
from bench.record import load_info
from bench.steady import SHORT, TINY
from storage.errors import DataError
from storage.files import alone, beside, missing_folders

RESUME = "resume.json"
"""The options with their paths, which ``run.json`` leaves out; gone when the run is finished."""


def new_folder(results: Path) -> Path:
    """A folder named by the time, in UTC; a second run in the same second gets a number."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for name in _numbered(stamp):
        folder = results / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise DataError(f"--results: {results} is not a folder") from None
            continue
        except OSError as error:
            raise DataError(f"--results: cannot write to {results}: {error.strerror}") from error
        return folder
    raise AssertionError("unreachable")


def check_room(results: Path) -> None:
    """DataError if no run's folder can be made there; leaves nothing behind."""
    missing = missing_folders(results)
    new_folder(results).rmdir()
    with suppress(OSError):  # Another run may have begun there meanwhile.
        for place in missing:
            place.rmdir()


def _numbered(stamp: str) -> Iterator[str]:
    yield stamp
    number = 2
    while True:
        yield f"{stamp}-{number}"
        number += 1


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Nobody else measures into a run's folder meanwhile. DataError if another process does."""
    with ExitStack() as held:
        try:
            held.enter_context(alone(folder / "run.lock", wait=False))
        except BlockingIOError as error:
            raise DataError(
                f"{folder} is being measured by another process: let it finish, or interrupt it first"
            ) from error
        yield


def go_on(folder: Path) -> str:
    """The command that ends what was begun in a run's folder."""
    return f"feedbench {'report' if load_info(folder).finished else 'run --resume'} {shlex.quote(str(folder))}"


def rescued(folder: Path) -> str:
    """What to do when a run's folder could not be written any more; empty if nothing was begun there."""
    begun = os.path.isfile(folder / RESUME)  # noqa: PTH113 - Path's methods raise where one may not look.
    return f"What was measured before is kept. Once that is mended, go on with: {go_on(folder)}" if begun else ""


def keep_options(folder: Path, options: RunOptions) -> None:
    """What ``resume`` needs to go on, until the run is finished."""
    with beside(folder / RESUME) as partial:
        partial.write_bytes(TypeAdapter(RunOptions).dump_json(options))


def kept_options(folder: Path) -> RunOptions:
    """The options that an interrupted run was started with. DataError if they are lost."""
    try:
        options = TypeAdapter(RunOptions).validate_json((folder / RESUME).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{folder / RESUME} cannot be read, so the run's options are lost: start it anew") from error
    # Without a number, it began before there were turns; without a pace, when it was the same for all.
    return replace(options, turns=options.turns or 1, pace=options.pace or (TINY if options.tiny else SHORT))


def finish(folder: Path) -> None:
    """There is nothing left to resume, and ``results/latest`` is this run, unless it measured nothing."""
    (folder / RESUME).unlink(missing_ok=True)
    if load_info(folder).sweeps:
        _point_latest(folder)


def _point_latest(folder: Path) -> None:
    """``results/latest`` is the newest run: a link beside it, renamed over the old one. All is there without it."""
    latest, made = folder.parent / "latest", folder.parent / "latest.partial"
    try:
        made.unlink(missing_ok=True)
        made.symlink_to(folder.name)
        made.replace(latest)
    except OSError as error:
        with suppress(OSError):
            made.unlink(missing_ok=True)
        sys.stderr.write(f"Careful: {latest} is not this run, since no link could be put there: {error.strerror}\n")


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that a crash left without its end, so that the next is appended to a whole one."""
    if path.is_file():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)
