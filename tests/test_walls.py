"""Imports run one way (storage <- loaders <- bench), and what must answer at once imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"storage": {"storage"}, "loaders": {"storage", "loaders"}, "bench": {"storage", "loaders", "bench"}}
HEAVY = {"tensorflow", "keras", "h5py", "lmdb", "cv2", "torch"}


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import statement, wherever it stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        crossed = {name.split(".")[0] for name in imports(path)} & (set(MAY_IMPORT) | {"tests"})
        assert crossed <= MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {crossed - MAY_IMPORT[room]}"


def test_modules_of_bench_import_each_other_in_no_circle() -> None:
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "bench").rglob("*.py")}
    modules = {name: path for name, path in files.items() if path.name != "__init__.py"}
    graph = {name: imports(path) & modules.keys() for name, path in modules.items()}
    assert "bench.vary" in graph["bench.options"]
    TopologicalSorter(graph).prepare()  # CycleError names the circle.


def test_reports_name_no_tensorflow() -> None:
    for path in (ROOT / "bench" / "report").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & HEAVY, path


@pytest.mark.parametrize("module", ["storage", "loaders", "loaders.base", "bench.case", "bench.record", "bench.cli"])
def test_importing_costs_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
