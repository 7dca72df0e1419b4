"""Documented as it is: examples in Python run, command lines are ones that the programs take, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer.main

from bench.record import load_run
from storage.demo import draw

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {
    "feedbench": "bench.cli",
    "python -m bench.regimes": "bench.regimes",
    "python -m storage.convert": "storage.convert",
    "python -m storage.demo": "storage.demo",
    "python -m storage.verify": "storage.verify",
}
RUN_BY = {
    "storage-layout.md": "tests/storage/test_layout.py",
    "training.md": "tests/bench/test_train.py",
    "your-own-loader.md": "tests/loaders/test_own_loader.py",
}
"""Documents whose examples another test runs, against datasets of its own."""

named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


def command_lines(document: Path) -> Iterator[tuple[str, list[str]]]:
    """(program, arguments) of every command line in a code block, fenced or indented; a \\ at its end goes on."""
    text = document.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True) if is_command(line) else []
        for program in PROGRAMS:
            parts = program.split()
            if words[: len(parts)] == parts:
                yield program, words[len(parts) :]


def is_command(line: str) -> bool:
    return line.strip().removeprefix("$ ").startswith(tuple(f"{program} " for program in PROGRAMS)) and "`" not in line


@named
def test_command_lines_are_taken_by_their_programs(document: Path) -> None:
    for program, arguments in command_lines(document):
        command = typer.main.get_command(import_module(PROGRAMS[program]).app)
        context = command.make_context(program, list(arguments))
        if program == "feedbench" and not arguments[0].startswith("-"):
            name, subcommand, rest = command.resolve_command(context, list(arguments))  # type: ignore[attr-defined]
            assert subcommand is not None, f"{document.name}: feedbench has no {arguments[0]}"
            subcommand.make_context(name, rest)


@named
def test_python_examples_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = blocks(document, "python")
    if not examples:
        pytest.skip("no example in Python")
    if document.name in RUN_BY:
        assert (ROOT / RUN_BY[document.name]).is_file()
        pytest.skip(f"run by {RUN_BY[document.name]}")
    draw(tmp_path / "photos", count=40)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    for example in examples:
        exec(compile(example, document.name, "exec"), names)


@named
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    missing = [t for t in targets if not t.startswith(("http:", "https:")) and not (document.parent / t).exists()]
    assert not missing


def test_every_program_is_documented() -> None:
    seen = {program for document in DOCUMENTS for program, _ in command_lines(document)}
    assert seen == set(PROGRAMS)


def test_the_findings_quote_the_reference_run() -> None:
    summary = (ROOT / "results/reference/summary.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", (ROOT / "docs/findings.md").read_text(), re.MULTILINE)
    quoted = tables[0].splitlines()
    assert len(quoted) == 14
    assert all(line in summary.splitlines() for line in quoted)
    assert load_run(ROOT / "results/reference").info.finished
