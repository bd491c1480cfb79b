"""What happens before the first step: importing, tracing, the size of the graph.

The step of an optimizer over all variables of a model is traced several times, by a new
`tf.function` each time. The first step includes building the optimizer, all traces and one run.
"""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from benchmarks import groups, import_time, models, peers, pictures, report
from benchmarks.options import Options
from benchmarks.session import Case, rows_of

Json = dict[str, Any]

SHAPES, QUICK_SHAPES = ("mlp", "resnet50", "bert"), ("mlp",)
OPTIMIZERS = ("AdamW",)
PEERS = ("keras", "tf_keras")  # those that trace
TRACES, QUICK_TRACES = 5, 1


def measure(
    options: Options,
    console: Console,
    start: peers.Starter = peers.start,
    take_import: import_time.Importer = import_time.seconds,
) -> Json:
    names = ("ours", *(name for name in PEERS if name in options.peers))
    once = dataclasses.replace(options, windows=1, window_seconds=0.0)
    traces = QUICK_TRACES if options.quick else TRACES
    found, about = [], {}
    with report.progress(console) as bar:
        bar.start("import", tuple(import_time.VARIANTS)[1:], import_time.processes(options.quick))
        imports = import_time.measure(options.quick, bar.tick, take_import)
        for optimizer in options.optimizers or OPTIMIZERS:
            for model in options.shapes or (QUICK_SHAPES if options.quick else SHAPES):
                case = Case(optimizer, model, tuple(models.of(model)), options.seed)
                rows = [row for row in rows_of(names) if row.mode.endswith("function")]
                table, seen = groups.measured(once, case, rows, bar, traces, start)
                found.append(table)
                about |= seen
    return {"peers": about, "cases": found, "imports": imports}


def tables(results: Json) -> list[Table]:
    return [import_time.table(results["imports"]), *map(_table, results["cases"])]


def trace_seconds(row: Json) -> float:
    return statistics.median(trace["seconds"] for trace in row["traces"])


def nodes(row: Json) -> int:
    return row["traces"][-1]["nodes"]


def _table(case: Json) -> Table:
    table = Table(
        title=f"Tracing: {case['optimizer']} on {case['model']}, {case['variables']} variables"
    )
    table.add_column("row", no_wrap=True)
    for heading in ("trace s", "slowest", "nodes", "nodes/variable", "first step s"):
        table.add_column(heading, justify="right")
    table.add_column("route")
    for row in _shown(case):
        where = " - ".join(text for text in (row["route"], row["note"]) if text)
        if not row.get("traces"):
            table.add_row(row["label"], *[""] * 5, where)
            continue
        table.add_row(
            row["label"],
            f"{trace_seconds(row):.3f}",
            f"{max(trace['seconds'] for trace in row['traces']):.3f}",
            str(nodes(row)),
            f"{nodes(row) / case['variables']:.1f}",
            f"{row['first_step_seconds']:.2f}",
            where,
        )
    return table


def _shown(case: Json) -> list[Json]:
    return [row for row in case["rows"] if row["key"] != "limit"]


def draw(results: Json, folder: Path) -> list[Path]:
    cases = [case for case in results["cases"] if any(row.get("traces") for row in _shown(case))]
    if not cases:
        return []
    with plt.rc_context(pictures.STYLE):
        figure, axes = plt.subplots(
            2, len(cases), squeeze=False, figsize=(1.5 + 3.2 * len(cases), 4.2)
        )
        for column, case in zip(axes.T, cases, strict=True):
            _bars(column[0], case, trace_seconds, "{:.2g}", "seconds to trace")
            _bars(column[1], case, nodes, "{:.0f}", "nodes of the graph")
            column[0].set_title(f"{case['optimizer']} on {case['model']}")
        return [pictures.save(figure, folder / "trace.png")]


def _bars(axis: Any, case: Json, value: Callable[[Json], float], form: str, name: str) -> None:
    rows = [row for row in reversed(_shown(case)) if row.get("traces")]
    values = [value(row) for row in rows]
    colors = [pictures.OURS if row["key"].startswith("ours") else pictures.OTHERS for row in rows]
    axis.barh([row["label"] for row in rows], values, color=colors)
    for place, number in enumerate(values):
        axis.text(number, place, " " + form.format(number), va="center", fontsize=7)
    axis.tick_params(axis="y", labelsize=7)
    axis.margins(x=0.2)
    axis.set_xlabel(name)


def failures(results: Json) -> list[str]:
    imports = [
        f"import {variant['variant']}: {variant['note']}"
        for variant in results["imports"]
        if variant["note"]
    ]
    return imports + report.failures(results["cases"])
