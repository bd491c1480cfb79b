"""How the time of a step grows: with threads, with the number of variables, with bytes.

Threads: the same ten variables, with as many CPUs as threads. Variables: always 1,000,000 weights,
cut into more and more of them. Bytes: always ten variables, as large as a third of the free memory
allows. Rows are not measured where one step or one trace would take very long; they say so.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import cpus, groups, models, peers, report, scaling_pictures, timing
from benchmarks.options import Options
from benchmarks.session import Case, Row, Session

Json = dict[str, Any]

OPTIMIZERS = ("AdamW",)
ROWS = (
    ("ours", "eager"),
    ("ours", "function"),
    ("keras", "eager"),
    ("keras", "function"),
    ("torch", "foreach"),
    ("torch", "fused"),
)
WEIGHTS = 1_000_000
COUNTS, QUICK_COUNTS = (1, 10, 100, 1000, 10000), (1, 100, 1000)
VARIABLES = 10
SIZES = tuple(1024 * 4**power for power in range(12))  # 1 KiB to 4 GiB
QUICK_SIZES = SIZES[0:7:2]  # to 4 MiB
THREADS_WEIGHTS, QUICK_THREADS_WEIGHTS = 16_000_000, 1_000_000
MEMORY_IN_USE = 1 / 3
# An eager step of Keras takes 3 to 8 ms for each variable, tracing one 30 ms: a step of 2 s, and a
# trace of half a minute, are as far as these rows go.
MOST_VARIABLES = {("keras", "eager"): 100, ("keras", "function"): 1000}
QUICK_MOST_VARIABLES = {("keras", "eager"): 0, ("keras", "function"): 10}
EAGER_KERAS_WEIGHTS = 50_000_000

# What many variables may cost: 1,000 of 1,000 weights, against one of 1,000,000.
GOAL_COUNTS, GOAL = (1000, 1), 1.5


def measure(options: Options, console: Console, start: peers.Starter = peers.start) -> Json:
    threads = sorted({*([] if options.quick else thread_counts(cpus.COUNT)), options.threads})
    found, about = [], {}
    with report.progress(console) as bar:
        for count in threads:
            used = dataclasses.replace(options, threads=count)
            with cpus.bound(count), Session(used, start) as session:
                for optimizer in options.optimizers or OPTIMIZERS:
                    cases = [_threads_case(optimizer, options)]
                    if count == options.threads:
                        cases += _other_cases(optimizer, options)
                    for kind, case in cases:
                        rows = rows_of(case, options)
                        bar.start(f"{case.optimizer}, {case.model}, {count} threads", rows,
                                  options.windows)  # fmt: skip
                        result = session.measure(case, rows, bar.tick)
                        found.append({"kind": kind, "threads": count, **result})
                about[str(count)] = session.about
    return {"peers_by_threads": about, "cases": found}


def thread_counts(most: int) -> list[int]:
    """Powers of two, and the most."""
    powers = [1 << power for power in range(most.bit_length())]
    return sorted({*(power for power in powers if power <= most), most})


def equal(variables: int, weights: int) -> str:
    """Text of `models.of` for variables of equal sizes, with so many weights in all."""
    return f"{variables}*{max(1, weights // variables)}"


def _case(optimizer: str, shapes: str, options: Options) -> Case:
    return Case(optimizer, shapes, tuple(models.of(shapes)), options.seed)


def _threads_case(optimizer: str, options: Options) -> tuple[str, Case]:
    weights = QUICK_THREADS_WEIGHTS if options.quick else THREADS_WEIGHTS
    return "threads", _case(optimizer, equal(VARIABLES, weights), options)


def _other_cases(optimizer: str, options: Options) -> list[tuple[str, Case]]:
    counts = QUICK_COUNTS if options.quick else COUNTS
    by_count = [_case(optimizer, equal(count, WEIGHTS), options) for count in counts]
    sizes = QUICK_SIZES if options.quick else SIZES
    by_size = [_case(optimizer, equal(VARIABLES, size // 4), options) for size in sizes]
    budget = MEMORY_IN_USE * timing.available_memory()
    rows = [Row(peer, mode) for peer, mode in ROWS if peer in ("ours", *options.peers)]
    needed = 4 * groups.copies(rows)
    return [
        *(("variables", case) for case in by_count),
        *(("bytes", case) for case in by_size if needed * case.weights <= budget),
    ]


def rows_of(case: Case, options: Options) -> list[Row]:
    """Rows of a case; those that would take too long are there and say so."""
    rows = [Row(peer, mode) for peer, mode in ROWS if peer in ("ours", *options.peers)]
    most = QUICK_MOST_VARIABLES if options.quick else MOST_VARIABLES
    for row in rows:
        allowed = most.get((row.peer, row.mode))
        many = allowed is not None and len(case.shapes) > allowed
        large = row.key == "keras_eager" and case.weights > EAGER_KERAS_WEIGHTS
        if many or large:
            row.fail("left out: would take too long")
    return rows


def goals(cases: Iterable[Json]) -> list[Json]:
    """How many times longer steps of ours take over many variables than over one."""
    many, one = GOAL_COUNTS
    by_count: dict[tuple[str, str], dict[int, Json]] = {}
    for case in cases:
        for row in case["rows"]:
            if case["kind"] == "variables" and row["key"].startswith("ours") and "ms" in row:
                key = case["optimizer"], row["key"]
                by_count.setdefault(key, {})[case["variables"]] = row
    return [
        {
            "optimizer": optimizer,
            "label": rows[one]["label"],
            "ratio": rows[many]["ms"] / rows[one]["ms"],
        }
        for (optimizer, _), rows in by_count.items()
        if many in rows and one in rows
    ]


def tables(results: Json) -> list[Table]:
    cases = results["cases"]
    names = dict.fromkeys((case["optimizer"], case["kind"]) for case in cases)
    return [
        *(
            _table([c for c in cases if (c["optimizer"], c["kind"]) == name], *name)
            for name in names
        ),
        *([_goal_table(cases)] if goals(cases) else []),
    ]


def _table(cases: Sequence[Json], optimizer: str, kind: str) -> Table:
    """Milliseconds: a row for each row of the cases, a column for each case."""
    others = {"threads": "weights", "variables": "weights", "bytes": "variables"}[kind]
    table = Table(
        title=f"{optimizer}: ms per step by {kind}; {others}: {cases[0][others]:,}",
        caption="*: see below",
    )
    table.add_column(kind, no_wrap=True)
    for case in cases:
        table.add_column(f"{scaling_pictures.value(case, kind):,}", justify="right")
    notes: dict[str, str] = {}
    for label, rows in scaling_pictures.by_label(cases).items():
        cells = [f"{row['ms']:.3g}" if "ms" in row else "*" for row in rows]
        table.add_row(label, *cells)
        notes |= {f"{label}: {row['note']}": "" for row in rows if "ms" not in row}
    table.caption = "\n".join(notes) or None
    return table


def _goal_table(cases: Sequence[Json]) -> Table:
    many, one = GOAL_COUNTS
    table = Table(
        "optimizer",
        "row",
        "ratio",
        f"goal: below {GOAL}",
        title=f"{many:,} variables of {WEIGHTS // many:,} weights against {one} of {WEIGHTS:,}",
    )
    for goal in goals(cases):
        reached = "reached" if goal["ratio"] < GOAL else "missed"
        table.add_row(goal["optimizer"], goal["label"], f"{goal['ratio']:.2f}", reached)
    return table


def draw(results: Json, folder: Path) -> list[Path]:
    cases = results["cases"]
    kinds = dict.fromkeys(case["kind"] for case in cases if any("ms" in r for r in case["rows"]))
    return [
        scaling_pictures.lines(
            [case for case in cases if case["kind"] == kind], kind, folder / f"scaling_{kind}.png"
        )
        for kind in kinds
    ]


def failures(results: Json) -> list[str]:
    return report.failures(results["cases"])
