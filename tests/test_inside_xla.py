"""Native steps under XLA on a CPU: equal to those outside, to the last bit."""

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    arrays,
    assert_close,
    make_gradients,
    make_variables,
    outcomes_of,
    route_of_dense,
    same,
)
from generation import keras

import tf_optim_ext

pytestmark = pytest.mark.usefixtures("native_inside_xla")

# The last is long enough for several threads.
SHAPES = ((0, 4), (), (700, 100))


def trained(make, jit_compile, steps=2, dtype="float32", shapes=SHAPES):
    """Weights and state after some steps, and the route."""
    variables, optimizer = make_variables("tf", shapes, dtype=dtype), make()
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(*gradients):
        optimizer.apply(gradients, variables)

    for i in range(steps):
        step(*[tf.constant(g) for g in make_gradients(i, shapes, dtype)])
    return arrays([*variables, *optimizer.variables]), str(optimizer.route)


def check_equal(make, **arguments):
    expected, _ = trained(make, False, **arguments)
    actual, route = trained(make, True, **arguments)
    assert route == route_of_dense(inside_xla=True)
    assert same(actual, expected)


class TestSameBits:
    def test_every_optimizer(self, entry):
        if entry.arguments.get("ord") == "nuclear":
            pytest.skip("what is composed of TensorFlow's ops may differ in the last digits")
        check_equal(entry.make, shapes=((3, 2), ()))

    @pytest.mark.parametrize("name", ["AdamW", "Lamb", "Prodigy", "SGD"])
    def test_many_threads(self, name):
        check_equal(registry.BY_NAME[name].make)

    @pytest.mark.parametrize("stochastic", [False, True])
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_formats(self, dtype, stochastic):
        check_equal(
            lambda: tf_optim_ext.AdamW(0.01, stochastic_rounding=stochastic, seed=3), dtype=dtype
        )

    def test_accumulation_and_average(self):
        check_equal(
            lambda: tf_optim_ext.Adam(0.1, gradient_accumulation_steps=2, use_ema=True), steps=4
        )

    def test_row_wise(self):
        check_equal(lambda: tf_optim_ext.Adam(0.1, row_wise=True))

    @pytest.mark.parametrize("option", ["clipnorm", "global_clipnorm"])
    def test_clipped_by_norm(self, option):
        # All but the last digits: the norms are sums of TensorFlow's.
        def make():
            return registry.BY_NAME["AdamW"].make(**{option: 0.1})

        expected, _ = trained(make, False)
        actual, route = trained(make, True)
        assert route == route_of_dense(inside_xla=True)
        assert_close(actual, expected)


class TestFunctions:
    def test_loops_and_branches(self):
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

    def test_values_that_are_still_needed(self):
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

    def test_a_gradient_of_another_shape(self):
        v, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.SGD(0.5)
        optimizer.build([v])
        step = tf.function(
            lambda g: optimizer.apply([g], [v]),
            input_signature=[tf.TensorSpec(None, tf.float32)],
            jit_compile=True,
        )
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            step(tf.ones([3]))
        np.testing.assert_array_equal(v, [1.0, 2.0])

    def test_fit(self):
        x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
        y = x @ np.ones((8, 1), np.float32)

        def weights(jit_compile):
            keras.utils.set_random_seed(0)
            layers = [keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)]
            model, optimizer = keras.Sequential(layers), tf_optim_ext.AdamW(0.01)
            model.compile(optimizer, "mse", jit_compile=jit_compile, steps_per_execution=2)
            model.fit(x, y, epochs=2, batch_size=16, verbose=0, shuffle=False)
            assert str(optimizer.route) == route_of_dense(inside_xla=jit_compile)
            return model.get_weights()

        assert_close(weights(True), weights(False), rtol=1e-4, atol=1e-5)

    def test_in_a_saved_model(self, tmp_path):
        class Trainer(tf.Module):
            def __init__(self):
                self.weights = tf.Variable([1.0, 2.0])
                self.optimizer = tf_optim_ext.SGD(0.5)
                self.optimizer.build([self.weights])

            @tf.function(input_signature=[tf.TensorSpec([2])])
            def train(self, gradient):
                self.optimizer.apply([gradient], [self.weights])
                return tf.identity(self.weights)

        tf.saved_model.save(Trainer(), str(tmp_path / "trainer"))
        # In a process that does nothing but import the package.
        found = outcomes_of("compatibility/saved_step.py", str(tmp_path / "trainer"))
        assert found == {"outside": [0.5, 1.5], "inside": [0.0, 1.0]}


class TestTensorFlowRoute:
    """What takes it also where native steps are possible."""

    def route_of(self, v, gradient):
        optimizer = tf_optim_ext.SGD(0.5)
        optimizer.build([v])
        tf.function(lambda: optimizer.apply([gradient], [v]), jit_compile=True)()
        return str(optimizer.route)

    def test_sparse_gradients(self):
        v = tf.Variable(tf.ones([4, 2]))
        rows = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]))
        assert self.route_of(v, rows) == "tensorflow: sparse gradients inside XLA"
        np.testing.assert_array_equal(v[:, 0], [1, 0, 1, 1])

    def test_sparse_gradients_beside_dense_ones(self):
        table, v, optimizer = tf.Variable(tf.ones([4, 2])), tf.Variable(1.0), tf_optim_ext.SGD(0.5)
        optimizer.build([table, v])
        rows = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]))
        tf.function(lambda: optimizer.apply([rows, 1.0], [table, v]), jit_compile=True)()
        assert str(optimizer.route) == "tensorflow: sparse gradients inside XLA"
        np.testing.assert_array_equal(table[:, 0], [1, 0, 1, 1])
        assert float(v) == 0.5

    def test_float64(self):
        v = tf.Variable([1.0, 2.0], dtype=tf.float64)
        route = self.route_of(v, tf.ones(2, tf.float64))
        assert route == "tensorflow: weights of dtype float64"
        np.testing.assert_array_equal(v, [0.5, 1.5])

    def test_portable(self):
        with tf_optim_ext.portable():
            assert self.route_of(tf.Variable([1.0]), tf.ones(1)) == "tensorflow: inside portable()"
