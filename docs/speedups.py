"""Draws the README's picture from the committed results of the benchmarks.

python docs/speedups.py    # writes docs/speedups.png
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "speedups.png"
WHOLE, STEP = "whole training step, fit", "optimizer step alone, ResNet-50"
# Of each panel: label, what the case has, and the rows to compare.
BARS = {
    WHOLE: [
        (
            'embeddings, batch 64, sparse="lazy"',
            {"task": "two towers", "batch": 64},
            "keras_fit",
            "ours_lazy_fit",
        ),
        ("embeddings, batch 64", {"task": "two towers", "batch": 64}, "keras_fit", "ours_fit"),
        ("MLP, batch 8", {"task": "mlp", "batch": 8}, "keras_fit", "ours_fit"),
        ("transformer, batch 64", {"task": "transformer", "batch": 64}, "keras_fit", "ours_fit"),
        ("convolutions, batch 64", {"task": "convolution", "batch": 64}, "keras_fit", "ours_fit"),
    ],
    STEP: [
        ("eager", {"model": "resnet50"}, "keras_eager", "ours_eager"),
        ("tf.function", {"model": "resnet50"}, "keras_function", "ours_function"),
        ("XLA", {"model": "resnet50"}, "keras_xla", "ours_xla"),
    ],
}
FILES = {WHOLE: "train.json", STEP: "step.json"}


def ratios():
    """How many times faster ours is: dict from panel to a dict from label."""
    return {
        panel: {label: _ratio(FILES[panel], wanted, *rows) for label, wanted, *rows in bars}
        for panel, bars in BARS.items()
    }


def _ratio(file, wanted, keras, ours):
    wanted = {"optimizer": "AdamW", "sweep": "models", "options": [], **wanted}
    cases = json.loads((RESULTS / file).read_text(encoding="utf-8"))["cases"]
    case = next(c for c in cases if all(c.get(name, v) == v for name, v in wanted.items()))
    ms = {row["key"]: row.get("ms") for row in case["rows"]}
    return ms[keras] / ms[ours]


def main():
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = ratios()
    sizes = [len(bars) for bars in panels.values()]
    figure, axes = plt.subplots(
        len(panels), figsize=(8, 4), sharex=True, height_ratios=sizes, layout="constrained"
    )
    for axis, (title, bars) in zip(axes, panels.items()):
        colors = ["#c0392b" if ratio >= 1.15 else "#7f8c8d" for ratio in bars.values()]
        drawn = axis.barh(list(bars), list(bars.values()), color=colors)
        axis.bar_label(drawn, [f" {ratio:.1f}x" for ratio in bars.values()])
        axis.set_title(title, loc="left", fontsize=10, weight="bold")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[-1].set_xscale("log")
    axes[-1].set_xlim(0.8, 120)
    axes[-1].set_xticks([1, 2, 5, 10, 20, 50, 100], ["1x", "2x", "5x", "10x", "20x", "50x", "100x"])
    axes[-1].minorticks_off()
    axes[-1].set_xlabel("times faster than Keras' AdamW, in the same run on 2 CPU cores")
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
