"""Table and pictures of whole training steps."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from rich.table import Table

from benchmarks import pictures, report

Json = dict[str, Any]

NETWORK = "#bdc3c7"
COLORS = {"keras": pictures.OTHERS, "ours": pictures.OURS, "ours_lazy": "#e67e22"}
HATCHES = {"fit": "", "function": "//", "xla": ".."}


def table(case: Json) -> Table:
    size = f", {case['weights'] / 1e6:.3g} M weights" if case["weights"] else ""
    shown = Table(
        title=f"Training: {case['optimizer']}, {case['task']}, batches of {case['batch']}{size}",
        caption="IQR: interquartile range. optimizer: the time beyond that of a step without one. "
        "off: distance of the weights to Keras' after some steps, as a part of the way they went.",
    )
    shown.add_column("row", no_wrap=True)
    for heading in ("ms/step", "IQR", "optimizer ms", "Keras/this", "off", "first step s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("route")
    for row in case["rows"]:
        where = " - ".join(text for text in (row["route"], row["note"]) if text)
        if "ms" not in row:
            shown.add_row(row["label"], *[""] * 6, where)
            continue
        low, high = row["ms_quartiles"]
        shown.add_row(
            row["label"],
            f"{row['ms']:.3g}",
            f"{high - low:.2g}",
            report.number(row["ms_of_optimizer"], ".3g"),
            report.number(row["speedup"], ".2f"),
            report.number(row["difference"], ".1e"),
            f"{row['first_step_seconds']:.2f}",
            where,
        )
    return shown


def _name(case: Json) -> str:
    return f"{case['task']}, batches of {case['batch']}\n{case['optimizer']}"


def speedups(cases: Sequence[Json], path: Path) -> Path:
    """Bars: how many times faster a whole step is with ours than with Keras' optimizer."""
    cases = list(reversed(cases))
    bars = [
        (number, row)
        for number, case in enumerate(cases)
        for row in reversed(case["rows"])
        if row.get("speedup") and row["kind"] != "keras"
    ]
    with plt.rc_context(pictures.STYLE):
        figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.22 * len(bars) + 0.12 * len(cases)))
        places = [place + 0.6 * number for place, (number, _) in enumerate(bars)]
        for place, (_, row) in zip(places, bars, strict=True):
            axis.barh(
                place, row["speedup"], color=COLORS[row["kind"]], hatch=HATCHES[row["mode"]],
                edgecolor="white", linewidth=0,
            )  # fmt: skip
            axis.text(row["speedup"], place, f" {row['speedup']:.2f}", va="center", fontsize=7)
        axis.set_yticks(
            places,
            [
                f"{case['task']}, {case['batch']}, {case['optimizer']}: {row['label']}"
                for case, row in ((cases[number], row) for number, row in bars)
            ],
            fontsize=7,
        )
        values = [row["speedup"] for _, row in bars]
        axis.set_xscale("log")
        axis.set_xlim(0.9 * min([0.5, *values]), 1.5 * max([2.0, *values]))
        axis.axvline(1, color=pictures.LIMIT, linewidth=0.8)
        axis.set_xlabel("time of a whole step with Keras' optimizer / with this one")
        return pictures.save(figure, path)


def breakdown(cases: Sequence[Json], path: Path) -> Path:
    """Stacked bars: forward and backward, and what the optimizer adds, a panel for each case."""
    columns = min(3, len(cases))
    lines = math.ceil(len(cases) / columns)
    most = max(len(case["rows"]) for case in cases)
    with plt.rc_context(pictures.STYLE):
        figure, axes = plt.subplots(
            lines, columns, squeeze=False, figsize=(4.3 * columns, lines * (1.1 + 0.2 * most))
        )
        for axis in axes.flat[len(cases) :]:
            axis.set_visible(False)
        for axis, case in zip(axes.flat, cases, strict=False):
            _stacks(axis, case)
        return pictures.save(figure, path)


def _stacks(axis: Any, case: Json) -> None:
    rows = [r for r in reversed(case["rows"]) if r.get("ms_of_optimizer") is not None]
    for place, row in enumerate(rows):
        # Of two times that are about equal the difference may be below zero.
        added = max(0.0, row["ms_of_optimizer"])
        axis.barh(place, row["ms"] - added, color=NETWORK)
        axis.barh(place, added, left=row["ms"] - added, color=COLORS[row["kind"]])
        axis.text(row["ms"], place, f" {row['ms']:.3g}", va="center", fontsize=7)
    axis.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=7)
    axis.margins(x=0.15)
    axis.set_title(_name(case))
    axis.set_xlabel("ms per step: network (grey) + optimizer")
