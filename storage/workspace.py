"""Where a dataset is made: ``OUT.partial``, locked, resumed by the same recipe, and renamed into its place when it is whole.

Whatever moment a conversion is killed at, ``OUT`` is the earlier dataset (or nothing) or the new one, and the next conversion goes
on from what is noted as finished. Workers write below ``tmp-TOKEN``, which the next conversion removes: a worker that outlives
its conversion finds no folder to rename from.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from storage.base import MANIFEST
from storage.errors import DataError, UsageError
from storage.files import alone, beside, exchange, missing_folders, sync

NOTES = ".writing"
"""The folder of a conversion under way: the recipe, the listing of the source, a note for each finished shard."""


class Workspace:
    """``OUT.partial`` and what it keeps in ``.writing``. The caller holds the lock."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".partial")
        self.notes = self.path / NOTES
        self.listing = self.notes / "source"
        self.done = self.notes / "done"
        self.token = f"tmp-{uuid.uuid4().hex}"
        self._old = target.with_name(f".{target.name}.replaced")

    def recover(self, *, overwrite: bool) -> None:
        """Finish what a killed conversion left; make the workspace. UsageError if ``OUT`` exists and may not be replaced."""
        if self._old.exists():  # killed between the two renames of a commit, or after them
            if self.target.exists():
                shutil.rmtree(self._old)
            else:
                self._old.rename(self.target)
        if (self.target / NOTES).is_dir() and self.path.is_dir() and not self.notes.is_dir():
            shutil.rmtree(self.path)  # the earlier dataset, after an exchange
        if self.path.exists() and not self.notes.is_dir() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise DataError(f"{self.path} is in the way and is no unfinished conversion. Move it, or choose another --out.")
        if self.target.exists() and not (self.target / NOTES).is_dir():
            self._replaceable(overwrite)
        self.notes.mkdir(parents=True, exist_ok=True)
        for folder in self.path.glob("tmp-*"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.listing, ignore_errors=True)

    def _replaceable(self, overwrite: bool) -> None:
        if self.target.is_dir() and not any(self.target.iterdir()):
            return
        if not (self.target / MANIFEST).is_file():
            raise UsageError(f"{self.target} exists and is not a stored dataset. Move it, or choose another --out.")
        if not overwrite:
            raise UsageError(
                f"{self.target} exists. Choose another --out, or give --overwrite to replace it once the new one is whole."
            )

    def finished(self, recipe: str, *, overwrite: bool) -> bool:
        """Whether ``OUT`` was just made by this very recipe, and its conversion killed before it could tidy up; tidies up."""
        recorded = self.target / NOTES / "recipe.json"
        if not recorded.parent.is_dir():
            return False
        same = recorded.is_file() and recorded.read_text() == recipe
        shutil.rmtree(recorded.parent)
        if not same:
            self._replaceable(overwrite)
        return same

    def begin(self, recipe: str) -> None:
        """Keep what the same recipe has finished; else begin anew. Then make the folder for this conversion's workers."""
        recorded = self.notes / "recipe.json"
        if not recorded.is_file() or recorded.read_text() != recipe:
            recorded.unlink(missing_ok=True)
            for entry in [*self.path.iterdir(), *self.notes.iterdir()]:
                if entry not in (self.notes, self.listing):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self.done.mkdir()
            with beside(recorded) as partial:
                partial.write_text(recipe)
        (self.path / self.token).mkdir()

    def discard(self) -> None:
        """Remove the workspace if no shard is finished: nothing to go on from. What else may be there is left alone."""
        if self.notes.is_dir() and not (self.done.is_dir() and any(self.done.iterdir())):
            for entry in self.path.iterdir():
                if entry != self.notes:  # which goes last: it is what makes this folder one that may be removed
                    shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
            shutil.rmtree(self.path, ignore_errors=True)

    def commit(self, manifest: str) -> None:
        """``dataset.json`` last, then the folder into its place; an earlier dataset goes only when the new one is there."""
        shutil.rmtree(self.path / self.token)
        shutil.rmtree(self.listing, ignore_errors=True)
        with beside(self.path / MANIFEST) as partial:
            partial.write_text(manifest, encoding="utf-8")
        if not self.target.exists():
            self.path.rename(self.target)
        elif exchange(self.path, self.target):
            self._old = self.path
        else:
            self.target.rename(self._old)
            self.path.rename(self.target)
        sync(self.target.parent)
        shutil.rmtree(self._old, ignore_errors=True)
        shutil.rmtree(
            self.target / NOTES / self.done.name
        )  # the recipe goes last: until then the next call knows it is done
        shutil.rmtree(self.target / NOTES)


@contextmanager
def locked(target: Path) -> Iterator[Workspace]:
    """The workspace of ``target``, for this process alone. DataError if another conversion has it, or it cannot be written."""
    with ExitStack() as stack:
        for folder in missing_folders(target.absolute().parent)[::-1]:
            stack.callback(_remove_if_empty, folder)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(target.with_name(f".{target.name}.lock"), wait=False))
        except BlockingIOError:
            raise DataError(f"another conversion is writing {target}; wait for it, or choose another --out") from None
        except OSError as error:
            raise DataError(f"{target} cannot be written: {error.strerror} ({error.filename})") from error
        yield Workspace(target)


def _remove_if_empty(folder: Path) -> None:
    """A folder that was made for a conversion that came to nothing."""
    with suppress(OSError):
        folder.rmdir()
