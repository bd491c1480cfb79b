"""Pictures of the suite `quality`, from its results alone."""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace as Task  # name, rows, and what results say of a task
from typing import Any

import matplotlib as mpl

from benchmarks import Json

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

Numbers = Sequence[float | None]
BEST = 5
REFERENCES = ("AdamW", "SGD (momentum)")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DOTTED = {"color": "#777777", "lw": 0.8, "ls": ":"}
OTHERS = {"color": "#c8c8c8", "lw": 0.7, "zorder": 1}
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


def tasks_of(results: Json) -> list[Task]:
    return [
        Task(name=name, rows=[c for c in results["cases"] if c["task"] == name], **about)
        for name, about in results["tasks"].items()
    ]


def draw(results: Json, folder: Path, suffix: str) -> list[Path]:
    """Learning curves, sensitivity to the learning rate, and test losses."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in (curves, sensitivity, losses):
        with plt.rc_context(STYLE):
            figure = picture(tasks_of(results))
            paths.append(folder / f"quality{suffix}_{picture.__name__}.png")
            figure.savefig(paths[-1])
            plt.close(figure)
    return paths


def by_loss(row: Json) -> tuple[bool, float]:
    """The key of an order in which the best median comes first and what diverged last."""
    loss = row["test_loss"]
    return loss is None, loss or 0.0


def ranking(tasks: list[Task]) -> list[str]:
    """Names, by the mean of their ranks in all tasks."""
    ranks: dict[str, list[int]] = {}
    for task in tasks:
        for rank, row in enumerate(sorted(task.rows, key=by_loss)):
            ranks.setdefault(row["optimizer"], []).append(rank)
    return sorted(ranks, key=lambda name: statistics.fmean(ranks[name]))


def curves(tasks: list[Task]) -> Figure:
    def panel(axes: Axes, task: Task, colours: dict[str, str]) -> None:
        for row in task.rows:
            low, median, high = (_drawn(row["curve"][name]) for name in ("low", "median", "high"))
            if colour := colours.get(row["optimizer"]):
                style: Json = {"color": colour, "alpha": 0.15, "linewidth": 0, "zorder": 2}
                axes.fill_between(task.checkpoints, low, high, **style)
            style = {"color": colour, "lw": 1.6, "zorder": 3} if colour else OTHERS
            axes.plot(task.checkpoints, median, **style)
        axes.axhline(task.target, **DOTTED)
        medians = [row["curve"]["median"] for row in task.rows]
        _limit(axes, "y", [values[-1] for values in medians], [values[0] for values in medians])
        axes.set(xlabel="step", xlim=(0, task.steps))

    title = "Validation loss while training, each with its best learning rate"
    return _panels(
        tasks, panel, f"{title}\nmedian and quartiles over seeds; grey: all others; dotted: target"
    )


def sensitivity(tasks: list[Task]) -> Figure:
    def panel(axes: Axes, task: Task, colours: dict[str, str]) -> None:
        for row in task.rows:
            rates = [rate / row["start"] for rate in row["grid"]["rates"]]
            colour = colours.get(row["optimizer"])
            style: Json = {"color": colour, "lw": 1.6, "marker": "o", "ms": 3.5, "zorder": 3}
            losses = _drawn(row["grid"]["validation_losses"])
            axes.plot(rates, losses, **(style if colour else OTHERS))
        grids = [_finite(row["grid"]["validation_losses"]) for row in task.rows]
        best, worst = ([pick(g, default=None) for g in grids] for pick in (min, max))
        _limit(axes, "y", best, worst)
        axes.axvline(1.0, **DOTTED)
        axes.set(xscale="log", xlabel="learning rate / the one to start with")

    title = "Validation loss at the end, by learning rate\nmeans over the seeds for tuning; "
    return _panels(tasks, panel, f"{title}grey: all others; a line ends where runs diverge")


def losses(tasks: list[Task]) -> Figure:
    """Test losses of all, in the order of their mean ranks."""
    names = ranking(tasks)
    figure, panels = plt.subplots(
        1, len(tasks), sharey=True, squeeze=False, figsize=(WIDTH, 1.6 + 0.17 * len(names))
    )
    for axes, task in zip(panels[0], tasks):
        _losses_of(axes, task, names)
    panels[0][0].set_yticks(range(len(names)), names)
    panels[0][0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(
        "Test loss, each with its best learning rate: median and quartiles over seeds\n"
        "hollow: the built-in ones of Keras; grey: the best rate is at the edge of the grid; "
        "\N{MULTIPLICATION SIGN}: off the scale"
    )
    return figure


def _losses_of(axes: Axes, task: Task, names: list[str]) -> None:
    best = [row["test_loss_quartiles"][0] for row in task.rows]
    _limit(axes, "x", best, [row["test_loss"] for row in task.rows], ticks=4)
    left, right = axes.get_xlim()
    for row in task.rows:
        place, median = names.index(row["optimizer"]), row["test_loss"]
        if median is None or median > right:
            axes.plot(0.97, place, "x", color="#8c8c8c", ms=4, transform=axes.get_yaxis_transform())
            continue
        low, high = row["test_loss_quartiles"]
        colour = "#8c8c8c" if row["at_edge"] else COLOURS[0]
        axes.plot([low, right if high is None else high], [place, place], color=colour, lw=1.2)
        fill = "white" if row["optimizer"].startswith("keras.") else colour
        axes.plot(median, place, "o", ms=4, color=colour, markerfacecolor=fill)
    axes.set(xlim=(left, right), title=task.name, xlabel=task.loss.replace(" (", "\n("))


def _panels(
    tasks: list[Task], panel: Callable[[Axes, Task, dict[str, str]], None], title: str
) -> Figure:
    """A panel for each task, with the same colours and one legend for all.

    The best have colours, and two that everyone knows; those of Keras repeat ours.
    """
    columns = min(2, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure, panels = plt.subplots(rows, columns, squeeze=False, figsize=(WIDTH, 1.2 + 3.0 * rows))
    ranked = ranking(tasks)
    ours = [name for name in ranked if not name.startswith("keras.")] or ranked
    chosen = ours[:BEST] + [name for name in REFERENCES if name in ours[BEST:]]
    colours = dict(zip(chosen, COLOURS))
    for axes, task in zip(panels.flat, tasks):
        panel(axes, task, colours)
        axes.set(title=f"{task.name}: {task.model}, {task.weights:,} weights", ylabel=task.loss)
    for axes in panels.flat[len(tasks) :]:
        axes.remove()
    figure.suptitle(title)
    handles = [plt.Line2D([], [], color=colour, lw=2) for colour in colours.values()]
    figure.legend(handles, colours, loc="outside lower center", ncols=4)
    return figure


def _limit(axes: Axes, name: str, best: Numbers, worst: Numbers, ticks: int = 6) -> None:
    """A logarithmic scale from the best on, up to where the worst quarter would hide the others."""
    ordered = sorted(_finite(worst))
    low = min(_finite(best), default=1.0)
    high = ordered[math.floor(0.75 * (len(ordered) - 1))] if ordered else 1.0
    high = max(high, 1.05 * low)
    margin = (high / low) ** 0.05
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low / margin, high * margin)})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _finite(values: Numbers) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _drawn(values: Numbers) -> list[float]:
    return [math.nan if value is None else value for value in values]
