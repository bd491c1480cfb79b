"""Whether two runs of `step` agree: `python -m benchmarks.agreement FIRST.json SECOND.json`.

The time of a row changes with what else the machine does; its ratio to the first row of its
table should not. A ratio is known within its spread: from the lower quartile of the row over the
upper one of the first row, to the upper one over the lower one. Two runs agree on a ratio where
these overlap.
"""

import json
import sys
from pathlib import Path

from benchmarks import Json

Key = tuple[str, ...]
Spread = tuple[float, float]


def spreads(results: Json) -> dict[Key, Spread]:
    """The spread of each ratio of a run, by case and label of the row."""
    found = {}
    for case in results["cases"]:
        first, *rows = case["rows"]
        names = (case["sweep"], case["optimizer"], case["model"], *case["options"])
        for row in rows:
            if "ms" in row and "ms" in first:
                (low, high), (below, above) = row["quartiles_ms"], first["quartiles_ms"]
                found[(*names, row["label"])] = (low / above, high / below)
    return found


def disagreements(first: Json, second: Json) -> tuple[list[Key], int]:
    """What two runs do not agree on, and how many ratios both have."""
    ours, theirs = spreads(first), spreads(second)
    both = [key for key in ours if key in theirs]
    apart = [key for key in both if ours[key][0] > theirs[key][1] or theirs[key][0] > ours[key][1]]
    return apart, len(both)


def sentence(first: Json, second: Json) -> str:
    apart, count = disagreements(first, second)
    return f"{count - len(apart)} of the {count} ratios that both runs measured agree"


if __name__ == "__main__":
    runs = [json.loads(Path(name).read_text()) for name in sys.argv[1:3]]
    print(sentence(*runs))
    for key in disagreements(*runs)[0]:
        print("differ:", *key, *(spreads(run)[key] for run in runs))
