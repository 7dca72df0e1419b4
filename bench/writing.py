"""A disk that is full, or a folder that may not be written, said in one line."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(folder: Path, further: Callable[[], str] = lambda: "") -> Iterator[None]:
    """DataError where ``folder`` or a file in it cannot be written; ``further`` says what to do then, and is asked only then."""
    try:
        yield
    except OSError as error:
        # A write names no file when it fails; whoever opens or makes one does, and it may be no file of ours.
        named = Path(str(error.filename)) if error.filename is not None else None
        ours = error.errno in FULL if named is None else named in folder.parents or named.is_relative_to(folder)
        if not ours:
            raise
        said = f"cannot write to {named or folder}: {error.strerror}"
        then = further()
        raise DataError(f"{said}. {then}" if then else said) from error
