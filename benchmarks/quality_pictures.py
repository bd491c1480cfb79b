"""Pictures of the suite `quality`, from its results alone."""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

Json = dict[str, Any]
Numbers = Sequence[float | None]
BEST = 5
REFERENCES = ("AdamW", "SGD (momentum)")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#c8c8c8"
WIDTH = 9.0
STYLE: Any = {
    "figure.constrained_layout.use": True,
    "savefig.dpi": 130,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#eeeeee",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def draw(tasks: list[Json], folder: Path) -> list[Path]:
    pictures = {
        "quality_curves.png": curves,
        "quality_sensitivity.png": sensitivity,
        "quality_losses.png": losses,
    }
    paths = []
    for name, picture in pictures.items():
        with plt.rc_context(STYLE):
            figure = picture(tasks)
            paths.append(folder / name)
            figure.savefig(paths[-1])
            plt.close(figure)
    return paths


def by_loss(row: Json) -> tuple[bool, float]:
    """The key of an order in which the best median comes first and what diverged last."""
    loss = row["test_loss"]
    return loss is None, loss or 0.0


def ranking(tasks: list[Json]) -> list[str]:
    """Names, by the mean of their ranks in all tasks."""
    ranks: dict[str, list[int]] = {}
    for task in tasks:
        for rank, row in enumerate(sorted(task["optimizers"], key=by_loss)):
            ranks.setdefault(row["name"], []).append(rank)
    return sorted(ranks, key=lambda name: statistics.fmean(ranks[name]))


def _highlighted(tasks: list[Json]) -> dict[str, str]:
    """Colours of the best, and of two that everyone knows; those of Keras repeat ours."""
    ranked = ranking(tasks)
    ours = [name for name in ranked if not name.startswith("keras.")] or ranked
    chosen = ours[:BEST] + [name for name in REFERENCES if name in ours[BEST:]]
    return dict(zip(chosen, COLOURS))


def curves(tasks: list[Json]) -> Figure:
    def line(axes: Axes, task: Json, row: Json, colour: str | None) -> None:
        curve = row["curve"]
        if colour is None:
            axes.plot(task["checkpoints"], _numbers(curve["median"]), color=GREY, lw=0.7, zorder=1)
            return
        axes.plot(task["checkpoints"], _numbers(curve["median"]), color=colour, lw=1.6, zorder=3)
        band = _numbers(curve["low"]), _numbers(curve["high"])
        axes.fill_between(
            task["checkpoints"], *band, color=colour, alpha=0.15, linewidth=0, zorder=2
        )

    def finish(axes: Axes, task: Json) -> None:
        axes.axhline(task["target"], color="#777777", lw=0.8, ls=":")
        medians = [_numbers(row["curve"]["median"]) for row in task["optimizers"]]
        _limit(axes.yaxis, [values[-1] for values in medians], [values[0] for values in medians])
        axes.set_xlabel("step")
        axes.set_xlim(0, task["steps"])

    return _panels(
        tasks,
        line,
        finish,
        "Validation loss while training, each with its best learning rate",
        "median and quartiles over seeds; grey: all others; dotted: target",
    )


def sensitivity(tasks: list[Json]) -> Figure:
    def line(axes: Axes, task: Json, row: Json, colour: str | None) -> None:
        rates = [point["rate"] / row["start"] for point in row["grid"]]
        values = _numbers([point["validation_loss"] for point in row["grid"]])
        style: Json = {"color": GREY, "lw": 0.7, "zorder": 1}
        if colour is not None:
            style = {"color": colour, "lw": 1.6, "marker": "o", "ms": 3.5, "zorder": 3}
        axes.plot(rates, values, **style)

    def finish(axes: Axes, task: Json) -> None:
        grids = [[point["validation_loss"] for point in row["grid"]] for row in task["optimizers"]]
        best = [min(_finite(grid), default=math.nan) for grid in grids]
        worst = [max(_finite(grid), default=math.nan) for grid in grids]
        _limit(axes.yaxis, best, worst)
        axes.set_xscale("log")
        axes.axvline(1.0, color="#777777", lw=0.8, ls=":")
        axes.set_xlabel("learning rate / the one to start with")

    return _panels(
        tasks,
        line,
        finish,
        "Validation loss at the end, by learning rate",
        "means over the seeds for tuning; grey: all others; a line ends where runs diverge",
    )


def losses(tasks: list[Json]) -> Figure:
    """Test losses of all, in the order of their mean ranks."""
    names = ranking(tasks)
    figure, panels = plt.subplots(
        1,
        len(tasks),
        sharey=True,
        squeeze=False,
        figsize=(WIDTH, 1.6 + 0.17 * len(names)),
    )
    places = {name: place for place, name in enumerate(names)}
    for axes, task in zip(panels[0], tasks):
        _losses_of(axes, task, places)
    panels[0][0].set_yticks(range(len(names)), names)
    panels[0][0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(
        "Test loss, each with its best learning rate: median and quartiles over seeds\n"
        "hollow: the built-in ones of Keras; grey: the best rate is at the edge of the grid; "
        "\N{MULTIPLICATION SIGN}: off the scale"
    )
    return figure


def _losses_of(axes: Axes, task: Json, places: dict[str, int]) -> None:
    best = [row["test_loss_quartiles"][0] for row in task["optimizers"]]
    _limit(axes.xaxis, best, [row["test_loss"] for row in task["optimizers"]], ticks=4)
    left, right = axes.get_xlim()
    for row in task["optimizers"]:
        place, median = places[row["name"]], row["test_loss"]
        if median is None or median > right:
            axes.plot(0.97, place, "x", color="#8c8c8c", ms=4, transform=axes.get_yaxis_transform())
            continue
        low, high = row["test_loss_quartiles"]
        colour = "#8c8c8c" if row["at_edge"] else COLOURS[0]
        axes.plot([low, right if high is None else high], [place, place], color=colour, lw=1.2)
        fill = "white" if row["name"].startswith("keras.") else colour
        axes.plot(median, place, "o", ms=4, color=colour, markerfacecolor=fill)
    axes.set_xlim(left, right)
    axes.set_title(task["name"])
    axes.set_xlabel(task["loss"].replace(" (", "\n("))


def _panels(
    tasks: list[Json],
    line: Callable[[Axes, Json, Json, str | None], None],
    finish: Callable[[Axes, Json], None],
    title: str,
    subtitle: str,
) -> Figure:
    """A panel for each task, with the same colours and one legend for all."""
    columns = min(2, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(WIDTH, 1.2 + 3.0 * rows),
    )
    colours = _highlighted(tasks)
    for axes, task in zip(panels.flat, tasks):
        for row in task["optimizers"]:
            line(axes, task, row, colours.get(row["name"]))
        axes.set_title(f"{task['name']}: {task['model']}, {task['weights']:,} weights")
        axes.set_ylabel(task["loss"])
        finish(axes, task)
    for axes in panels.flat[len(tasks) :]:
        axes.remove()
    figure.suptitle(f"{title}\n{subtitle}")
    handles = [plt.Line2D([], [], color=colour, lw=2) for colour in colours.values()]
    figure.legend(handles, colours, loc="outside lower center", ncols=4)
    return figure


def _limit(axis: XAxis | YAxis, best: Numbers, worst: Numbers, ticks: int = 6) -> None:
    """A logarithmic scale from the best on, up to where the worst quarter would hide the others."""
    low, high = min(_finite(best), default=1.0), _upper(_finite(worst))
    high = max(high, 1.05 * low)
    margin = (high / low) ** 0.05
    name = axis.axis_name
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low / margin, high * margin)})
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _upper(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[math.floor(0.75 * (len(ordered) - 1))] if ordered else 1.0


def _finite(values: Numbers) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _numbers(values: Numbers) -> list[float]:
    return [math.nan if value is None else value for value in values]
