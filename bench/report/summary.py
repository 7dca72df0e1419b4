"""``summary.md``: a run in the size of a pull request's comment. The same verdict as the page, the same numbers as the CSV files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pandas import DataFrame

from bench.case import Case
from bench.choices import best, decisive_step, rivals
from bench.claims import Answer
from bench.flags import word
from bench.labels import marked, with_shared
from bench.record import Run
from bench.report import method
from bench.report.answers import blocks
from bench.report.charts.base import Tables
from bench.report.digits import bounds, hidden, ratio, share, significant
from bench.report.first_epoch import first_epoch, standings
from bench.report.markdown import block, code, table, text
from bench.report.verdict import verdict
from bench.speeds import by_rate, in_order, in_words, only_cold, speeds
from bench.today import todays_if_any
from storage.console import counted

MOST_ROWS = 16
"""Cases a step that a summary lists; the rest stand in results.csv."""
MOST_LINES = 10
MOST_TIES = 4
LEFT_OUT = "; cases that leave preprocessing to the model do less of the work here, and are left out"
MEANS = (
    "Cases are compared within sweeps: a ratio is the mean of the sweeps' own, so it need not be that of two medians above."
)
OF_COLD = (
    "*cold\\_epoch*: the first epoch, proven to come from the disk (*first\\_epoch*: not proven). Its images/s are over the whole "
    "epoch, the first batch too; the verdict adds the time before it. *warm*: the epochs after it, from the page cache."
)
LIMIT_OF = {"encoded": "limit:decode", "raw": "limit:gather"}
"""What a case of each payload is measured against: a case can't decode faster than decoding alone."""


def summary(run: Run, tables: Tables, today: str | None = None) -> str:
    """The whole text. ``tables`` are the run's. Raises UsageError if ``today`` was not measured."""
    results = tables.results
    parts = [f"# {text(method.name(run))}: how to store and feed it", _when(run)]
    lines = [*verdict(run, today).lines, *first_epoch(run, today)]
    parts += ["\n".join(f"**{text(line)}**" if not number else text(line) for number, line in enumerate(lines))]
    measured = results[results["images_per_s"].notna()]
    if len(measured):
        parts += ["## Cases, fastest first", *_tables(run, measured, tables)]
        parts += ["## The fastest, and what ties with it", *_fastest(run, tables, today)]
    if run.info.cases:
        parts += ["## Three claims", _claims(run)]
    parts += _listed("## Warnings", list(_warnings(results)))
    parts += _listed("## Failed and skipped", list(_missing(results)))
    parts += _listed("## Measured in fewer sweeps", list(_stopped(results)))
    parts += ["## How to repeat it", *_repeat(run)]
    return "\n\n".join(parts) + "\n"


def _when(run: Run) -> str:
    facts = next(iter(run.info.datasets.values()), None)
    parts = [
        f"Run {text(run.info.name)}", text(run.info.started_at.replace("T", " ")[:16]) + " UTC" if run.info.started_at else "",
        counted(facts.samples, "image") if facts else "", text(run.info.left_out), counted(len(run.info.cases), "case"),
        counted(run.info.sweeps, "sweep"),
        "" if run.info.finished else "not finished",
    ]  # fmt: skip
    return " · ".join(part for part in parts if part)


def _tables(run: Run, measured: DataFrame, tables: Tables) -> Iterator[str]:
    """A table a step, the one that decides first."""
    steps = in_order(measured["step"])
    decides = decisive_step(run)
    for step in sorted(steps, key=lambda step: step != decides):
        rows = measured[measured["step"] == step].sort_values("images_per_s", ascending=False, kind="stable")
        limits = {row["loader"]: row["images_per_s"] for row in rows.to_dict("records") if row["format"] == "memory"}
        of_limit = bool(limits)
        head = ["case", "images/s", "95% interval", *(["of its limit"] if of_limit else [])]
        head += [*(["waiting"] if step != "none" else []), "first batch, s", "CPU, µs/image", "stored, MB", "pixels"]
        cells = [_cells(row, tables.labels, limits, of_limit) for row in rows.head(MOST_ROWS).to_dict("records")]
        more = f"\n\nand {len(rows) - MOST_ROWS} more in `results.csv`." if len(rows) > MOST_ROWS else ""
        yield f"**{text(with_shared(in_words(step), tables.shared))}**\n\n{table(head, cells, range(1, len(head) - 1))}{more}"
    if "cold" in set(measured["cache"]):
        yield OF_COLD


def _cells(row: Mapping[Any, Any], labels: Mapping[str, str], limits: Mapping[str, float], of_limit: bool) -> list[str]:
    is_limit = row["format"] == "memory"
    # A limit is one of steady state.
    limit = limits.get(LIMIT_OF.get(row["payload"], "")) if row["phase"] == "warm" else None
    low, high = row["images_per_s_low"], row["images_per_s_high"]
    stored = _known(row["stored_bytes"])
    # A cold case has two rows, and the warm one must not read as cold.
    phase = "" if row["cache"] == "warm" else f" ({row['phase']})"
    name = marked(labels[row["case"]] + phase, row["status"])
    return [
        f"*{text(name)}*" if is_limit else code(name),
        significant(row["images_per_s"]),
        bounds(low, high) if _known(low) is not None else "one sweep",
        *([share(row["images_per_s"] / limit) if limit and not is_limit else ""] if of_limit else []),
        *([_text(row["wait_share"], share)] if row["step"] != "none" else []),
        _text(row["first_batch_s"], significant),
        _text(row["cpu_us_per_image"], significant),
        "" if stored is None else significant(stored / 1e6),
        row["pixels"] if isinstance(row["pixels"], str) else "",
    ]


def _fastest(run: Run, tables: Tables, today: str | None) -> Iterator[str]:
    """A line a step: the fastest, and who ties. Says so where a faster one does less of the work."""
    measured = speeds(run)
    lines = []
    for step in in_order(case.step.step for case in measured):
        now = todays_if_any(run, step, today)
        group = rivals(measured, step, now)
        if group:
            _, (fastest, *ties) = best(measured, group, now)
            part = any(case.leaves_work and case.step.step == step and case not in group for case in measured)
            leader = _leader(fastest, by_rate(measured, ties), len(group), tables.labels)
            lines.append(f"- {text(in_words(step))}: {leader}{LEFT_OUT if part else ''}")
    for one in standings(run, today):
        leader = _leader(one.fastest, one.ties, len(one.group), tables.labels)
        lines.append(f"- {text(in_words(one.step))}, first epoch, from the disk: {leader}")
    yield "\n".join(lines) or "No case can be relied on."
    yield MEANS


def _leader(fastest: Case, ties: Sequence[Case], of: int, labels: Mapping[str, str]) -> str:
    listed = ", ".join(code(labels[case.id]) for case in ties[:MOST_TIES])
    more = f" and {len(ties) - MOST_TIES} more" if len(ties) > MOST_TIES else ""
    return code(labels[fastest.id]) + (f", a tie with {listed}{more}" if ties else ", with no tie" if of > 1 else "")


def _claims(run: Run) -> str:
    rows: list[list[str]] = []
    notes: list[str] = []
    for found in blocks(run):
        if found.claim.note:
            notes.append(text(f"{found.claim.question} {found.claim.note}"))
        for number, line in enumerate(found.lines):
            question = text(found.claim.question) if not number else ""
            open_ = text(line.reason) if line.reason else f"measure it: {code(line.missing)}"
            answer = _answer(line.answer) if line.answer else ["open", "", "", open_]
            rows.append([question, text(line.step), *answer])
    head = ["claim", "measured with", "answer", "times as fast", "interval", "single pairs"]
    pooled = (
        "Pairs of cases that differ in nothing else, compared within sweeps; the intervals hold for all answers at once."
    )
    later = " Of a cold run: of the epochs after the first, from the page cache." if only_cold(run) else ""
    return "\n\n".join([table(head, rows, (3, 4)), f"{pooled}{later}", *notes])


def _answer(one: Answer) -> list[str]:
    found = one.comparison
    counts = [(word, sum(pair.verdict == word for pair in one.pairs)) for word in ("faster", "slower", "tie")]
    between = bounds(found.low, found.high, ratio) if found.sweeps > 1 else "one sweep"
    hides = f"; could hide {hidden(found.smallest_effect)}" if one.answer == "tie" and found.sweeps > 1 else ""
    return [f"**{one.answer}**{hides}", ratio(found.ratio), between, ", ".join(f"{n} {word}" for word, n in counts if n)]


def _warnings(results: DataFrame) -> Iterator[str]:
    """A line a kind of flag: the case that came first, and how many more have it."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for row in results.to_dict("records"):
        for flag in filter(None, row["warnings"].split("; ")):
            kinds.setdefault(word(flag), []).append((f"{code(row['case'])}{_phase(row)}", flag))
    for found in kinds.values():
        case, flag = found[0]
        more = f", and {len(found) - 1} more cases" if len(found) > 2 else f", and {found[1][0]}" if len(found) == 2 else ""
        yield f"- {case}{more}: {text(flag)}"


def _missing(results: DataFrame) -> Iterator[str]:
    """Failures one by one; what was skipped for the same reason in one line."""
    rows = results.to_dict("records")
    for row in rows:
        if row["status"] == "failed":
            yield f"- failed: {code(row['case'])}{_phase(row)}: {text(row['reason'])}"
    skipped: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] == "skipped":
            skipped.setdefault(row["reason"], []).append(row["case"])
    for reason, cases in skipped.items():
        which = code(cases[0]) if len(cases) == 1 else f"{len(cases)} cases, such as {code(cases[0])}"
        yield f"- skipped: {which}: {text(reason)}"


def _stopped(results: DataFrame) -> Iterator[str]:
    """Cases that nothing is wrong with, but that were not measured further."""
    for row in results.to_dict("records"):
        if row["status"] == "ok" and row["reason"]:
            yield f"- {counted(row['sweeps'], 'sweep')}: {code(row['case'])}{_phase(row)}: {text(row['reason'])}"


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"- and {len(lines) - MOST_LINES} more in `results.csv`"] if len(lines) > MOST_LINES else []
    return [title, "\n".join([*lines[:MOST_LINES], *more])]


def _repeat(run: Run) -> Iterator[str]:
    yield block(method.again(run))
    yield "All of it: `report.html`; the numbers in full: `results.csv`, `sweeps.csv`, `stages.csv` and `starvation.csv`."
    for one in method.machine(run):
        yield "On " + "; ".join(f"{text(name)}: {text(value)}" for name, value in one) + "."


def _phase(row: Mapping[Any, Any]) -> str:
    return "" if row["phase"] == "warm" else f" ({row['phase']})"


def _known(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _text(value: Any, shown: Any) -> str:
    number = _known(value)
    return "" if number is None else str(shown(number))
