"""The three claims of the notes, answered from a run: for loading alone, for the real step, for emulated accelerators.

An answer pools all pairs of cases that differ in nothing but what the claim is about. Within a sweep the log ratios of
the pairs are averaged, so that a sweep gives one number; the interval is over sweeps (see ``compare.py``) and corrected
for all the answers that a run states. How the single pairs came out stands beside it: an average can hide a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from statistics import fmean
from typing import Literal, TypeAlias

from bench.case import Case
from bench.compare import Comparison, compare, of_logs
from bench.record import Run
from bench.speeds import in_words, speeds, steps
from storage.console import counted

Answered: TypeAlias = Literal["yes", "no", "tie"]


@dataclass(frozen=True)
class Claim:
    """Does ``treated`` beat ``control``, in the one field that differs? ``costs`` asks whether it loses instead.

    ``note`` says how to read the answer, where the question alone may mislead; ``not_alone`` why loading alone can't give one.
    """

    name: str
    question: str
    field: Literal["loader", "placement", "format"]
    treated: str
    control: str
    costs: bool = False
    note: str = ""
    not_alone: str = ""


CLAIMS = (
    Claim("wrapped_generator", "Is the wrapped generator faster than the plain one?",
          "loader", "from_generator", "image_data_generator"),
    Claim("model_placement", "Does preprocessing inside the model cost training time?",
          "placement", "model", "pipeline", costs=True,
          note="The ratio is the speed with preprocessing inside the model ÷ outside. Above 1, inside was faster, so it costs no "
               "time: no. Below 1, it costs time: yes. An emulated accelerator's speed counts what runs inside the model as done.",
          not_alone="without a step nothing runs inside the model, so its share of the work would go unmeasured"),
    Claim("hdf5", "Does HDF5 beat a directory?", "format", "hdf5", "directory"),
    Claim("lmdb", "Does LMDB beat a directory?", "format", "lmdb", "directory"),
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """One claim under one step. ``comparison`` is pooled (its cases are the two values of the field), ``pairs`` are single."""

    claim: Claim
    step: str
    answer: Answered
    comparison: Comparison
    pairs: tuple[Comparison, ...]

    @property
    def compared(self) -> str:
        """What was compared, in words."""
        both = f"{self.claim.treated} against {self.claim.control}"
        counts = [f"{n} {word}" for word in ("faster", "slower", "tie") if (n := self._count(word))]
        return (
            f"{both}, {in_words(self.step)}: {counted(len(self.pairs), 'pair')} of cases that differ only in {self.claim.field}, "
            f"{self.comparison.sweeps} sweeps; single pairs: {', '.join(counts)}"
        )

    @property
    def split(self) -> bool:
        """Whether single pairs contradict each other: some established faster, some slower."""
        return bool(self._count("faster") and self._count("slower"))

    def _count(self, word: str) -> int:
        return sum(pair.verdict == word for pair in self.pairs)


def claims(run: Run) -> list[Answer]:
    """Every claim under every step of the run that has a pair for it, in that order. Empty if nothing matches."""
    measured = speeds(run)
    matches = [
        (claim, step, found)
        for claim in CLAIMS
        for step in steps(run)
        if not (claim.not_alone and step == "none")
        if (found := _pairs(claim, [case for case in measured if case.step.step == step]))
    ]
    return [_answer(claim, step, found, measured, len(matches)) for claim, step, found in matches]


def _pairs(claim: Claim, cases: Sequence[Case]) -> list[tuple[Case, Case]]:
    known = set(cases)
    treated = [case for case in cases if _value(case, claim.field) == claim.treated]
    return [(case, other) for case in treated if (other := _with(case, claim.field, claim.control)) in known]


def _value(case: Case, field: str) -> str:
    return str(case.spec.placement if field == "placement" else getattr(case, field))


def _with(case: Case, field: str, value: str) -> Case:
    if field == "placement":
        return replace(case, spec=replace(case.spec, placement=value))  # type: ignore[arg-type]
    return replace(case, **{field: value})  # type: ignore[arg-type]


def _answer(
    claim: Claim, step: str, found: list[tuple[Case, Case]], measured: dict[Case, dict[int, float]], stated: int
) -> Answer:
    # Racing stops cases early: the sweeps that every pair has keep the average about the same pairs throughout.
    common = set.intersection(*(set(measured[a]) & set(measured[b]) for a, b in found))
    logs = [fmean(log(measured[a][sweep] / measured[b][sweep]) for a, b in found) for sweep in sorted(common)]
    pooled = of_logs(logs, case_a=claim.treated, case_b=claim.control, compared=stated)
    single = tuple(compare(measured[a], measured[b], case_a=a.id, case_b=b.id, compared=len(found)) for a, b in found)
    yes = "slower" if claim.costs else "faster"
    answer: Answered = "tie" if pooled.verdict == "tie" else "yes" if pooled.verdict == yes else "no"
    return Answer(claim, step, answer, pooled, single)
