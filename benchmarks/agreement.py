"""Whether two runs of `step` agree: `python -m benchmarks.agreement FIRST.json SECOND.json`.

The time of a row changes with what else the machine does; its ratio to the first row of its
table should not. A ratio is known within its spread: from the lower quartile of the row over the
upper one of the first row, to the upper one over the lower one. Two runs agree on a ratio where
these overlap.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import report, timing

Json = dict[str, Any]


@dataclass(frozen=True)
class Ratio:
    """A time over that of the first row, between two bounds."""

    low: float
    median: float
    high: float

    def overlaps(self, other: "Ratio") -> bool:
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratios(results: Json) -> dict[tuple[str, str, str], Ratio]:
    """The ratios of a run, by optimizer, model and label of the row."""
    found = {}
    for case in results["cases"]:
        anchor, *rows = case["rows"]
        if "ms" not in anchor:
            continue
        below, above = _spread(anchor)
        for row in rows:
            if at := row.get("ratio_to_anchor"):
                low, high = _spread(row)
                found[case["optimizer"], case["model"], row["label"]] = Ratio(
                    at * low / above, at, at * high / below
                )
    return found


def _spread(row: Json) -> tuple[float, float]:
    """The quartiles of a row's windows, as parts of their median."""
    low, median, high = timing.quartiles(row["windows_ms"])
    return low / median, high / median


def pairs(first: Json, second: Json) -> Iterator[tuple[tuple[str, str, str], Ratio, Ratio]]:
    """The ratios that both runs have."""
    found = ratios(second)
    for key, ratio in ratios(first).items():
        if key in found:
            yield key, ratio, found[key]


def sentence(first: Json, second: Json) -> str:
    """How many ratios agree, in words."""
    agree = [one.overlaps(other) for _, one, other in pairs(first, second)]
    return f"{sum(agree)} of the {len(agree)} ratios that both runs measured agree"


def table(first: Json, second: Json) -> Table:
    shown = Table(caption="Times over that of the first row, with their spread.")
    for heading in ("optimizer", "model", "row", "first run", "second run", ""):
        shown.add_column(heading)
    for key, one, other in pairs(first, second):
        shown.add_row(*key, str(one), str(other), "" if one.overlaps(other) else "differ")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    given = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in (given.first, given.second)]
    console = report.console()
    console.print(table(*runs))
    console.print(f"{sentence(*runs)}.")


if __name__ == "__main__":
    main()
