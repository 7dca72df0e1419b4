"""``python -m storage.convert --to lmdb``: write a dataset into another format."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage import console
from storage.errors import UsageError

if TYPE_CHECKING:
    from storage.base import DatasetInfo

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: python -m storage.convert --from photos --to lmdb")
def main(
    context: typer.Context,
    to: Annotated[str, typer.Option(help="Format to write: directory, hdf5, lmdb or tfrecord.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            parser=console.path,
            help="Folder CLASS/FILE or SPLIT/CLASS/FILE, table path,label[,split] (.csv, .parquet), stored dataset, "
            "or tf_flowers (a download). Default: the demo images.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=console.path, help="Where to write. Default: data/NAME/FORMAT-PAYLOAD.")
    ] = None,
    payload: Annotated[str, typer.Option(help="encoded: files as they are. raw: decoded, resized uint8.")] = "encoded",
    image_size: Annotated[
        str | None, typer.Option(help="Of raw images: N or HEIGHTxWIDTH. Default: 160, or what a raw source has.")
    ] = None,
    resize: Annotated[
        str | None, typer.Option(help="Of raw images: bilinear (the default), area, nearest or antialias.")
    ] = None,
    on_error: Annotated[str, typer.Option(help="At a file that cannot be stored: stop, or skip and list it.")] = "stop",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier dataset, once this one is whole.")
    ] = False,
    order: Annotated[str, typer.Option(help="mixed (by the seed) or source.")] = "mixed",
    seed: Annotated[int, typer.Option(help="Of the mixed order.")] = 0,
    shard_size: Annotated[str, typer.Option(help="Largest shard: 64MiB, 1GB, 500000.")] = "64MiB",
    split: Annotated[
        list[str] | None, typer.Option(help="validation=0.2: take a fifth of each class, where the source has no splits.")
    ] = None,
    max_side: Annotated[int, typer.Option(help="Encode again each JPEG and WebP with a longer side than this.", min=0)] = 0,
    quality: Annotated[int, typer.Option(help="Of what --max-side encodes again.", min=1, max=100)] = 90,
    max_pixels: Annotated[
        int, typer.Option(help="Reject an image that claims more: a decompression bomb.", min=1)
    ] = 89_478_485,
    compression: Annotated[str, typer.Option(help="Of raw HDF5: none, lzf, gzip, blosc2 or zstd.")] = "none",
    workers: Annotated[int, typer.Option(help="Processes. 0: one a processor.", min=0)] = 0,
    backend: Annotated[str, typer.Option(help="local, or dask: on the cluster at --address.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Dask scheduler: tcp://host:8786.")] = None,
    _version: console.Version = False,
) -> None:
    """Write an image dataset in another format. An interrupted conversion goes on where it stopped."""
    started = time.perf_counter()
    options: dict[str, Any] = {
        "to": to, "out": out, "payload": payload, "image_size": image_size and parse_size(image_size), "resize": resize,
        "on_error": on_error, "overwrite": overwrite, "order": order, "seed": seed,
        "shard_bytes": parse_bytes(shard_size), "workers": workers, "split": parse_shares(split or []),
        "max_side": max_side, "quality": quality,
        "max_pixels": max_pixels, "compression": compression, "backend": backend, "address": address,
    }  # fmt: skip
    _check_use(context, payload, max_side, backend)
    try:
        # Imported here, since importing takes long enough for a Ctrl-C.
        from storage import conversion, left_out
        from storage.origin import default_out

        with _progress() as progress:
            info = conversion.convert(source, progress=progress, **options)
    except KeyboardInterrupt:
        line = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
        sys.stderr.write(f"{line}interrupted: what is finished is kept; the same command goes on from there.\n")
        raise typer.Exit(130) from None
    place = out if out is not None else default_out(info.name, to, payload)
    seconds = time.perf_counter() - started
    skipped = f", {info.skipped_samples} skipped (see {place / left_out.NAME})" if info.skipped_samples else ""
    if info.ignored_files:
        ignored = console.counted(info.ignored_files, "file")
        sys.stderr.write(f"ignored: {ignored} beside the class folders, which no class claims\n")
    size = f"{info.stored_bytes / 1e6:,.1f} MB"
    typer.echo(console.shown(f"{console.counted(info.stored_samples, 'image')}{skipped}, {size}, {seconds:.1f} s: {place}"))


def _check_use(context: typer.Context, payload: str, max_side: int, backend: str) -> None:
    """UsageError at an option that was given and would change nothing: whoever gave it expects that it does."""
    useless = {
        "--image-size": payload == "encoded" and "--payload raw",
        "--resize": payload == "encoded" and "--payload raw",
        "--quality": not max_side and "--max-side",
        "--address": backend == "local" and "--backend dask",
    }
    for option, needed in useless.items():
        source = context.get_parameter_source(option[2:].replace("-", "_"))
        if needed and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{option} changes nothing without {needed}: give both, or neither")


def parse_size(text: str) -> tuple[int, int]:
    """``160`` or ``120x160`` as (height, width). UsageError for anything else."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise UsageError(f"--image-size takes N or HEIGHTxWIDTH in pixels, such as 160 or 120x160; got {text!r}")
    return int(sides[0]), int(sides[-1])


def parse_shares(texts: list[str]) -> dict[str, float]:
    """``validation=0.2`` as {"validation": 0.2}. UsageError for anything else."""
    shares: dict[str, float] = {}
    for text in texts:
        name, _, share = text.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise UsageError(f"--split takes NAME=SHARE, such as validation=0.2; got {text!r}") from None
    return shares


def parse_bytes(text: str) -> int:
    """``64MiB``, ``1GB`` or ``500000`` as bytes. UsageError for anything else."""
    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
    number = text.rstrip("BbKkMmGgIi ")
    unit = text[len(number) :].strip().lower()
    if unit not in units or not number.strip().isdigit() or int(number) == 0:
        raise UsageError(f"--shard-size takes a size such as 64MiB, 1GB or 500000; got {text!r}")
    return int(number) * units[unit]


class _progress:  # noqa: N801
    """A bar with images/s, MB/s and time left, on standard error."""

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        terminal = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(), console=terminal, transient=True, disable=not terminal.is_terminal,
        )  # fmt: skip
        self._bar.start()
        self._task = self._bar.add_task("scanning", total=None, rate="")
        self._started = time.perf_counter()
        self._before: Any = None
        return self._update

    def _update(self, done: Any) -> None:
        if self._before is None or self._before.doing != done.doing:
            # What an interrupted conversion has left is no speed of this one.
            self._before, self._started = done, time.perf_counter()
        seconds = max(time.perf_counter() - self._started, 1e-9)
        images, size = done.images - self._before.images, done.bytes - self._before.bytes
        rates = [(images, f"{images / seconds:,.0f} images/s"), (size, f"{size / seconds / 1e6:,.0f} MB/s")]
        self._bar.update(
            self._task,
            description=done.doing,
            completed=done.images or done.bytes,
            total=done.all_images or done.all_bytes,
            rate=", ".join(text for count, text in rates if count),
        )

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class _Callable(ModuleType):
    """``storage.convert`` is a function of the package until this module is imported, and this module from then on: so call it."""

    def __call__(self, source: str | Path | None = None, **options: Any) -> DatasetInfo:
        from storage import conversion

        return conversion.convert(source, **options)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    console.run_as_main(app, "storage.convert")
