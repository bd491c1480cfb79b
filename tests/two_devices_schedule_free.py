"""Checks of schedule-free optimizers under `MirroredStrategy` on two logical CPUs.

Runs in a process of its own, from `test_schedule_free_saving.py`, see `two_devices.py`.
"""

import common
import numpy as np
import pytest
import tensorflow as tf
import two_devices
from generation import keras

import tf_optim_ext

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 1)).astype("float32")


def make_sgd():
    return tf_optim_ext.ScheduleFreeSGD(0.1, momentum=0.8)


def make_adamw():
    return tf_optim_ext.ScheduleFreeAdamW(0.1, beta_1=0.8, warmup_steps=3)


def make_model(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


def check_model(strategy, model, expected, what):
    two_devices.check_equal(strategy, model.variables, expected.variables, what)
    slots = model.optimizer.variables[2:]
    two_devices.check_equal(strategy, slots, expected.optimizer.variables[2:], what)
    held = model.optimizer.holds_averaged_weights, expected.optimizer.holds_averaged_weights
    assert held[0] == held[1], what


def fit(strategy):
    with strategy.scope():
        model = make_model(make_adamw())
    expected, histories = make_model(make_adamw()), []
    for each in (model, expected):
        arguments = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
        histories.append(each.fit(X, Y, validation_data=(X, Y), **arguments).history)
    assert model.optimizer.holds_averaged_weights
    check_model(strategy, model, expected, "fit")
    losses = [history["val_loss"] for history in histories]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    losses = [each.evaluate(X, Y, verbose=0) for each in (model, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    outputs = [each.predict(X, verbose=0) for each in (model, expected)]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)
    for each in (model, expected):
        each.train_on_batch(X, Y)
        each.evaluate(X, Y, verbose=0)
        assert not each.optimizer.holds_averaged_weights
    check_model(strategy, model, expected, "train_on_batch")
    for each in (model, expected):
        each.optimizer.use_averaged_weights()
    check_model(strategy, model, expected, "averaged")


def loop(strategy):
    with strategy.scope():
        variables, optimizer = common.make_variables("tf"), make_sgd()
    expected, single = common.make_variables("tf"), make_sgd()
    gradients = common.make_gradients(0)

    def replica():
        optimizer.apply_gradients([(0.5 * g, v) for g, v in zip(gradients, variables)])

    def run():
        strategy.run(replica)

    for step in (tf.function(run), run):
        step()
        single.apply_gradients(zip(gradients, expected))
        with optimizer.averaged_weights(), single.averaged_weights():
            two_devices.check_equal(strategy, variables, expected, "averaged")
            with pytest.raises(RuntimeError, match="use_training_weights"):
                run()
        two_devices.check_equal(strategy, variables, expected, "training")
    assert optimizer.iterations.numpy() == 2


def late_fit(strategy):
    """A model that is built in its first step."""

    def trained():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
        model.compile(make_adamw(), "mse")
        model.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        return model

    with strategy.scope():
        model = trained()
    expected = trained()
    check_model(strategy, model, expected, "late")


CHECKS = {"fit": fit, "loop": loop, "fit of a model that is built late": late_fit}


if __name__ == "__main__":
    common.print_outcomes(CHECKS, two_devices.start())
