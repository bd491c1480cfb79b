"""Learning curves of all optimizers, with equal budgets and equal tuning.

    python -m benchmarks --suite quality

Each optimizer gets the same grid of learning rates around the one that its docstring starts with,
the same steps on the same batches, the same initial weights, and warm-up and decay where its method
allows them (`quality_optimizers.py` says to whom it does not). The rate with the
lowest validation loss at the end, as a mean over the seeds for tuning, is then used with other
seeds, and what these reach on the test split is reported. Where the best rate is at the edge of
the grid, the grid grows by a point there, as often as the protocol allows.

The results hold for these tasks, which are small, and this budget, which is short. Other arguments
than the learning rate are not tuned.
"""

import dataclasses
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# TensorFlow reads this when it is imported; its start-up notes would bury the progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import quality_pictures
from benchmarks.quality_optimizers import WARM_UP_PART, Competitor, select
from benchmarks.quality_tasks import TASKS, Task
from benchmarks.quality_training import Course, Run, Trainer

Json = dict[str, Any]
QUICK_TASKS, QUICK_OPTIMIZERS, QUICK_STEPS = ("digits",), ("AdamW", "keras.AdamW"), 60


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
    def from_seed(cls, seed: int) -> "Protocol":
        first = 100 * seed
        return cls(5, 3, (first, first + 1), tuple(range(first + 10, first + 15)), 12)

    @classmethod
    def quick(cls, seed: int) -> "Protocol":
        first = 100 * seed
        return cls(3, 1, (first,), (first + 10, first + 11), 4)


def measure(options: Any, console: Console) -> Json:
    """All tasks with all optimizers that were asked for."""
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    wanted = options.optimizers or (QUICK_OPTIMIZERS if options.quick else None)
    competitors = select(wanted)
    protocol = (Protocol.quick if options.quick else Protocol.from_seed)(options.seed)
    tasks = [load() for name, load in TASKS.items() if not options.quick or name in QUICK_TASKS]
    if options.quick:
        tasks = [dataclasses.replace(task, steps=QUICK_STEPS) for task in tasks]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        tf.device("/GPU:0" if options.device == "gpu" else "/CPU:0"),
        Progress(*columns, console=console) as progress,
    ):
        bar = progress.add_task("quality", total=len(tasks) * len(competitors))

        def tick(text: str) -> None:
            progress.update(bar, advance=1, description=text)

        results = [measure_task(task, competitors, protocol, tick) for task in tasks]
    about = dataclasses.asdict(protocol) | {"warm_up_part": WARM_UP_PART}
    return {"protocol": about, "tasks": results}


def measure_task(
    task: Task,
    competitors: Sequence[Competitor],
    protocol: Protocol,
    tick: Callable[[str], None],
) -> Json:
    course = Course(task, protocol.checkpoints)
    rows = []
    for competitor in competitors:
        rows.append(measure_optimizer(course, competitor, protocol))
        tick(f"{task.name}: {competitor.name}")
    return {
        "name": task.name,
        "data": task.data,
        "model": task.model,
        "weights": int(sum(tf.size(variable) for variable in course.variables)),
        "examples": {name: len(targets) for name, (_, targets) in task.splits.items()},
        "batch_size": task.batch_size,
        "steps": task.steps,
        "loss": task.loss_name,
        "metric": task.metric_name,
        "target": task.target,
        "checkpoints": course.checkpoints,
        "optimizers": rows,
    }


def measure_optimizer(course: Course, competitor: Competitor, protocol: Protocol) -> Json:
    trainer = Trainer(course, competitor)

    def score(rate: float) -> float | None:
        finals = [trainer.final_loss(rate, seed) for seed in protocol.tuning_seeds]
        losses = [loss for loss in finals if loss is not None]
        return statistics.fmean(losses) if len(losses) == len(finals) else None

    scores, best, at_edge = tune(score, competitor.centre, protocol)
    runs = [trainer.run(best, seed) for seed in protocol.test_seeds]
    return {
        "name": competitor.name,
        "note": competitor.note,
        "schedule": competitor.schedule.__name__,
        "start": competitor.centre,
        "grid": [{"rate": rate, "validation_loss": scores[rate]} for rate in sorted(scores)],
        "rate": best,
        "at_edge": at_edge,
        "route": trainer.route,
        **reported(runs, course),
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
    exponents = list(range(-half, half + 1))

    def rate(exponent: int) -> float:
        return centre * protocol.factor**exponent

    scores = {exponent: score(rate(exponent)) for exponent in exponents}
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
    best = best_of(scores)
    if best == min(scores):
        return "low"
    return "high" if best == max(scores) else None


def _or_infinity(loss: float | None) -> float:
    return math.inf if loss is None else loss


def reported(runs: Sequence[Run], course: Course) -> Json:
    """Medians and quartiles over seeds, in which a run that diverged is the worst there is."""
    losses = [run.test_loss for run in runs]
    reached = [run.steps_to(course.task.target, course.checkpoints) for run in runs]
    curves = [quartiles(point) for point in zip(*(run.curve for run in runs), strict=True)]
    low, median, high = quartiles(losses)
    return {
        "test_losses": losses,
        "test_loss": median,
        "test_loss_quartiles": [low, high],
        "test_metric": typical_metric(runs),
        "steps_to_target": quartiles(reached)[1],
        "seeds_at_target": sum(steps is not None for steps in reached),
        "curve": {
            name: [point[i] for point in curves] for i, name in enumerate(("low", "median", "high"))
        },
    }


def typical_metric(runs: Sequence[Run]) -> float | None:
    """The metric of the run with the median loss; the better one of two."""
    ordered = sorted(runs, key=lambda run: _or_infinity(run.test_loss))
    return ordered[(len(ordered) - 1) // 2].test_metric


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


def tables(results: Json) -> list[Table]:
    """One table for each task, the best median first."""
    return [_table(task, len(results["protocol"]["test_seeds"])) for task in results["tasks"]]


def _table(task: Json, seeds: int) -> Table:
    table = Table(
        title=f"{task['name']}: {task['data']}, {task['model']} of {task['weights']:,} weights\n"
        f"{task['steps']} steps of {task['batch_size']} examples, medians of {seeds} seeds",
        caption=f"test loss: {task['loss']}. steps: to a validation loss of {task['target']}. "
        "edge: where the best rate is at the end of the grid, one beyond it may be better."
        + "".join(f" {row['name']}: {row['note']}." for row in task["optimizers"] if row["note"]),
    )
    table.add_column("optimizer", no_wrap=True)
    for heading in ("test loss", "quartiles", task["metric"], "steps", "rate", "edge"):
        table.add_column(heading, justify="right")
    table.add_column("route")
    for row in sorted(task["optimizers"], key=quality_pictures.by_loss):
        table.add_row(*cells(row), row["at_edge"] or "", row["route"])
    return table


def cells(row: Json) -> list[str]:
    """Name, test loss and its quartiles, metric, steps and rate of an optimizer."""
    low, high = map(number, row["test_loss_quartiles"])
    return [
        row["name"],
        "diverged" if row["test_loss"] is None else number(row["test_loss"]),
        f"{low} to {high}",
        number(row["test_metric"]),
        number(row["steps_to_target"]),
        f"{row['rate']:.2g}",
    ]


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def draw(results: Json, folder: Path) -> list[Path]:
    """Learning curves, sensitivity to the learning rate, and test losses, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    return quality_pictures.draw(results["tasks"], folder)
