"""Digests of weights and state after training with `enable_op_determinism`.

Runs in processes of their own, from `test_compatibility.py`: `python determinism.py THREADS` trains
everything twice and prints a JSON object with both digests of each case.
"""

import functools
import hashlib
import json
import sys

import numpy as np
import registry
import tensorflow as tf
from generation import keras

import tf_optim_ext

ROWS, WIDTH, STEPS = 20_000, 16, 3


def digest(variables):
    return hashlib.sha256(b"".join(np.array(v).tobytes() for v in variables)).hexdigest()


def step_by_step(optimizer):
    """Steps with given gradients, large enough to be cut for several threads."""
    rng = np.random.default_rng(0)
    table = tf.Variable(rng.normal(size=(ROWS, WIDTH)).astype("float32"))
    dense = tf.Variable(rng.normal(size=(500, 300)).astype("float32"))
    optimizer.build([table, dense])

    @tf.function
    def step(indices, values, gradient):
        rows = tf.IndexedSlices(values, indices, tf.constant([ROWS, WIDTH]))
        optimizer.apply_gradients([(rows, table), (gradient, dense)])

    for _ in range(STEPS):
        # Most indices occur several times.
        indices = tf.constant(rng.integers(0, 2_000, size=8_000))
        values = tf.constant(rng.normal(size=(8_000, WIDTH)).astype("float32"))
        gradient = tf.constant(rng.normal(size=dense.shape).astype("float32"))
        step(indices, values, gradient)
    return digest([table, dense, *optimizer.variables])


def fit():
    keras.utils.set_random_seed(0)
    ids = np.random.default_rng(0).integers(0, 50, size=(64, 4))
    layers = [keras.layers.Embedding(50, 8), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,), dtype="int32"), *layers])
    optimizer = tf_optim_ext.AdamW(0.1, global_clipnorm=0.5, use_ema=True)
    model.compile(optimizer, "mse")
    model.fit(ids, np.ones((64, 4, 1)), batch_size=16, epochs=2, verbose=0)
    return digest([*model.trainable_variables, *optimizer.variables])


def cases():
    for entry in registry.ENTRIES:
        yield entry.name, lambda entry=entry: step_by_step(entry.make())
    for kind in ("lazy", "catch_up"):
        for options in ({}, {"row_wise": True}, {"global_clipnorm": 1.0}):
            make = functools.partial(
                tf_optim_ext.AdamW, 0.1, weight_decay=0.1, sparse=kind, **options
            )
            yield f"{kind} {options}", lambda make=make: step_by_step(make())
    yield "fit", fit


def main():
    threads = int(sys.argv[1])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    print(json.dumps({name: [case(), case()] for name, case in cases()}))


if __name__ == "__main__":
    main()
