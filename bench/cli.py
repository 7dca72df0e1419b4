"""The console script ``feedbench``. Each command imports what it needs when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="The run to compare with: its folder, or the sweeps.csv of a stored baseline.")],
    b: Annotated[Path, typer.Argument(help="The run that is judged: its folder, or a sweeps.csv.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(help="slower:5% (established, not merely seen) or failed; may be given twice.")
    ] = None,
) -> None:
    """Compare two runs case by case; exit with 1 if one of --fail-if is established.

    Example: feedbench compare baseline/sweeps.csv results/latest --fail-if slower:5%
    """
    from bench.gate_output import compare_and_print

    raise typer.Exit(compare_and_print(a, b, fail_if or [], typer.echo))


def main() -> None:
    """Entry point."""
    console.run(app, "feedbench")
