"""The console script ``feedbench``. Each command imports what it needs when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from storage import console
from storage.console import path
from storage.errors import DataError, UsageError

app = typer.Typer(
    name="feedbench",
    help="How should I store my images, and how should I feed them, so that my model never waits?\n\n"
    "Example: feedbench run --images=photos",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STEP, HOW = "The training step", "How it is measured"
"""Panels of ``feedbench run --help``."""


@app.callback()
def feedbench(_version: console.Version = False) -> None:
    """Measure input pipelines end to end."""


@app.command()
def advise(
    images: Annotated[Path, typer.Argument(parser=path, help="Folder CLASS/FILE or SPLIT/CLASS/FILE.")],
    model: Annotated[
        Path | None, typer.Option(parser=path, help="Your model, as model.save('NAME.keras') wrote it.")
    ] = None,
    today: Annotated[
        str | None,
        typer.Option(
            help="The pipeline that you have now, such as lmdb-encoded-tfdata-pipeline.",
            show_default="the plain generator on a directory",
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="Time to measure in, such as 10m.")] = "10m",
    disk: Annotated[str | None, typer.Option(help="How large the stored dataset may be, such as 50GB.")] = None,
    epochs: Annotated[int, typer.Option(help="How many epochs will be trained.")] = 30,
    step: Annotated[
        str | None, typer.Option(help="As in feedbench run, such as emulated:1800 for a GPU you don't have.")
    ] = None,
    results: Annotated[Path, typer.Option(parser=path, help="Where the run's folder is made.")] = Path("results"),
) -> None:
    """Measure what matters and say what to do; it may be nothing.

    Example: feedbench advise photos --budget 10m --disk 50GB --epochs 30
    """
    from bench.advise import Question, ask, parse_bytes
    from bench.options import seconds

    question = Question(
        images=images, model=model, today=today, budget_s=seconds(budget) or 600.0, disk_bytes=parse_bytes(disk),
        epochs=epochs, step=step, results=results,
    )  # fmt: skip
    ask(question, typer.echo)


@app.command()
def compare(
    a: Annotated[
        Path,
        typer.Argument(parser=path, help="The run to compare with: its folder, or the sweeps.csv of a stored baseline."),
    ],
    b: Annotated[Path, typer.Argument(parser=path, help="The run that is judged: its folder, or a sweeps.csv.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(help="slower:5% (established, not merely seen) or failed; may be given twice.")
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Also write a page, compare.html, into B's folder.")] = False,
) -> None:
    """Compare two runs case by case; exit with 1 if one of --fail-if is established.

    Example: feedbench compare baseline/sweeps.csv results/latest --fail-if slower:5%
    """
    from bench.gate_output import compare_and_print

    try:
        raise typer.Exit(compare_and_print(a, b, fail_if or [], typer.echo, html=html))
    except DataError as error:  # 1 is for what is established, so that a gate is not red for a path that is wrong
        raise UsageError(str(error)) from error


@app.command()
def model(
    name: Annotated[str, typer.Argument(help="A keras.applications name, or a .keras file.")],
    image_size: Annotated[str | None, typer.Option(help="N or HEIGHTxWIDTH.", show_default="the model's own")] = None,
    top: Annotated[bool, typer.Option(help="With the ImageNet head.")] = True,
    classes: Annotated[
        int | None, typer.Option(help="Show it as it is trained here, with a head for so many classes.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(parser=path, help="Where to draw it.", show_default="results/NAME.png")
    ] = None,
) -> None:
    """Print a model's layers and parameters, and draw it.

    Example: feedbench model MobileNetV2 --no-top --image-size 160
    """
    from bench.model_output import show
    from bench.vary import size

    show(name, image_size=size(image_size) if image_size else None, top=top, classes=classes, plot=plot, say=typer.echo)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(parser=path, help="A run's folder, such as results/latest.")],
    today: Annotated[
        str | None,
        typer.Option(
            help="The case that you have now, by its id or the beginning of it.",
            show_default="the plain generator on a directory",
        ),
    ] = None,
) -> None:
    """Make a run's tables, charts, summary and page again, from its records.

    Example: feedbench report results/latest --today lmdb-encoded-tfdata-pipeline
    """
    from bench.run_output import report_and_print

    report_and_print(run, today)


@app.command()
def run(
    context: typer.Context,
    images: Annotated[
        Path | None, typer.Option(parser=path, help="Folder CLASS/FILE or SPLIT/CLASS/FILE.", show_default="demo images")
    ] = None,
    formats: Annotated[str | None, typer.Option(help="Several with commas.", show_default="all built in")] = None,
    payloads: Annotated[str | None, typer.Option(help="encoded,raw")] = None,
    loaders: Annotated[str | None, typer.Option(help="Several with commas; rivals only when named.")] = None,
    placements: Annotated[str | None, typer.Option(help="pipeline,model: where scaling and augmentation happen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a batch.", show_default="32")] = None,
    image_size: Annotated[
        str | None, typer.Option(help="N or HEIGHTxWIDTH.", show_default="160, or the .keras file's")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take at most so many images.")] = None,
    augment: Annotated[bool, typer.Option(help="Flip and rotate at random.")] = True,
    workers: Annotated[
        str | None, typer.Option(help="Threads that prepare batches; 0: one a processor.", show_default="0")
    ] = None,
    prefetch: Annotated[str | None, typer.Option(help="Batches kept ready.", show_default="2")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="NAME=V1,V2: measure with each. Any field of loader or step; may be given several times."),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            help="feature_extraction, none by default; fine_tune, full, emulated:RATE, calibrate.", rich_help_panel=STEP
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A keras.applications name, or a .keras file.", show_default="MobileNetV2", rich_help_panel=STEP),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="none, imagenet, or a file of the base's.", show_default="none", rich_help_panel=STEP)
    ] = None,
    fine_tune_at: Annotated[
        str | None,
        typer.Option(
            help="First layer that fine_tune trains.", show_default="100; earlier in smaller bases", rich_help_panel=STEP
        ),
    ] = None,
    mixed_precision: Annotated[
        bool | None,
        typer.Option("--mixed-precision", help="bfloat16 on processors, float16 on GPUs.", rich_help_panel=STEP),
    ] = None,
    jit_compile: Annotated[
        bool | None,
        typer.Option("--jit-compile", help="Compile the step with XLA; slow on processors.", rich_help_panel=STEP),
    ] = None,
    steps_per_execution: Annotated[
        str | None,
        typer.Option(
            help="Batches asked for, then trained on in one go; waits and steps are then measured a group, not a batch.",
            show_default="1",
            rich_help_panel=STEP,
        ),
    ] = None,
    sweeps: Annotated[
        int | None,
        typer.Option(
            help="How often every case is measured: with more, intervals are narrower and two runs agree.",
            show_default="5",
            rich_help_panel=HOW,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time to use, such as 10m: as many sweeps as it holds, hopeless cases dropped.", rich_help_panel=HOW
        ),
    ] = None,
    isolation: Annotated[
        str,
        typer.Option(help="case: a fresh process for every measurement; sweep: for every sweep.", rich_help_panel=HOW),
    ] = "case",
    turns: Annotated[
        int | None,
        typer.Option(
            help="How many cases are measured side by side, in turns of a slice of a second; 1: one after the other.",
            show_default="4; with a GPU 1",
            rich_help_panel=HOW,
        ),
    ] = None,
    cache: Annotated[
        str, typer.Option(help="warm, or cold: the first epoch from the disk, proven.", rich_help_panel=HOW)
    ] = "warm",
    stages: Annotated[
        bool, typer.Option("--stages", help="Also time the pipeline up to each of its stages.", rich_help_panel=HOW)
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that one measurement may take.", rich_help_panel=HOW)] = 300.0,
    memory_limit: Annotated[
        int | None, typer.Option(help="Anonymous memory that a measurement may use, in MB.", rich_help_panel=HOW)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of shuffling, augmentation and the order of sweeps.", rich_help_panel=HOW)] = 0,
    today: Annotated[
        str | None,
        typer.Option(
            help="The case that you have now, by its id or the beginning of it: the report compares with it.",
            show_default="the plain generator on a directory",
            rich_help_panel=HOW,
        ),
    ] = None,
    results: Annotated[Path, typer.Option(parser=path, help="Where the run's folder is made.", rich_help_panel=HOW)] = Path(
        "results"
    ),
    resume: Annotated[
        Path | None, typer.Option(parser=path, help="Go on with an interrupted run (its folder).", rich_help_panel=HOW)
    ] = None,
) -> None:
    """Store, prove equivalent, and time every case; leave a report in results/RUN.

    With nothing named, the default matrix: nine minutes on two cores.
    With formats, payloads, loaders, placements, steps or something to vary
    named, the whole product of what is named.

    Example: feedbench run --images=photos --step feature_extraction,emulated:1800,7200 --vary workers=1,2,4 --budget 10m
    """
    from bench.run_output import run_and_print

    if resume is not None:
        _alone(context, "--resume", "the run goes on under the options it was started with")
    given = {
        "images": images, "formats": formats, "payloads": payloads, "loaders": loaders, "placements": placements,
        "step": step, "batch_size": batch_size, "image_size": image_size, "limit": limit, "augment": augment,
        "workers": workers, "prefetch": prefetch, "vary": vary, "model": model, "weights": weights,
        "fine_tune_at": fine_tune_at, "mixed_precision": mixed_precision, "jit_compile": jit_compile,
        "steps_per_execution": steps_per_execution, "results": results, "sweeps": sweeps, "budget": budget,
        "isolation": isolation, "turns": turns, "cache": cache, "stages": stages, "timeout_s": timeout,
        "memory_limit_bytes": None if memory_limit is None else memory_limit * 1_000_000, "seed": seed,
        "today": today,
    }  # fmt: skip
    raise typer.Exit(run_and_print(given, resume))


@app.command()
def selfcheck(
    small: Annotated[
        bool, typer.Option("--small", help="Fewer and shorter measurements, for continuous integration.")
    ] = False,
) -> None:
    """Measure the instrument itself, with known answers; exit with 1 if one of them is wrong. Takes up to ten minutes.

    Example: feedbench selfcheck
    """
    from bench.selfcheck_output import check_and_print

    raise typer.Exit(check_and_print(small=small))


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(parser=path, help="A stored dataset, as python -m storage.convert wrote it.")],
    loader: Annotated[str, typer.Option(help="Which input pipeline feeds it.")] = "tfdata",
    epochs: Annotated[int, typer.Option(help="Epochs before fine-tuning.")] = 10,
    fine_tune_epochs: Annotated[
        int | None, typer.Option(help="Epochs of fine-tuning after them.", show_default="5; 0 with another --step")
    ] = None,
    fine_tune_at: Annotated[
        int | None,
        typer.Option(
            help="The first layer of the base that is fine-tuned.", show_default="100; in a base of no more, two thirds in"
        ),
    ] = None,
    step: Annotated[
        str, typer.Option(help="The first regime: feature_extraction, fine_tune or full.")
    ] = "feature_extraction",
    model: Annotated[str, typer.Option(help="A keras.applications name, or a .keras file.")] = "MobileNetV2",
    weights: Annotated[str, typer.Option(help="Of the base: none, imagenet, or a .weights.h5 or .h5 file.")] = "none",
    placement: Annotated[str, typer.Option(help="pipeline or model: where scaling and augmentation happen.")] = "pipeline",
    export: Annotated[
        bool, typer.Option("--export", help="Also save a model from raw uint8 images to probabilities.")
    ] = False,
    image_size: Annotated[
        str | None, typer.Option(help="N or HEIGHTxWIDTH.", show_default="160, or the .keras file's or the raw dataset's")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images a batch.")] = 32,
    augment: Annotated[bool, typer.Option(help="Flip and rotate at random.")] = True,
    cache: Annotated[bool, typer.Option("--cache", help="Keep decoded images in memory after the first epoch.")] = False,
    workers: Annotated[int, typer.Option(help="Threads that prepare batches; 0: one a processor.")] = 0,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="bfloat16 on processors, float16 on GPUs.")
    ] = False,
    jit_compile: Annotated[
        bool, typer.Option("--jit-compile", help="Compile the step with XLA; slow on processors.")
    ] = False,
    steps_per_execution: Annotated[
        int,
        typer.Option(
            help="Batches asked for, then trained on in one go; their losses and waits are then seen a group at a time."
        ),
    ] = 1,
    both_ways: Annotated[
        bool, typer.Option("--both-ways", help="At the end, evaluate the training images with dropout on and off.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and dropout.")] = 0,
    results: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Its folder; a training that stands there goes on.", show_default="a new one in results"
        ),
    ] = None,
) -> None:
    """Train as in transfer learning: the head, then fine-tuning; leave history, curves and model in a folder.

    Example: feedbench train data/demo/hdf5-encoded --loader tfdata --epochs 10 --fine-tune-epochs 5
    """
    from bench.case import StepSpec
    from bench.train import Training
    from bench.train_output import fitted, new_folder, train_and_print, usual_fine_tuning
    from bench.vary import size
    from loaders.base import LoaderSpec

    spec = LoaderSpec(
        batch_size=batch_size, image_size=size(image_size or "160"), placement=placement,  # type: ignore[arg-type]
        augment=augment, cache=cache, workers=workers, seed=seed,
    )  # fmt: skip
    step_spec = StepSpec(
        step=step, model=model, weights=weights, fine_tune_at=fine_tune_at, mixed_precision=mixed_precision,
        jit_compile=jit_compile, steps_per_execution=steps_per_execution,
    )  # fmt: skip
    training = Training(
        dataset=dataset, results=results or new_folder(Path("results")), loader=loader, spec=spec, step=step_spec,
        epochs=epochs, fine_tune_epochs=usual_fine_tuning(step) if fine_tune_epochs is None else fine_tune_epochs,
        export=export, both_ways=both_ways,
    )  # fmt: skip
    raise typer.Exit(train_and_print(fitted(training, image_size=image_size)))


def _alone(context: typer.Context, option: str, why: str) -> None:
    """UsageError if anything else was given on the command line beside this option."""
    sources = {
        parameter.opts[-1]: context.get_parameter_source(parameter.name)
        for parameter in context.command.params
        if parameter.name is not None and option not in parameter.opts
    }
    others = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if others:
        raise UsageError(f"{option} stands alone: {why}; leave out {', '.join(others)}")


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # What TensorFlow says about the machine is in the record.
    console.run(app, "feedbench")
