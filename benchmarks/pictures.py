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


def speedups(cases: Sequence[Json], path: Path) -> Path:
    """Bars: how many times longer each row takes than our eager step, for each case."""
    shown = [case for case in cases if any("ratio_to_anchor" in row for row in case["rows"])]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(shown), figsize=(3.1 * len(shown) + 1, 4.4), sharey=False, squeeze=False
        )
        for axis, case in zip(axes[0], shown, strict=True):
            rows = [r for r in case["rows"] if r.get("ratio_to_anchor") and r["key"] != "limit"]
            rows.sort(key=lambda row: row["ratio_to_anchor"], reverse=True)
            values = [row["ratio_to_anchor"] for row in rows]
            colors = [OURS if row["key"].startswith("ours") else OTHERS for row in rows]
            axis.barh([row["label"] for row in rows], values, color=colors)
            for place, value in enumerate(values):
                axis.text(value * 1.05, place, f"{value:.3g}", va="center", fontsize=7)
            axis.set_xscale("log")
            axis.set_xlim(min(0.5, *values) * 0.9, max(values) * 2.2)
            axis.axvline(1, color=OURS, linewidth=0.8)
            axis.tick_params(axis="y", labelsize=7)
            axis.set_title(f"{case['optimizer']}, {case['model']}")
            axis.set_xlabel("time, in eager steps of tf_optim_ext")
        return save(figure, path)


def roofline(cases: Sequence[Json], path: Path) -> Path:
    """How much of the memory's speed each row reaches, by weights of the case."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 4))
        ordered = sorted(cases, key=lambda case: case["weights"])
        keys = dict.fromkeys(row["key"] for case in ordered for row in case["rows"])
        for key in keys:
            points = [
                (case["weights"], row["gigabytes_per_second"], row["label"])
                for case in ordered
                for row in case["rows"]
                if row["key"] == key and row.get("gigabytes_per_second")
            ]
            if not points:
                continue
            x, y, labels = zip(*points, strict=True)
            ours, limit = key.startswith("ours"), key == "limit"
            color = OURS if ours else LIMIT if limit else OTHERS
            style = "-" if ours or limit else ":"
            axis.plot(x, y, style, marker="s" if limit else "o", color=color, markersize=4)
            axis.annotate(
                labels[-1], (x[-1], y[-1]), (5, 0), textcoords="offset points", fontsize=6,
                color=color, va="center",
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(right=axis.get_xlim()[1] * 6)
        axis.set_xlabel("weights")
        axis.set_ylabel("GB/s of unavoidable traffic")
        axis.set_title("Achieved against the limit of the memory")
        return save(figure, path)


def save(figure: Any, path: Path) -> Path:
    """Writes a figure, closes it, and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path
