"""The loader that ``docs/your-own-loader.md`` shows, registered as another package would, is proven like any other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loaders.conftest import SIZE, TRAIN, Stored

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "your-own-loader.md"

PROVE = """
import sys
from pathlib import Path
from bench.equivalence import prove
from loaders.base import LoaderSpec

for path in sys.argv[3:]:
    for placement in ("pipeline", "model"):
        spec = LoaderSpec(batch_size=7, image_size=int(sys.argv[1]), placement=placement)
        pixels = prove(Path(path), "train", "mine", spec)
        assert (pixels.verdict, pixels.samples_checked) == ("identical", int(sys.argv[2])), (path, placement, pixels)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What ``pip install`` leaves of the package that the document describes."""
    (module,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.py").write_text(module)
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    group, row = re.fullmatch(r'\[project\.entry-points\."(.+)"\]\n(mine) = "(.+)"\n', toml).group(1, 3)  # type: ignore[union-attr]
    (installed / "entry_points.txt").write_text(f"[{group}]\nmine = {row}\n")
    return tmp_path


def test_it_is_proven_over_every_format_that_it_serves(package: Path, stored: Stored) -> None:
    paths = [stored(format_, payload) for format_ in ("directory", "hdf5", "lmdb") for payload in ("encoded", "raw")]
    done = subprocess.run(
        [sys.executable, "-c", PROVE, str(SIZE), str(TRAIN), *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(package), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
