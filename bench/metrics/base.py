"""What a metric is, and the two steps that all of them share: which batches are steady state, and the median over sweeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from statistics import median

from bench.record import Measured, RunRecord, measured

NS = 1e9


@dataclass(frozen=True)
class Metric:
    """A number made of the records of one case in one phase (all its sweeps, or one of them).

    ``name`` carries the unit, as a column does (``first_batch_s``). ``compute`` gives None where there is nothing to
    compute from, and never reads a clock, a file or the machine.
    """

    name: str
    unit: str
    higher_is_better: bool
    compute: Callable[[Sequence[RunRecord]], float | None]


@dataclass(frozen=True)
class Steady:
    """A measurement without what is not steady state: totals over the batches that do not open an epoch."""

    images: int
    batches: int
    wait_ns: int
    step_ns: int

    @property
    def total_ns(self) -> int:
        """Waiting and stepping: all of the loop's time."""
        return self.wait_ns + self.step_ns


def steady(one: Measured) -> Steady | None:
    """Totals over steady state, with the images that a buffer held before it counted out; None without a steady batch.

    A batch that opens an epoch is left out whole, its step too: its wait is turnaround, and half a cycle would count
    images without their time or time without its images.
    """
    inside = counted(one)
    batches = sum(inside)
    if not batches:
        return None
    return Steady(
        images=sum(compress(one.images, inside)) - one.buffered_images,
        batches=batches,
        wait_ns=sum(compress(one.wait_ns, inside)),
        step_ns=sum(compress(one.step_ns, inside)),
    )


def counted(one: Measured) -> list[bool]:
    """For each batch, whether it is a part of steady state."""
    return [one.whole_epochs or not opens for opens in epoch_openings(one)]


def epoch_openings(one: Measured) -> list[bool]:
    """For each batch, whether it opens an epoch. The first one does only where whole epochs were measured."""
    if one.whole_epochs:
        return [place == 0 or one.epochs[place - 1] != epoch for place, epoch in enumerate(one.epochs)]
    return (
        [later != earlier for earlier, later in zip([one.epochs[0], *one.epochs], one.epochs, strict=False)]
        if one.epochs
        else []
    )


def watched(one: Measured) -> int:
    """Over how many batches, from the first on, processor time and faults were counted.

    A last one that opens an epoch was asked for afterwards, to see one turnaround: what it took is in no account.
    """
    openings = epoch_openings(one)
    return len(openings) - (not one.whole_epochs and openings[-1:] == [True])


def over_sweeps(each: Callable[[Measured], float | None]) -> Callable[[Sequence[RunRecord]], float | None]:
    """A metric's ``compute`` from a number per measurement: the median over sweeps, of those that have the number."""

    def compute(records: Sequence[RunRecord]) -> float | None:
        values = [value for one in measured(records) if (value := each(one)) is not None]
        return float(median(values)) if values else None

    return compute
