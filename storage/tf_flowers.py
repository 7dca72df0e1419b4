"""``--from tf_flowers``: the public flower photographs that TensorFlow's tutorials use, by download.

3,670 JPEG files of five classes, 229 MB, https://www.tensorflow.org/datasets/catalog/tf_flowers (CC-BY). The archive must match its
published SHA-256 before it is unpacked; an interrupted download goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from storage.errors import DataError
from storage.files import sync

URL = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
BYTES = 228_813_984
_FOLDER = "flower_photos"
_UNPACKED_BYTES = 1 << 30
_CHUNK = 1 << 18
_TRIES = 5
_TIMEOUT_S = 30


def fetch(
    into: Path,
    *,
    url: str = URL,
    sha256: str = SHA256,
    size: int = BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The folder of images below ``into``, downloaded and unpacked if it is not there. DataError if that cannot be done."""
    folder = into / _FOLDER
    if folder.is_dir():
        return folder
    into.mkdir(parents=True, exist_ok=True)
    archive = into / f"{_FOLDER}.tgz"
    if not archive.is_file():
        partial = archive.with_name(archive.name + ".partial")
        _download(url, partial, size, progress)
        _check(partial, url, sha256)
        partial.replace(archive)
    _unpack(archive, folder)
    archive.unlink()
    return folder


def _download(url: str, partial: Path, size: int, progress: Callable[[int, int], None] | None) -> None:
    """``url`` at ``partial``, from where an earlier try left it; a broken connection is tried again."""
    for left in range(_TRIES - 1, -1, -1):
        try:
            _resume(url, partial, size, progress)
            return
        except urllib.error.HTTPError as error:
            raise DataError(f"{url}: the server answered {error.code} {error.reason}. {_BY_HAND}") from error
        except (OSError, HTTPException) as error:
            if not left:
                raise DataError(f"{url} cannot be read: {error}. The same command goes on from there. {_BY_HAND}") from error


_BY_HAND = "Or unpack the archive by hand and give its folder to --from."


def _resume(url: str, partial: Path, size: int, progress: Callable[[int, int], None] | None) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    if start >= size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        continues = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        start = start if continues else 0
        with partial.open("ab" if continues else "wb") as file:
            while start < size and (chunk := answer.read(min(_CHUNK, size - start))):
                file.write(chunk)
                start += len(chunk)
                if progress is not None:
                    progress(start, size)
    if start < size:
        raise OSError(f"the connection ended after {start:,} of {size:,} bytes")


def _check(partial: Path, url: str, sha256: str) -> None:
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        partial.unlink()
        raise DataError(f"{url} is not the archive that was published: its SHA-256 is {found}, expected {sha256}")


def _unpack(archive: Path, folder: Path) -> None:
    """Regular files CLASS/FILE of the archive's one folder, and nothing else, made beside ``folder`` and renamed into place."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    unpacked = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                parts = member.name.split("/")
                if not member.isfile() or len(parts) != 3 or parts[0] != _FOLDER or {"", ".", ".."} & set(parts):
                    continue
                unpacked += member.size
                content = tar.extractfile(member)
                if unpacked > _UNPACKED_BYTES or content is None:
                    raise DataError(
                        f"{archive} unpacks to more than {_UNPACKED_BYTES:,} bytes; it is not what was published"
                    )
                (partial / parts[1]).mkdir(exist_ok=True)
                with (partial / parts[1] / parts[2]).open("xb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{archive} cannot be unpacked: {error}. Remove it, and the same command downloads it again."
        ) from error
    if not any(partial.iterdir()):
        raise DataError(f"{archive} holds no {_FOLDER}/CLASS/FILE")
    os.sync()
    partial.rename(folder)
    sync(folder.parent)
