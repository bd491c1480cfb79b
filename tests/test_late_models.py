"""Models that Keras builds in the midst of their first training step.

Their weights have no value yet when the optimizer creates its slots. Everything must be as for the
same model built beforehand: weights, slots and counters, to the last bit where the ops are the
same.
"""

import conftest
import numpy as np
import pytest
import registry
import tensorflow as tf
from common import arrays, assert_close, same
from generation import keras, only_keras_3

# Two have slots that start as NaN, one of them numbers of all variables, one neither.
NAMES = ("ScheduleFreeAdamW", "Prodigy", "AdamW")
KINDS = pytest.mark.parametrize("name", conftest.shortened(NAMES, ["Prodigy"]))
X = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(8, 1)).astype(np.float32)


def layer(units, seed):
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed))


def sequential():
    return keras.Sequential([layer(3, 1), layer(1, 2)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = layer(3, 1), layer(1, 2)

    def call(self, x):
        return self.second(self.first(x))


class MakesLayersInBuild(keras.layers.Layer):
    def build(self, shape):
        self.inner = keras.Sequential([layer(3, 1), layer(1, 2)])
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


class BuildsLayersInCall(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([layer(3, 1)])

    def call(self, x):
        return self.inner(x)


class OwnStep(Subclassed):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


WAYS = {
    "sequential": sequential,
    "subclassed": Subclassed,
    "nested": lambda: keras.Sequential([keras.Sequential([layer(3, 1)]), layer(1, 2)]),
    "layers in build": lambda: keras.Sequential([MakesLayersInBuild()]),
    "layers in call": lambda: keras.Sequential([BuildsLayersInCall(), layer(1, 2)]),
    "own train_step": OwnStep,
}


def fitted(make, optimizer, built, epochs=1, **arguments):
    """A model after steps of four samples; built before them or in the first one."""
    model = make()
    if built:
        model(X[:1])
        arguments["run_eagerly"] = arguments.get("run_eagerly", False)
    model.compile(optimizer, "mse", **arguments)
    if built:
        optimizer.build(model.trainable_variables)
    fit(model, epochs)
    return model


def fit(model, epochs=1):
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)


def state(model):
    return arrays([*model.variables, *model.optimizer.variables])


def check(make, optimizer_of, **arguments):
    late = fitted(make, optimizer_of(), built=False, **arguments)
    early = fitted(make, optimizer_of(), built=True, **arguments)
    assert late.optimizer.route == early.optimizer.route
    assert same(state(late), state(early))
    assert all(np.all(np.isfinite(value)) for value in state(late))


@pytest.mark.few("NovoGrad", "Prodigy", "ScheduleFreeAdamW")
def test_every_optimizer(entry):
    check(sequential, entry.make)


@pytest.mark.few("Prodigy")
def test_inside_xla(entry):
    check(sequential, entry.make, jit_compile=True)


OPTIONS = {
    "average": {"use_ema": True, "ema_momentum": 0.5},
    "accumulation": {"gradient_accumulation_steps": 2},
    "both": {"use_ema": True, "gradient_accumulation_steps": 2, "clipnorm": 0.1},
    "stochastic rounding": {"stochastic_rounding": True},
}


@pytest.mark.few("Prodigy")
@pytest.mark.parametrize(
    "name", ["both", *(pytest.param(n, marks=pytest.mark.long) for n in OPTIONS if n != "both")]
)
def test_options(entry, name):
    check(sequential, lambda: entry.make(**OPTIONS[name]))


@pytest.mark.parametrize("name", conftest.shortened(["Adam", "AdamW-amsgrad", "Adagrad"], ["Adam"]))
def test_row_wise(name):
    check(sequential, lambda: registry.BY_NAME[name].make(row_wise=True))


# `test_usage.py` has the other ways, too.
@pytest.mark.parametrize("way", conftest.shortened(WAYS, ("layers in call", "own train_step")))
@KINDS
def test_ways(name, way):
    check(WAYS[way], registry.BY_NAME[name].make)


@pytest.mark.parametrize("sparse", ["exact", "lazy", "catch_up"])
@only_keras_3("cannot build this model late")
def test_embedding(sparse):
    def make():
        uniform = keras.initializers.RandomUniform(seed=3)
        embedding = keras.layers.Embedding(7, 3, embeddings_initializer=uniform)
        return keras.Sequential([embedding, keras.layers.Flatten(), layer(1, 2)])

    def trained(built):
        model, ids = make(), np.arange(8).reshape(4, 2) % 7
        if built:
            model(ids)
        model.compile(registry.BY_NAME["AdamW"].make(sparse=sparse, use_ema=True), "mse")
        model.fit(ids, Y[:4], batch_size=2, shuffle=False, verbose=0)
        return state(model)

    assert same(trained(built=False), trained(built=True))


@pytest.mark.parametrize("name", conftest.shortened(NAMES, ["ScheduleFreeAdamW"]))
@pytest.mark.parametrize("built", [False, pytest.param(True, marks=pytest.mark.long)])
def test_saved_and_resumed(name, built, tmp_path):
    entry = registry.BY_NAME[name]
    uninterrupted = fitted(sequential, entry.make(), built=True, epochs=3)
    model = fitted(sequential, entry.make(), built=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert same(state(loaded), state(model))
    fit(loaded, 2)
    # The schedule-free ones have switched to their average and back, which rounds.
    assert_close(state(loaded), state(uninterrupted), rtol=2e-5, atol=2e-6)

    # Into a model that is built late, or one that is not.
    model.save_weights(tmp_path / "model.weights.h5")
    other = sequential()
    other.build((None, 5))
    other.compile(entry.make(), "mse")
    if built:
        other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.weights.h5")
    fit(other, 2)
    assert_close(state(other), state(uninterrupted), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("wrap", [tf.function, tf.function(jit_compile=True)])
@KINDS
def test_function_that_makes_the_variables(name, wrap):
    # `tf.function` allows that in its first call.
    def trained(built):
        model, optimizer = sequential(), registry.BY_NAME[name].make()
        if built:
            model(X[:1])

        @wrap
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(X) - Y))
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

        for _ in range(3):
            step()
        return arrays([*model.variables, *optimizer.variables])

    assert same(trained(built=False), trained(built=True))
