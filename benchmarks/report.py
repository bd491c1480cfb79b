"""What is printed and what is written."""

import contextlib
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import ROOT, cpus, timing
from benchmarks.options import Options

Json = dict[str, Any]
RESULTS = ROOT / "benchmarks" / "results"


def console() -> Console:
    found = Console()
    # Into a file or a pipe, rich assumes 80 columns, which would cut the routes short.
    return found if found.is_terminal else Console(width=140)


class Bar:
    """One line of progress for each case."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, name: str, rows: Sequence[Any], windows: int) -> None:
        self._task = self._progress.add_task(name, total=(len(rows) + 1) * (1 + windows))

    def tick(self, label: str, count: int) -> None:
        self._progress.advance(self._task, count)


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as shown:
        yield Bar(shown)


def environment(options: Options) -> Json:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": _command(sys.argv[1:]),
        "commit": _commit(),
        "cpu": _cpu(),
        "cpus_in_use": cpus.allowed(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "fresh_page_microseconds": timing.fresh_page_microseconds(),
        "settings": options.json,
    }


def _command(arguments: Sequence[str]) -> str:
    """What was run, without the paths of this machine."""
    return re.sub(r" --?(out|python)[= ]\S+", "", " ".join(["python -m benchmarks", *arguments]))


def _commit() -> str | None:
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit} with changes" if commit and changed else commit


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor()


def times(case: Json) -> Table:
    """The table of a case as `session.results` makes it."""
    moved = f", {case['bytes_per_weight']} bytes per weight" if "bytes_per_weight" in case else ""
    table = Table(
        title=f"{case['optimizer']} on {case['model']}: {case['variables']} variables, "
        f"{case['weights'] / 1e6:.3g} M weights{moved}",
        caption="IQR: interquartile range. ratio: to the first row. growth: most memory that one "
        "step takes beyond what is held.",
    )
    table.add_column("row", no_wrap=True)
    headings = ("ms/step", "IQR", "ratio", "GB/s", "% of limit", "growth MiB", "trace s", "nodes")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("route")
    for row in case["rows"]:
        table.add_row(*_cells(row))
    return table


def _cells(row: Json) -> list[str]:
    where = " - ".join(text for text in (row["route"], row["note"]) if text)
    if "ms" not in row:
        return [row["label"], *[""] * 8, where]
    growth, traces = row["peak_memory_growth_bytes"], row["traces"]
    low, high = row["ms_quartiles"]
    return [
        row["label"],
        f"{row['ms']:.3g}" if row["ms"] < 100 else f"{row['ms']:.0f}",
        f"{high - low:.2g}",
        number(row["ratio_to_anchor"], ".2f"),
        number(row["gigabytes_per_second"], ".1f"),
        number(row["percent_of_limit"], ".0f"),
        number(None if growth is None else growth / 2**20, ".0f"),
        f"{statistics.median(trace['seconds'] for trace in traces):.2f}" if traces else "",
        str(traces[-1]["nodes"]) if traces else "",
        where,
    ]


def failures(cases: Sequence[Json]) -> list[str]:
    """Rows of ours that failed, in cases as `session.results` makes them."""
    return [
        f"{case['optimizer']} on {case['model']}, {row['label']}: {row['note']}"
        for case in cases
        for row in case["rows"]
        if row["failed"] and row["key"].startswith("ours")
    ]


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def write(path: Path, options: Options, results: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = environment(options) | results
    path.write_text(json.dumps(content, indent=1) + "\n")
