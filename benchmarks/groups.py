"""Tables whose peers do not fit into memory together: measured in groups, each beside ours."""

from collections.abc import Sequence
from typing import Any

from benchmarks import process, timing
from benchmarks.options import Options
from benchmarks.report import Bar
from benchmarks.session import Case, Row, Session

Json = dict[str, Any]

# What the processes of peers need beside weights and gradients, in copies of the weights: slots of
# each row, and what a step of Keras takes for a while.
TEMPORARY_COPIES = 3
MEMORY_IN_USE = 0.7  # part of what is free


def copies(rows: Sequence[Row]) -> int:
    """How often the processes of rows hold the weights, or as many other numbers, at most."""
    return sum(2 + TEMPORARY_COPIES for _ in {row.peer for row in rows}) + 2 * len(rows)


def groups(rows: Sequence[Row], weights: int, budget: int) -> list[list[Row]]:
    """Splits rows so that the processes of a group fit the budget.

    The rows of the first peer are in the first group, its first row is in every group: the others
    are compared with it.
    """
    first = rows[0]
    found = [[row for row in rows if row.peer == first.peer]]
    for name in dict.fromkeys(row.peer for row in rows if row.peer != first.peer):
        added = [row for row in rows if row.peer == name]
        alone = len({row.peer for row in found[-1]}) == 1
        if 4 * weights * copies([*found[-1], *added]) > budget and not alone:
            found.append([Row(first.peer, first.mode, first.variant)])
        found[-1].extend(added)
    return found


def measured(
    options: Options,
    case: Case,
    rows: Sequence[Row],
    bar: Bar,
    traces: int = 1,
    start: process.Starter = process.start,
) -> tuple[Json, Json]:
    """The table of a case, and what the processes say of themselves."""
    parts, about = [], {}
    budget = int(MEMORY_IN_USE * timing.available_memory())
    for group in groups(rows, case.weights, budget):
        # A row counts once for building it; one more row is STREAM.
        bar.start(case.name, (len(group) + 1) * (1 + options.repeats))
        with Session(options, start) as session:
            parts.append(session.measure(case, group, bar.tick, traces))
            about |= session.about
    return joined(parts), about


def joined(parts: Sequence[Json]) -> Json:
    """One table from those of groups: rows that come again are dropped, ratios stay as they are."""
    rows = {row["key"]: row for part in reversed(parts) for row in part["rows"]}
    order = dict.fromkeys(row["key"] for part in parts for row in part["rows"])
    return {**parts[0], "groups": len(parts), "rows": [rows[key] for key in order]}
