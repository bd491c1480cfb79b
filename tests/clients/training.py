"""Models that libraries over Keras 2 make, trained with our optimizers and with Keras' own.

Scripts of this folder are for one library each. They print the outcomes of `Client.checks` for the
model that their argument names.
"""

import contextlib
import dataclasses
import functools
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from common import arrays, assert_close, print_outcomes, route_of_dense, same
from generation import keras

import tf_optim_ext

OURS = {
    "AdamW": lambda: tf_optim_ext.AdamW(0.02, weight_decay=0.01),
    "LazyAdam": lambda: tf_optim_ext.LazyAdam(0.02),
    "Lion": lambda: tf_optim_ext.Lion(0.005, sparse="lazy"),
    "Prodigy": lambda: tf_optim_ext.Prodigy(0.1, initial_d=0.01),
    "ScheduleFreeAdamW": lambda: tf_optim_ext.ScheduleFreeAdamW(0.02, warmup_steps=3),
}
# The same maths: classes of these names with these arguments.
TWINS = {
    "AdamW": {"learning_rate": 0.02, "weight_decay": 0.01},
    "Adam": {"learning_rate": 0.02},
}
CHECKS = [*(f"{name} resumes" for name in OURS), *(f"{name} is Keras' own" for name in TWINS)]
# By switches to averaged weights and back, and by how Keras rounds.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@dataclasses.dataclass(frozen=True)
class Client:
    """A model of a library.

    Attributes:
        make: function without arguments that makes the model, built.
        data: batches, in the same order each time.
        compile: keyword arguments of `Model.compile`.
        callbacks: function without arguments that makes those that the library wants in `fit`.
        files: names of files for whole models, of the formats that the library can load. A
            SavedModel is none: Keras 2 restores no optimizer from it.
        custom: context manager in which it loads them.
        check_trained: asserts what the library promises of a trained model.
    """

    make: Callable[[], Any]
    data: tf.data.Dataset
    compile: dict = dataclasses.field(default_factory=dict)
    callbacks: Callable[[], list] = list
    files: tuple[str, ...] = ()
    custom: Any = contextlib.nullcontext
    check_trained: Callable[[Any], None] = lambda model: None

    def compiled(self, optimizer, seed=1):
        """A model, whose first weights depend on the seed."""
        keras.utils.set_random_seed(seed)
        model = self.make()
        model.compile(optimizer, **self.compile)
        return model

    def fit(self, model, epochs):
        return model.fit(self.data, epochs=epochs, verbose=0, callbacks=self.callbacks())

    def state(self, model):
        """All that training changed."""
        return arrays([*model.variables, *model.optimizer.variables])

    def resumed(self, make, path):
        """Models with the weights and the optimizer of a file.

        Slots exist before that, or get their values when they are made.
        """
        for is_built in (True, False):
            model = self.compiled(make(), seed=2)
            if is_built:
                model.optimizer.build(model.trainable_variables)
            model.load_weights(path)
            model.optimizer.build(model.trainable_variables)
            yield model

    def resumes(self, make):
        """Asserts that saving in the middle of training changes nothing."""
        straight = self.compiled(make())
        whole = self.fit(straight, 4)
        assert whole.history["loss"][-1] < whole.history["loss"][0]
        assert str(straight.optimizer.route).startswith(route_of_dense())
        model = self.compiled(make())
        self.fit(model, 2)
        saved, steps = self.state(model), 2 * len(self.data)
        assert model.optimizer.iterations.numpy() == steps
        with tempfile.TemporaryDirectory() as folder:
            path = str(pathlib.Path(folder) / "weights")
            model.save_weights(path)
            models = list(self.resumed(make, path))
            for name in self.files:
                path = str(pathlib.Path(folder) / name)
                model.save(path)
                with self.custom():
                    models.append(keras.models.load_model(path))
        for other in models:
            assert type(other.optimizer) is type(model.optimizer)
            assert same(self.state(other), saved)
            rest = self.fit(other, 2)
            np.testing.assert_allclose(
                rest.history["loss"], whole.history["loss"][2:], rtol=1e-4, err_msg="losses"
            )
            assert_close(self.state(other), self.state(straight), **TOLERANCE)
            assert other.optimizer.iterations.numpy() == 2 * steps
            self.check_trained(other)

    def is_keras_own(self, name):
        """Asserts that an optimizer does what that of Keras does."""
        runs = []
        for module in (keras.optimizers, tf_optim_ext):
            model = self.compiled(getattr(module, name)(**TWINS[name]))
            losses = self.fit(model, 2).history["loss"]
            runs.append((losses, arrays(model.trainable_variables)))
        (expected, their_weights), (losses, weights) = runs
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        assert_close(weights, their_weights, **TOLERANCE)

    def checks(self):
        checks = [*(functools.partial(self.resumes, make) for make in OURS.values())]
        checks += [functools.partial(self.is_keras_own, name) for name in TWINS]
        return dict(zip(CHECKS, checks, strict=True))


def main(clients):
    """Prints the outcomes of the client that the argument names: a function that makes it."""
    # Lion, whose steps depend on signs alone, needs equal sums; threads add in any order.
    tf.config.experimental.enable_op_determinism()
    client = clients[sys.argv[1]]()
    print_outcomes(client.checks())
