"""What a chart is, and what it may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame


@dataclass(frozen=True)
class Tables:
    """What charts are drawn from: tidy tables, made from the records once (``bench/report/derived.py``), and nothing else.

    Any of them may be empty. ``case`` is a case's id everywhere.

    Attributes
    ----------
    results, sweeps
        ``results.csv`` and ``sweeps.csv`` (docs/results.md).
    epochs
        Rates epoch by epoch of the cases that are bimodal: ``case, phase, sweep, epoch, images_per_s``.
    stages
        ``stages.csv``: ``case, stage, order, us_per_image`` (what the stage adds) and ``total_us_per_image`` (up to and including it).
    curve
        ``case, accelerator_images_per_s, accelerator_utilisation`` (0 to 1, of an epoch with its turnaround).
    emulated
        ``case, loader, payload, accelerator_images_per_s, accelerator_utilisation``: the same, measured with emulated accelerators.
    knees
        ``starvation.csv``: ``case, knee_images_per_s, accelerator_utilisation``: the fastest accelerator that is still fed.
    break_even
        A row a stored format and step: the fields of ``bench.breakeven.BreakEven`` with ``ratio, ratio_low, ratio_high,
        verdict`` for its comparison, and ``step``.
    labels
        How a row calls each case, by id: without its step and without what all cases share.
    shared
        What that is, such as ``("batch_size=8",)``; said once, in a heading.
    """

    results: DataFrame
    sweeps: DataFrame
    epochs: DataFrame
    stages: DataFrame
    curve: DataFrame
    emulated: DataFrame
    knees: DataFrame
    break_even: DataFrame
    labels: Mapping[str, str]
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chart:
    """One picture of a run.

    ``draw`` gives an Altair chart of any kind (layered, faceted, joined), or None where the tables hold nothing to show.
    ``title`` is the heading on a page; ``about`` says in a sentence or two what to see, for a reader who sees it first.
    """

    name: str
    title: str
    draw: Callable[[Tables], Any]
    about: str = ""
