"""Pictures of how the time of a step grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks import pictures

Json = dict[str, Any]

STYLES = {
    "ours_eager": (pictures.OURS, "-", "o"),
    "ours_function": (pictures.OURS, "--", "o"),
    "keras_eager": ("#2980b9", ":", "s"),
    "keras_function": ("#2980b9", "--", "s"),
    "torch_foreach": ("#27ae60", ":", "^"),
    "torch_fused": ("#27ae60", "-", "^"),
    "limit": (pictures.LIMIT, "-", ""),
}
AXES = {"threads": "threads", "variables": "variables", "bytes": "bytes of weights"}


def value(case: Json, kind: str) -> int:
    """What a case is drawn over."""
    return 4 * case["weights"] if kind == "bytes" else case[kind]


def by_label(cases: Sequence[Json]) -> dict[str, list[Json]]:
    """For each row its results, one of each case; a row that a case lacks is an empty one."""
    labels = dict.fromkeys(row["label"] for case in cases for row in case["rows"])
    empty = {"note": "not measured"}
    return {
        label: [next((r for r in case["rows"] if r["label"] == label), empty) for case in cases]
        for label in labels
    }


def lines(cases: Sequence[Json], kind: str, path: Path) -> Path:
    """Milliseconds over threads, variables or bytes, a panel for each optimizer."""
    optimizers = list(dict.fromkeys(case["optimizer"] for case in cases))
    with plt.rc_context(pictures.STYLE):
        figure, axes = plt.subplots(
            1, len(optimizers), squeeze=False, figsize=(0.8 + 5.6 * len(optimizers), 4)
        )
        for axis, optimizer in zip(axes[0], optimizers, strict=True):
            shown = [case for case in cases if case["optimizer"] == optimizer]
            shown.sort(key=lambda case: value(case, kind))
            _panel(axis, shown, kind)
            other = {"bytes": f"{shown[0]['variables']} variables"}.get(
                kind, f"{shown[0]['weights'] / 1e6:.3g} M weights"
            )
            axis.set_title(f"{optimizer}, {other}")
        return pictures.save(figure, path)


def _panel(axis: Any, cases: Sequence[Json], kind: str) -> None:
    for label, rows in by_label(cases).items():
        points = [(value(c, kind), r) for c, r in zip(cases, rows, strict=True) if "ms" in r]
        if points:
            color, style, marker = STYLES[points[0][1]["key"]]
            x, y = [place for place, _ in points], [row["ms"] for _, row in points]
            axis.plot(x, y, linestyle=style, marker=marker, color=color, markersize=4, label=label)
    if kind == "threads":
        ticks = [value(case, kind) for case in cases]
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
    else:
        axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(AXES[kind])
    axis.set_ylabel("ms per step")
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
