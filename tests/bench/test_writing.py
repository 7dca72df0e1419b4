"""What is said of a folder that cannot be written, and of whose files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.writing import writing
from storage.errors import DataError


def test_only_a_file_of_the_folder_is_said_to_be_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("run")  # which lies in ".", as all that is named from here does
    with pytest.raises(FileNotFoundError), writing(run):
        Path("photos/1.jpg").read_bytes()
    with pytest.raises(DataError, match=r"^cannot write to run/records: No such file or directory$"), writing(run):
        (run / "records").touch()
    with (
        pytest.raises(DataError, match=r"^cannot write to run: No space left on device\. Make room\.$"),
        writing(run, lambda: "Make room."),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"a")
