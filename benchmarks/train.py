"""Whole training steps with our optimizers and Keras', and what part of a step the optimizer is.

Networks are trained in three ways: `fit` after `compile` with its default settings, a train step in
a `tf.function`, and the same inside of XLA. All rows of a table start at the same weights and see
the same batches, which are ready in memory; after some steps the weights have to agree with those
of Keras, or the row is void. A step without an optimizer is a row, too: what a step takes beyond
that is the optimizer's part.

A window is one call of `fit` or a loop of steps. What a call of `fit` costs beside its steps is
part of the time.
"""

import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import peers, report, timing, train_report
from benchmarks.options import Options
from benchmarks.session import Row, Session, Tick

Json = dict[str, Any]

BATCHES = {
    "mlp": (8, 64, 512),
    "convolution": (8, 64),
    "transformer": (8, 64),
    "two towers": (64, 512, 4096),
}
QUICK_BATCHES = {"mlp": (64,), "two towers": (64,)}
OPTIMIZERS = ("AdamW",)
MODES = {"fit": "fit", "function": "tf.function", "xla": "XLA"}
QUICK_MODES = ("fit", "function")
WITH_EMBEDDINGS = ("two towers",)
# Of the way that the weights went. Coarse, as Adam's first steps go as far for a gradient that
# is about zero as for any other, and networks round differently (Keras' own steps with XLA and
# without are 6 % of the way apart in one case); `step` compares the steps themselves.
# `sparse="lazy"` leaves out the decay of rows without a gradient.
TOLERANCE = 0.1
COMMAND = ("benchmarks.peers.training",)


@dataclass
class Kind:
    """Whose optimizer trains, and in which peer's process."""

    label: str
    peer: str
    library: str
    sparse: str = "exact"


KINDS = {
    "keras": Kind("Keras", "keras", "keras"),
    "ours": Kind("tf_optim_ext", "ours", "ours"),
    "ours_lazy": Kind('tf_optim_ext, sparse="lazy"', "ours", "ours", "lazy"),
    "nothing": Kind("forward and backward alone", "keras", "nothing"),
}


@dataclass
class TrainingRow(Row):
    """A row whose mode is one of `MODES`."""

    kind: str = ""
    weights: Path | None = None
    difference: float | None = None

    @property
    def key(self) -> str:
        return f"{self.kind}_{self.mode}"

    @property
    def label(self) -> str:
        return f"{KINDS[self.kind].label}, {MODES[self.mode]}"


@dataclass(frozen=True)
class Case:
    """A network, the examples in a batch, and an optimizer."""

    task: str
    batch: int
    optimizer: str

    @property
    def name(self) -> str:
        return f"{self.optimizer}, {self.task}, {self.batch}"

    def rows(self, modes: Iterable[str]) -> list[TrainingRow]:
        kinds = [k for k in KINDS if k != "ours_lazy" or self.task in WITH_EMBEDDINGS]
        return [TrainingRow(KINDS[k].peer, mode, kind=k) for mode in modes for k in kinds]


def start(name: str, options: Options) -> tuple[peers.Process, Json]:
    """Starts a process that trains with the optimizers of one library."""
    return peers.launch(name, COMMAND, options)


def measure(options: Options, console: Console, start: peers.Starter = start) -> Json:
    batches = QUICK_BATCHES if options.quick else BATCHES
    modes = QUICK_MODES if options.quick else tuple(MODES)
    found = []
    with report.progress(console) as bar, Session(options, start) as session:
        for optimizer in options.optimizers or OPTIMIZERS:
            for task, sizes in batches.items():
                for size in sizes:
                    case = Case(task, size, optimizer)
                    rows = case.rows(modes)
                    bar.start(case.name, rows[1:], options.windows)
                    found.append(measured(session, case, rows, bar.tick))
        return {"peers": session.about, "cases": found}


def measured(
    session: Session,
    case: Case,
    rows: Sequence[TrainingRow],
    tick: Tick = lambda label, count: None,
) -> Json:
    """Trains and times the rows of one case."""
    options = session.options
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            _build(session, case, row, Path(folder) / f"{row.key}.npz")
            tick(row.label, 1 if row.lives else 1 + options.windows)
        _check(rows, case.optimizer)
    session.interleave(rows, tick)
    for row in {row.peer: row for row in rows}.values():
        with session.failing(row):
            session.ask(row, "drop")
    return results(case, rows)


def _build(session: Session, case: Case, row: TrainingRow, weights: Path) -> None:
    kind = KINDS[row.kind]
    with session.failing(row):
        row.about = session.ask(
            row,
            "build",
            row=row.key,
            mode=row.mode,
            library=kind.library,
            task=case.task,
            batch=case.batch,
            optimizer=case.optimizer,
            sparse=kind.sparse,
            seed=session.options.seed,
            window_seconds=session.options.window_seconds,
            weights=str(weights),
        )
        row.weights = weights
        if kind.library == "ours" and not row.about["route"]:
            row.fail("void: the optimizer names no route")


def _check(rows: Sequence[TrainingRow], optimizer: str) -> None:
    """Compares weights after some steps with those that Keras' optimizer makes of the same."""
    trained = [row for row in rows if row.lives and row.kind != "nothing"]
    anchor = next((row for row in trained if row.kind == "keras"), None)
    for row in trained:
        if anchor is None:
            row.note = f"not checked: there are no weights of Keras' {optimizer}"
            continue
        row.difference = difference(row.weights, anchor.weights)
        if not row.difference <= TOLERANCE:  # also if it is not a number
            row.fail(
                f"void: after some steps its weights are {100 * row.difference:.2g} % of the way "
                f"off from those of {anchor.label}"
            )


def difference(found: Path, wanted: Path) -> float:
    """How far apart weights are after some steps, as a part of the way that they went.

    The files hold the weights before, and then after. Infinite if the first ones differ.
    """
    with np.load(found) as mine, np.load(wanted) as theirs:
        count = len(theirs.files) // 2
        names = [f"arr_{number}" for number in range(2 * count)]
        if not all(np.array_equal(mine[name], theirs[name]) for name in names[:count]):
            return float("inf")
        apart = moved = 0.0
        for before, after in zip(names[:count], names[count:], strict=True):
            apart += float(np.sum(np.square(mine[after] - theirs[after], dtype=np.float64)))
            moved += float(np.sum(np.square(theirs[after] - theirs[before], dtype=np.float64)))
    return (apart / moved) ** 0.5 if moved else float("inf")


def results(case: Case, rows: Sequence[TrainingRow]) -> Json:
    """The numbers of one case."""
    medians = {
        row.key: statistics.median(row.windows) for row in rows if row.windows and not row.failed
    }
    sizes = next((row.about for row in rows if row.about), {})
    return {
        "task": case.task,
        "batch": case.batch,
        "optimizer": case.optimizer,
        "variables": sizes.get("variables"),
        "weights": sizes.get("weights"),
        "rows": [_row_result(row, medians) for row in rows],
    }


def _row_result(row: TrainingRow, medians: dict[str, float]) -> Json:
    result: Json = {
        "key": row.key,
        "kind": row.kind,
        "mode": row.mode,
        "label": row.label,
        "route": row.about.get("route", ""),
        "note": row.note,
        "failed": row.failed,
        "difference": row.difference,
    }
    if row.key not in medians:
        return result
    low, seconds, high = timing.quartiles(row.windows)
    alone, keras = medians.get(f"nothing_{row.mode}"), medians.get(f"keras_{row.mode}")
    return result | {
        "ms": 1e3 * seconds,
        "ms_quartiles": [1e3 * low, 1e3 * high],
        "ms_of_optimizer": 1e3 * (seconds - alone) if alone and row.kind != "nothing" else None,
        "speedup": keras / seconds if keras and row.kind != "nothing" else None,
        "first_step_seconds": row.about["first_step_seconds"],
        "steps_per_window": row.about["steps_per_window"],
        "windows_ms": [1e3 * window for window in row.windows],
    }


def tables(results: Json) -> list[Table]:
    return [train_report.table(case) for case in results["cases"]]


def draw(results: Json, folder: Path) -> list[Path]:
    """Pictures of cases that can be compared: with Keras, and with the step without optimizer."""
    pictures = {"speedup": train_report.speedups, "ms_of_optimizer": train_report.breakdown}
    drawn = []
    for number, picture in pictures.items():
        cases = [c for c in results["cases"] if any(r.get(number) is not None for r in c["rows"])]
        if cases:
            drawn.append(picture(cases, folder / f"train_{picture.__name__}.png"))
    return drawn


def failures(results: Json) -> list[str]:
    """Rows of ours that failed."""
    return [
        f"{case['optimizer']}, {case['task']}, batch {case['batch']}, {row['label']}: {row['note']}"
        for case in results["cases"]
        for row in case["rows"]
        if row["failed"] and row["kind"].startswith("ours")
    ]
