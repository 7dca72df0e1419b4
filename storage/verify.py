"""``python -m storage.verify PATH``: is a stored dataset still what was written?"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from storage import console
from storage.errors import DataError, UsageError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: python -m storage.verify data/flowers/lmdb-encoded --sample 1%")
def main(
    path: Annotated[Path, typer.Argument(parser=console.path, help="A stored dataset: the folder with dataset.json.")],
    against: Annotated[
        Path | None,
        typer.Option(
            parser=console.path, help="Compare each sample that is read with its image here, too: what it was made from."
        ),
    ] = None,
    sample: Annotated[str, typer.Option(help="Read this share of the samples only, and no digests: 1%.")] = "100%",
    seed: Annotated[int, typer.Option(help="Another seed draws another share.", min=0)] = 0,
    untrusted: Annotated[
        bool,
        typer.Option(
            "--untrusted",
            help="From a stranger: allow no links, check structure first, believe no digest, look at every sample.",
        ),
    ] = False,
    workers: Annotated[int, typer.Option(help="0: one a processor.", min=0)] = 0,
    _version: console.Version = False,
) -> None:
    """Read a stored dataset and compare it with its checksums. Names every bad sample and missing shard; exit code 1 then."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from storage.dataset import read_info
    from storage.verification import verify

    started, share = time.perf_counter(), parse_share(sample)
    info = read_info(path)
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("", total=None)
        faults = verify(
            path,
            share=share,
            seed=seed,
            against=against,
            untrusted=untrusted,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for fault in faults:
        sys.stderr.write(f"{console.shown(fault)}\n")
    if faults:
        raise DataError(f"{path} has {console.counted(len(faults), 'fault')}, listed above. Convert the images again.")
    seconds = time.perf_counter() - started
    read = "all" if share == 1 else f"{share:.3%}".rstrip("0%").rstrip(".") + "% of"
    size = f", {info.stored_bytes / 1e6:,.1f} MB" if share == 1 else ""
    found = "sound" if against is None else f"sound, and agrees with {against}"
    typer.echo(
        console.shown(f"{found}: {read} {console.counted(info.stored_samples, 'image')}{size}, {seconds:.1f} s: {path}")
    )


def parse_share(text: str) -> float:
    """``1%`` or ``0.01`` as 0.01. UsageError for anything else."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--sample takes a share such as 1% or 0.01; got {text!r}")
    return share


if __name__ == "__main__":
    console.run_as_main(app, "storage.verify")
