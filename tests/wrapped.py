"""Wrappers with arguments that are not the defaults, for the tests of them."""

import functools

import conftest
import pytest
import references
from generation import keras

import tf_optim_ext

STEPS = 9
WRAPPERS = {
    "Lookahead": functools.partial(
        tf_optim_ext.Lookahead, sync_period=3, slow_step_size=0.3, name="look"
    ),
    "MovingAverage": functools.partial(
        tf_optim_ext.MovingAverage,
        average_decay=0.8,
        num_updates=20,
        start_step=2,
        dynamic_decay=True,
    ),
    "SWA": functools.partial(tf_optim_ext.SWA, start_averaging=1, average_period=3),
}
SLOTS = {"Lookahead": "slow", "MovingAverage": "average", "SWA": "average"}
each_wrapper = pytest.mark.parametrize("name", WRAPPERS)
ADAM = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}
# Those of which the references' updates do not depend on the weights.
INSIDE = {
    "SGD": (
        lambda: tf_optim_ext.SGD(0.1, momentum=0.9),
        references.sgd,
        {"learning_rate": 0.1, "momentum": 0.9},
    ),
    "Adam": (lambda: tf_optim_ext.Adam(**ADAM), references.adam, ADAM),
    "keras Adam": (lambda: keras.optimizers.Adam(**ADAM), references.adam, ADAM),
    "keras SGD": (
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        references.sgd,
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    ),
}
# Where the other wrappers take the same way: they are for the long tests.
some_wrappers = pytest.mark.parametrize("name", conftest.shortened(WRAPPERS, ("Lookahead",)))
inside = pytest.mark.parametrize("inner", INSIDE)
