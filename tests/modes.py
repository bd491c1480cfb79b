"""Steps in every mode, for the tests of options and of particular optimizers."""

import numpy as np
import pytest
import tensorflow as tf
from common import route_of_dense
from conftest import portable
from generation import keras

RATE = 0.1
MOMENTS = {"learning_rate": RATE, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}

# The last is the TensorFlow route under XLA.
MODES = ("eager", "function", "xla", "portable xla")
modes = pytest.mark.parametrize("mode", MODES)


def in_mode(mode, optimizer, variables):
    """A function of gradients that takes a step."""

    def step(gradients):
        optimizer.apply_gradients(zip(gradients, variables))

    return wrapped(mode, step)


def wrapped(mode, step):
    if mode == "eager":
        return step
    if mode.startswith("portable"):
        step = portable(step)
    return tf.function(step, jit_compile=mode.endswith("xla"))


def check_route(mode, optimizer):
    if mode == "portable xla":
        assert str(optimizer.route) == "tensorflow: inside portable()"
    else:
        assert str(optimizer.route) == route_of_dense(mode == "xla")


def dense():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    for i, variable in enumerate(model.trainable_variables):
        variable.assign(np.random.default_rng(i).normal(size=variable.shape))
    return model


def fit(model, steps=2):
    x = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)
    model.fit(x, x[:, :1], epochs=steps, batch_size=4, verbose=0, shuffle=False)
