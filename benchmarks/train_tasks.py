"""Networks and random batches for them. What is learned does not matter here; time does."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

Batch = tuple[np.ndarray, np.ndarray]
# Draws rows of an embedding: takes how many rows that has, and the shape of what is drawn.
Ids = Callable[[np.random.Generator, int, tuple[int, ...]], np.ndarray]

CLASSES = 10
PIXELS = 784
WORDS, LENGTH, WIDTH, HEADS, BLOCKS = 8192, 32, 128, 4, 4
USERS, ITEMS, EMBEDDING = 200_000, 50_000, 32


def repeated(numbers: np.random.Generator, count: int, shape: tuple[int, ...]) -> np.ndarray:
    return numbers.integers(0, count, shape, np.int32)


def distinct(numbers: np.random.Generator, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Without repeated ones, whose squared gradients Keras adds up before they are summed."""
    return numbers.permutation(count)[: math.prod(shape)].astype(np.int32).reshape(shape)


@dataclass(frozen=True)
class Task:
    """A network, its loss, and batches of a given size."""

    model: Callable[[], keras.Model]
    loss: Callable[[], keras.losses.Loss]
    batch: Callable[[np.random.Generator, int, Ids], Batch]


def _mlp() -> keras.Model:
    dense = keras.layers.Dense
    hidden = [dense(256, activation="relu") for _ in range(4)]
    return keras.Sequential([keras.Input((PIXELS,)), *hidden, dense(CLASSES)])


def _images_as_rows(numbers: np.random.Generator, size: int, ids: Ids) -> Batch:
    return numbers.random((size, PIXELS), np.float32), numbers.integers(0, CLASSES, size)


def _convolution() -> keras.Model:
    layers = keras.layers
    network: list[keras.Layer] = [keras.Input((32, 32, 3))]
    for filters in (32, 64, 128):
        for _ in range(2):
            network += [
                layers.Conv2D(filters, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
            ]
        network.append(layers.MaxPooling2D())
    return keras.Sequential([*network, layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)])


def _images(numbers: np.random.Generator, size: int, ids: Ids) -> Batch:
    return numbers.random((size, 32, 32, 3), np.float32), numbers.integers(0, CLASSES, size)


def _transformer() -> keras.Model:
    layers = keras.layers
    words = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH)(words)
    for _ in range(BLOCKS):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(WIDTH)(layers.Dense(4 * WIDTH, activation="gelu")(y))
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(words, layers.Dense(CLASSES)(x))


def _sentences(numbers: np.random.Generator, size: int, ids: Ids) -> Batch:
    words = ids(numbers, WORDS, (size, LENGTH))
    return words, numbers.integers(0, CLASSES, size)


def _two_towers() -> keras.Model:
    layers = keras.layers
    pairs = keras.Input((2,), dtype="int32")
    towers = []
    for column, count in enumerate((USERS, ITEMS)):
        x = layers.Embedding(count, EMBEDDING)(pairs[:, column])
        x = layers.Dense(64, activation="relu")(x)
        towers.append(layers.Dense(EMBEDDING)(x))
    return keras.Model(pairs, layers.Dot(1)(towers))


def _ratings(numbers: np.random.Generator, size: int, ids: Ids) -> Batch:
    pairs = [ids(numbers, count, (size,)) for count in (USERS, ITEMS)]
    return np.stack(pairs, 1), numbers.random((size, 1), np.float32)


def _class_loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


TASKS = {
    "mlp": Task(_mlp, _class_loss, _images_as_rows),
    "convolution": Task(_convolution, _class_loss, _images),
    "transformer": Task(_transformer, _class_loss, _sentences),
    "two towers": Task(_two_towers, keras.losses.MeanSquaredError, _ratings),
}
