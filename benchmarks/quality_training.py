"""One training run after another, with the same weights, examples and schedule for all optimizers.

The steps between two checkpoints are one call of one function, which is traced once for each
optimizer: the learning rate is a variable, and weights and optimizer are set back between runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from benchmarks.quality_optimizers import Competitor
from benchmarks.quality_tasks import Task


@dataclass(frozen=True)
class Run:
    """Losses at the checkpoints, None from where they are no numbers, and the result of the test.

    A run that diverged has no result.
    """

    curve: Sequence[float | None]
    test_loss: float | None = None
    test_metric: float | None = None

    def steps_to(self, target: float, checkpoints: list[int]) -> int | None:
        """The first checkpoint with this loss."""
        pairs = zip(checkpoints, self.curve, strict=True)
        return next((step for step, loss in pairs if loss is not None and loss <= target), None)


class TunedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A fixed shape times a peak that is set before each run."""

    def __init__(self, factors: np.ndarray, is_what_is_replaced: bool) -> None:
        self.factors = tf.constant(factors, tf.float32)
        self.peak = tf.Variable(0.0, trainable=False)
        self.is_what_is_replaced = is_what_is_replaced

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        last = len(self.factors) - 1
        rate = self.peak * self.factors[tf.minimum(tf.cast(step, tf.int32), last)]
        return 1.0 - tf.minimum(rate, 1.0) if self.is_what_is_replaced else rate


class Course:
    """A task on a device: its examples, its model, and the weights that each seed starts with."""

    def __init__(self, task: Task, checkpoints: int) -> None:
        """The validation loss is taken at some checkpoints, of which the start is none."""
        self.task, count = task, checkpoints
        self.checkpoints = sorted({math.ceil(task.steps * (i + 1) / count) for i in range(count)})
        self.splits = {
            name: (tuple(map(tf.constant, inputs)), tf.constant(targets))
            for name, (inputs, targets) in task.splits.items()
        }
        self.model = task.build()
        self.variables = self.model.trainable_variables
        self._starts: dict[int, tuple[list[np.ndarray], tf.Tensor]] = {}
        self._judge = tf.function(self._judge_graph)

    def start(self, seed: int) -> tf.Tensor:
        """Sets the model to the initial weights of a seed; returns its batches, as places."""
        if seed not in self._starts:
            keras.utils.set_random_seed(seed)
            weights = [variable.numpy() for variable in self.task.build().trainable_variables]
            self._starts[seed] = weights, tf.constant(self._batches(seed))
        weights, batches = self._starts[seed]
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)
        return batches

    def _batches(self, seed: int) -> np.ndarray:
        """Every example once before any comes again, in whole batches."""
        examples, size = len(self.task.splits["train"][1]), self.task.batch_size
        numbers, per_epoch = np.random.default_rng(seed), examples // size
        epochs = math.ceil(self.task.steps / per_epoch)
        orders = [numbers.permutation(examples)[: per_epoch * size] for _ in range(epochs)]
        return np.concatenate(orders).reshape(-1, size)[: self.task.steps].astype("int32")

    def gradients(self, places: tf.Tensor) -> list[tf.Tensor]:
        inputs, targets = self.splits["train"]
        batch = tuple(tf.gather(array, places) for array in inputs)
        with tf.GradientTape() as tape:
            loss = self.task.loss(tf.gather(targets, places), self._outputs(batch))
        return tape.gradient(loss, self.variables)

    def judge(self, split: str) -> tuple[float, float]:
        """The loss and the metric of the model as it is."""
        loss, metric = self._judge(*self.splits[split])
        return float(loss), float(metric)

    def _judge_graph(self, inputs: tuple, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = self._outputs(inputs)
        return self.task.loss(targets, outputs), self.task.metric(targets, outputs)

    def _outputs(self, inputs: tuple) -> tf.Tensor:
        return self.model(list(inputs) if len(inputs) > 1 else inputs[0], training=True)


class Trainer:
    """Trains one competitor on a course, as often as asked, with one trace."""

    def __init__(self, course: Course, competitor: Competitor) -> None:
        self.course = course
        factors = competitor.schedule(course.task.steps)
        self.rate = TunedSchedule(factors, competitor.rate_is_what_is_replaced)
        self.optimizer = competitor.make(learning_rate=self.rate)
        self.optimizer.build(course.variables)
        self._initial = [variable.numpy() for variable in self.optimizer.variables]
        self._advance = tf.function(self._advance_graph)

    def final_loss(self, rate: float, seed: int) -> float | None:
        """The validation loss after all steps, None if it is no number. Rates are judged by it."""
        batches = self._start(rate, seed)
        self._advance(batches, tf.constant(0), tf.constant(self.course.task.steps))
        loss, _ = self._judge("validation")
        return loss if math.isfinite(loss) else None

    def run(self, rate: float, seed: int) -> Run:
        """Trains with a peak rate from the start of a seed, and tests.

        Stops where the loss is no number any more: what diverged does not come back.
        """
        marks, before = self.course.checkpoints, 0
        curve: list[float] = []
        batches = self._start(rate, seed)
        for step in marks:
            self._advance(batches, tf.constant(before), tf.constant(step))
            before = step
            loss, _ = self._judge("validation")
            if not math.isfinite(loss):
                return Run([*curve, *[None] * (len(marks) - len(curve))])
            curve.append(loss)
        loss, metric = self._judge("test")
        if not math.isfinite(loss):
            return Run(curve)
        return Run(curve, loss, self.course.task.present(metric))

    def _start(self, rate: float, seed: int) -> tf.Tensor:
        self.rate.peak.assign(rate)
        for variable, value in zip(self.optimizer.variables, self._initial, strict=True):
            variable.assign(value)
        return self.course.start(seed)

    def _judge(self, split: str) -> tuple[float, float]:
        if hasattr(self.optimizer, "averaged_weights"):
            with self.optimizer.averaged_weights():
                return self.course.judge(split)
        return self.course.judge(split)

    def _advance_graph(self, batches: tf.Tensor, first: tf.Tensor, end: tf.Tensor) -> None:
        for step in tf.range(first, end):
            gradients = self.course.gradients(batches[step])
            self.optimizer.apply(gradients, self.course.variables)
