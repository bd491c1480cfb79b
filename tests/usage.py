"""Ways of using models: how they are made, trained and saved; `test_usage.py` is their product.

A cell trains a model for two steps, saves it in each way, loads that into a model with other
initial weights, and trains two more steps: that must be what four steps at a stretch are.
"""

import dataclasses
import functools
import pathlib

import numpy as np
import tensorflow as tf
from common import arrays, assert_close
from generation import keras

import tf_optim_ext

BATCH, STEPS = 4, 4
OPTIMIZERS = {
    "SGD": lambda: tf_optim_ext.SGD(0.1, momentum=0.8),
    "AdamW": lambda: tf_optim_ext.AdamW(0.05, weight_decay=0.1),
    "ScheduleFreeAdamW": lambda: tf_optim_ext.ScheduleFreeAdamW(0.05, warmup_steps=3),
    "Prodigy": lambda: tf_optim_ext.Prodigy(0.8, initial_d=0.01),
    "LAMB": lambda: tf_optim_ext.LAMB(0.05),
    "NovoGrad": lambda: tf_optim_ext.NovoGrad(0.05),
    "LazyAdam": lambda: tf_optim_ext.LazyAdam(0.05),
}
WAYS = ("fit", "train_step", "function", "eager")
layers = keras.layers
SAVES = ("keras", "weights", "checkpoint")
# By switches to averaged weights and back, and by how XLA or a graph fuses.
TOLERANCE = {"rtol": 5e-5, "atol": 5e-6}

register = keras.saving.register_keras_serializable("tf_optim_ext_usage")


# ------------------------------------------------------------------------------------- the models


class OwnTrainStep:
    """Mixed into models that say themselves what a step is."""

    def train_step(self, data):
        return {"loss": step_of(self, *data)}


def step_of(model, x, y):
    """A step of a loop of one's own."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    variables = model.trainable_variables
    model.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    return loss


@register
class SequentialWithStep(OwnTrainStep, keras.Sequential):
    pass


@register
class ModelWithStep(OwnTrainStep, keras.Model):
    pass


@register
class Block(layers.Layer):
    """A layer that makes layers when it is built."""

    def build(self, shape):
        self.inner = layers.Dense(3, activation="tanh")
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(3,), initializer="ones", name="scale")

    def call(self, x):
        return self.inner(x) * self.scale


@register
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.block = layers.Dense(4, activation="tanh"), Block()
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.block(self.hidden(x)))


@register
class SubclassedWithStep(OwnTrainStep, Subclassed):
    pass


@register
class Shared(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.shared, self.head = layers.Dense(5, activation="tanh"), layers.Dense(2)

    def call(self, x):
        return self.head(self.shared(x) + self.shared(self.shared(x)))


@register
class SharedWithStep(OwnTrainStep, Shared):
    pass


def _sequential(build, own_step, inputs, *rest):
    cls = SequentialWithStep if own_step else keras.Sequential
    return cls([*([inputs] if build == "early" else []), *rest])


def _dense(build, own_step):
    hidden = layers.Dense(4, activation="tanh")
    return _sequential(build, own_step, keras.Input((5,)), hidden, layers.Dense(2))


def _functional(build, own_step):
    inputs = keras.Input((5,))
    hidden = layers.Dense(4, activation="tanh")(inputs)
    outputs = layers.Dense(2)(layers.concatenate([hidden, inputs]))
    return (ModelWithStep if own_step else keras.Model)(inputs, outputs)


def _subclassed(build, own_step):
    model = (SubclassedWithStep if own_step else Subclassed)()
    if build == "early":
        model(np.zeros((1, 5), "float32"))
    return model


def _nested(build, own_step):
    inner = _sequential(build, False, keras.Input((5,)), layers.Dense(4), Block())
    return _sequential(build, own_step, keras.Input((5,)), inner, layers.Dense(2))


def _shared(build, own_step):
    if build == "late":
        return (SharedWithStep if own_step else Shared)()
    inputs, shared = keras.Input((5,)), layers.Dense(5, activation="tanh")
    outputs = layers.Dense(2)(shared(inputs) + shared(shared(inputs)))
    return (ModelWithStep if own_step else keras.Model)(inputs, outputs)


def _recurrent(build, own_step):
    return _sequential(build, own_step, keras.Input((3, 5)), layers.GRU(3), layers.Dense(2))


def _embedding(build, own_step):
    table, mean = layers.Embedding(9, 3), layers.GlobalAveragePooling1D()
    inputs = keras.Input((3,), dtype="int32")
    return _sequential(build, own_step, inputs, table, mean, layers.Dense(2))


MODELS = {
    "sequential": _dense,
    "functional": _functional,
    "subclassed": _subclassed,
    "nested": _nested,
    "shared": _shared,
    "recurrent": _recurrent,
    "embedding": _embedding,
}
# A functional model is built when it is made.
MADE = [(m, b) for m in MODELS for b in ("early", "late") if (m, b) != ("functional", "late")]


@functools.cache
def data(model):
    """Inputs and targets of all steps."""
    rng = np.random.default_rng(0)
    rows = BATCH * STEPS
    if model == "embedding":
        x = rng.integers(0, 9, (rows, 3)).astype("int32")
    else:
        x = rng.normal(size=(rows, 3, 5) if model == "recurrent" else (rows, 5)).astype("float32")
    return x, rng.normal(size=(rows, 2)).astype("float32")


# -------------------------------------------------------------------------------------- the cells


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way of using one optimizer."""

    model: str
    build: str
    way: str
    optimizer: str

    def __str__(self):
        return "-".join(dataclasses.astuple(self))

    def make(self, seed):
        """A compiled model, whose first weights depend on the seed."""
        keras.utils.set_random_seed(seed)
        model = MODELS[self.model](self.build, self.way == "train_step")
        model.compile(OPTIMIZERS[self.optimizer](), "mse")
        return model

    def train(self, model, first, steps=2):
        rows = slice(first * BATCH, (first + steps) * BATCH)
        x, y = (array[rows] for array in data(self.model))
        if self.way in ("fit", "train_step"):
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
            return
        self.prepare_loop(model)
        step = functools.partial(step_of, model)
        step = tf.function(step) if self.way == "function" else step
        for i in range(0, len(x), BATCH):
            step(tf.constant(x[i : i + BATCH]), tf.constant(y[i : i + BATCH]))

    def prepare_loop(self, model):
        """What a loop of one's own has to do for schedule-free optimizers."""
        if model.built and hasattr(model.optimizer, "use_training_weights"):
            model.optimizer.build(model.trainable_variables)
            model.optimizer.use_training_weights()

    def state(self, model):
        """All that training changed; averaged weights if there are some."""
        if hasattr(model.optimizer, "use_averaged_weights"):
            model.optimizer.use_averaged_weights()
        return arrays([*model.trainable_variables, *model.optimizer.variables])

    def save(self, kind, model, folder):
        if kind == "keras":
            model.save(folder / "model.keras")
        elif kind == "weights":
            model.save_weights(folder / "model.weights.h5")
        else:
            checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
            checkpoint.save(folder / "checkpoint")

    def load(self, kind, folder):
        """A model with what was saved, beside which it knows nothing of the one that was."""
        if kind == "keras":
            return keras.models.load_model(folder / "model.keras")
        model = self.make(seed=2)
        if not model.built:
            model(data(self.model)[0][:1])
        if kind == "weights":
            model.load_weights(folder / "model.weights.h5")
        else:
            checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
            checkpoint.restore(tf.train.latest_checkpoint(folder)).assert_existing_objects_matched()
        return model

    def check(self, folder):
        """Asserts that saving and loading changes nothing; and that training does."""
        folder = pathlib.Path(folder)
        straight = self.make(seed=1)
        self.train(straight, 0)
        for kind in SAVES:
            self.save(kind, straight, folder)
        before = arrays(straight.trainable_variables)
        self.train(straight, 2)
        expected = self.state(straight)
        assert straight.optimizer.iterations.numpy() == STEPS
        assert all(np.any(a != b) for a, b in zip(before, expected))
        for kind in SAVES:
            model = self.load(kind, folder)
            self.train(model, 2)
            assert_close(self.state(model), expected, **TOLERANCE)


def every_cell(ways=WAYS):
    return [Cell(*made, way, name) for made in MADE for way in ways for name in OPTIMIZERS]


def some_cells(ways=WAYS):
    """Each model with one optimizer, so that each way and each optimizer occurs."""
    return [
        # Of recurrent models, the eager one is by far the fastest.
        Cell(*made, ways[(i + 2) % len(ways)], name)
        for i, (made, name) in enumerate(zip(MADE[::2], OPTIMIZERS, strict=True))
    ]
