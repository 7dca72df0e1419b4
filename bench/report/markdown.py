"""Text and tables in GitHub's Markdown, with names that are data and stay so: no markup, no link and no cell comes out of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;"}


def text(value: str) -> str:
    """Any text as text: on one line, with nothing that Markdown or HTML would read as its own."""
    plain = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]|~<>&]|@(?=\w))", lambda match: ENTITIES.get(match[1], "\\" + match[1]), plain)


def code(value: str) -> str:
    """Any text as code, on one line; also within a cell."""
    plain = " ".join(str(value).split())
    longest = max((len(run) for run in re.findall(r"`+", plain)), default=0)
    fence = "`" * (longest + 1)
    room = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{room}{plain}{room}{fence}".replace("|", "\\|")


def block(value: str, language: str = "sh") -> str:
    """A block of code, whatever it holds."""
    longest = max((len(run) for run in re.findall(r"`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{value}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of cells that are Markdown already; the columns ``numbers`` are aligned to the right."""
    right = set(numbers)
    rule = ["--:" if number in right else "---" for number in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])
