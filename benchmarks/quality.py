"""Learning curves of all optimizers, with equal budgets and equal tuning.

    python -m benchmarks --suite=quality

Each optimizer gets the same grid of learning rates around the one that its docstring starts with,
the same steps on the same batches, the same initial weights, and warm-up and decay where its method
allows them (`quality_optimizers.py` says to whom it does not). The rate with the
lowest validation loss at the end, as a mean over the seeds for tuning, is then used with other
seeds, and what these reach on the test split is reported. Where the best rate is at the edge of
the grid, the grid grows by a point there, as often as the protocol allows.

The results hold for these tasks, which are small, and this budget, which is short. Other arguments
than the learning rate are not tuned. With `--optimizers`, the others keep their results.
"""

import dataclasses
import math
import os
import statistics
from collections.abc import Callable, Sequence

# TensorFlow reads this when it is imported; its start-up notes would bury the progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from rich.console import Console
from rich.table import Table

from benchmarks import Json, quality_pictures, report
from benchmarks.options import Options
from benchmarks.peers import of_tensorflow
from benchmarks.quality_optimizers import WARM_UP_PART, Competitor, select
from benchmarks.quality_tasks import TASKS, Task
from benchmarks.quality_training import Course, Run, Trainer

QUICK_TASKS, QUICK_OPTIMIZERS, QUICK_STEPS = ("digits",), ("AdamW", "keras.AdamW"), 60
draw = quality_pictures.draw


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is the same for everyone.

    Args:
        grid_points: odd number of learning rates that are tried first.
        extensions: how many more may be tried, one at a time, while the best is at an edge.
        tuning_seeds: seeds of the runs that choose the rate.
        test_seeds: seeds of the runs that are reported.
        checkpoints: how often the validation loss is taken in a run.
    """

    grid_points: int
    extensions: int
    tuning_seeds: tuple[int, ...]
    test_seeds: tuple[int, ...]
    checkpoints: int
    factor: float = 10**0.5

    @classmethod
    def from_seed(cls, seed: int, quick: bool = False) -> "Protocol":
        first = 100 * seed
        if quick:
            return cls(3, 1, (first,), (first + 10, first + 11), 4)
        return cls(5, 3, (first, first + 1), tuple(range(first + 10, first + 15)), 12)


def measure(options: Options, console: Console) -> Json:
    """All tasks with all optimizers that were asked for, in this process."""
    library, quick = of_tensorflow.Ours(), options.quick
    about = library.start(options.threads, options.device)
    competitors = select(options.optimizers or (QUICK_OPTIMIZERS if quick else None))
    protocol = Protocol.from_seed(options.seed, quick)
    tasks = [load() for name, load in TASKS.items() if not quick or name in QUICK_TASKS]
    if quick:
        tasks = [dataclasses.replace(task, steps=QUICK_STEPS) for task in tasks]
    found: Json = {
        "protocol": dataclasses.asdict(protocol) | {"warm_up_part": WARM_UP_PART},
        "tasks": {},
        "cases": [],
    }
    with tf.device(library.device), report.progress(console) as bar:
        bar.begin("quality", len(tasks) * len(competitors))
        for task in tasks:
            course = Course(task, protocol.checkpoints)
            found["tasks"][task.name] = described(course)
            for competitor in competitors:
                row = measure_optimizer(course, competitor, protocol)
                found["cases"].append({"task": task.name, **row})
                bar.tick(1)
    return {"peers": {"ours": about}, **found}


def described(course: Course) -> Json:
    task = course.task
    names = ("data", "model", "batch_size", "steps", "loss", "metric", "target")
    texts = {"loss": task.loss_name, "metric": task.metric_name}
    return {
        **{name: texts.get(name) or getattr(task, name) for name in names},
        "weights": int(sum(tf.size(variable) for variable in course.variables)),
        "examples": {name: len(targets) for name, (_, targets) in task.splits.items()},
        "checkpoints": course.checkpoints,
    }


def measure_optimizer(course: Course, competitor: Competitor, protocol: Protocol) -> Json:
    trainer = Trainer(course, competitor)

    def score(rate: float) -> float | None:
        finals = [trainer.final_loss(rate, seed) for seed in protocol.tuning_seeds]
        losses = [loss for loss in finals if loss is not None]
        return statistics.fmean(losses) if len(losses) == len(finals) else None

    scores, best, at_edge = tune(score, competitor.centre, protocol)
    runs = [trainer.run(best, seed) for seed in protocol.test_seeds]
    rates = sorted(scores)
    return {
        "optimizer": competitor.name,
        "note": competitor.note,
        "schedule": competitor.schedule.__name__,
        "start": competitor.centre,
        "grid": {"rates": rates, "validation_losses": [scores[rate] for rate in rates]},
        "rate": best,
        "at_edge": at_edge,
        "route": str(getattr(trainer.optimizer, "route", "Keras")),
        **reported(runs, course.task, course.checkpoints),
    }


def tune(
    score: Callable[[float], float | None], centre: float, protocol: Protocol
) -> tuple[dict[float, float | None], float, str | None]:
    """Finds the rate with the lowest score; None is the score of a rate that diverges.

    Returns:
        The scores of all rates that were tried, the best rate, and at which edge of them it is:
        "low", "high" or None.
    """
    half = protocol.grid_points // 2

    def rate(exponent: int) -> float:
        return centre * protocol.factor**exponent

    scores = {exponent: score(rate(exponent)) for exponent in range(-half, half + 1)}
    for _ in range(protocol.extensions):
        edge = edge_of(scores)
        if edge is None:
            break
        further = max(scores) + 1 if edge == "high" else min(scores) - 1
        scores[further] = score(rate(further))
    by_rate = {rate(exponent): found for exponent, found in scores.items()}
    return by_rate, rate(best_of(scores)), edge_of(scores)


def best_of(scores: dict[int, float | None]) -> int:
    """The exponent with the lowest score; the lowest of all if all diverge."""
    return min(scores, key=lambda exponent: (_or_infinity(scores[exponent]), exponent))


def edge_of(scores: dict[int, float | None]) -> str | None:
    return {max(scores): "high", min(scores): "low"}.get(best_of(scores))


def _or_infinity(loss: float | None) -> float:
    return math.inf if loss is None else loss


def reported(runs: Sequence[Run], task: Task, checkpoints: list[int]) -> Json:
    """Medians and quartiles over seeds, in which a run that diverged is the worst there is."""
    reached = [run.steps_to(task.target, checkpoints) for run in runs]
    curves = [quartiles(point) for point in zip(*(run.curve for run in runs), strict=True)]
    low, median, high = quartiles([run.test_loss for run in runs])
    # The metric of the run with the median loss; the better one of two.
    ordered = sorted(runs, key=lambda run: _or_infinity(run.test_loss))
    return {
        "test_loss": median,
        "test_loss_quartiles": [low, high],
        "test_metric": ordered[(len(ordered) - 1) // 2].test_metric,
        "steps_to_target": quartiles(reached)[1],
        "seeds_at_target": sum(steps is not None for steps in reached),
        "curve": dict(zip(("low", "median", "high"), zip(*curves, strict=True), strict=True)),
    }


def quartiles(values: Sequence[float | None]) -> tuple[float | None, ...]:
    """The quartiles and the median, for which None is larger than all numbers."""
    ordered = sorted(_or_infinity(value) for value in values)
    return tuple(_quantile(ordered, part) for part in (0.25, 0.5, 0.75))


def _quantile(ordered: list[float], part: float) -> float | None:
    place = part * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    if math.isinf(high):
        return None
    return low + (place - math.floor(place)) * (high - low)


HEADINGS = ("optimizer", "test loss", "quartiles", "metric", "steps", "learning rate")


def tables(results: Json) -> list[Table]:
    """One table for each task, the best median first."""
    found = []
    for task in quality_pictures.tasks_of(results):
        notes = "".join(f" {row['optimizer']}: {row['note']}." for row in task.rows if row["note"])
        table = Table(title=title(task, results), caption=f"metric: {task.metric}.{notes}")
        for heading in HEADINGS:
            table.add_column(heading, no_wrap=True)
        for cells in rows(task):
            table.add_row(*cells)
        found.append(table)
    return found


def title(task: quality_pictures.Task, results: Json) -> str:
    """What the figures of a task are of."""
    data = task.data[:1].upper() + task.data[1:]
    return (
        f"{data}; {task.model} of {task.weights:,} weights; {task.steps} steps of "
        f"{task.batch_size} examples; medians of {len(results['protocol']['test_seeds'])} seeds. "
        f"Test loss: {task.loss}. Steps: until the validation loss is {task.target}."
    )


EDGES = {"low": " (lowest)", "high": " (highest)", None: ""}


def rows(task: quality_pictures.Task) -> list[list[str]]:
    """Cells under `HEADINGS`, the best median first."""
    found = []
    for row in sorted(task.rows, key=quality_pictures.by_loss):
        low, high = map(number, row["test_loss_quartiles"])
        loss = "diverged" if row["test_loss"] is None else number(row["test_loss"])
        steps, rate = number(row["steps_to_target"]), f"{row['rate']:.2g}{EDGES[row['at_edge']]}"
        metric = number(row["test_metric"])
        found.append([row["optimizer"], loss, f"{low} to {high}", metric, steps, rate])
    return found


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def failures(results: Json) -> list[str]:
    """None: a run that diverges is a result."""
    return []
