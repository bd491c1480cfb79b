"""Clients of TensorFlow Recommenders; see `training.py`."""

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from clients import training

USERS = [f"user {i}" for i in range(20)]
ITEMS = [f"item {i}" for i in range(30)]
ROWS, BATCH = 64, 16


def batches(data):
    # `Ranking` needs to know the size of batches.
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH, drop_remainder=True)


def tower(vocabulary):
    lookup = tf.keras.layers.StringLookup(vocabulary=vocabulary, mask_token=None)
    table = tf.keras.layers.Embedding(len(vocabulary) + 1, 8)
    # The gradient of a bias would be zero for the items, but for rounding.
    return tf.keras.Sequential([lookup, table, tf.keras.layers.Dense(4, use_bias=False)])


class TwoTowers(tfrs.Model):
    def __init__(self):
        super().__init__()
        self.user, self.item = tower(USERS), tower(ITEMS)
        items = tf.data.Dataset.from_tensor_slices(ITEMS).batch(10).map(self.item)
        metrics = tfrs.metrics.FactorizedTopK(items, ks=(1, 5))
        self.task = tfrs.tasks.Retrieval(metrics=metrics)

    def compute_loss(self, inputs, training=False):
        users, items = self.user(inputs["user"]), self.item(inputs["item"])
        return self.task(users, items, compute_metrics=not training)


def retrieval():
    rng = np.random.default_rng(0)
    users = rng.integers(0, len(USERS), ROWS)
    chosen = {"user": np.array(USERS)[users], "item": np.array(ITEMS)[users]}

    def make():
        model = TwoTowers()
        model.compute_loss({name: tf.constant(texts[:1]) for name, texts in chosen.items()})
        return model

    return training.Client(make, batches(chosen))


class Tables(tf.keras.layers.Layer):
    """An embedding for each feature."""

    def __init__(self, sizes):
        super().__init__()
        self.tables = {name: tf.keras.layers.Embedding(size, 4) for name, size in sizes.items()}

    def call(self, features):
        return {name: table(features[name]) for name, table in self.tables.items()}


def ranking():
    rng = np.random.default_rng(0)
    sizes = {"user": len(USERS), "item": len(ITEMS)}
    ids = {name: rng.integers(0, size, ROWS) for name, size in sizes.items()}
    dense = rng.normal(size=(ROWS, 3)).astype("float32")
    features = {"dense_features": dense, "sparse_features": ids}
    clicks = (dense.sum(axis=1) > 0).astype("float32")

    def make():
        model = tfrs.experimental.models.Ranking(
            Tables(sizes),
            bottom_stack=tfrs.layers.blocks.MLP(units=[8, 4], final_activation="relu"),
            feature_interaction=tf.keras.Sequential(
                [tf.keras.layers.Concatenate(), tfrs.layers.feature_interaction.Cross()]
            ),
            top_stack=tfrs.layers.blocks.MLP(units=[8, 1], final_activation="sigmoid"),
        )
        model(tf.nest.map_structure(lambda array: tf.constant(array[:2]), features))
        return model

    return training.Client(make, batches((features, clicks)))


if __name__ == "__main__":
    training.main({"retrieval": retrieval, "ranking": ranking})
