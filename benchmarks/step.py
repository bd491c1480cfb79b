"""Time of one optimizer step, its memory and its tracing: ours on each route beside its peers.

All rows of a table update the same weights with the same gradients, each with its own slots. First
each has to take some steps as the references of the tests take them, or is void. GB/s counts the
bytes a step cannot avoid: what its passes read and write of weights, gradients and slots, and what
options add. The roofline is STREAM over as many bytes, in the same repeats; a device copy on a GPU.

A sweep varies one thing. `--optimizers`, `--shapes` and `--step_options` measure all combinations
of what they name instead.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import arguments, groups, models, pictures, process, report, timing
from benchmarks.options import Options
from benchmarks.session import Case, Row, Session, rows_of

Json = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Combinations of optimizers, shapes and options, and which rows are measured of them.

    Attributes:
        optimizers: names of classes; none: every class of this package.
        shapes: as `models.of` takes them.
        quick_shapes: those of a quick run.
        step_options: as `arguments.parsed` takes them.
        rows: keys of rows; none: all that there are.
        repeats: the most that are taken.
        traces: how often functions are traced.
    """

    optimizers: tuple[str, ...]
    shapes: tuple[str, ...]
    quick_shapes: tuple[str, ...]
    step_options: tuple[str, ...] = ("none",)
    rows: tuple[str, ...] = ()
    repeats: int = 1000
    traces: int = 1


def equal(variables: int, weights: int) -> str:
    """Shapes of some variables of one size, which have so many weights together."""
    return f"{variables}*{max(1, weights // variables)}"


_FEW = ("ours_eager", "ours_function", "keras_eager", "keras_function", "torch_foreach",
        "torch_fused")  # fmt: skip
_OPTIONS = ("ours_eager", "ours_function", "ours_xla", "keras_function", "keras_xla",
            "torch_fused", "optax_jit")  # fmt: skip
SWEEPS = {
    "models": Sweep(("AdamW",), ("matrices", "bert", "resnet50", "mlp"), ("mlp",), traces=3),
    "options": Sweep(
        ("AdamW",), ("bert", "matrices"), ("mlp",),
        ("none", "mask", "mask+clip", "mask+clip+ema", "mask+accumulate"), _OPTIONS,
    ),
    "optimizers": Sweep(
        tuple(name for name in arguments.ARGUMENTS if name != "AdamW"), ("resnet50",), ("mlp",)
    ),
    "variables": Sweep(
        ("AdamW",), tuple(equal(10**power, 10**6) for power in range(5)),
        (equal(1, 10**6), equal(100, 10**6)), rows=_FEW,
    ),
    "bytes": Sweep(
        ("AdamW",), tuple(equal(10, 256 * 4**power) for power in range(10)),
        (equal(10, 256), equal(10, 4096)), rows=_FEW,
    ),
    "family": Sweep((), ("matrices",), ("mlp",), rows=("ours_eager",), repeats=7),
}  # fmt: skip
# An eager step of Keras takes 3 to 8 ms for each variable, tracing one 30 ms, and seconds for large
# ones: a step of 2 s, and a trace of half a minute, are as far as the sweep of `variables` goes.
MOST_VARIABLES = {"keras_eager": 200, "keras_function": 1000}
MOST_WEIGHTS = {"keras_eager": 200_000_000}
QUICK_OPTIMIZERS = 2
MEMORY_IN_USE = 0.5


def measure(options: Options, console: Console, start: process.Starter = process.start) -> Json:
    found, about = [], {}
    with report.progress(console) as bar:
        for name in chosen(options):
            sweep = SWEEPS[name]
            limited = dataclasses.replace(options, repeats=min(sweep.repeats, options.repeats))
            for case in cases(sweep, options, start):
                rows = wanted_rows(sweep, case, options)
                traces = 1 if options.quick else sweep.traces
                table, seen = groups.measured(limited, case, rows, bar, traces, start)
                found.append({"sweep": name, **table})
                about |= seen
    return {"peers": about, "cases": found}


def chosen(options: Options) -> Sequence[str]:
    """The sweeps that were asked for, or the one that fits what was asked for."""
    if unknown := set(options.sweeps or ()) - {*SWEEPS}:
        raise SystemExit(f"--sweeps: {', '.join(unknown)} is none of {', '.join(SWEEPS)}")
    if options.sweeps:
        return options.sweeps
    if options.step_options:
        return ("options",)
    return ("models",) if options.shapes or options.optimizers else tuple(SWEEPS)


def cases(sweep: Sweep, options: Options, start: process.Starter) -> Iterator[Case]:
    """All combinations, but those with more weights than memory has room for."""
    optimizers = options.optimizers or sweep.optimizers or family(options, start)
    if options.quick and not options.optimizers:
        optimizers = optimizers[:QUICK_OPTIMIZERS]
    shapes = options.shapes or (sweep.quick_shapes if options.quick else sweep.shapes)
    memory = MEMORY_IN_USE * timing.available_memory()
    for model in shapes:
        variables = tuple(models.of(model))
        if 4 * models.weights(variables) * groups.copies(rows_of(("ours",))) > memory:
            continue
        for optimizer in optimizers:
            for text in options.step_options or sweep.step_options:
                yield Case(optimizer, model, variables, arguments.parsed(text))


def family(options: Options, start: process.Starter) -> tuple[str, ...]:
    """The names of all optimizers of this package; none if it does not start."""
    with Session(options, start) as session:
        try:
            return tuple(session.process("ours").ask("names")["names"])
        except process.PeerError:
            return ("AdamW",)  # whose row says why


def wanted_rows(sweep: Sweep, case: Case, options: Options) -> list[Row]:
    """Rows of a case; those that would take too long are there and say so."""
    rows = rows_of(("ours", *options.peers), without_slow=options.quick and not sweep.rows)
    rows = [row for row in rows if not sweep.rows or row.key in sweep.rows]
    for row in rows:
        many = len(case.shapes) > MOST_VARIABLES.get(row.key, len(case.shapes))
        large = case.weights > MOST_WEIGHTS.get(row.key, case.weights)
        if many or large:
            row.fail("left out: would take too long")
    return rows


def tables(results: Json) -> list[Table]:
    return [report.steps(case) for case in results["cases"]]


def draw(results: Json, folder: Path, suffix: str) -> list[Path]:
    """Pictures of the cases that have something to show; `suffix` tells the device."""
    shown: dict[str, list[Json]] = {}
    for case in results["cases"]:
        if any(row.get("ratio") for row in case["rows"]):
            shown.setdefault(case["sweep"], []).append(case)
    drawn = [
        _DRAWN[name][0](found, folder / f"step{suffix}_{_DRAWN[name][1]}.png")
        for name, found in shown.items()
        if name in _DRAWN
    ]
    # On a GPU there is no peak memory; tracing is the host's work.
    some = [*shown.get("models", ()), *shown.get("optimizers", ())]
    some = [case for case in some if any("peak_growth_bytes" in row for row in case["rows"])]
    if traced := [case for case in some if case["sweep"] == "models"]:
        drawn.append(pictures.tracing(traced, folder / f"step{suffix}_tracing.png"))
    if grown := [c for c in some if (c["optimizer"], c["model"]) in pictures.MEMORY]:
        drawn.append(pictures.memory(grown, folder / f"step{suffix}_memory.png"))
    return drawn


_DRAWN = {
    "models": (pictures.speedups, "speedups"),
    "optimizers": (pictures.speedups, "optimizers"),
    "options": (pictures.speedups, "options"),
    "variables": (pictures.over_variables, "variables"),
    "bytes": (pictures.over_bytes, "bytes"),
}


def failures(results: Json) -> list[str]:
    return report.failures(results["cases"])
