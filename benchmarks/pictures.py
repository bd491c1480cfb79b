"""Pictures of results, from their JSON alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

Json = dict[str, Any]
OURS, OTHERS, LIMIT = "#c0392b", "#7f8c8d", "#2c3e50"
STYLE = {
    "figure.dpi": 120,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
}


def measured(cases: Sequence[Json]) -> list[Json]:
    """Cases with something to show: our eager step ran."""
    return [case for case in cases if any(row.get("ratio_to_anchor") for row in case["rows"])]


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
            rows = [r for r in case["rows"] if r.get("ratio_to_anchor") and r["key"] != "limit"]
            rows.sort(key=lambda row: row["ratio_to_anchor"], reverse=True)
            values = [row["ratio_to_anchor"] for row in rows]
            colors = [OURS if row["key"].startswith("ours") else OTHERS for row in rows]
            labels = [row["label"] for row in rows]
            left = min(0.5, *values) * 0.8
            axis.barh(labels, [value - left for value in values], left=left, color=colors)
            for place, value in enumerate(values):
                text = f"{value:.0f}" if value >= 10 else f"{value:.2g}"
                axis.text(value * 1.06, place, text, va="center", fontsize=7)
            axis.set_xscale("log")
            axis.set_xlim(left, max(values) * 2.2)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.axvline(1, color=OURS, linewidth=0.8)
            axis.tick_params(axis="y", labelsize=7, length=0)
            axis.set_title(f"{case['optimizer']}, {case['model']}: {_weights(case)}")
            axis.set_xlabel("time of a step; 1: tf_optim_ext, eager")
        return save(figure, path)


# Rows of the roofline: the fastest that each peer has, and its usual way.
ROOFLINE = {
    "ours_eager": (OURS, "o", "-"),
    "ours_function": (OURS, "s", "--"),
    "ours_xla": (OURS, "^", ":"),
    "keras_xla": ("#2980b9", "^", ":"),
    "keras_function": ("#2980b9", "s", "--"),
    "tf_keras_legacy_function": ("#16a085", "s", "--"),
    "raw_ops_function": ("#8e44ad", "s", "--"),
    "torch_fused": ("#d68910", "o", "-"),
    "torch_foreach": ("#d68910", "D", ":"),
    "optax_jit": ("#34495e", "^", ":"),
}


def roofline(cases: Sequence[Json], path: Path) -> Path:
    """What part of the memory's speed rows reach, by model from small to large."""
    ordered = sorted(cases, key=lambda case: case["weights"])
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.2, 4.2))
        for key, (color, marker, line) in ROOFLINE.items():
            points = [
                (place, row["percent_of_limit"], row["label"])
                for place, case in enumerate(ordered)
                for row in case["rows"]
                if row["key"] == key and row.get("percent_of_limit")
            ]
            if points:
                x, y, labels = zip(*points, strict=True)
                axis.plot(x, y, line, marker=marker, color=color, markersize=5, label=labels[0])
        axis.axhline(100, color=LIMIT, linewidth=1)
        axis.text(-0.1, 102, "memory limit: a plain loop over as many bytes", fontsize=7)
        names = [f"{case['optimizer']}\n{case['model']}\n{_weights(case)}" for case in ordered]
        axis.set_xticks(range(len(ordered)), names)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("% of the memory limit")
        axis.set_title("Achieved speed against the limit of the memory")
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return save(figure, path)


def _weights(case: Json) -> str:
    weights = case["weights"]
    return f"{weights / 1e6:.0f} M weights" if weights >= 1e6 else f"{weights / 1e3:.0f} k weights"


def save(figure: Any, path: Path) -> Path:
    """Writes a figure, closes it, and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path
