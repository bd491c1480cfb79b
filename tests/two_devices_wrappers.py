"""Checks of optimizers around others under `MirroredStrategy` on two logical CPUs.

Runs in a process of its own, from `test_wrappers_models.py`, see `two_devices.py`.
"""

import functools
import sys

import common
import numpy as np
import pytest
import tensorflow as tf
import two_devices
from generation import IS_KERAS_2, LossScaleOptimizer, keras

import tf_optim_ext

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 1)).astype("float32")
MAKE = {
    "Lookahead": lambda inner: tf_optim_ext.Lookahead(inner, 2, 0.3),
    "MovingAverage": lambda inner: tf_optim_ext.MovingAverage(inner, 0.5, dynamic_decay=True),
    "SWA": lambda inner: tf_optim_ext.SWA(inner, 0, 2),
}
INNER = {
    "ours": lambda: tf_optim_ext.Adam(0.1),
    "keras": lambda: keras.optimizers.Adam(0.1),
    "accumulating": lambda: tf_optim_ext.Adam(0.1, gradient_accumulation_steps=2),
}


def steps(strategy, name, inner, eager=False):
    what = f"{name}, {inner}"
    make, gradients = MAKE[name], common.make_gradients(0)
    with strategy.scope():
        variables, optimizer = common.make_variables("tf"), make(INNER[inner]())
    expected, single = common.make_variables("tf"), make(INNER[inner]())

    def step(factor):
        optimizer.apply_gradients([(factor * g, v) for g, v in zip(gradients, variables)])

    def run(factors):
        strategy.run(step, args=(factors,))

    run = run if eager else tf.function(run)
    for i in range(5):
        factors = strategy.experimental_distribute_values_from_function(
            lambda context, i=i: tf.constant(float(1 + i + context.replica_id_in_sync_group))
        )
        run(factors)
        single.apply_gradients([((3.0 + 2 * i) * g, v) for g, v in zip(gradients, expected)])
    two_devices.check_equal(strategy, variables, expected, what)
    two_devices.check_equal(strategy, optimizer.variables, single.variables, what)
    if name == "Lookahead":
        return
    values = [v.numpy() for v in expected]
    with optimizer.averaged_weights(), single.averaged_weights():
        two_devices.check_equal(strategy, variables, expected, what)
    two_devices.check_equal(strategy, variables, list(map(tf.constant, values)), what)
    if name == "MovingAverage":
        for each in (optimizer, single):
            each.swap_weights()
        two_devices.check_equal(strategy, variables, expected, what)
        two_devices.check_equal(strategy, optimizer.variables, single.variables, what)
    for each, some in ((optimizer, variables), (single, expected)):
        each.assign_average_vars(some)
    two_devices.check_equal(strategy, variables, expected, what)


def fit(strategy, wrap=lambda optimizer: optimizer, late=False, multi=False):
    def trained():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(2), keras.layers.Dense(1)]
        model = keras.Sequential([*([] if late else [keras.Input((3,))]), *layers])
        inner = tf_optim_ext.Adam(0.1)
        if multi:
            optimizer = tf_optim_ext.MultiOptimizer(
                [(inner, layers[0]), (MAKE["Lookahead"](keras.optimizers.SGD(0.1)), layers[1])]
            )
        else:
            optimizer = MAKE["Lookahead"](MAKE["MovingAverage"](inner))
        model.compile(wrap(optimizer), "mse")
        model.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        return model

    with strategy.scope():
        model = trained()
    expected = trained()
    two_devices.check_equal(strategy, model.variables, expected.variables, "fit")
    two_devices.check_equal(
        strategy, model.optimizer.variables, expected.optimizer.variables, "fit"
    )


def sparse(strategy):
    for name, make in MAKE.items():
        with strategy.scope():
            table, optimizer = tf.Variable(tf.ones((4, 2))), make(tf_optim_ext.Adam(0.1))
        expected, single = tf.Variable(tf.ones((4, 2))), make(tf_optim_ext.Adam(0.1))

        @tf.function
        def step(table=table, optimizer=optimizer):
            def replica():
                last = 1 + 2 * tf.distribute.get_replica_context().replica_id_in_sync_group
                rows = tf.stack([1, last])
                slices = tf.IndexedSlices(tf.ones((2, 2)), rows, tf.constant([4, 2]))
                optimizer.apply_gradients([(slices, table)])

            strategy.run(replica)

        for _ in range(3):
            step()
            both = tf.IndexedSlices(tf.ones((4, 2)), tf.constant([1, 1, 1, 3]))
            single.apply_gradients([(both, expected)])
        two_devices.check_equal(strategy, [table], [expected], name)
        two_devices.check_equal(strategy, optimizer.variables, single.variables, name)


def summed_by_the_caller(strategy):
    """Each replica has the sum already; Keras 3's own optimizers would sum again, and say so."""
    for inner in ("ours", "keras"):
        with strategy.scope():
            variable = tf.Variable([1.0])
            optimizer = MAKE["MovingAverage"](INNER[inner]())
        expected, single = tf.Variable([1.0]), MAKE["MovingAverage"](INNER[inner]())

        def replica(optimizer=optimizer, variable=variable):
            pairs = [(tf.constant([2.0]), variable)]
            optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

        if inner == "keras" and not IS_KERAS_2:
            with pytest.raises(ValueError, match="always sums gradients"):
                strategy.run(replica)
            continue
        strategy.run(replica)
        single.apply_gradients([(tf.constant([2.0]), expected)])
        two_devices.check_equal(strategy, [variable], [expected], inner)
        two_devices.check_equal(strategy, optimizer.variables, single.variables, inner)


CHECKS = {
    **{
        f"{name}, {inner}": functools.partial(steps, name=name, inner=inner)
        for name in MAKE
        for inner in INNER
    },
    "eager": functools.partial(steps, name="Lookahead", inner="ours", eager=True),
    "fit": fit,
    "fit with a scaled loss": functools.partial(fit, wrap=LossScaleOptimizer),
    "fit of a model that is built late": functools.partial(fit, late=True),
    "fit with several": functools.partial(fit, multi=True),
    "sparse": sparse,
    "summed by the caller": summed_by_the_caller,
}


# The others are long tests.
SOME = {"Lookahead, ours", "MovingAverage, keras"}


if __name__ == "__main__":
    common.print_outcomes({name: CHECKS[name] for name in sys.argv[1:]}, two_devices.start())
