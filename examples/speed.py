"""Times the same steps with Keras' optimizers and with ours, in one run.

Three models stand for three cases: a small network, whose optimizer takes a small share of a step;
one with large embedding tables, of which a batch uses a few rows; and a deep network with many
variables, of which only the update is timed.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
import timing

import tf_optim_ext

Batch = tuple[tf.Tensor, tf.Tensor]
Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
BATCHES = 8  # different ones, in turn


@dataclass
class Row:
    """One line of the table: the same work with Keras' optimizer and with ours."""

    timed: str
    keras_ms: float
    ours_ms: float
    route: str

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.keras_ms / self.ours_ms


def training_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: Loss, batches: list[Batch]
) -> timing.Way:
    """A whole training step in a `tf.function`: forward, backward and update."""
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        optimizer.apply(tape.gradient(value, variables), variables)
        return value

    following = itertools.cycle(batches)
    return lambda: step(*next(following))


def small_network(model: keras.Model, loss: Loss, batches: list[Batch], repeats: int) -> list[Row]:
    """The whole step of a network that is given; copies of it are trained."""
    ours = tf_optim_ext.AdamW(1e-3)
    optimizers = {"Keras": keras.optimizers.AdamW(1e-3), "ours": ours}
    ways = {
        name: training_step(keras.models.clone_model(model), optimizer, loss, batches)
        for name, optimizer in optimizers.items()
    }
    ms = timing.medians(ways, repeats)
    return [Row("whole step: digits network", ms["Keras"], ms["ours"], str(ours.route))]


def two_towers(
    repeats: int, users: int = 200_000, items: int = 50_000, width: int = 32, batch: int = 512
) -> list[Row]:
    """The whole step of a recommender: two embedding tables, with a small network behind each.

    "exact" is the update of the dense gradient, as Keras'; "lazy" skips rows without a gradient.
    """
    numbers = np.random.default_rng(0)
    batches = []
    for _ in range(BATCHES):
        ids = [numbers.permutation(count)[:batch] for count in (users, items)]
        x, y = np.stack(ids, 1).astype("int32"), numbers.random((batch, 1), "float32")
        batches.append((tf.constant(x), tf.constant(y)))
    ours = {way: tf_optim_ext.Adam(1e-3, sparse=way) for way in ("exact", "lazy")}
    ways = {
        name: training_step(
            towers(users, items, width), optimizer, keras.losses.MeanSquaredError(), batches
        )
        for name, optimizer in {"Keras": keras.optimizers.Adam(1e-3), **ours}.items()
    }
    ms = timing.medians(ways, repeats)
    return [
        Row(f'whole step: embeddings, "{way}"', ms["Keras"], ms[way], str(optimizer.route))
        for way, optimizer in ours.items()
    ]


def towers(users: int, items: int, width: int) -> keras.Model:
    """The score of a pair of a user and an item."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    pairs = keras.Input((2,), dtype="int32")
    ends = []
    for column, rows in enumerate((users, items)):
        x = layers.Embedding(rows, width)(pairs[:, column])
        ends.append(layers.Dense(width)(layers.Dense(64, activation="relu")(x)))
    return keras.Model(pairs, layers.Dot(1)(ends))


def many_variables(repeats: int) -> list[Row]:
    """The update alone, over the 161 variables of ResNet-50: eagerly and in a `tf.function`."""
    shapes = list(resnet50())
    gradients = [tf.random.normal(shape, stddev=1e-2, seed=0) for shape in shapes]
    ours = tf_optim_ext.AdamW(1e-3)
    ways: dict[str, timing.Way] = {}
    for name, optimizer in (("Keras", keras.optimizers.AdamW(1e-3)), ("ours", ours)):
        variables = [tf.Variable(tf.random.normal(shape, seed=1)) for shape in shapes]
        optimizer.build(variables)
        ways |= _updates(name, optimizer, gradients, variables)
    ms = timing.medians(ways, repeats)
    return [
        Row(
            f"update: ResNet-50, {mode}",
            ms[f"Keras, {mode}"],
            ms[f"ours, {mode}"],
            str(ours.route),
        )
        for mode in ("eager", "tf.function")
    ]


def _updates(name: str, optimizer, gradients: list, variables: list) -> dict[str, timing.Way]:
    def update() -> None:
        optimizer.apply(gradients, variables)

    return {f"{name}, eager": update, f"{name}, tf.function": tf.function(update)}


def resnet50() -> Iterator[tuple[int, ...]]:
    """Shapes of the trainable variables: convolutions, each with a batch normalization."""

    def convolution(size: int, inputs: int, outputs: int) -> Iterator[tuple[int, ...]]:
        yield from ((size, size, inputs, outputs), (outputs,), (outputs,))

    yield from convolution(7, 3, 64)
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            if block == 0:
                yield from convolution(1, channels, 4 * width)
            yield from convolution(1, channels, width)
            yield from convolution(3, width, width)
            yield from convolution(1, width, 4 * width)
            channels = 4 * width
    yield from ((channels, 1000), (1000,))
