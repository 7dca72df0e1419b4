"""Time feedbench's loaders from another harness: a process that does epochs when it is told to.

``python -m bench.contender [--loader threaded] [--format lmdb] ROOT SIZE BATCH THREADS`` stores the images of ROOT (``CLASS/FILE`` or
``train/CLASS/FILE``) in a temporary folder, runs an epoch to warm up, and prints ``ready``. For each line that it then reads from
standard input, it runs whole epochs for at least ``--seconds`` and prints ``{"images": N, "seconds": S}``. Nothing is made ahead
between two epochs, so a harness that lets contenders take turns finds no batches that were made while another had its turn.

Batches are uint8, SIZE × SIZE × 3, with labels, shuffled over all samples, and not augmented, unless ``--vary`` says otherwise.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.vary import settings, variations
from loaders import LOADERS
from loaders.base import Feed, LoaderSpec
from storage import console
from storage.errors import UsageError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: echo | python -m bench.contender --format tfrecord photos 160 32 2")
def main(
    root: Annotated[Path, typer.Argument(help="Images: CLASS/FILE or train/CLASS/FILE.", exists=True, file_okay=False)],
    size: Annotated[int, typer.Argument(help="Height and width that are handed over.", min=1)],
    batch: Annotated[int, typer.Argument(help="Images a batch.", min=1)],
    threads: Annotated[int, typer.Argument(help="The loader's workers.", min=1)],
    loader: Annotated[str, typer.Option(help="A loader's name, limit:decode or limit:gather.")] = "threaded",
    format: Annotated[str, typer.Option(help="The storage format.")] = "lmdb",
    payload: Annotated[str, typer.Option(help="encoded or raw.")] = "encoded",
    vary: Annotated[list[str], typer.Option(help="NAME=VALUE: a field of the spec, or an option of the loader.")] = [],  # noqa: B006
    seconds: Annotated[float, typer.Option(help="How long a round is, at least.", min=0)] = 1.0,
) -> None:
    """Do whole epochs for each line on standard input, and say how many images took how long."""
    spec = spec_of(LoaderSpec(image_size=(size, size), batch_size=batch, workers=threads), loader, vary)
    with (
        tempfile.TemporaryDirectory(prefix="feedbench-contender-") as folder,
        closing(build(root, Path(folder), loader, format, payload, spec)) as feed,
    ):
        serve(feed.epoch, seconds)


def serve(epoch: Callable[[int], Iterable[tuple[Any, Any]]], seconds: float) -> None:
    """Speak the protocol for ``epoch(n)``, whose batches are (images, labels)."""
    rounds = epochs(epoch, seconds)
    next(rounds)
    typer.echo("ready")
    for _ in sys.stdin:
        images, took = next(rounds)
        typer.echo(json.dumps({"images": images, "seconds": took}))


def spec_of(spec: LoaderSpec, loader: str, vary: list[str]) -> LoaderSpec:
    """``spec`` for placement ``model``, unaugmented, then as ``vary`` says. UsageError for what is no field, or has two values."""
    found = settings(variations(vary, [loader]))
    if len(found) != 1 or found[0].step:
        raise UsageError(f"--vary sets one value of a loader's field here, such as decode=fast; got {' '.join(vary)}")
    fields: dict[str, Any] = {"placement": "model", "augment": False, **found[0].spec}
    return replace(spec, **fields, options=tuple(found[0].options.items()))


def build(root: Path, folder: Path, loader: str, format: str, payload: str, spec: LoaderSpec) -> Feed:
    """The images of ``root``, stored in ``folder``, behind a loader. UsageError, in its words, if it cannot serve them."""
    import storage
    from bench import limits

    out = folder / "stored"
    info = storage.convert(root, to=format, out=out, payload=payload, image_size=spec.image_size)
    split = "train" if "train" in info.splits else next(iter(info.splits))
    if loader in limits.LIMITS:
        return limits.build(loader, out, split, spec)
    reason = LOADERS[loader].unsupported(info, spec)
    if reason:
        raise UsageError(f"{loader}: {reason}")
    return LOADERS[loader].build(storage.open_dataset(out, split), spec)


def epochs(epoch: Callable[[int], Iterable[tuple[Any, Any]]], seconds: float) -> Iterator[tuple[int, float]]:
    """(images, seconds) of whole epochs, by turns: first of a single one, then of as many as take ``seconds`` at least."""
    number, least = 0, 0.0
    while True:
        images, took = 0, 0.0
        while not images or took < least:
            started = time.perf_counter()
            images += sum(len(labels) for _, labels in epoch(number))
            took += time.perf_counter() - started
            number += 1
        yield images, took
        least = seconds


if __name__ == "__main__":
    console.run(app, "python -m bench.contender")
