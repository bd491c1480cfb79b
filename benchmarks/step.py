"""Time of one optimizer step: ours on each route beside its peers.

All rows of a table update the same weights with the same gradients, each with its own slots. First
each has to take some steps as NumPy takes them in float64, or is void. GB/s counts the bytes a step
cannot avoid (what its passes read and write of weights, gradients and slots). The memory limit is a
plain loop over as many bytes, in the same windows.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import models, peers, pictures, report, timing
from benchmarks.options import Options
from benchmarks.session import Case, Row, Session, rows_of

Json = dict[str, Any]

SHAPES = ("matrices", "bert", "resnet50", "mlp")
OPTIMIZERS = ("AdamW",)
QUICK_SHAPES = ("mlp",)
# What the processes of peers need beside weights and gradients, in copies of the weights: slots of
# each mode, and what a step of Keras takes for a while.
TEMPORARY_COPIES = 3
MEMORY_IN_USE = 0.7  # part of what is free


def groups(names: Sequence[str], weights: int, budget: int) -> list[list[str]]:
    """Splits the peers so that the processes of a group fit the budget; "ours" is in each."""

    def needed(name: str) -> int:
        return 4 * weights * (2 + TEMPORARY_COPIES + 2 * len(peers.PEERS[name].modes))

    found: list[list[str]] = [["ours"]]
    for name in names:
        if name == "ours":
            continue
        if sum(map(needed, [*found[-1], name])) > budget and len(found[-1]) > 1:
            found.append(["ours"])
        found[-1].append(name)
    return found


def rows_of_group(number: int, names: Iterable[str], quick: bool) -> list[Row]:
    """Rows of a group; later ones need of ours the one that they are compared with."""
    rows = rows_of(names, without_slow=quick)
    return [r for r in rows if number == 0 or r.peer != "ours" or r.key == "ours_eager"]


def measure(options: Options, console: Console) -> Json:
    found, about = [], {}
    names = ("ours", *options.peers)
    default = QUICK_SHAPES if options.quick else SHAPES
    with report.progress(console) as bar:
        for optimizer in options.optimizers or OPTIMIZERS:
            for model in options.shapes or default:
                case = Case(optimizer, model, tuple(models.of(model)), options.seed)
                budget = int(MEMORY_IN_USE * timing.available_memory())
                parts = []
                for number, group in enumerate(groups(names, case.weights, budget)):
                    rows = rows_of_group(number, group, options.quick)
                    bar.start(f"{optimizer}, {model}", rows, options.windows)
                    with Session(options) as session:
                        traces = 1 if options.quick else 3
                        parts.append(session.measure(case, rows, bar.tick, traces))
                        about |= session.about
                found.append(joined(parts))
    return {"peers": about, "cases": found}


def joined(parts: Sequence[Json]) -> Json:
    """One table from those of groups: rows that come again are dropped, ratios stay as they are."""
    rows = {row["key"]: row for part in reversed(parts) for row in part["rows"]}
    order = dict.fromkeys(row["key"] for part in parts for row in part["rows"])
    return {**parts[0], "groups": len(parts), "rows": [rows[key] for key in order]}


def tables(results: Json) -> list[Table]:
    return [report.times(case) for case in results["cases"]]


def draw(results: Json, folder: Path) -> list[Path]:
    return [
        pictures.speedups(results["cases"], folder / "step_speedups.png"),
        pictures.roofline(results["cases"], folder / "step_roofline.png"),
    ]


def failures(results: Json) -> list[str]:
    """Rows of ours that failed."""
    return [
        f"{case['optimizer']} on {case['model']}, {row['label']}: {row['note']}"
        for case in results["cases"]
        for row in case["rows"]
        if row["failed"] and row["key"].startswith("ours")
    ]
