"""Small models that schedule-free optimizers train, and what their weights must be."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from common import arrays
from generation import keras

import tf_optim_ext

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(16, 1)).astype(np.float32)
BATCHES = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, len(X), 4)]

# Different modes fuse and order operations differently, and a switch to x and back rounds.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}

ARGUMENTS = {
    "ScheduleFreeSGD": {"learning_rate": 0.2, "momentum": 0.8, "weight_decay": 0.01},
    "ScheduleFreeAdamW": {"learning_rate": 0.1, "beta_1": 0.7, "warmup_steps": 3, "r": 0.5},
    "ScheduleFreeRAdam": {"learning_rate": 0.1, "beta_2": 0.9, "silent_sgd_phase": False},
}


def maker(name):
    def make(**overrides):
        return getattr(tf_optim_ext, name)(**{**ARGUMENTS[name], **overrides})

    return make


MAKERS = {name: maker(name) for name in ARGUMENTS}
sgd, adamw = MAKERS["ScheduleFreeSGD"], MAKERS["ScheduleFreeAdamW"]
every_class = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def make_model(optimizer=None, seed=0, run_eagerly=True, **compile_arguments):
    # Eagerly unless a test is about functions: tracing would take most of the time.
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    if optimizer is not None:
        model.compile(optimizer, "mse", run_eagerly=run_eagerly, **compile_arguments)
    return model


def fit(model, epochs=2, **arguments):
    return model.fit(
        X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **arguments
    ).history


def fitted(optimizer, epochs=2, run_eagerly=True, **arguments):
    model = make_model(optimizer, run_eagerly=run_eagerly)
    fit(model, epochs, **arguments)
    return model


def state(model):
    return arrays([*model.variables, *model.optimizer.variables])


@functools.cache
def uninterrupted(make, epochs):
    """The state after a training without anything else."""
    return state(fitted(make(), epochs))


def output(weights):
    kernel, bias, last_kernel, last_bias = weights
    return (X @ kernel + bias) @ last_kernel + last_bias


def loss(weights):
    return np.mean(np.square(output(weights) - Y))


@functools.cache
def averages(make, epochs=2):
    """Trains in a loop of its own. Returns x by its definition, at the end of every epoch, and y.

    The weight of a step is what the sum of all weights grew by.
    """
    model, optimizer = make_model(), make()
    variables = model.trainable_variables
    average, total, ends = arrays(variables), 0.0, []
    for _ in range(epochs):
        for x, y in BATCHES:
            with tf.GradientTape() as tape:
                mse = tf.reduce_mean(tf.square(model(x) - y))
            optimizer.apply_gradients(zip(tape.gradient(mse, variables), variables))
            before, total = total, float(optimizer.scalars["weight_sum"])
            part = (total - before) / total
            z = arrays(optimizer.get_slot(v, "z") for v in variables)
            average = [(1 - part) * a + part * b for a, b in zip(average, z)]
        ends.append(average)
    assert not optimizer.holds_averaged_weights
    return ends, arrays(variables)


def average_of(model):
    """x of a model that holds y, from y and z."""
    optimizer = model.optimizer
    assert not optimizer.holds_averaged_weights
    beta = getattr(optimizer, "momentum", None) or optimizer.beta_1
    z = arrays(optimizer.get_slot(v, "z") for v in model.trainable_variables)
    y = arrays(model.trainable_variables)
    return [a + (1 - 1 / beta) * (b - a) for a, b in zip(y, z)]
