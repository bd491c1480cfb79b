"""What later versions of TensorFlow 2 added to the optimizers of TensorFlow 2.0."""

import inspect
import json

import conftest
import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    arrays,
    assert_close,
    both_kinds,
    make_gradients,
    make_variable,
    make_variables,
    same,
    train,
    unchanged,
)
from generation import KerasVariable, keras, only_keras_3
from legacy import legacy
from modes import MODES, wrapped

import tf_optim_ext

v1 = tf.compat.v1
ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]
WITH_EPSILON = [e for e in registry.ENTRIES if "epsilon" in e.cls.declaration().intervals]


def counter(kind, value=0):
    return make_variable(kind, np.int64(value), "count")


class TestIterations:
    @pytest.mark.few
    @both_kinds
    @pytest.mark.parametrize("mode", conftest.shortened(MODES, ["eager", "function"]))
    def test_a_variable_of_ones_own(self, entry, kind, mode):
        count, variables, optimizer = counter(kind), make_variables(), entry.make()
        optimizer.iterations = count
        step = wrapped(mode, lambda own: _pass(optimizer.apply_gradients(zip(own, variables))))
        for i in range(3):
            step([tf.constant(g) for g in make_gradients(i)])
        assert int(count.numpy()) == 3
        assert int(optimizer.iterations.numpy()) == 3
        expected, plain = make_variables(), entry.make()
        step = wrapped(mode, lambda own: _pass(plain.apply_gradients(zip(own, expected))))
        for i in range(3):
            step([tf.constant(g) for g in make_gradients(i)])
        assert same(arrays(variables), arrays(expected))
        assert same(optimizer.get_weights(), plain.get_weights())
        assert [v.shape for v in optimizer.variables] == [v.shape for v in plain.variables]

    def test_the_count_goes_on_from_its_value(self):
        variable, optimizer = tf.Variable(1.0), tf_optim_ext.Adam(0.1, beta_1=0.5, beta_2=0.5)
        optimizer.iterations = counter("tf", 1)
        optimizer.apply_gradients([(tf.constant(2.0), variable)])
        # The corrections are those of the second step.
        moved = 0.1 * np.sqrt(1 - 0.25) / (1 - 0.25) * 1.0 / np.sqrt(2.0)
        assert float(variable) == pytest.approx(1 - moved, rel=1e-6)

    @both_kinds
    @only_keras_3("takes a variable as it is")
    def test_shared_by_two_optimizers(self, kind, tmp_path):
        def make():
            count, first, second = counter(kind), ADAM.make(), SGD.make()
            first.iterations = second.iterations = count
            assert first.variables[0] is not count or kind == "keras"
            return count, first, second

        count, first, second = make()
        variables = make_variables()
        train(first, variables, 2)
        train(second, variables, 1)
        assert int(count.numpy()) == int(second.iterations.numpy()) == 3
        second.iterations.assign(7)
        assert int(first.iterations.numpy()) == 7

        path = tf.train.Checkpoint(f=first, s=second, v=variables).save(str(tmp_path / "c"))
        count, first_again, second_again = make()
        again = make_variables()
        tf.train.Checkpoint(f=first_again, s=second_again, v=again).restore(path)
        for each, other in ((first, first_again), (second, second_again)):
            train(each, variables, 1)
            train(other, again, 1)
        assert int(count.numpy()) == 9
        assert same(arrays(again), arrays(variables))

    def test_of_a_schedule(self):
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([4], [1.0, 0.5])
        optimizer, variable = tf_optim_ext.SGD(schedule), tf.Variable(1.0)
        optimizer.iterations = counter("tf", 4)
        found = []
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant(1.0), variable)])
            found.append(float(variable))
        assert found == [0.0, -0.5]

    def test_in_a_graph(self):
        with tf.Graph().as_default(), v1.Session() as session:
            step, weight = v1.train.get_or_create_global_step(), tf.Variable(1.0)
            optimizer = tf_optim_ext.SGD(0.25)
            optimizer.iterations = step
            update = optimizer.get_updates(weight + 0.0, [weight])
            session.run(v1.global_variables_initializer())
            session.run(update)
            session.run(update)
            assert session.run([step, weight]) == [2, 0.5]

    @both_kinds
    @pytest.mark.parametrize("build", ["build", "step"])
    def test_too_late(self, build, kind):
        optimizer, variables = ADAM.make(), make_variables()
        if build == "build":
            optimizer.build(variables)
        else:
            train(optimizer, variables, 1)
        with unchanged(optimizer), pytest.raises(RuntimeError, match="only before"):
            optimizer.iterations = counter(kind)

    @pytest.mark.parametrize(
        ("wrong", "error"),
        [
            (5, TypeError),
            (np.int64(5), TypeError),
            (None, TypeError),
            (tf.constant(5, tf.int64), TypeError),
            (lambda: tf.Variable(1), ValueError),
            (lambda: tf.Variable(1.0), ValueError),
            (lambda: tf.Variable([1], dtype=tf.int64), ValueError),
            (lambda: KerasVariable(1, dtype="int32"), ValueError),
        ],
        ids=lambda x: getattr(x, "__name__", None),
    )
    def test_what_it_may_not_be(self, wrong, error):
        optimizer = ADAM.make()
        wrong = wrong() if callable(wrong) else wrong
        with unchanged(optimizer), pytest.raises(error, match="int64 scalar variable"):
            optimizer.iterations = wrong


def _pass(_):
    """A `tf.function` cannot return a Keras variable."""


class TestEpsilon:
    @pytest.mark.family
    def test_none_is_that_of_keras(self, entry):
        if "epsilon" not in entry.cls.declaration().intervals:
            assert "epsilon" not in inspect.signature(entry.cls).parameters
            return
        optimizer = entry.make(epsilon=None)
        assert optimizer.epsilon == 1e-7
        config = json.loads(json.dumps(optimizer.get_config()))
        assert config["epsilon"] == 1e-7
        assert type(optimizer).from_config({**config, "epsilon": None}).epsilon == 1e-7

    @only_keras_3("has the setting elsewhere")
    def test_as_it_is_set(self):
        before = keras.config.epsilon()
        keras.config.set_epsilon(0.25)
        try:
            optimizer = tf_optim_ext.Adam(0.1, epsilon=None)
        finally:
            keras.config.set_epsilon(before)
        assert optimizer.epsilon == 0.25
        assert tf_optim_ext.Adam(0.1, epsilon=0.0).epsilon == 0.0

    def test_none_of_the_others(self):
        with pytest.raises(ValueError, match="beta_1"):
            tf_optim_ext.Adam(0.1, beta_1=None)


class TestComputeGradients:
    """`compute_gradients` and `apply_gradients` are `minimize`."""

    def check(self, optimizer, expected, compute):
        variables, others = make_variables(), make_variables()
        weights = [tf.constant(g) for g in make_gradients(0)]

        def loss(over):
            return sum(tf.reduce_sum(tf.square(w * v)) for w, v in zip(weights, over))

        for _ in range(3):
            optimizer.apply_gradients(compute(optimizer, lambda: loss(variables), variables))
            expected.minimize(lambda: loss(others), others)
        assert same(arrays(variables), arrays(others))
        assert same(optimizer.get_weights(), expected.get_weights())

    @pytest.mark.few
    @pytest.mark.parametrize("name", ["compute_gradients", "_compute_gradients"])
    @pytest.mark.parametrize("scale", [None, 8.0])
    def test_of_a_callable(self, entry, name, scale):
        def compute(optimizer, loss, variables):
            pairs = getattr(optimizer, name)(loss, variables)
            assert [v for _, v in pairs] == variables
            return pairs

        self.check(*(entry.make(loss_scale_factor=scale) for _ in range(2)), compute)

    @pytest.mark.parametrize("by_position", [False, True])
    def test_of_a_tensor(self, by_position):
        def compute(optimizer, loss, variables):
            with tf.GradientTape() as tape:
                value = loss()
            if by_position:
                return optimizer.compute_gradients(value, variables, tape)
            return optimizer.compute_gradients(value, variables, tape=tape)

        self.check(ADAM.make(), ADAM.make(), compute)

    def test_minimize_takes_the_tape_as_its_third_argument(self):
        optimizer, variable = tf_optim_ext.SGD(0.5), tf.Variable(1.0)
        with tf.GradientTape() as tape:
            loss = variable * 2.0
        optimizer.minimize(loss, [variable], tape)
        assert float(variable) == 0.0

    @pytest.mark.parametrize("name", ["compute_gradients", "_compute_gradients"])
    def test_weights_of_the_loss_and_what_is_missing(self, name):
        optimizer, variable, other = (
            tf_optim_ext.SGD(0.5),
            tf.Variable([1.0, 1.0]),
            tf.Variable(1.0),
        )
        pairs = getattr(optimizer, name)(
            lambda: 2 * variable, lambda: [variable, other], grad_loss=tf.constant([1.0, 3.0])
        )
        assert pairs[0][0].numpy().tolist() == [2.0, 6.0]
        assert pairs[1][0] is None
        with pytest.raises(ValueError, match="`tape`"):
            getattr(optimizer, name)(tf.constant(1.0), [variable])
        with pytest.raises(ValueError, match="var_list"):
            getattr(optimizer, name)(lambda: variable, [5])

    @pytest.mark.parametrize("name", ["compute_gradients", "_compute_gradients"])
    def test_minimize_calls_an_override(self, name):
        """With the signature that it has in `tf.keras` 2."""

        def doubled(self, loss, var_list, tape=None):
            pairs = super(Doubled, self).compute_gradients(loss, var_list, tape=tape)
            return [(2 * g, v) for g, v in pairs]

        def legacy_doubled(self, loss, var_list, grad_loss=None, tape=None):
            pairs = super(Doubled, self)._compute_gradients(loss, var_list, grad_loss, tape)
            return [(2 * g, v) for g, v in pairs]

        override = doubled if name == "compute_gradients" else legacy_doubled
        Doubled = type("Doubled", (tf_optim_ext.SGD,), {name: override})
        optimizer, variable = Doubled(0.25), tf.Variable(1.0)
        optimizer.minimize(lambda: variable + 0.0, [variable])
        assert float(variable) == 0.5

    def test_equals_that_of_tf_keras(self):
        variable = tf.Variable([1.0, 2.0])
        pairs = [
            optimizer._compute_gradients(lambda: tf.reduce_sum(variable**2), [variable])
            for optimizer in (tf_optim_ext.Adam(), legacy.Adam())
        ]
        (ours, v), (theirs, w) = pairs[0][0], pairs[1][0]
        assert v is w
        assert same(arrays([ours]), arrays([theirs]))


class TestSummedGradients:
    """With one replica there is nothing to sum; with two, see `two_devices.py`."""

    @pytest.mark.few
    @pytest.mark.parametrize(
        "arguments",
        [
            {"experimental_aggregate_gradients": True},
            {"experimental_aggregate_gradients": False},
            {"skip_gradients_aggregation": True},
            {"skip_gradients_aggregation": False},
        ],
        ids=str,
    )
    def test_arguments(self, entry, arguments):
        variables, optimizer = make_variables(), entry.make()
        expected, plain = make_variables(), entry.make()
        for step in range(2):
            own = make_gradients(step)
            optimizer.apply_gradients(zip(own, variables), name="step", **arguments)
            plain.apply_gradients(zip(own, expected))
        assert same(arrays(variables), arrays(expected))

    def test_aggregate_gradients(self):
        variables, optimizer = make_variables(), ADAM.make()
        gradients = make_gradients(0)
        with pytest.warns(UserWarning, match="bias"):
            pairs = optimizer.aggregate_gradients(
                zip([gradients[0], None, gradients[2]], variables)
            )
        assert [v for _, v in pairs] == variables
        assert pairs[1][0] is None
        assert_close([pairs[0][0], pairs[2][0]], [gradients[0], gradients[2]])
        assert optimizer.aggregate_gradients([]) == []
        assert not optimizer.built


class TestTensorAsLearningRate:
    @pytest.mark.few
    @pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
    def test_in_a_graph(self, entry, dtype):
        rates = [2, 3] if dtype == "int32" else [0.5, 0.25]
        with tf.Graph().as_default(), v1.Session() as session:
            fed, variables = v1.placeholder(dtype, ()), make_variables("tf")
            optimizer = entry.make(learning_rate=fed)
            update = optimizer.apply_gradients(zip(make_gradients(0), variables))
            assert optimizer.learning_rate is fed
            with pytest.raises(ValueError, match="a configuration cannot hold"):
                optimizer.get_config()
            session.run(v1.variables_initializer(variables))
            session.run(v1.global_variables_initializer())
            for rate in rates:
                session.run(update, {fed: rate})
            found = session.run(variables)
        expected, plain = make_variables("tf"), entry.make()
        for rate in rates:
            plain.learning_rate = rate
            plain.apply_gradients(zip(make_gradients(0), expected))
        assert_close(found, expected)

    def test_a_schedule_of_the_global_step(self):
        with tf.Graph().as_default(), v1.Session() as session:
            step, weight = v1.train.get_or_create_global_step(), tf.Variable(0.0)
            optimizer = tf_optim_ext.SGD(v1.train.exponential_decay(1.0, step, 1, 0.5))
            optimizer.iterations = step
            update = optimizer.get_updates(weight + 0.0, [weight])
            session.run(v1.global_variables_initializer())
            for expected in (-1.0, -1.5, -1.75):
                session.run(update)
                assert session.run(weight) == expected

    def test_eager(self):
        assert float(tf_optim_ext.SGD(tf.constant(0.5)).learning_rate) == 0.5

    @pytest.mark.parametrize(("dtype", "shape"), [("float32", [1]), ("bool", []), ("string", [])])
    def test_what_it_may_not_be(self, dtype, shape):
        with tf.Graph().as_default(), pytest.raises(ValueError, match="must be a scalar"):
            tf_optim_ext.SGD(v1.placeholder(dtype, shape))
