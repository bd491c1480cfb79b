"""Native steps inside of XLA: equal to those outside, to the last bit.

Runs in a process of its own, from `test_compatibility.py`, with `TF_OPTIM_EXT_XLA=on`: prints a
JSON object with the outcome of each check.
"""

import common
import keras
import numpy as np
import pytest
import registry
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext import native

INSIDE = f"native ({native.instruction_set()}) inside XLA"
# The last is long enough for several threads.
SHAPES = ((0, 4), (), (700, 100))


def trained(make, jit_compile, steps=2, dtype="float32", shapes=SHAPES):
    """Weights and state after some steps, and the route."""
    variables, optimizer = common.make_variables("tf", shapes, dtype=dtype), make()
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(*gradients):
        optimizer.apply(gradients, variables)

    for i in range(steps):
        step(*[tf.constant(g) for g in common.make_gradients(i, shapes, dtype)])
    return common.arrays([*variables, *optimizer.variables]), optimizer.route


def check_equal(make, **arguments):
    expected, _ = trained(make, False, **arguments)
    actual, route = trained(make, True, **arguments)
    assert route == INSIDE, route
    assert common.same(actual, expected)


def every_optimizer():
    for entry in registry.ENTRIES:
        if entry.arguments.get("ord") == "nuclear":
            continue  # what is composed of TensorFlow's ops may differ in the last digits
        try:
            check_equal(entry.make, shapes=((3, 2), ()))
        except AssertionError as error:
            raise AssertionError(entry.name) from error


def many_threads():
    for name in ("AdamW", "Lamb", "Prodigy", "SGD"):
        check_equal(registry.BY_NAME[name].make)


def formats():
    for dtype in ("bfloat16", "float16"):
        for stochastic in (False, True):
            check_equal(
                lambda stochastic=stochastic: tf_optim_ext.AdamW(
                    0.01, stochastic_rounding=stochastic
                ),
                dtype=dtype,
            )


def accumulation_and_average():
    check_equal(
        lambda: tf_optim_ext.Adam(0.1, gradient_accumulation_steps=2, use_ema=True), steps=4
    )


def row_wise():
    check_equal(lambda: tf_optim_ext.Adam(0.1, row_wise=True))


def clipped_by_norm():
    # The norms are sums of TensorFlow's.
    make = registry.BY_NAME["AdamW"].make
    for option in ("clipnorm", "global_clipnorm"):
        expected, _ = trained(lambda option=option: make(**{option: 0.1}), False)
        actual, route = trained(lambda option=option: make(**{option: 0.1}), True)
        assert route == INSIDE
        common.assert_close(actual, expected)


def loops_and_branches():
    def weights(jit_compile):
        v, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.Adam(0.1)
        optimizer.build([v])

        @tf.function(jit_compile=jit_compile)
        def steps(count):
            i = 0
            while i < count:
                if v[0] > 0.8:
                    optimizer.apply([v * 2.0], [v])
                i += 1

        steps(tf.constant(5))
        return v.numpy(), int(optimizer.iterations)

    (expected, count), (actual, same_count) = weights(False), weights(True)
    assert 1 < count < 5
    assert same_count == count
    np.testing.assert_array_equal(actual, expected)


def traced_outside_and_called_inside():
    v, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.SGD(0.5)
    step = tf.function(lambda: optimizer.apply([tf.ones(2)], [v]))
    optimizer.build([v])
    step()
    tf.function(step, jit_compile=True)()
    np.testing.assert_array_equal(v, [0.0, 1.0])


def sparse_gradients_are_tensorflows():
    v, optimizer = tf.Variable(tf.ones([4, 2])), tf_optim_ext.SGD(0.5)
    optimizer.build([v])

    @tf.function(jit_compile=True)
    def step():
        optimizer.apply([tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]))], [v])

    step()
    np.testing.assert_array_equal(v[:, 0], [1, 0, 1, 1])
    assert optimizer.route == "tensorflow: inside XLA"


def portable_is_tensorflows():
    with tf_optim_ext.portable():
        _, route = trained(lambda: tf_optim_ext.SGD(0.1), True)
    assert route == "tensorflow: inside XLA"


def values_that_are_still_needed():
    # The old weights are read after the step, which must not write over them then.
    v, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.SGD(0.5)
    optimizer.build([v])

    @tf.function(jit_compile=True)
    def step():
        before = tf.identity(v)
        optimizer.apply([tf.ones(2)], [v])
        return before * 10.0, tf.identity(v)

    before, after = step()
    np.testing.assert_array_equal(before, [10.0, 20.0])
    np.testing.assert_array_equal(after, [0.5, 1.5])


def a_gradient_of_another_shape():
    v, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.SGD(0.5)
    optimizer.build([v])
    signature = [tf.TensorSpec(None, tf.float32)]
    step = tf.function(
        lambda g: optimizer.apply([g], [v]), input_signature=signature, jit_compile=True
    )
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        step(tf.ones([3]))
    np.testing.assert_array_equal(v, [1.0, 2.0])


def fit():
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    y = x @ np.ones((8, 1), np.float32)

    def weights(jit_compile):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
        optimizer = tf_optim_ext.AdamW(0.01)
        model.compile(optimizer, "mse", jit_compile=jit_compile, steps_per_execution=2)
        model.fit(x, y, epochs=2, batch_size=16, verbose=0, shuffle=False)
        assert optimizer.route.endswith("inside XLA") == jit_compile
        return model.get_weights()

    common.assert_close(weights(True), weights(False), rtol=1e-4, atol=1e-5)


CHECKS = {
    check.__name__: check
    for check in (
        every_optimizer,
        many_threads,
        formats,
        accumulation_and_average,
        row_wise,
        clipped_by_norm,
        loops_and_branches,
        traced_outside_and_called_inside,
        sparse_gradients_are_tensorflows,
        portable_is_tensorflows,
        values_that_are_still_needed,
        a_gradient_of_another_shape,
        fit,
    )
}


if __name__ == "__main__":
    assert native.why_not_inside_xla() is None, native.why_not_inside_xla()
    common.print_outcomes(CHECKS)
