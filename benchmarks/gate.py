"""Regression check: ratios in one run, against thresholds that are kept in a file.

Ratios of rows that are timed in the same repeats say little about the machine and much about the
code. The thresholds leave room for a noisy machine.
"""

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import Json, arguments, models, process, report
from benchmarks.options import Options
from benchmarks.session import Case, Session, rows_of

THRESHOLDS = Path(__file__).with_name("thresholds.json")
ATTEMPTS = 2  # what is below its threshold is measured once more: the machine may have been busy
CASE = ("optimizer", "shapes", "options")


def run(
    options: Options,
    console: Console,
    thresholds: Path = THRESHOLDS,
    start: process.Starter = process.start,
) -> list[str]:
    """Measures what the file names, prints it, and returns what is below its threshold."""
    content = json.loads(thresholds.read_text())
    kind = "quick" if options.quick else "full"
    options = dataclasses.replace(options, **content["settings"][kind])
    ratios = [{"options": "none", **given, "ratio": None, "note": ""} for given in content[kind]]
    with Session(options, start) as session:
        for _ in range(ATTEMPTS):
            if below := [ratio for ratio in ratios if failures([ratio])]:
                measure(session, below, console)
    console.print(table(ratios))
    return failures(ratios)


def measure(session: Session, ratios: list[Json], console: Console) -> None:
    """Fills in ratios, those of a case from the same repeats."""
    repeats = session.options.repeats
    with report.progress(console) as bar:
        for names in dict.fromkeys(tuple(ratio[name] for name in CASE) for ratio in ratios):
            mine = [r for r in ratios if tuple(r[name] for name in CASE) == names]
            needed = {"ours_eager", *(key for r in mine for key in (r["slow"], r["fast"]))}
            rows = [row for row in rows_of(("ours", "keras")) if row.key in needed]
            optimizer, shapes, text = names
            variables = tuple(models.of(shapes))
            case = Case(optimizer, shapes, variables, arguments.parsed(text))
            bar.begin(case.name, (len(rows) + 1) * (1 + repeats))
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
        elif ratio["ratio"] < ratio["threshold"]:
            found.append(f"{what} is {ratio['ratio']:.2f}, must be {ratio['threshold']} or more")
    return found


def table(ratios: list[Json]) -> Table:
    columns = ("optimizer", "shapes", "slow", "fast", "threshold")
    shown = Table("optimizer", "shapes", "ratio of", "to", "threshold", "measured")
    for ratio in ratios:
        measured = report.number(ratio["ratio"], ".2f") or ratio["note"]
        shown.add_row(*(str(ratio[name]) for name in columns), measured)
    return shown
