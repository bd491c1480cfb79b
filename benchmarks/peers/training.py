"""Whole training steps with this package's or Keras' optimizers: `-m benchmarks.peers.training`."""

import abc
import contextlib
import gc
import math
import os
import time
from pathlib import Path
from typing import Any

# TensorFlow reads this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import arguments, timing
from benchmarks.peers import of_tensorflow, server
from benchmarks.train_tasks import TASKS, Batch, Task, distinct, repeated

Json = dict[str, Any]

BATCHES = 8  # different ones, so that rows of embeddings are not always in the caches
CHECKED_STEPS = 3
MOST_STEPS = 2000
PROBES = 4


class Discarding(keras.optimizers.Optimizer):
    """Moves nothing: what is left of a step without an optimizer.

    TensorFlow would not compute gradients that nobody uses. Assigning a gradient takes no copy; of
    a sparse one, whose size is not that of a variable, the sum is taken.
    """

    route = "no optimizer"

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        self.kept = [tf.Variable(tf.zeros(v.shape)) for v in variables]
        self.total = tf.Variable(0.0)

    def apply(self, grads: list[Any], trainable_variables: Any = None) -> None:
        for kept, gradient in zip(self.kept, grads, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                self.total.assign_add(tf.reduce_sum(gradient.values))
            else:
                kept.assign(gradient)
        self.iterations.assign_add(1)


def optimizer_of(library: str, name: str, sparse: str) -> Any:
    """An optimizer of "ours", "keras", or none at all of "nothing".

    Raises:
        Missing: there is no such optimizer.
    """
    if library == "nothing":
        return Discarding()
    given = arguments.of(name)
    if library == "ours":
        import tf_optim_ext as owner

        given["sparse"] = sparse
    else:
        owner = keras.optimizers
    cls = getattr(owner, arguments.class_of(name), None)
    if cls is None:
        raise server.Missing(f"{'tf_optim_ext' if library == 'ours' else 'Keras'} has no {name}")
    return cls(**given)


class Training(abc.ABC):
    """A model, its optimizer, and batches; subclasses take steps."""

    def __init__(self, task: Task, optimizer: Any, size: int, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.model, self.loss, self.optimizer = task.model(), task.loss(), optimizer
        optimizer.build(self.model.trainable_variables)
        numbers = np.random.default_rng(seed)
        self.checked = [task.batch(numbers, size, distinct)]
        self.batches = [task.batch(numbers, size, repeated) for _ in range(BATCHES)]

    @abc.abstractmethod
    def check(self, steps: int) -> None:
        """Takes steps that are to be compared, all with the same batch."""

    @abc.abstractmethod
    def run(self, steps: int) -> None:
        """Takes steps with all batches in turn."""

    def weights(self) -> list[np.ndarray]:
        return [np.array(v.numpy()) for v in self.model.trainable_variables]


class Fit(Training):
    """`fit` with the default settings of `compile`."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.model.compile(self.optimizer, self.loss)
        self.data = _endless(self.batches)

    def check(self, steps: int) -> None:
        self.model.fit(_endless(self.checked), steps_per_epoch=steps, verbose=0)

    def run(self, steps: int) -> None:
        self.model.fit(self.data, steps_per_epoch=steps, verbose=0)


def _endless(batches: list[Batch]) -> tf.data.Dataset:
    x, y = (np.stack(arrays) for arrays in zip(*batches, strict=True))
    options = tf.data.Options()
    # A call of `fit` ends with its iterator, which waits for TensorFlow's next round of tuning:
    # these are 10, 30, 70, 150, 310, ... ms after it was made.
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices((x, y)).repeat().with_options(options)


class Loop(Training):
    """A train step in a `tf.function`, which is called in a loop."""

    def __init__(self, *given: Any, jit_compile: bool | None) -> None:
        super().__init__(*given)
        self.checked = [tuple(map(tf.constant, batch)) for batch in self.checked]
        self.batches = [tuple(map(tf.constant, batch)) for batch in self.batches]
        variables = self.model.trainable_variables

        @tf.function(jit_compile=jit_compile)
        def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = self.loss(y, self.model(x, training=True))
            gradients = tape.gradient(loss, [v.value for v in variables])
            self.optimizer.apply(gradients, variables)
            return loss

        self.step = step

    def check(self, steps: int) -> None:
        self._loop(self.checked, steps)

    def run(self, steps: int) -> None:
        self._loop(self.batches, steps)

    def _loop(self, batches: list[Any], steps: int) -> None:
        for number in range(steps):
            loss = self.step(*batches[number % len(batches)])
        loss.numpy()
        self.optimizer.iterations.numpy()


def training_of(mode: str, *given: Any) -> Training:
    if mode == "fit":
        return Fit(*given)
    return Loop(*given, jit_compile=True if mode == "xla" else None)


class Server:
    """What can be asked for; the methods' names are those of the requests."""

    def __init__(self) -> None:
        self.library = of_tensorflow.Library()
        self.rows: dict[str, tuple[Training, int]] = {}

    def start(self, threads: int, device: str, keep_memory: bool) -> Json:
        kept = keep_memory and timing.keep_freed_memory()
        return {**self.library.start(threads, device), "malloc_keeps_memory": kept}

    def build(
        self,
        row: str,
        mode: str,
        library: str,
        task: str,
        batch: int,
        optimizer: str,
        sparse: str,
        seed: int,
        window_seconds: float,
        weights: str,
    ) -> Json:
        """Makes a row, saves its weights after the first steps, finds out what a window is.

        Args:
            row: its name.
            mode: "fit", "function" or "xla".
            library: "ours", "keras" or "nothing".
            task: name of a task.
            batch: examples in a batch.
            optimizer: name of a class.
            sparse: how ours treats sparse gradients.
            seed: of the initial weights and the batches.
            window_seconds: a window is at least about this long.
            weights: file for the weights before and after the first steps.
        """
        made = optimizer_of(library, optimizer, sparse)
        with tf.device(self.library.device):
            training = training_of(mode, TASKS[task], made, batch, seed)
            before = training.weights()
            with timing.Stopwatch() as first:
                training.check(1)
            training.check(CHECKED_STEPS - 1)
            after = training.weights()
            np.savez(Path(weights), *before, *after)
            steps = steps_of(training, window_seconds)
        self.rows[row] = training, steps
        gc.collect()
        gc.freeze()  # no row shall pay for collecting the graphs of the others
        return {
            "route": getattr(made, "route", ""),
            "first_step_seconds": first.seconds,
            "steps_per_window": steps,
            "variables": len(after),
            "weights": sum(w.size for w in after),
        }

    def window(self, row: str) -> Json:
        training, steps = self.rows[row]
        with tf.device(self.library.device):
            training.run(1)  # whatever ran before left its own data in the caches
            return {"seconds": _seconds(training, steps)}

    def drop(self) -> Json:
        """Gives the memory of the case back."""
        self.rows = {}
        keras.utils.clear_session()
        gc.unfreeze()
        gc.collect()
        return {}


def steps_of(training: Training, window_seconds: float) -> int:
    """How many steps a window takes; a call of `fit` costs something beside its steps."""
    steps = 1
    for _ in range(PROBES):
        seconds = steps * _seconds(training, steps)
        if seconds >= window_seconds or steps == MOST_STEPS:
            break
        steps = min(MOST_STEPS, math.ceil(1.1 * steps * window_seconds / seconds))
    return steps


def _seconds(training: Training, steps: int) -> float:
    """Seconds per step."""
    start = time.perf_counter()
    training.run(steps)
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(Server())
