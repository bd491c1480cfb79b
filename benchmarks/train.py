"""Whole training steps with our optimizers and Keras', and what part of a step the optimizer is.

Networks are trained in three ways: `fit` after `compile` with its default settings, a train step in
a `tf.function`, and the same under XLA. All rows of a table start at the same weights and see the
same batches, which are ready in memory; after some steps the weights have to agree with those of
Keras, or the row is void. A step without an optimizer is a row, too: what a step takes beyond that
is the optimizer's part. A repeat is one call of `fit` or a loop of steps; what a call of `fit`
costs beside its steps is part of the time.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import Json, pictures, process, report, results
from benchmarks.options import Options
from benchmarks.process import PeerError
from benchmarks.session import Case, Row, Session, Tick

failures = report.failures

BATCHES = {
    "mlp": (8, 64, 512),
    "convolution": (8, 64),
    "transformer": (8, 64),
    "two towers": (64, 512, 4096),
}
QUICK_BATCHES = {"mlp": (64,), "two towers": (64,)}
MODES = {"fit": "fit", "function": "tf.function", "xla": "XLA"}
QUICK_MODES = ("fit", "function")
# Kinds of rows, in whose process they run, and what tables call them.
KINDS = {
    "keras": ("keras", "Keras"),
    "ours": ("ours", "tf_optim_ext"),
    "ours_lazy": ("ours", 'tf_optim_ext, sparse="lazy"'),
    "nothing": ("keras", "forward and backward alone"),
}
WITH_EMBEDDINGS = ("two towers",)
# Of the way that the weights went. Coarse, as Adam's first steps go as far for a gradient that
# is about zero as for any other, and networks round differently (Keras' own steps with XLA and
# without are 6 % of the way apart in one case); `step` compares the steps themselves.
# `sparse="lazy"` leaves out the decay of rows without a gradient.
TOLERANCE = 0.1
NETWORK = "#bdc3c7"
COLORS = {"keras": pictures.OTHERS, "ours": pictures.OURS, "ours_lazy": "#e67e22"}


@dataclass
class TrainingRow(Row):
    """A row whose mode is one of `MODES`, and whose variant is one of `KINDS`."""

    difference: float | None = None

    @property
    def key(self) -> str:
        return f"{self.variant}_{self.mode}"

    @property
    def label(self) -> str:
        return f"{KINDS[self.variant][1]}, {MODES[self.mode]}"

    def result(self, scale: float = 1.0) -> Json:
        kind = {"kind": self.variant, "mode": self.mode, "difference": self.difference}
        return super().result(scale) | kind


def rows_of(task: str, modes: Sequence[str]) -> list[TrainingRow]:
    kinds = [kind for kind in KINDS if kind != "ours_lazy" or task in WITH_EMBEDDINGS]
    return [TrainingRow(KINDS[kind][0], mode, kind) for mode in modes for kind in kinds]


def start(name: str, options: Options) -> tuple[process.Process, Json]:
    return process.start(name, options, ("benchmarks.peers.training",))


class TrainingSession(Session):
    """Trains networks; what is compared are the weights of the first steps, in files."""

    def train(self, case: Case, rows: list[TrainingRow], network: Json, tick: Tick) -> Json:
        with tempfile.TemporaryDirectory() as folder:
            self.network = {**network, "seed": self.options.seed, "folder": folder}
            found = self.measure(case, rows, tick)
        names = ("optimizer", "threads", "rows")
        return {**network, **{name: found[name] for name in names}}

    def _program(self, case: Case) -> Json:
        return {}

    def _check(self, row: Row, case: Case) -> None:
        """The weights of the first steps are there once all rows are built."""

    def _make_case(self, name: str, case: Case) -> None:
        try:
            self.process(name).ask("case", **self.network)
        except PeerError as error:
            self._reasons[name] = str(error)

    def interleave(self, rows: Sequence[TrainingRow], tick: Tick) -> None:
        """First compares the weights with those that Keras' optimizer makes of the same."""
        trained = [row for row in rows if row.lives and row.variant != "nothing"]
        baseline = next((row for row in trained if row.variant == "keras"), None)
        folder = Path(self.network["folder"])
        for row in trained:
            if baseline is None:
                row.note = "not checked: there are no weights of Keras' optimizer"
                continue
            row.difference = difference(folder / f"{row.key}.npz", folder / f"{baseline.key}.npz")
            if not row.difference <= TOLERANCE:  # also if it is not a number
                percent = f"{100 * row.difference:.2g} %"
                row.fail(f"void: its weights are {percent} of the way off from {baseline.label}'s")
        super().interleave(rows, tick)

    def _finish(self, row: Row) -> None:
        pass


def difference(found: Path, wanted: Path) -> float:
    """How far apart weights are after some steps, as a part of the way that they went.

    The files hold the weights before, and then after. Infinite if the first ones differ.
    """
    with np.load(found) as mine, np.load(wanted) as theirs:
        count = len(theirs.files) // 2
        apart = moved = 0.0
        for number in range(count):
            before, after = f"arr_{number}", f"arr_{count + number}"
            if not np.array_equal(mine[before], theirs[before]):
                return float("inf")
            apart += float(np.sum(np.square(mine[after] - theirs[after], dtype=np.float64)))
            moved += float(np.sum(np.square(theirs[after] - theirs[before], dtype=np.float64)))
    return (apart / moved) ** 0.5 if moved else float("inf")


def measure(options: Options, console: Console, start: process.Starter = start) -> Json:
    batches = QUICK_BATCHES if options.quick else BATCHES
    modes = QUICK_MODES if options.quick else tuple(MODES)
    found = []
    with report.progress(console) as bar, TrainingSession(options, start) as session:
        for optimizer in options.optimizers or ("AdamW",):
            for task, sizes in batches.items():
                for batch in sizes:
                    rows, case = rows_of(task, modes), Case(optimizer, f"{task}, {batch}", ())
                    bar.begin(case.name, len(rows) * (1 + options.repeats))
                    network = {"task": task, "batch": batch}
                    found.append(session.train(case, rows, network, bar.tick))
                    for row in found[-1]["rows"]:
                        _compare(row, found[-1]["rows"])
        return {"peers": session.about, "cases": found}


def _compare(row: Json, rows: Sequence[Json]) -> None:
    """Adds what the optimizer takes of a step, and how many times faster than Keras' it is."""
    by_key = {other["key"]: other["ms"] for other in rows if "ms" in other}
    alone, keras = (by_key.get(f"{kind}_{row['mode']}") for kind in ("nothing", "keras"))
    if "ms" in row and row["kind"] != "nothing":
        if alone:
            row["ms_of_optimizer"] = results.rounded(row["ms"] - alone)
        if keras:
            row["speedup"] = results.rounded(keras / row["ms"])


COLUMNS = (
    ("optimizer ms", "ms_of_optimizer", ".3g", 1),
    ("Keras/this", "speedup", ".2f", 1),
    ("off", "difference", ".1e", 1),
)
CAPTION = (
    "optimizer: the time beyond that of a step without one. off: distance of the weights to Keras' "
    "after some steps, as a part of the way they went."
)


def tables(results: Json) -> list[Table]:
    return [
        report.table(
            f"Training: {case['optimizer']}, {case['task']}, batches of {case['batch']}",
            COLUMNS,
            case["rows"],
            CAPTION,
        )
        for case in results["cases"]
    ]


def draw(results: Json, folder: Path, suffix: str) -> list[Path]:
    """Stacked bars: forward and backward, and what the optimizer adds, a panel for each case."""
    cases = [c for c in results["cases"] if any("ms_of_optimizer" in r for r in c["rows"])]
    if not cases:
        return []
    columns = min(3, len(cases))
    lines = math.ceil(len(cases) / columns)
    most = max(len(case["rows"]) for case in cases)
    with pictures.plt.rc_context(pictures.STYLE):
        figure, axes = pictures.plt.subplots(
            lines, columns, squeeze=False, figsize=(4.3 * columns, lines * (1.1 + 0.2 * most))
        )
        for axis in axes.flat[len(cases) :]:
            axis.set_visible(False)
        for axis, case in zip(axes.flat, cases, strict=False):
            _stacks(axis, case)
        return [pictures.save(figure, folder / f"train{suffix}_breakdown.png")]


def _stacks(axis: Any, case: Json) -> None:
    rows = [row for row in reversed(case["rows"]) if "ms_of_optimizer" in row]
    for place, row in enumerate(rows):
        # Of two times that are about equal the difference may be below zero.
        added = max(0.0, row["ms_of_optimizer"])
        axis.barh(place, row["ms"] - added, color=NETWORK)
        axis.barh(place, added, left=row["ms"] - added, color=COLORS[row["kind"]])
        axis.text(row["ms"], place, f" {row['ms']:.3g}", va="center", fontsize=7)
    axis.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=7)
    axis.margins(x=0.15)
    axis.set_title(f"{case['task']}, batches of {case['batch']}\n{case['optimizer']}")
    axis.set_xlabel("ms per step: network (grey) + optimizer")
