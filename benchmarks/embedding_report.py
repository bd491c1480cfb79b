"""Tables and a picture about embedding tables, and what the figures are to reach."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import embedding_cases as cases
from benchmarks import pictures, report
from benchmarks.embedding_rows import ANCHOR, KINDS, split

Json = dict[str, Any]

FLOATS_PER_ELEMENT = 4  # of the gradient: what a lazy step may take for itself
GOAL = cases.Case(1_000_000, 64, 4096, 0)
MEBIBYTE = 2**20


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

    @property
    def json(self) -> Json:
        return asdict(self) | {"verdict": self.verdict}


def times_table(result: Json) -> Table:
    """One case. The anchor is measured again in every group; once is enough to read."""
    lazy = result["lazy_memory_bytes"] / MEBIBYTE
    caption = (
        "ratio: to the first row, in the same windows. growth: most memory that one step takes "
        f"beyond what is held ({FLOATS_PER_ELEMENT} floats for each element of the gradient are "
        f"{lazy:.2f} MiB)."
    )
    if not result["malloc_keeps_tables"]:
        caption += " Temporary tables are fresh pages in every step: malloc does not keep them."
    table = Table(title=f"Adam on {result['name']}", caption=caption)
    table.add_column("row", no_wrap=True)
    for heading in ("ms/step", "quartiles", "ratio", "growth MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("route")
    for row in result["rows_of_table"]:
        if row["group"] == 0 or row["key"] != ANCHOR:
            table.add_row(row["label"], *_cells(row))
    return table


def _cells(row: Json) -> list[str]:
    where = " - ".join(text for text in (row["route"], row["note"]) if text)
    if "ms" not in row:
        return ["", "", "", "", where]
    growth = row["peak_memory_growth_bytes"]
    low, high = row["ms_quartiles"]
    return [
        f"{row['ms']:.3f}",
        f"{low:.3f} to {high:.3f}",
        report.number(row["ratio_to_anchor"], ".2f"),
        report.number(None if growth is None else growth / MEBIBYTE, ".2f"),
        where,
    ]


def times(result: Json) -> dict[str, float]:
    """Milliseconds by the key of the row; of rows in several groups, those of the first."""
    found: dict[str, float] = {}
    for row in result["rows_of_table"]:
        if "ms" in row:
            found.setdefault(row["key"], row["ms"])
    return found


def labels(results: Sequence[Json]) -> dict[str, str]:
    return {row["key"]: row["label"] for result in results for row in result["rows_of_table"]}


def by_rows(results: Sequence[Json]) -> list[Table]:
    """All cases beside each other, a table for each percentage of repeated rows."""
    found = []
    for repeats in dict.fromkeys(result["repeats"] for result in results):
        shown = [result for result in results if result["repeats"] == repeats]
        table = Table(title=f"ms/step by rows in the gradient, {repeats} % repeated")
        table.add_column("row", no_wrap=True)
        for result in shown:
            heading = f"{result['table_rows']:,}\nx {result['width']}\n{result['rows']:,}"
            table.add_column(heading, justify="right", no_wrap=True)
        for key, label in labels(results).items():
            values = [times(result).get(key) for result in shown]
            table.add_row(label, *(report.number(value, ".3g") for value in values))
        found.append(table)
    return found


def scaling(results: Sequence[Json]) -> list[Json]:
    """How the time grows with the table: each table beside the first, per byte of the gradient."""
    return [
        _compared(base, other)
        for base in results
        if _size(base) == _size(results[0])
        for other in results
        if _size(other) != _size(base)
        if all(other[name] == base[name] for name in ("rows", "repeats"))
    ]


def _size(result: Json) -> tuple[int, int]:
    return result["table_rows"], result["width"]


def _compared(base: Json, other: Json) -> Json:
    before, after = times(base), times(other)
    ratios = {key: after[key] / before[key] for key in before if key in after}
    widths = base["width"] / other["width"]
    return {
        "from": base["name"],
        "to": other["name"],
        "time": ratios,
        "time_per_gradient_byte": {key: widths * ratio for key, ratio in ratios.items()},
    }


def scaling_table(compared: Sequence[Json]) -> list[Table]:
    """What `scaling` found for the anchor; no table if there was nothing to compare."""
    shown = [found for found in compared if ANCHOR in found["time"]]
    if not shown:
        return []
    title = f"{KINDS[split(ANCHOR)[0]].label}, eager: how the time grows with the table"
    table = Table("from", "to", "time", "per byte of the gradient", title=title)
    for found in shown:
        numbers = (found["time"][ANCHOR], found["time_per_gradient_byte"][ANCHOR])
        table.add_row(found["from"], found["to"], *(f"{number:.2f} x" for number in numbers))
    return [table]


def goals(results: Sequence[Json]) -> list[Goal]:
    """From the run over the table and the gradient that they are about, if it was measured."""
    rows: list[Json] = []
    for result in results:
        if cases.Case(*(result[name] for name in asdict(GOAL))) == GOAL:
            rows = result["rows_of_table"]
    ratios = {row["key"]: row["ratio_to_anchor"] for row in rows if row.get("ratio_to_anchor")}
    of_keras = [ratios[key] for key in ("keras_eager", "keras_function") if key in ratios]
    keras, exact = min(of_keras, default=None), ratios.get("exact_eager")
    growths = [
        row["peak_memory_growth_bytes"] / MEBIBYTE
        for row in rows
        if row["key"].startswith("lazy") and row.get("peak_memory_growth_bytes") is not None
    ]
    most = FLOATS_PER_ELEMENT * GOAL.gradient_bytes / MEBIBYTE
    return [
        Goal("lazy faster than Keras Adam", keras, 200, True, "x"),
        Goal("lazy faster than PyTorch SparseAdam", ratios.get("torch"), 3, True, "x"),
        Goal("exact faster than Keras Adam", keras and exact and keras / exact, 4, True, "x"),
        Goal("memory of a lazy step", max(growths, default=None), most, False, " MiB"),
    ]


def goals_table(found: Sequence[Json]) -> Table:
    title = f"Goals, {GOAL.name}; lazy and exact eagerly"
    table = Table("goal", "measured", "wanted", "verdict", title=title)
    for goal in found:
        value, unit = goal["value"], goal["unit"]
        bound = f"{'at least' if goal['at_least'] else 'below'} {goal['limit']:g}{unit}"
        measured = "" if value is None else f"{value:.1f}{unit}"
        table.add_row(goal["text"], measured, bound, goal["verdict"])
    return table


def picture(results: Sequence[Json], path: Path) -> Path:
    """Time against rows of the gradient: a column for each table, a row for each of the repeats."""
    sizes = list(dict.fromkeys(map(_size, results)))
    repeats = list(dict.fromkeys(result["repeats"] for result in results))
    shape = (len(repeats), len(sizes))
    with pictures.plt.rc_context(pictures.STYLE):
        figure, axes = pictures.plt.subplots(
            *shape, figsize=(4.2 * shape[1] + 1.6, 3.4 * shape[0] + 0.3), squeeze=False, sharey=True
        )
        for across, size in enumerate(sizes):
            for down, share in enumerate(repeats):
                members = [r for r in results if _size(r) == size and r["repeats"] == share]
                _panel(axes[down][across], members)
        handles = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}
        figure.legend(
            handles.values(), handles, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=4
        )
        return pictures.save(figure, path)


def _panel(axis: Any, members: Sequence[Json]) -> None:
    for key, label in labels(members).items():
        points = sorted((m["rows"], times(m)[key]) for m in members if key in times(m))
        if not points:
            continue
        kind, how = split(key)
        color = f"C{list(KINDS).index(kind)}"
        width = 1.8 if KINDS[kind].peer == "ours" else 1.0
        style = "--" if how == "function" else "-"
        x, y = zip(*points, strict=True)
        axis.plot(x, y, style, marker="o", markersize=3, color=color, linewidth=width, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    if members:
        first = members[0]
        axis.set_title(f"{first['table_rows']:,} x {first['width']}, {first['repeats']} % repeated")
        axis.set_xticks([m["rows"] for m in members], [f"{m['rows']:,}" for m in members])
    axis.set_xlabel("rows of the gradient")
    axis.set_ylabel("ms/step")
    axis.grid(visible=True, linewidth=0.3)
