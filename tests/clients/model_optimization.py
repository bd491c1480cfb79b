"""Clients of TensorFlow Model Optimization; see `training.py`."""

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from clients import training

ROWS, BATCH = 64, 16
SPARSITY = 0.5
FILES = ("model.h5", "model.keras")

rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, 6)).astype("float32")
Y = (X[:, :1] > X[:, 1:2]).astype("float32")


def classifier():
    return tf.keras.Sequential(
        [
            tf.keras.Input((6,)),
            tf.keras.layers.Dense(8, activation="relu"),
            tf.keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def client(make, **arguments):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    return training.Client(make, data, {"loss": "binary_crossentropy"}, **arguments)


def assert_pruned(model):
    """Pruning ends before training does, and the callback prunes once more after each epoch."""
    for layer in tfmot.sparsity.keras.strip_pruning(model).layers:
        assert np.mean(layer.kernel.numpy() == 0) == SPARSITY


def pruning():
    def make():
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.1, SPARSITY, 2, 12, frequency=2)
        return tfmot.sparsity.keras.prune_low_magnitude(classifier(), schedule)

    return client(
        make,
        callbacks=lambda: [tfmot.sparsity.keras.UpdatePruningStep()],
        files=FILES,
        custom=tfmot.sparsity.keras.prune_scope,
        check_trained=assert_pruned,
    )


def quantisation():
    # The library's layer asks for five variables in a file where it wrote three.
    return client(
        lambda: tfmot.quantization.keras.quantize_model(classifier()),
        files=("model.h5",),
        custom=tfmot.quantization.keras.quantize_scope,
    )


def clustering():
    def make():
        initial = tfmot.clustering.keras.CentroidInitialization.LINEAR
        return tfmot.clustering.keras.cluster_weights(classifier(), 4, initial)

    return client(make, files=FILES, custom=tfmot.clustering.keras.cluster_scope)


if __name__ == "__main__":
    training.main({"pruning": pruning, "quantisation": quantisation, "clustering": clustering})
