"""Whole training steps with this package's or Keras' optimizers: `-m benchmarks.peers.training`."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# TensorFlow reads this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import Json, arguments
from benchmarks.peers import of_tensorflow, server
from benchmarks.train_tasks import TASKS, Batch, distinct, repeated

BATCHES = 8  # different ones, so that rows of embeddings are not always in the caches
CHECKED_STEPS = 3


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


def optimizer_of(kind: str, name: str) -> Any:
    """An optimizer of one of the kinds of rows that the suite `train` has."""
    if kind == "nothing":
        return Discarding()
    given, owner = arguments.of(name), keras.optimizers
    if kind != "keras":
        import tf_optim_ext as owner

        given["sparse"] = "lazy" if kind == "ours_lazy" else "exact"
    cls = getattr(owner, name, None)
    if cls is None:
        raise server.Missing(f"{owner.__name__} has no {name}")
    return cls(**given)


class Training(server.Step):
    """`fit` with the default settings of `compile`, or a train step in a function, in a loop."""

    def __init__(
        self, mode: str, kind: str, optimizer: str, task: str, batch: int, seed: int
    ) -> None:
        keras.utils.set_random_seed(seed)
        network, numbers = TASKS[task], np.random.default_rng(seed)
        self.optimizer, self.optimizer_name = optimizer_of(kind, optimizer), optimizer
        self.model, self.loss, self.mode = network.model(), network.loss(), mode
        self.optimizer.build(self.model.trainable_variables)
        checked = [network.batch(numbers, batch, distinct)]
        batches = [network.batch(numbers, batch, repeated) for _ in range(BATCHES)]
        if mode == "fit":
            self.model.compile(self.optimizer, self.loss)
            self.checked, self.batches = _dataset(checked), _dataset(batches)
            return
        self.checked, self.batches = (
            [tuple(map(tf.constant, pair)) for pair in pairs] for pairs in (checked, batches)
        )
        self.train = tf.function(self._train, jit_compile=True if mode == "xla" else None)

    def _train(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.loss(y, self.model(x, training=True))
        self.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    def run(self, steps: int, checked: bool = False) -> None:
        batches = self.checked if checked else self.batches
        if self.mode == "fit":
            self.model.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False)
            return
        for number in range(steps):
            loss = self.train(*batches[number % len(batches)])
        loss.numpy()
        of_tensorflow.wait_for(self.model.trainable_variables)

    def weights(self) -> list[np.ndarray]:
        return [np.array(v.numpy()) for v in self.model.trainable_variables]

    @property
    def route(self) -> str:
        return str(getattr(self.optimizer, "route", ""))


def _dataset(batches: list[Batch]) -> tf.data.Dataset:
    x, y = (np.stack(arrays) for arrays in zip(*batches, strict=True))
    options = tf.data.Options()
    # A call of `fit` ends with its iterator, which waits for TensorFlow's next round of tuning:
    # these are 10, 30, 70, 150, 310, ... ms after it was made.
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices((x, y)).repeat().with_options(options)


class Library(of_tensorflow.Library):
    """A network in the place of weights and gradients."""

    def case(self, **network: Any) -> None:
        self.network = network

    def forget(self) -> None:
        keras.utils.clear_session()

    def make(self, mode: str, optimizer: str, options: Sequence[str], traces: int) -> Training:
        """The only option is the kind of row, by whose name the first weights are saved."""
        (kind,), network = options, dict(self.network)
        folder = Path(network.pop("folder"))
        with tf.device(self.device):
            training = Training(mode, kind, optimizer, **network)
            before = training.weights()
            training.run(CHECKED_STEPS, checked=True)
        np.savez(folder / f"{kind}_{mode}.npz", *before, *training.weights())
        return training


class Server(server.Server):
    def case(self, **network: Any) -> Json:
        """Takes the name of a task, the size of batches, a seed, and a folder for weights."""
        self.drop()
        self.library.case(**network)
        return {}

    def build(self, **given: Any) -> Json:
        with tf.device(self.library.device):
            return {"route": super().build(**given)["route"]}

    def repeat(self, row: str) -> Json:
        with tf.device(self.library.device):
            return super().repeat(row)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(Server(Library()))
