"""What is printed about embedding tables, and what the figures are to reach."""

import statistics
from dataclasses import asdict, dataclass

import _embedding_cases as cases
import _harness
import _report
import _rows
from _embedding_rows import ANCHOR
from rich.console import Console
from rich.table import Table

FLOATS_PER_ELEMENT = 4  # of the gradient: what a lazy step may take for itself
GOAL = cases.Case(1_000_000, 64, 4096, 0)


@dataclass(frozen=True)
class Goal:
    """A number that a run is to reach; `value` is None if it was not measured."""

    text: str
    value: float | None
    limit: float
    at_least: bool
    unit: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        reached = self.value >= self.limit if self.at_least else self.value < self.limit
        return "met" if reached else "missed"


def results_of(rows: list[_rows.Row], group: int) -> list[_report.Json]:
    """The numbers of a group; ratios are to the anchor in the same windows."""
    (anchor,) = [row for row in rows if row.spec is ANCHOR]
    base = statistics.median(anchor.timed.windows) if anchor.timed is not None else None
    return [_result(row, group, base) for row in rows]


def _result(row: _rows.Row, group: int, base: float | None) -> _report.Json:
    result: _report.Json = {
        "key": row.spec.key,
        "label": row.label,
        "group": group,
        "route": row.route,
        "note": row.note,
        "failed": row.failed,
    }
    if row.timed is None:
        return result
    low, seconds, high = _harness.quartiles(row.timed.windows)
    return result | {
        "ms": 1e3 * seconds,
        "ms_quartiles": [1e3 * low, 1e3 * high],
        "ratio_to_anchor": seconds / base if base else None,
        "peak_memory_growth_bytes": row.peak_growth,
        "windows_ms": [1e3 * window for window in row.timed.windows],
    }


def case_result(case: cases.Case, keeps_tables: bool, rows: list[_report.Json]) -> _report.Json:
    """What is written of a case; `keeps_tables` is whether temporary tables are kept memory."""
    return {
        **asdict(case),
        "name": case.name,
        "lazy_memory_bytes": FLOATS_PER_ELEMENT * case.gradient_bytes,
        "malloc_keeps_tables": keeps_tables,
        "rows_of_table": rows,
    }


def print_case(console: Console, result: _report.Json) -> None:
    table = Table(title=f"Adam on {result['name']}")
    table.add_column("row", no_wrap=True)
    for heading in ("ms/step", "quartiles", "ratio", "growth MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("route")
    for row in result["rows_of_table"]:
        # The anchor is measured again in every group; once is enough to read.
        if row["group"] == 0 or row["key"] != ANCHOR.key:
            table.add_row(row["label"], *_cells(row))
    console.print(table)
    console.print(
        "ratio: to the first row, in the same windows. growth: most memory that one step takes "
        f"beyond\nwhat is held ({FLOATS_PER_ELEMENT} floats for each element of the gradient are "
        f"{result['lazy_memory_bytes'] / 2**20:.2f} MiB)."
    )
    if not result["malloc_keeps_tables"]:
        console.print("Temporary tables are fresh pages in every step: malloc does not keep them.")
    console.print()


def _cells(row: _report.Json) -> list[str]:
    where = " - ".join(text for text in (row["route"], row["note"]) if text)
    if "ms" not in row:
        return ["", "", "", "", where]
    growth, ratio = row["peak_memory_growth_bytes"], row["ratio_to_anchor"]
    low, high = row["ms_quartiles"]
    return [
        f"{row['ms']:.3f}",
        f"{low:.3f} to {high:.3f}",
        "" if ratio is None else f"{ratio:.2f}",
        "" if growth is None else f"{growth / 2**20:.2f}",
        where,
    ]


def scaling(results: list[_report.Json]) -> list[_report.Json]:
    """How the time grows with the table: each table beside the first, per byte of the gradient."""
    found = []
    for base in results:
        if (base["table_rows"], base["width"]) != _size(results[0]):
            continue
        for other in results:
            alike = all(other[name] == base[name] for name in ("rows", "repeats"))
            if alike and _size(other) != _size(base):
                found.append(_compared(base, other))
    return found


def _size(result: _report.Json) -> tuple[int, int]:
    return result["table_rows"], result["width"]


def _compared(base: _report.Json, other: _report.Json) -> _report.Json:
    before, after = times(base), times(other)
    return {
        "from": base["name"],
        "to": other["name"],
        "time": {key: after[key] / before[key] for key in before if key in after},
        "time_per_gradient_byte": {
            key: after[key] / before[key] * base["width"] / other["width"]
            for key in before
            if key in after
        },
    }


def times(result: _report.Json) -> dict[str, float]:
    """Milliseconds by the key of the row; of rows in several groups, those of the first."""
    found: dict[str, float] = {}
    for row in result["rows_of_table"]:
        if "ms" in row:
            found.setdefault(row["key"], row["ms"])
    return found


def print_scaling(console: Console, results: list[_report.Json]) -> None:
    labels = {row["key"]: row["label"] for row in results[0]["rows_of_table"]}
    for repeats in dict.fromkeys(result["repeats"] for result in results):
        shown = [result for result in results if result["repeats"] == repeats]
        table = Table(title=f"ms/step by rows in the gradient, {repeats} % repeated")
        table.add_column("row", no_wrap=True)
        for result in shown:
            heading = f"{result['table_rows']:,}\nx {result['width']}\n{result['rows']:,}"
            table.add_column(heading, justify="right", no_wrap=True)
        for key, label in labels.items():
            values = [times(result).get(key) for result in shown]
            table.add_row(label, *("" if value is None else f"{value:.3g}" for value in values))
        console.print(table)
    for compared in scaling(results):
        if ANCHOR.key in compared["time"]:
            console.print(
                f"{ANCHOR.label}: {compared['to']} takes {compared['time'][ANCHOR.key]:.2f} times "
                f"as long as {compared['from']},\n"
                f"  {compared['time_per_gradient_byte'][ANCHOR.key]:.2f} times as long per byte of "
                "the gradient"
            )


def goals(results: list[_report.Json]) -> list[Goal]:
    """From the run over the table and the gradient that they are about, if it was measured."""
    rows: list[_report.Json] = []
    for result in results:
        if cases.Case(*(result[name] for name in asdict(GOAL))) == GOAL:
            rows = result["rows_of_table"]
    ratios = {row["key"]: row["ratio_to_anchor"] for row in rows if row.get("ratio_to_anchor")}
    of_keras = [ratios[key] for key in ("keras_eager", "keras_function") if key in ratios]
    keras, exact = min(of_keras, default=None), ratios.get("exact_eager")
    growths = [
        row["peak_memory_growth_bytes"]
        for row in rows
        if row["key"].startswith("lazy") and row.get("peak_memory_growth_bytes") is not None
    ]
    mebibyte = 2**20
    most = FLOATS_PER_ELEMENT * GOAL.gradient_bytes / mebibyte
    return [
        Goal("lazy faster than Keras Adam", keras, 200, True, "x"),
        Goal("lazy faster than PyTorch SparseAdam", ratios.get("torch"), 3, True, "x"),
        Goal("exact faster than Keras Adam", keras and exact and keras / exact, 4, True, "x"),
        Goal(
            "memory of a lazy step",
            max(growths) / mebibyte if growths else None,
            most,
            False,
            " MiB",
        ),
    ]


def print_goals(console: Console, found: list[Goal]) -> None:
    console.print(f"\nGoals, {GOAL.name}; lazy and exact eagerly:")
    for goal in found:
        value = "" if goal.value is None else f" {goal.value:.1f}{goal.unit}"
        bound = f"{'at least' if goal.at_least else 'below'} {goal.limit:g}{goal.unit}"
        console.print(f"  {goal.text}:{value} (wanted: {bound}): {goal.verdict}")


def goals_json(found: list[Goal]) -> list[_report.Json]:
    return [asdict(goal) | {"verdict": goal.verdict} for goal in found]
