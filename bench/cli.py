"""The console script ``feedbench``. Each command imports what it needs when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import typer

from storage import console

app = typer.Typer(
    name="feedbench",
    help="How should I store my images, and how should I feed them, so that my model never waits?\n\n"
    "Example: feedbench run --images=photos",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def feedbench() -> None:
    """Measure input pipelines end to end."""


def main() -> None:
    """Entry point."""
    console.run(app, "feedbench")
