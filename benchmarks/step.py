"""Time of one optimizer step: ours on each route beside its peers.

All rows of a table update the same weights with the same gradients, each with its own slots. First
each has to take some steps as NumPy takes them in float64, or is void. GB/s counts the bytes a step
cannot avoid (what its passes read and write of weights, gradients and slots). The memory limit is a
plain loop over as many bytes, in the same windows.
"""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import groups, models, peers, pictures, report
from benchmarks.options import Options
from benchmarks.session import Case, rows_of

Json = dict[str, Any]

SHAPES = ("matrices", "bert", "resnet50", "mlp")
OPTIMIZERS = ("AdamW",)
QUICK_SHAPES = ("mlp",)


def measure(options: Options, console: Console, start: peers.Starter = peers.start) -> Json:
    found, about = [], {}
    default = QUICK_SHAPES if options.quick else SHAPES
    with report.progress(console) as bar:
        for optimizer in options.optimizers or OPTIMIZERS:
            for model in options.shapes or default:
                case = Case(optimizer, model, tuple(models.of(model)), options.seed)
                rows = rows_of(("ours", *options.peers), without_slow=options.quick)
                traces = 1 if options.quick else 3
                table, seen = groups.measured(options, case, rows, bar, traces, start)
                found.append(table)
                about |= seen
    return {"peers": about, "cases": found}


def tables(results: Json) -> list[Table]:
    return [report.times(case) for case in results["cases"]]


def draw(results: Json, folder: Path) -> list[Path]:
    cases = pictures.measured(results["cases"])
    if not cases:
        return []
    return [
        pictures.speedups(cases, folder / "step_speedups.png"),
        pictures.roofline(cases, folder / "step_roofline.png"),
    ]


def failures(results: Json) -> list[str]:
    return report.failures(results["cases"])
