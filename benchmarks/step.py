"""Time of one optimizer step, its memory and its tracing: ours on each route beside its peers.

All rows of a table update the same weights with the same gradients, each with its own slots. First
each has to take some steps as the references of the tests take them, or is void. GB/s counts the
bytes a step cannot avoid: what its passes read and write of weights, gradients and slots, and what
options add. The roofline is STREAM over as many bytes, in the same repeats; a device copy on a GPU.

A sweep varies one thing. `--optimizers`, `--shapes` and `--step_options` measure all combinations
of what they name instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks import Json, arguments, models, pictures, process, report, timing
from benchmarks.options import Options
from benchmarks.session import Case, Row, Session, copies, measured, rows_of

tables, failures = report.tables, report.failures


@dataclass(frozen=True)
class Sweep:
    """Combinations of optimizers, shapes and options, and which rows are measured of them."""

    optimizers: tuple[str, ...]  # none: every class of this package
    shapes: tuple[str, ...]
    quick_shapes: tuple[str, ...]
    step_options: tuple[str, ...] = ("none",)
    rows: tuple[str, ...] = ()  # keys; none: all that there are
    repeats: int = 1000  # at most
    traces: int = 1  # of each function


def equal(variables: int, weights: int) -> str:
    """Shapes of some variables of one size, which have so many weights together."""
    return f"{variables}*{max(1, weights // variables)}"


_FEW = ("ours_eager", "ours_function", "keras_eager", "keras_function")
_FEW += ("torch_foreach", "torch_fused")
_USUAL = ("ours_eager", "ours_function", "ours_xla", "keras_function", "keras_xla")
_USUAL += ("torch_fused", "optax_jit")
_OPTIONS = ("none", "mask", "mask+clip", "mask+clip+ema", "mask+accumulate")
_OTHERS = tuple(name for name in arguments.ARGUMENTS if name != "AdamW")
_COUNTS = tuple(equal(10**power, 10**6) for power in range(5))
_SIZES = tuple(equal(10, 256 * 4**power) for power in range(10))
SWEEPS = {
    "models": Sweep(("AdamW",), ("matrices", "bert", "resnet50", "mlp"), ("mlp",), traces=3),
    "options": Sweep(("AdamW",), ("bert", "matrices"), ("mlp",), _OPTIONS, _USUAL),
    "optimizers": Sweep(_OTHERS, ("resnet50",), ("mlp",)),
    "variables": Sweep(("AdamW",), _COUNTS, _COUNTS[0:4:2], rows=_FEW),
    "bytes": Sweep(("AdamW",), _SIZES, _SIZES[0:4:2], rows=_FEW),
    "family": Sweep((), ("matrices",), ("mlp",), rows=("ours_eager",), repeats=7),
}
# An eager step of Keras takes 3 to 8 ms for each variable, tracing one 30 ms, and seconds for large
# ones: a step of 2 s, and a trace of half a minute, are as far as these rows go.
MOST_VARIABLES = {"keras_eager": 200, "keras_function": 1000}
MOST_WEIGHTS = {"keras_eager": 200_000_000}
QUICK_OPTIMIZERS = 2
MEMORY_IN_USE = 0.5


def measure(options: Options, console: Console, start: process.Starter = process.start) -> Json:
    found, about = [], {}
    with report.progress(console) as bar:
        for name in chosen(options):
            sweep = SWEEPS[name]
            limited = replace(options, repeats=min(sweep.repeats, options.repeats))
            traces = 1 if options.quick else sweep.traces
            for case in cases(sweep, options, start):
                rows = wanted_rows(sweep, case, options)
                table, seen = measured(limited, case, rows, bar, start, traces)
                found.append({"sweep": name, **table})
                about |= seen
    return {"peers": about, "cases": found}


def chosen(options: Options) -> Sequence[str]:
    """The sweeps that were asked for, or the one that fits what was asked for."""
    if unknown := set(options.sweeps or ()) - {*SWEEPS}:
        raise SystemExit(f"--sweeps: {', '.join(unknown)} is none of {', '.join(SWEEPS)}")
    if options.sweeps or options.step_options:
        return options.sweeps or ("options",)
    return ("models",) if options.shapes or options.optimizers else tuple(SWEEPS)


def cases(sweep: Sweep, options: Options, start: process.Starter) -> Iterator[Case]:
    """All combinations, but those with more weights than memory has room for."""
    optimizers = options.optimizers or sweep.optimizers or family(options, start)
    if options.quick and not options.optimizers:
        optimizers = optimizers[:QUICK_OPTIMIZERS]
    memory = MEMORY_IN_USE * timing.available_memory()
    for model in options.shapes or (sweep.quick_shapes if options.quick else sweep.shapes):
        variables = tuple(models.of(model))
        if 4 * models.weights(variables) * copies(rows_of(("ours",))) <= memory:
            for optimizer in optimizers:
                for text in options.step_options or sweep.step_options:
                    yield Case(optimizer, model, variables, arguments.parsed(text))


def family(options: Options, start: process.Starter) -> tuple[str, ...]:
    """The names of all optimizers of this package."""
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


DRAWN = {
    "models": (pictures.speedups, "speedups"),
    "optimizers": (pictures.speedups, "optimizers"),
    "options": (pictures.speedups, "options"),
    "variables": (pictures.over_variables, "variables"),
    "bytes": (pictures.over_bytes, "bytes"),
}


def draw(results: Json, folder: Path, suffix: str) -> list[Path]:
    """Pictures of the cases that have something to show; `suffix` tells the device."""
    shown: dict[str, list[Json]] = {}
    for case in results["cases"]:
        if any(row.get("ratio") for row in case["rows"]):
            shown.setdefault(case["sweep"], []).append(case)
    return [
        picture(shown[sweep], folder / f"step{suffix}_{name}.png")
        for sweep, (picture, name) in DRAWN.items()
        if sweep in shown
    ]
