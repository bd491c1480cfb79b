"""Pictures of steps, from their results alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks import Json

mpl.use("Agg")
import matplotlib.pyplot as plt

OURS, OTHERS, LINE = "#c0392b", "#7f8c8d", "#2c3e50"
STYLE = {
    "figure.dpi": 120,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
}
LINES = {
    "ours_eager": (OURS, "-", "o"),
    "ours_function": (OURS, "--", "o"),
    "keras_eager": ("#2980b9", ":", "s"),
    "keras_function": ("#2980b9", "--", "s"),
    "torch_foreach": ("#27ae60", ":", "^"),
    "torch_fused": ("#27ae60", "-", "^"),
    "stream": (LINE, "-", ""),
}


def speedups(cases: Sequence[Json], path: Path) -> Path:
    """Bars: how many times longer each row takes than our eager step, for each case."""
    columns = min(2 if len(cases) < 5 else 3, len(cases))
    lines = -(-len(cases) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, figsize=(4.6 * columns, 3.9 * lines), squeeze=False
        )
        for axis in axes.flat[len(cases) :]:
            axis.axis("off")
        for axis, case in zip(axes.flat, cases, strict=False):
            rows = [row for row in case["rows"] if row.get("ratio") and row["key"] != "stream"]
            rows.sort(key=lambda row: row["ratio"], reverse=True)
            values = [row["ratio"] for row in rows]
            left = min(0.5, *values) * 0.8
            axis.barh(
                [row["label"] for row in rows],
                [value - left for value in values],
                left=left,
                color=[OURS if row["key"].startswith("ours") else OTHERS for row in rows],
            )
            for place, value in enumerate(values):
                text = f"{value:.0f}" if value >= 10 else f"{value:.2g}"
                axis.text(value * 1.06, place, text, va="center", fontsize=7)
            axis.set_xscale("log")
            axis.set_xlim(left, max(values) * 2.2)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
            axis.axvline(1, color=OURS, linewidth=0.8)
            axis.tick_params(axis="y", labelsize=7, length=0)
            axis.set_title(_title(case))
            axis.set_xlabel("time of a step; 1: tf_optim_ext, eager")
        return save(figure, path)


def _title(case: Json) -> str:
    weights = case["weights"]
    size = f"{weights / 1e6:.0f} M" if weights >= 1e6 else f"{weights / 1e3:.0f} k"
    options = f" with {'+'.join(case['options'])}" if case["options"] else ""
    return f"{case['optimizer']}{options}, {case['model']}: {size} weights"


def over_variables(cases: Sequence[Json], path: Path) -> Path:
    title = f"{cases[0]['optimizer']}, {cases[0]['weights'] / 1e6:.3g} M weights"
    return _lines([(case["variables"], case) for case in cases], "variables", title, path)


def over_bytes(cases: Sequence[Json], path: Path) -> Path:
    title = f"{cases[0]['optimizer']}, {cases[0]['variables']} variables"
    return _lines([(4 * case["weights"], case) for case in cases], "bytes of weights", title, path)


def _lines(cases: Sequence[tuple[int, Json]], name: str, title: str, path: Path) -> Path:
    """Milliseconds of rows over something that grows."""
    cases = sorted(cases, key=lambda pair: pair[0])
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 4))
        for key, (color, style, marker) in LINES.items():
            points = [
                (x, row)
                for x, case in cases
                for row in case["rows"]
                if row["key"] == key and "ms" in row
            ]
            if points:
                x, rows = zip(*points, strict=True)
                y, label = [row["ms"] for row in rows], rows[0]["label"]
                axis.plot(x, y, linestyle=style, marker=marker, color=color, ms=4, label=label)
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="ms per step", title=title)
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return save(figure, path)


def save(figure: Any, path: Path) -> Path:
    """Writes a figure, closes it, and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path
