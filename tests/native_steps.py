"""Steps of the native library without an optimizer around them, for the tests of the library."""

import ml_dtypes
import numpy as np
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext import catalogue
from tf_optim_ext.backends import native
from tf_optim_ext.backends.scalars import Scalars
from tf_optim_ext.engine import targets

FORMATS = (np.float32, ml_dtypes.bfloat16, np.float16)
# Each under the first of its titles.
ALL = {p.fingerprint: (title, p) for title, p in reversed(catalogue.all_programs())}
ALL = dict(reversed(ALL.values()))
# Without those whose result for one variable is meant to depend on the others.
PROGRAMS = {title: p for title, p in ALL.items() if not p.is_joint}
SGD = tf_optim_ext.SGD.program(nesterov=False, has_momentum=False)


def numbers(program, gradient_scale=0.75, learning_rate=0.125):
    """The numbers of a step: every hyperparameter has its effect."""
    h = {"clipvalue": 1.5, "weight_decay": 0.25, "epsilon": 0.01}
    h = {name: h.get(name, 0.625) for name in program.hyperparameters}
    return Scalars(2, learning_rate, gradient_scale, h)


def run(program, arrays, h=None):
    """Runs a program natively over variables.

    Args:
        program: a `rule.Program` of the library.
        arrays: for each variable, a dict of "w", "g" and the slots.
        h: a `Scalars`; default: `numbers(program)`.

    Returns:
        For each variable, a dict of the new "w", slots and numbers.
    """
    variables = [{k: tf.Variable(a) for k, a in own.items() if k != "g"} for own in arrays]
    rows = [np.shape(own["w"])[:1] if program.by_row else () for own in arrays]
    numbers_of_variables = [
        [tf.Variable(tf.fill(shape, tf.constant(0.625, tf.float64))) for shape in rows]
        for _ in program.variable_scalars
    ]
    numbers_of_all = [tf.Variable(0.625, dtype=tf.float64) for _ in program.optimizer_scalars]
    group = targets.Group(
        "",
        list(range(len(variables))),
        [own["w"].handle for own in variables],
        [own[slot].handle for slot in program.slots for own in variables],
        [v.handle for own in (*numbers_of_variables, numbers_of_all) for v in own],
    )
    gradients = [tf.constant(own["g"]) for own in arrays]
    native.step(program, group, gradients, h or numbers(program))
    for i, own in enumerate(variables):
        own.update({n: v[i] for n, v in zip(program.variable_scalars, numbers_of_variables)})
        own.update(zip(program.optimizer_scalars, numbers_of_all))
    return [{k: v.numpy() for k, v in own.items()} for own in variables]


def step(program, weights, gradients, slots, scalars):
    """Runs a program without scalar state natively over handles."""
    members = list(range(len(weights)))
    native.step(program, targets.Group("", members, weights, slots, []), gradients, scalars)


def random_arrays(program, size, seed, formats=FORMATS[:1]):
    rng = np.random.default_rng(seed)
    # Some second moment must not be negative, and so none is.
    arrays = {slot: np.abs(rng.normal(size=size)) for slot in program.slots}
    arrays.update(w=rng.normal(size=size), g=rng.normal(size=size))
    return {name: a.astype(formats[rng.integers(len(formats))]) for name, a in arrays.items()}


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    for name in actual:
        assert actual[name].dtype == expected[name].dtype
        nan = np.isnan(actual[name].astype(np.float32))  # whose payload nobody promises
        np.testing.assert_array_equal(nan, np.isnan(expected[name].astype(np.float32)))
        assert actual[name][~nan].tobytes() == expected[name][~nan].tobytes(), name


def sgd_step(variables, gradients, learning_rate=0.5, **arguments):
    optimizer = tf_optim_ext.SGD(learning_rate, **arguments)
    optimizer.apply(gradients, variables)
    assert optimizer.route.is_native


def make_copy_on_read(variable):
    """A sparse update switches a variable for good to copies on reading."""
    index = tf.zeros([1], tf.int32)
    variable.scatter_add(tf.IndexedSlices(tf.zeros([1, *variable.shape[1:]]), index))
