"""Subclasses that override a step of Keras': called, or refused when the class is made."""

import numpy as np
import pytest
import tensorflow as tf
from common import arrays, make_gradients, make_variables, same
from generation import keras, only_keras_3
from modes import dense, fit, modes, wrapped

import tf_optim_ext
from tf_optim_ext._keras import NOT_CALLED


def doubling(base):
    """A class with an `apply` that doubles gradients, and notes that it was called."""

    class Doubling(base):
        calls = 0

        def apply(self, grads, trainable_variables=None):
            type(self).calls += 1
            super().apply([2 * g for g in grads], trainable_variables)

    return Doubling


class TestApply:
    @modes
    @pytest.mark.parametrize("way", ["apply_gradients", "apply", "minimize"])
    def test_is_called(self, way, mode):
        optimizer, variables = doubling(tf_optim_ext.SGD)(0.25), make_variables()
        factors = [tf.constant(g) for g in make_gradients(0)]

        def loss():
            return tf.add_n([tf.reduce_sum(f * v) for f, v in zip(factors, variables)])

        ways = {
            "apply_gradients": lambda: optimizer.apply_gradients(zip(factors, variables)),
            "apply": lambda: optimizer.apply(factors, variables),
            "minimize": lambda: optimizer.minimize(loss, variables),
        }
        before = arrays(variables)

        def step():
            ways[way]()

        wrapped(mode, step)()
        assert optimizer.calls > 0
        expected = [w - 0.5 * f for w, f in zip(before, make_gradients(0))]
        assert same(arrays(variables), [np.asarray(x, np.float32) for x in expected])

    @pytest.mark.few
    def test_in_fit_of_every_optimizer(self, entry):
        optimizer = doubling(entry.cls)(**entry.arguments, **entry.options)
        model, expected = dense(), dense()
        model.compile(optimizer, "mse")
        fit(model)
        assert optimizer.calls > 0
        expected.compile(entry.make(), lambda y, x: 2 * keras.losses.mean_squared_error(y, x))
        fit(expected)
        for a, b in zip(model.get_weights(), expected.get_weights()):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    def test_mixin_before_the_class(self):
        class Mixin:
            def apply(self, grads, trainable_variables=None):
                super().apply([2 * g for g in grads], trainable_variables)

        class Mixed(Mixin, tf_optim_ext.SGD):
            pass

        variable = tf.Variable(1.0)
        Mixed(0.25).apply_gradients([(tf.constant(1.0), variable)])
        assert float(variable) == 0.5


class TestWhatIsNotCalled:
    @pytest.mark.parametrize("name", sorted(NOT_CALLED))
    def test_is_refused(self, name):
        message = rf"Mine overrides \['{name}'\].*do not call.*`rule`.*`apply\(grads"
        with pytest.raises(TypeError, match=message):
            type("Mine", (tf_optim_ext.SGD,), {name: lambda self, *args: None})
        mixin = type("Mixin", (), {name: lambda self, *args: None})
        with pytest.raises(TypeError, match=message):
            type("Mine", (mixin, tf_optim_ext.SGD), {})
        # It overrides nothing there.
        type("Mine", (tf_optim_ext.SGD, mixin), {})

    def test_keras_calls_them(self):
        """So that people do override them."""

        class Clipping(keras.optimizers.SGD):
            def _clip_gradients(self, grads):
                return [0 * g for g in grads]

        variable = tf.Variable(1.0)
        Clipping(0.25).apply_gradients([(tf.constant(1.0), variable)])
        assert float(variable) == 1.0

    @only_keras_3("has other names")
    def test_names_are_those_of_keras(self):
        """All that Keras' step calls is either ours, or in the list."""
        own = {name for cls in tf_optim_ext.SGD.__mro__ for name in _own_names(cls)}
        called = {
            name
            for cls in keras.optimizers.SGD.__mro__
            if cls.__module__.startswith("keras.src")
            for name in vars(cls)
            if name.startswith(("_backend_", "_clip", "_apply", "_update_model"))
        }
        assert called
        assert called <= own | NOT_CALLED

    def test_names_are_those_of_optimizer_v2(self):
        """All that its step calls with gradients is either ours, or in the list."""
        import tf_keras

        own = {name for cls in tf_optim_ext.SGD.__mro__ for name in _own_names(cls)}
        of_steps = ("_transform", "_aggregate", "_get_gradients", "_compute_gradients", "_create_s")
        more = ("_create_all", "_distributed_apply", "_resource_apply")
        called = {
            name
            for name in vars(tf_keras.optimizers.legacy.Optimizer)
            if name.startswith((*of_steps, *more)) and name != "_create_slots_for_sharded_variables"
        }
        assert "_aggregate_gradients" in called
        assert called <= own | NOT_CALLED


def _own_names(cls):
    return vars(cls) if cls.__module__.startswith("tf_optim_ext") else ()


def test_route_is_that_of_the_rule():
    class Mine(tf_optim_ext.SGD):
        @staticmethod
        def rule(w, g, s, h):
            return w - 0.375 * h.learning_rate * g

    for options in ({}, {"use_ema": True}, {"gradient_accumulation_steps": 2}):
        optimizer, variable = Mine(0.5, **options), tf.Variable(1.0)
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert optimizer.route.kind == "tensorflow", options
