"""Time of one step of other optimizers than AdamW, beside the peers that have them.

Measured as in the suite `step`, over one model.
"""

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import arguments, peers, pictures, step
from benchmarks.options import Options

Json = dict[str, Any]

OPTIMIZERS = tuple(name for name in arguments.UPDATES if name not in step.OPTIMIZERS)
QUICK_OPTIMIZERS = ("SGD", "Lamb")  # of one pass over memory, and of two
SHAPES, QUICK_SHAPES = ("resnet50",), ("mlp",)

tables, failures = step.tables, step.failures


def measure(options: Options, console: Console, start: peers.Starter = peers.start) -> Json:
    optimizers = QUICK_OPTIMIZERS if options.quick else OPTIMIZERS
    shapes = QUICK_SHAPES if options.quick else SHAPES
    wanted = dataclasses.replace(
        options,
        optimizers=options.optimizers or optimizers,
        shapes=options.shapes or shapes,
    )
    return step.measure(wanted, console, start)


def draw(results: Json, folder: Path) -> list[Path]:
    cases = pictures.measured(results["cases"])
    return [pictures.speedups(cases, folder / "optimizers_speedups.png")] if cases else []
