"""What an epoch takes with each loader under each regime, and how much of it is waiting: ``python -m bench.regimes STORED...``.

The epochs are those of ``feedbench train`` (``train.learn``), whole, on the same stored images, from the same process; rounds
are interleaved, each with the loaders in another order, and the first one, which starts everything up, is not counted.
Where whole epochs take too long, ``--batches`` takes the first so many of each, and the table says so.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from bench.case import StepSpec
from bench.history import Epoch
from bench.run import Clock
from loaders.base import Feed, LoaderSpec
from storage import console
from storage.errors import UsageError

REGIMES = ("feature_extraction", "fine_tune", "full")
ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """Of one loader under one regime: medians over rounds, each of ``images`` images.

    ``stored`` is the name of the stored dataset that it read.
    """

    regime: str
    loader: str
    stored: str
    seconds: float
    wait_share: float
    images: int


class Beginning:
    """The first ``batches`` of each epoch of a feed."""

    def __init__(self, feed: Feed, batches: int) -> None:
        self._feed = feed
        self._batches = batches

    def __len__(self) -> int:
        return min(self._batches, len(self._feed))

    def epoch(self, n: int) -> Iterator[tuple[Any, Any]]:
        """What of the n-th pass is wanted; no batch after it is asked for."""
        return islice(iter(self._feed.epoch(n)), self._batches)


class Nobody:
    """A watcher that only hears; the table tells it all."""

    def began(self, rows: list[Epoch], step: StepSpec) -> None: ...
    def started(self, epoch: int, regime: str, batches: int) -> None: ...
    def batch(self, images: int, loss: float) -> None: ...
    def ended(self, row: Epoch) -> None: ...
    def both_ways(self, found: Any) -> None: ...


def measure(
    stored: Sequence[Path],
    loaders: Sequence[str],
    spec: LoaderSpec,
    steps: Sequence[StepSpec],
    *,
    rounds: int = ROUNDS,
    batches: int | None = None,
    say: Callable[[str], None],
    clock: Clock = time.perf_counter_ns,
) -> list[Cost]:
    """Every loader, over the first of ``stored`` that it serves, under every step. Loaders that serve none are told and left out.

    ``batches``: only the first so many of each epoch.
    """
    from bench.train import learn

    costs: list[Cost] = []
    with ExitStack() as stack:
        feeds = _open(stored, loaders, spec, stack, say)
        for regime in steps:
            step = _compiled(regime, spec, stored[0])
            seen: dict[str, list[dict[str, Any]]] = {name: [] for name in feeds}
            for number in range(rounds):
                order = list(feeds)
                random.Random(f"{spec.seed}:{number}").shuffle(order)
                for name in order:
                    feed = feeds[name][1]
                    row = learn(Beginning(feed, batches) if batches else feed, step, clock, number, Nobody())
                    say(f"{regime.step} {name} round {number}: {row['seconds']:.1f} s, {row['wait_share']:.1%} waiting")
                    if number:
                        seen[name].append(row)
            costs += [
                Cost(
                    regime.step,
                    name,
                    feeds[name][0].name,
                    median(row["seconds"] for row in rows),
                    median(row["wait_share"] for row in rows),
                    rows[-1]["images"],
                )
                for name, rows in seen.items()
            ]
    return costs


def _open(
    stored: Sequence[Path], loaders: Sequence[str], spec: LoaderSpec, stack: ExitStack, say: Callable[[str], None]
) -> dict[str, tuple[Path, Feed]]:
    from loaders import LOADERS
    from storage.dataset import open_dataset, read_info

    feeds: dict[str, tuple[Path, Feed]] = {}
    for name in loaders:
        reasons = {path: LOADERS[name].unsupported(read_info(path), spec) for path in stored}
        path = next((path for path, reason in reasons.items() if reason is None), None)
        if path is None:
            say(f"{name} is left out: {list(reasons.values())[-1]}")
            continue
        feed = stack.enter_context(closing(LOADERS[name].build(open_dataset(path, "train"), spec)))
        feeds[name] = path, feed
    if not feeds:
        raise UsageError("none of the loaders serves any of these datasets")
    return feeds


def _compiled(step: StepSpec, spec: LoaderSpec, path: Path) -> Any:
    """The step, compiled on a batch of zeros: no loader's first epoch pays for that."""
    import numpy as np
    import tensorflow as tf

    from bench.step import make_step
    from storage.dataset import read_info

    classes = len(read_info(path).class_names)
    made = make_step(step, layers=(), image_size=spec.image_size, classes=classes)
    made(tf.zeros((spec.batch_size, *spec.image_size, 3)), tf.constant(np.arange(spec.batch_size) % classes, tf.int64))
    return made


def table(costs: Sequence[Cost], *, whole: bool = True) -> list[str]:
    """Markdown: a row a loader, a column a regime. What is not of ``whole`` epochs is not called an epoch's."""
    regimes = list(dict.fromkeys(cost.regime for cost in costs))
    found = {(cost.loader, cost.regime): cost for cost in costs}
    stored = {cost.loader: cost.stored for cost in costs}
    images = ", ".join(f"{number:,}" for number in sorted({cost.images for cost in costs}))
    unit = f"s an epoch of {images} images" if whole else f"s for an epoch's first {images} images"
    lines = ["| loader | reads | " + " | ".join(f"{regime}: {unit}, waiting" for regime in regimes) + " |"]
    lines.append("|---" * (2 + len(regimes)) + "|")
    for loader, path in stored.items():
        cells = (f"{found[loader, r].seconds:.1f}, {found[loader, r].wait_share:.1%}" for r in regimes)
        lines.append(f"| `{loader}` | {path} | {' | '.join(cells)} |")
    return lines


app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: python -m bench.regimes data/photos/directory-encoded data/photos/tfrecord-encoded")
def main(
    stored: Annotated[
        list[Path], typer.Argument(help="Stored datasets of the same images: each loader takes the first it can.")
    ],
    loaders: Annotated[str | None, typer.Option(help="Several with commas.", show_default="all")] = None,
    regimes: Annotated[str, typer.Option(help="Several with commas.")] = ",".join(REGIMES),
    model: Annotated[str, typer.Option(help="A keras.applications name, or a .keras file.")] = "MobileNetV2",
    image_size: Annotated[str, typer.Option(help="N or HEIGHTxWIDTH.")] = "160",
    batch_size: Annotated[int, typer.Option(help="Images a batch.")] = 32,
    rounds: Annotated[int, typer.Option(help="Epochs of each; the first is not counted.", min=2)] = ROUNDS,
    batches: Annotated[
        int | None, typer.Option(help="Only the first so many batches of each epoch.", show_default="all", min=1)
    ] = None,
) -> None:
    """Seconds an epoch and the share of it spent waiting, for each loader and regime."""
    from bench.model import scaling_of
    from bench.options import names
    from bench.quiet import load_tensorflow
    from bench.vary import size
    from loaders import LOADERS

    spec = LoaderSpec(batch_size=batch_size, image_size=size(image_size), scaling=scaling_of(model))
    steps = [replace(StepSpec(model=model), step=regime) for regime in names(regimes)]
    unknown = [step.step for step in steps if step.step not in REGIMES]
    if unknown:
        raise UsageError(f"--regimes: unknown name {unknown[0]!r}; expected one or more of: {', '.join(REGIMES)}")
    load_tensorflow()
    costs = measure(
        stored, names(loaders) or tuple(LOADERS), spec, steps, rounds=rounds, batches=batches,
        say=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    typer.echo("\n".join(table(costs, whole=batches is None)))


if __name__ == "__main__":
    console.run(app, "bench.regimes")
