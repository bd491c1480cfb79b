"""Norms that gradients are clipped by: as in float64, on every route."""

import numpy as np
import pytest
import tensorflow as tf
from common import arrays, assert_close, make_gradients, make_variables, run_in_function

import tf_optim_ext
from tf_optim_ext.backends import native
from tf_optim_ext.backends import tensorflow as tensorflow_lowering
from tf_optim_ext.engine import clipping

OPTIONS = ("clipnorm", "global_clipnorm")
by_norm = pytest.mark.parametrize("option", OPTIONS)
# Of squares that float32 has no numbers for, the last of a factor of which it has none either.
MAGNITUDES = (1e20, 1e30, 1e-30, 3e38)
DTYPES = ("float32", "bfloat16")
DIRECTIONS = (np.array([[0.5, -1.0, 0.25], [0.0, 0.125, 1.0]]), np.array([-1.0, 0.5]))


def expected_updates(gradients, option, limit, scale=1.0):
    """What is subtracted at a learning rate of 1."""
    gradients = [scale * np.asarray(g).astype(np.float64) for g in gradients]
    norms = [np.linalg.norm(g) for g in gradients]
    if option == "global_clipnorm":
        norms = [np.linalg.norm(norms)] * len(norms)
    return [g * min(1.0, limit / norm) for g, norm in zip(gradients, norms)]


def sgd(option, limit, **arguments):
    return tf_optim_ext.SGD(1.0, **{option: limit}, **arguments)


class TestMagnitudes:
    def check(self, route, option, limit, gradients, dtype="float32", **arguments):
        # From zero, so that the update is what the weights are afterwards.
        variables = [tf.Variable(tf.zeros(g.shape, dtype)) for g in DIRECTIONS]
        optimizer = sgd(option, limit, **arguments)
        optimizer.build(variables)
        step = route.wrap(lambda *given: optimizer.apply(given, variables))
        step(*gradients)
        dense = [tf.convert_to_tensor(g) for g in gradients]
        scale = 1.0 / (optimizer.loss_scale_factor or 1.0)
        found = [-np.asarray(v).astype(np.float64) for v in variables]
        expected = expected_updates(dense, option, limit, scale)
        tolerance = {"float64": 1e-14, "float32": 1e-6, "bfloat16": 0.01}[dtype]
        for actual, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=tolerance)
        return optimizer

    @by_norm
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("magnitude", MAGNITUDES)
    def test_dense(self, route, magnitude, dtype, option):
        gradients = [tf.constant(magnitude * g, dtype) for g in DIRECTIONS]
        optimizer = self.check(route, option, min(1.0, magnitude / 8), gradients)
        assert str(optimizer.route) == route.expected

    @by_norm
    @pytest.mark.parametrize("sparse", ["exact", "lazy"])
    @pytest.mark.parametrize("magnitude", MAGNITUDES[:-1])
    def test_rows(self, route, magnitude, sparse, option):
        # The first row twice: the norm is that of the sum.
        rows = tf.constant(magnitude * DIRECTIONS[0][[0, 1, 0]], tf.float32)
        slices = tf.IndexedSlices(rows, tf.constant([0, 1, 0]), tf.constant([2, 3]))
        gradients = [slices, tf.constant(magnitude * DIRECTIONS[1], tf.float32)]
        self.check(route, option, min(1.0, magnitude / 8), gradients, sparse=sparse)

    @by_norm
    @pytest.mark.parametrize("magnitude", [1.0, 1e30, 1e100, 1e-100])
    def test_float64(self, route, magnitude, option):
        gradients = [tf.constant(magnitude * g, tf.float64) for g in DIRECTIONS]
        self.check(route, option, magnitude / 7, gradients, "float64")

    @by_norm
    def test_float16_weights(self, route, option):
        gradients = [tf.constant(60_000.0 * g, tf.float16) for g in DIRECTIONS]
        self.check(route, option, 1.0, gradients, "bfloat16")

    @by_norm
    def test_scaled_losses(self, route, option):
        gradients = [tf.constant(1e30 * g, tf.float32) for g in DIRECTIONS]
        self.check(route, option, 2.0, gradients, loss_scale_factor=2.0**20)

    @by_norm
    def test_not_clipped(self, route, option):
        gradients = [tf.constant(1e20 * g, tf.float32) for g in DIRECTIONS]
        self.check(route, option, 1e25, gradients)

    def test_a_function_traced_outside_and_called_inside_xla(self, native_inside_xla):
        variables = [tf.Variable(tf.zeros(g.shape)) for g in DIRECTIONS]
        optimizer = sgd("clipnorm", 1.0)
        optimizer.build(variables)
        step = tf.function(lambda *given: optimizer.apply(given, variables))
        gradients = [tf.constant(1e30 * g, tf.float32) for g in DIRECTIONS]
        step(*gradients)
        tf.function(step, jit_compile=True)(*gradients)
        expected = expected_updates(gradients, "clipnorm", 1.0)
        assert_close(variables, [-2 * g for g in expected])

    @by_norm
    @pytest.mark.parametrize("large", [1e30, 5e37])
    def test_every_optimizer(self, entry, large, option):
        # Directions alone are left of both, apart from roundings.
        results = []
        for magnitude in (1e3, large):
            variables, optimizer = make_variables("tf"), entry.make(**{option: 0.5})
            for step in range(2):
                gradients = [np.float32(magnitude) * g for g in make_gradients(step)]
                optimizer.apply([tf.constant(g) for g in gradients], variables)
            results.append([*variables, *optimizer.variables])
        assert all(np.all(np.isfinite(a)) for a in arrays(results[1]))
        assert_close(results[1], results[0], rtol=2e-5, atol=2e-6)

    @by_norm
    def test_accumulated(self, route, option):
        variables = [tf.Variable(tf.zeros(g.shape)) for g in DIRECTIONS]
        optimizer = sgd(option, 1.0, gradient_accumulation_steps=2)
        optimizer.build(variables)
        gradients = [tf.constant(1e30 * g, tf.float32) for g in DIRECTIONS]
        step = route.wrap(lambda *given: optimizer.apply(given, variables))
        step(*gradients)
        step(*gradients)
        assert_close(variables, [-g for g in expected_updates(gradients, option, 1.0)])


class TestSymbolicGradients:
    @by_norm
    @pytest.mark.parametrize("magnitude", [1.0, *MAGNITUDES])
    def test_agree_with_a_step(self, magnitude, option):
        optimizer = sgd(option, min(1.0, magnitude / 8))
        variables = [tf.Variable(tf.zeros(g.shape)) for g in DIRECTIONS]
        weights = [tf.constant(magnitude * g, tf.float32) for g in DIRECTIONS]
        found = []

        @tf.function
        def gradients():
            loss = tf.add_n([tf.reduce_sum(v * w) for v, w in zip(variables, weights)])
            found.append([g.dtype for g in optimizer.get_gradients(loss, variables)])
            return optimizer.get_gradients(loss, variables)

        symbolic = gradients()
        assert found == [[tf.float32] * 2]
        optimizer.apply(weights, variables)
        assert_close(symbolic, [-v for v in variables], rtol=1e-6, atol=0)
        limit = optimizer.clipnorm or optimizer.global_clipnorm
        for actual, wanted in zip(symbolic, expected_updates(weights, option, limit), strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-6)


class TestSquaredNorms:
    """Of both lowerings."""

    @pytest.fixture(params=["native", "tensorflow"])
    def squared_norms(self, request):
        if request.param == "tensorflow":
            return tensorflow_lowering.squared_norms
        request.getfixturevalue("native_only")
        return native.squared_norms

    @pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
    def test_digits(self, squared_norms, dtype):
        rng = np.random.default_rng(0)
        values = [tf.constant(rng.normal(size=n), dtype) for n in (0, 1, 7, 1025, 100_003)]
        exact = [np.sum(np.square(np.asarray(v).astype(np.float64))) for v in values]
        norms = squared_norms(values)
        assert norms.dtype == tf.float64
        # Of float32 and less every square is exact.
        np.testing.assert_allclose(norms, exact, rtol=1e-13)

    def test_special_values(self, squared_norms):
        rows = [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, np.inf], [-0.0, 0.0]]
        norms = squared_norms([tf.constant(row, tf.float32) for row in rows])
        np.testing.assert_array_equal(norms, [np.nan, np.inf, np.inf, 0.0])

    @pytest.mark.parametrize("in_function", [False, True])
    def test_several_dtypes_at_once(self, in_function):
        values = [tf.constant([3.0, 4.0], dtype) for dtype in ("float64", "float16", "float32")]
        variables = [tf.Variable(v) for v in values]
        found = []

        def run():
            found.append(clipping.squared_norms(values, variables))
            return found[-1]

        norms = tf.function(run)() if in_function else run()
        np.testing.assert_array_equal(norms, [25.0] * 3)


@by_norm
@pytest.mark.parametrize("run", [lambda step: step(), run_in_function], ids=["eager", "function"])
def test_infinite_norms_are_as_in_keras(run, option):
    variables = [tf.Variable(tf.zeros(g.shape)) for g in DIRECTIONS]
    optimizer = sgd(option, 1.0)
    optimizer.build(variables)
    gradients = [tf.constant(g, tf.float32) for g in DIRECTIONS]
    gradients[0] *= tf.constant([[np.inf, 1.0, 1.0], [1.0, 1.0, 1.0]])
    run(lambda: optimizer.apply(gradients, variables))
    assert np.isnan(variables[0].numpy()[0, 0])
    if option == "global_clipnorm":
        assert np.all(np.isnan(variables[1]))
    else:
        assert_close([variables[1]], [-expected_updates(gradients[1:], option, 1.0)[0]])
