"""The page's table of the three claims: a line for loading alone, the real step and emulated accelerators, each answered or open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.claims import CLAIMS, Answer, Claim, claims
from bench.record import Run
from bench.report.method import command
from bench.speeds import in_words

KINDS = {
    "none": ("loading alone", "--step none"),
    "real": ("the real step", "--step feature_extraction"),
    "emulated": ("emulated accelerators", "--step emulated:1800,7200"),
}
"""What each claim is answered for: in words, and the option that measures it."""


@dataclass(frozen=True)
class Line:
    """A claim under one step, in words. ``answer`` is None where the run has no pair of cases for it.

    Then ``missing`` is the command that measures it, or ``reason`` says why none is worth measuring.
    """

    step: str
    answer: Answer | None = None
    missing: str = ""
    reason: str = ""

    @property
    def tally(self) -> str:
        """How the single pairs came out: an average can hide a split."""
        verdicts = [pair.verdict for pair in self.answer.pairs] if self.answer else []
        counts = [(word, verdicts.count(word)) for word in ("faster", "slower", "tie")]
        return f"{len(verdicts)}: " + ", ".join(f"{count} {word}" for word, count in counts if count)


@dataclass(frozen=True)
class Block:
    """A claim and all that the run says about it."""

    claim: Claim
    lines: tuple[Line, ...]

    @property
    def pairs(self) -> list[tuple[str, Answer]]:
        """The answers whose single pairs are listed, with their step in words."""
        return [(line.step, line.answer) for line in self.lines if line.answer]


def blocks(run: Run) -> list[Block]:
    """Every claim, answered or not, in the order in which the notes make them."""
    found = claims(run)
    return [Block(claim, tuple(_lines(run, claim, [one for one in found if one.claim == claim]))) for claim in CLAIMS]


def kind(step: str) -> str:
    """``none``, ``real`` or ``emulated``."""
    return step.partition(":")[0] if step.startswith(("none", "emulated")) else "real"


def _lines(run: Run, claim: Claim, found: Sequence[Answer]) -> list[Line]:
    lines: list[Line] = []
    for name, (words, option) in KINDS.items():
        answered = [Line(in_words(one.step), one) for one in found if kind(one.step) == name]
        if not answered and name == "none" and claim.not_alone:
            answered = [Line(words, reason=claim.not_alone)]
        lines += answered or [Line(words, missing=command(run, option, _pair(claim)))]
    return lines


def _pair(claim: Claim) -> str:
    """The option that puts both sides of the claim into one run."""
    return f"--{claim.field}s {claim.control},{claim.treated}"
