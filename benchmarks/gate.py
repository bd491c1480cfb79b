"""Regression gate: ratios in one run, against floors that are kept in a file.

Ratios of rows that are timed in the same windows say little about the machine and much about the
code. The floors leave room for a noisy machine.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import models, report
from benchmarks.options import Options
from benchmarks.session import Case, Session, rows_of

Json = dict[str, Any]
FLOORS = Path(__file__).with_name("floors.json")


def run(options: Options, console: Console, floors: Path = FLOORS) -> list[str]:
    """Measures what the file names, prints it, and returns what is below its floor."""
    content = json.loads(floors.read_text())
    kind = "quick" if options.quick else "full"
    options = dataclasses.replace(options, **content["settings"][kind])
    ratios = [{**floor, "ratio": None} for floor in content[kind]]
    wanted = dict.fromkeys((r["optimizer"], r["shapes"]) for r in ratios)
    with report.progress(console) as bar, Session(options) as session:
        for optimizer, shapes in wanted:
            mine = [r for r in ratios if (r["optimizer"], r["shapes"]) == (optimizer, shapes)]
            needed = {"ours_eager", *(key for r in mine for key in (r["slow"], r["fast"]))}
            rows = [row for row in rows_of(("ours", "keras")) if row.key in needed]
            case = Case(optimizer, shapes, tuple(models.of(shapes)), options.seed)
            bar.start(f"{optimizer}, {shapes}", rows, options.windows)
            found = session.measure(case, rows, bar.tick)["rows"]
            for ratio in mine:
                take(ratio, {row["key"]: row for row in found})
    console.print(table(ratios))
    return failures(ratios)


def take(ratio: Json, rows: dict[str, Json]) -> None:
    """Fills the ratio in: how many times faster `fast` is than `slow`."""
    fast, slow = rows.get(ratio["fast"], {}), rows.get(ratio["slow"], {})
    ratio["note"] = " - ".join(row["note"] for row in (fast, slow) if row.get("note"))
    if "ms" in fast and "ms" in slow:
        ratio["ratio"] = slow["ms"] / fast["ms"]


def failures(ratios: list[Json]) -> list[str]:
    found = []
    for ratio in ratios:
        what = f"{ratio['optimizer']} on {ratio['shapes']}: {ratio['slow']} / {ratio['fast']}"
        if ratio["ratio"] is None:
            found.append(f"{what} was not measured: {ratio['note'] or 'a row is missing'}")
        elif ratio["ratio"] < ratio["floor"]:
            found.append(f"{what} is {ratio['ratio']:.2f}, must be {ratio['floor']} or more")
    return found


def table(ratios: list[Json]) -> Table:
    shown = Table("optimizer", "shapes", "ratio of", "to", "measured", "floor", title="gate")
    for ratio in ratios:
        measured = report.number(ratio["ratio"], ".2f") or ratio["note"]
        names = (ratio["optimizer"], ratio["shapes"], ratio["slow"], ratio["fast"])
        shown.add_row(*names, measured, str(ratio["floor"]))
    return shown
