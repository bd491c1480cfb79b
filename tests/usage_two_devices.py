"""The cells of `usage.py` under `MirroredStrategy`, in a process of its own: see `two_devices.py`.

`python tests/usage_two_devices.py LAMB fit` are all cells of an optimizer and a way of training;
without arguments, a sample; `Keras function`, what fails with Keras' own optimizers, too.
"""

import contextlib
import dataclasses
import functools
import sys
import tempfile

import common
import tensorflow as tf
import two_devices
import usage
from generation import keras

WAYS = ("fit", "train_step", "function")


def is_impossible(cell):
    """Whether TensorFlow fails, whatever the optimizer.

    It cannot initialize the variables that a `keras.Sequential` makes in the first call of a
    function if they are mirrored: "You must feed a value for placeholder tensor".
    """
    is_late = cell.way == "function" and cell.build == "late"
    return is_late and cell.model in ("sequential", "nested", "recurrent", "embedding")


EVERY = [cell for cell in usage.every_cell(WAYS) if not is_impossible(cell)]
SOME = [cell for cell in usage.some_cells(WAYS) if not is_impossible(cell)]
IMPOSSIBLE = [
    usage.Cell(model, build, "function", "Keras")
    for model, build in usage.MADE
    if is_impossible(usage.Cell(model, build, "function", "Keras"))
]


@dataclasses.dataclass(frozen=True)
class MirroredCell(usage.Cell):
    strategy: tf.distribute.Strategy | None = None

    def scope(self):
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def make(self, seed):
        with self.scope():
            return super().make(seed)

    def load(self, kind, folder):
        with self.scope():
            return super().load(kind, folder)

    def prepare_loop(self, model):
        with self.scope():
            super().prepare_loop(model)

    def state(self, model):
        with self.scope():
            return super().state(model)

    def train(self, model, first, steps=2):
        if self.way != "function":
            super().train(model, first, steps)
            return
        self.prepare_loop(model)
        arrays = usage.data(self.model)
        batches = tf.data.Dataset.from_tensor_slices(arrays).batch(usage.BATCH)
        batches = self.strategy.experimental_distribute_dataset(batches.skip(first).take(steps))

        @tf.function
        def step(batch):
            self.strategy.run(functools.partial(usage.step_of, model), args=batch)

        for batch in batches:
            step(batch)


def check(cell, strategy):
    with tempfile.TemporaryDirectory() as folder:
        MirroredCell(**dataclasses.asdict(cell), strategy=strategy).check(folder)


def main(optimizer=None, way=None):
    usage.OPTIMIZERS["Keras"] = lambda: keras.optimizers.SGD(0.1)
    every = [c for c in EVERY + IMPOSSIBLE if (c.optimizer, c.way) == (optimizer, way)]
    checks = {str(cell): functools.partial(check, cell) for cell in every or SOME}
    common.print_outcomes(checks, two_devices.start())


if __name__ == "__main__":
    main(*sys.argv[1:])
