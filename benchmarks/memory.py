"""Memory of optimizers: what they keep for each weight, and what one step takes beyond that.

The growth is that of the process's resident memory in one step, after what the allocator kept was
given back to the system. Gradients are there already; they are not counted.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from benchmarks import groups, models, peers, pictures, report
from benchmarks.options import Options
from benchmarks.session import Case, rows_of

Json = dict[str, Any]

SHAPES, QUICK_SHAPES = ("resnet50",), ("10*1000x1000",)
OPTIMIZERS = ("AdamW", "SGD", "Lion", "Lamb", "Adam (row_wise)", "Adagrad", "Adagrad (row_wise)")
QUICK_OPTIMIZERS = ("AdamW",)
WINDOWS = 3  # times are not what this is about
STATE = "#34495e"


def measure(options: Options, console: Console, start: peers.Starter = peers.start) -> Json:
    optimizers = options.optimizers or (QUICK_OPTIMIZERS if options.quick else OPTIMIZERS)
    shapes = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
    options = dataclasses.replace(
        options, windows=min(WINDOWS, options.windows), window_seconds=0.0
    )
    found, about = [], {}
    with report.progress(console) as bar:
        for model in shapes:
            for optimizer in optimizers:
                case = Case(optimizer, model, tuple(models.of(model)), options.seed)
                rows = rows_of(("ours", *options.peers), without_slow=options.quick)
                table, seen = groups.measured(options, case, rows, bar, start=start)
                found.append(table)
                about |= seen
    return {"peers": about, "cases": found}


def per_weight(case: Json, row: Json) -> tuple[float, float | None]:
    """Bytes of state, and bytes that a step takes beyond what is held, for each weight."""
    growth = row["peak_memory_growth_bytes"]
    state = row["state_bytes"] / case["weights"]
    return state, None if growth is None else growth / case["weights"]


def tables(results: Json) -> list[Table]:
    return [_table(case) for case in results["cases"]]


def _table(case: Json) -> Table:
    table = Table(
        title=f"Memory: {case['optimizer']} on {case['model']}, {case['weights'] / 1e6:.3g} M "
        "weights of 4 bytes",
        caption="state: what the optimizer keeps. growth: most memory that one step takes beyond "
        "what is held.",
    )
    table.add_column("row", no_wrap=True)
    for heading in ("state, bytes/weight", "growth, bytes/weight", "growth, MiB"):
        table.add_column(heading, justify="right")
    table.add_column("route")
    for row in _shown(case):
        where = " - ".join(text for text in (row["route"], row["note"]) if text)
        if "ms" not in row:
            table.add_row(row["label"], "", "", "", where)
            continue
        state, growth = per_weight(case, row)
        mebibytes = None if growth is None else growth * case["weights"] / 2**20
        numbers = (f"{state:.2f}", report.number(growth, ".2f"), report.number(mebibytes, ".1f"))
        table.add_row(row["label"], *numbers, where)
    return table


def _shown(case: Json) -> list[Json]:
    return [row for row in case["rows"] if row["key"] != "limit"]


def draw(results: Json, folder: Path) -> list[Path]:
    cases = [case for case in results["cases"] if any("ms" in row for row in _shown(case))]
    return [
        _picture(
            [case for case in cases if case["model"] == model],
            folder / f"memory_{model.replace('*', '_')}.png",
        )
        for model in dict.fromkeys(case["model"] for case in cases)
    ]


def _picture(cases: Sequence[Json], path: Path) -> Path:
    """Bars: state and growth of each row, a panel for each optimizer."""
    drawn = [[row for row in reversed(_shown(case)) if "ms" in row] for case in cases]
    with plt.rc_context(pictures.STYLE):
        figure, axes = plt.subplots(
            len(cases),
            squeeze=False,
            figsize=(7.5, 1.2 + sum(0.55 + 0.22 * max(1, len(rows)) for rows in drawn)),
            height_ratios=[1 + max(1, len(rows)) for rows in drawn],
        )
        for axis, case, rows in zip(axes[:, 0], cases, drawn, strict=True):
            names = [row["label"] for row in rows]
            numbers = [per_weight(case, row) for row in rows]
            states = [state for state, _ in numbers]
            growths = [growth or 0.0 for _, growth in numbers]
            colors = [
                pictures.OURS if row["key"].startswith("ours") else pictures.OTHERS for row in rows
            ]
            axis.barh(names, states, color=STATE)
            axis.barh(names, growths, left=states, color=colors)
            for place, (state, growth) in enumerate(numbers):
                step = "?" if growth is None else f"{growth:.1f}"
                axis.text(
                    state + (growth or 0.0),
                    place,
                    f" {state:.3g} + {step}",
                    va="center",
                    fontsize=7,
                )
            axis.set_title(f"{case['optimizer']} on {case['model']}", loc="left")
            axis.tick_params(axis="y", labelsize=7)
            axis.margins(x=0.12)
        axes[-1, 0].set_xlabel("bytes per weight: state (dark) + what one step takes beyond it")
        return pictures.save(figure, path)


def failures(results: Json) -> list[str]:
    return report.failures(results["cases"])
