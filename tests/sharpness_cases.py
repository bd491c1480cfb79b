"""Losses and models that the tests of SAM and its relatives share."""

import numpy as np
import pytest
import registry
import tensorflow as tf
from conftest import shortened
from generation import (
    keras,
)
from references import sharpness

from tf_optim_ext import ASAM, GSAM, SAM

SHAPES = ((3, 4), (4,), ())


RHO, ETA, ALPHA = 0.3, 0.02, 0.7


WRAPPERS = ("SAM", "ASAM", "GSAM")


STEPS = 4


wrappers = pytest.mark.parametrize("wrapper", WRAPPERS)


kinds_of_inner = pytest.mark.parametrize("inner", shortened(["ours", "Keras'"], ["ours"]))


def some_of(names, product, short):
    """A mark with all combinations of parameters, of which only some are not for the long tests."""
    cases = [
        case if case in short else pytest.param(*case, marks=pytest.mark.long) for case in product
    ]
    return pytest.mark.parametrize(names, cases)


class Problem:
    """A loss that is another one in each step, over a matrix, a bias and a scalar."""

    def __init__(self, dtype="float32", size=1.0):
        rng = np.random.default_rng(7)
        self.initial = [rng.normal(size=s).astype(dtype) for s in SHAPES]
        self._a = [rng.normal(size=(STEPS, *s)) * size for s in SHAPES]
        self._b = [rng.uniform(0.5, 2, size=s) for s in SHAPES]
        self._size = size
        self.dtype = dtype

    def variables(self):
        names = ("kernel", "bias", "scale")
        return [tf.Variable(w, name=n) for w, n in zip(self.initial, names)]

    def loss(self, t, variables):
        total = 0.0
        for a, b, w in zip(self._a, self._b, variables):
            a = tf.constant(a.astype(self.dtype))[t]
            total += tf.reduce_sum(a * tf.sin(tf.constant(b.astype(self.dtype)) * w))
        square = tf.add_n([tf.reduce_sum(tf.square(w)) for w in variables])
        return total + 0.01 * self._size * tf.square(square)

    def gradient(self, t, theta):
        square = sum(np.sum(np.square(w)) for w in theta)
        return [
            a[t] * b * np.cos(b * w) + 0.04 * self._size * square * w
            for a, b, w in zip(self._a, self._b, theta)
        ]


def make(wrapper, inner, **arguments):
    if wrapper == "SAM":
        return SAM(inner, **{"rho": RHO, **arguments})
    if wrapper == "ASAM":
        return ASAM(inner, **{"rho": RHO, "eta": ETA, **arguments})
    return GSAM(inner, **{"rho": RHO, "alpha": ALPHA, **arguments})


def of_paper(wrapper):
    """What `sharpness.trained` needs: the perturbation, and what makes the direction."""
    if wrapper == "ASAM":
        adaptive = [True, False, True]
        return lambda t, w, g: sharpness.asam(w, g, RHO, ETA, adaptive), None
    direction = (lambda g, h: sharpness.gsam_direction(g, h, ALPHA)) if wrapper == "GSAM" else None
    return lambda t, w, g: sharpness.sam(w, g, RHO), direction


def reference_of(entry):
    arguments = {registry.entry.RENAMED.get(n, n): x for n, x in entry.arguments.items()}
    arguments["learning_rate"] = float(np.float32(arguments["learning_rate"]))
    return lambda theta, gradients: entry.reference(theta, gradients, **arguments)


def compare(problem, optimizer, variables, expected, take, rtol, slots=True):
    """Takes steps, and compares weights and slots with the reference after each of them."""
    for t, (weights, of_slots) in enumerate(expected):
        take(t)
        for variable, weight, its_slots in zip(variables, weights, of_slots):
            limit = rtol * max(1.0, np.max(np.abs(weight), initial=0.0))
            np.testing.assert_allclose(variable.numpy(), weight, rtol=0, atol=limit)
            for name, slot in its_slots.items() if slots else ():
                actual = np.array(optimizer.get_slot(variable, name))
                limit = rtol * max(1e-30, np.max(np.abs(slot), initial=0.0))
                np.testing.assert_allclose(actual, slot, rtol=0, atol=20 * limit)
    assert int(optimizer.iterations) == STEPS


X = np.random.default_rng(1).normal(size=(8, 3)).astype("f")


Y = np.random.default_rng(2).normal(size=(8, 2)).astype("f")


WEIGHTS = np.float32([1, 2, 0, 1, 3, 1, 1, 2])


def normalized(dropout=0.0, late=False, functional=False, penalty=True):
    """A model with moving statistics, and perhaps random masks; always the same weights."""
    keras.utils.set_random_seed(3)
    layers = [
        # Keras cannot add what float16 layers penalize to a loss of float32.
        keras.layers.Dense(4, activation="tanh", activity_regularizer="l2" if penalty else None),
        keras.layers.BatchNormalization(),
        *([keras.layers.Dropout(dropout, seed=5)] if dropout else []),
        keras.layers.Dense(2),
    ]
    if functional:
        output = inputs = keras.Input((3,))
        for layer in layers:
            output = layer(output)
        return keras.Model(inputs, output)
    return keras.Sequential(layers if late else [keras.Input((3,)), *layers])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.of_late = normalized(late=True)

    def call(self, x, training=None):
        return self.of_late(x, training=training)


MODELS = {
    "functional": lambda: normalized(functional=True),
    "sequential": normalized,
    "late": lambda: normalized(late=True),
    "subclassed": Subclassed,
}


def fitted(model, optimizer, epochs=2, **options):
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    history = model.fit(
        X, Y, sample_weight=WEIGHTS, batch_size=4, epochs=epochs, shuffle=False, verbose=0
    )
    return history.history


def looped(model, optimizer, epochs=2):
    """The same steps as those of `fitted`, in a loop; the losses of each epoch."""
    losses = []
    for i in range(0, 8 * epochs, 4):
        x, y, weights = (a[i % 8 : i % 8 + 4] for a in (X, Y, WEIGHTS))

        def loss(x=x, y=y, weights=weights):
            squares = tf.reduce_mean(tf.square(model(x, training=True) - y), -1)
            return tf.reduce_sum(weights * squares) / len(weights) + sum(model.losses)

        losses.append(optimizer.step(loss, model).numpy())
    return np.mean(np.reshape(losses, (epochs, 2)), -1)
