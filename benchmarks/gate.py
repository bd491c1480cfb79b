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

from benchmarks import models, peers, report
from benchmarks.options import Options
from benchmarks.session import Case, Session, rows_of

Json = dict[str, Any]
FLOORS = Path(__file__).with_name("floors.json")


ATTEMPTS = (
    2  # a ratio that is below its floor is measured once more: the machine may have been busy
)


def run(
    options: Options, console: Console, floors: Path = FLOORS, start: peers.Starter = peers.start
) -> list[str]:
    """Measures what the file names, prints it, and returns what is below its floor."""
    content = json.loads(floors.read_text())
    kind = "quick" if options.quick else "full"
    options = dataclasses.replace(options, **content["settings"][kind])
    ratios = [{**floor, "ratio": None, "note": ""} for floor in content[kind]]
    with Session(options, start) as session:
        for _ in range(ATTEMPTS):
            if below := [ratio for ratio in ratios if failures([ratio])]:
                measure(session, below, console)
    console.print(table(ratios))
    return failures(ratios)


def measure(session: Session, ratios: list[Json], console: Console) -> None:
    """Fills in ratios, those of a case from the same windows."""
    options = session.options
    with report.progress(console) as bar:
        for optimizer, shapes in dict.fromkeys((r["optimizer"], r["shapes"]) for r in ratios):
            mine = [r for r in ratios if (r["optimizer"], r["shapes"]) == (optimizer, shapes)]
            needed = {"ours_eager", *(key for r in mine for key in (r["slow"], r["fast"]))}
            rows = [row for row in rows_of(("ours", "keras")) if row.key in needed]
            case = Case(optimizer, shapes, tuple(models.of(shapes)), options.seed)
            bar.start(f"{optimizer}, {shapes}", rows, options.windows)
            found = session.measure(case, rows, bar.tick)["rows"]
            for ratio in mine:
                take(ratio, {row["key"]: row for row in found})


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
