"""`Lookahead`, `MovingAverage` and `SWA`: their maths, step by step."""

import conftest
import numpy as np
import pytest
import tensorflow as tf
from common import (
    arrays,
    assert_close,
    both_kinds,
    make_gradients,
    make_variables,
    route_of_dense,
    same,
    train,
)
from generation import keras
from modes import MODES, in_mode, modes
from references import wrappers as reference
from wrapped import INSIDE, SLOTS, STEPS, WRAPPERS, each_wrapper, inside, some_wrappers

import tf_optim_ext


def gradients_of(count=STEPS):
    return [make_gradients(step) for step in range(count)]


def expected_weights(start, gradients, inner):
    """What the optimizer inside gives alone: for each variable, the weights, those before first."""
    _, function, arguments = INSIDE[inner]
    result = []
    for i, value in enumerate(start):
        steps = function(value, [g[i] for g in gradients], **arguments)
        result.append([np.float64(value), *(theta for theta, _ in steps)])
    return result


def averages(name, weights):
    if name == "MovingAverage":
        return reference.moving_average(weights, decay=0.8, start=2, num_updates=20, dynamic=True)
    return reference.swa(weights, start=1, period=3)


def check_steps(name, inner, mode="eager", kind="keras"):
    """Weights and slot after every step."""
    variables, gradients = make_variables(kind), gradients_of()
    start = arrays(variables)
    optimizer = WRAPPERS[name](INSIDE[inner][0]())
    weights = expected_weights(start, gradients, inner)
    if name == "Lookahead":
        _, function, arguments = INSIDE[inner]
        steps = [
            list(
                reference.lookahead(
                    value,
                    [g[i] for g in gradients],
                    reference.increments(function, **arguments),
                    k=3,
                    alpha=0.3,
                )
            )
            for i, value in enumerate(start)
        ]
    else:
        steps = [
            [(w, {"average": a}) for w, a in zip(each[1:], averages(name, each), strict=True)]
            for each in weights
        ]
    step = in_mode(mode, optimizer, variables)
    for t in range(STEPS):
        step([tf.constant(g) for g in gradients[t]])
        assert_close(variables, [each[t][0] for each in steps], rtol=2e-5, atol=2e-6)
        slots = [optimizer.get_slot(v, SLOTS[name]) for v in variables]
        wanted = [each[t][1][SLOTS[name]] for each in steps]
        assert_close(slots, wanted, rtol=2e-5, atol=2e-6)
        assert int(optimizer.iterations) == t + 1
    return optimizer


class TestMaths:
    @each_wrapper
    @inside
    def test_every_step(self, name, inner):
        check_steps(name, inner)

    @some_wrappers
    @modes
    def test_modes(self, name, mode):
        optimizer = check_steps(name, "Adam", mode)
        # The pass after the update takes the same route.
        assert str(optimizer._untracked.route) == str(optimizer.route) != "none"

    @some_wrappers
    @pytest.mark.parametrize("mode", conftest.shortened(MODES[1:3], ("function",)))
    def test_modes_of_keras_own(self, name, mode):
        check_steps(name, "keras Adam", mode)

    @each_wrapper
    @both_kinds
    def test_variables_of_either_kind(self, name, kind):
        check_steps(name, "SGD", kind=kind)

    def test_native(self, native_only):
        optimizer = check_steps("Lookahead", "keras SGD")
        assert str(optimizer.route) == route_of_dense()

    @each_wrapper
    def test_debuggers_find_nothing(self, name):
        """Slots are NaN at first, which is no error."""
        variables, optimizer = make_variables(), WRAPPERS[name](tf_optim_ext.SGD(0.1))
        tf.debugging.enable_check_numerics()
        try:
            with tf_optim_ext.portable():
                train(optimizer, variables, 5)
                if name != "Lookahead":
                    optimizer.assign_average_vars(variables)
        finally:
            tf.debugging.disable_check_numerics()

    def test_lookahead_of_an_update_that_depends_on_the_weights(self):
        """By hand: the weights shrink by a part of what they are after the synchronisation."""
        optimizer = tf_optim_ext.Lookahead(
            tf_optim_ext.SGD(0.5, weight_decay=0.2), sync_period=2, slow_step_size=0.25
        )
        variable, theta, phi = tf.Variable(2.0), 2.0, 2.0
        for t in range(1, 6):
            optimizer.apply_gradients([(tf.constant(1.0), variable)])
            theta = theta - 0.5 * 0.2 * theta - 0.5
            if t % 2 == 0:
                theta = phi = phi + 0.25 * (theta - phi)
            np.testing.assert_allclose(float(variable), theta, rtol=1e-6)

    @pytest.mark.long
    def test_averages_of_every_optimizer(self, entry):
        for name in ("MovingAverage", "SWA"):
            if hasattr(entry.cls, "use_training_weights"):
                with pytest.raises(ValueError, match="keeps averages of the weights itself"):
                    WRAPPERS[name](entry.make())
                continue
            variables, alone = make_variables(), make_variables()
            start = arrays(variables)
            optimizer, single = WRAPPERS[name](entry.make()), entry.make()
            weights = [[np.float64(v)] for v in start]
            for t in range(STEPS):
                train(optimizer, variables, 1, t)
                train(single, alone, 1, t)
                assert same(arrays(variables), arrays(alone))
                for each, now in zip(weights, arrays(alone), strict=True):
                    each.append(np.float64(now))
            wanted = [list(averages(name, each))[-1] for each in weights]
            assert_close([optimizer.get_slot(v, "average") for v in variables], wanted)

    @pytest.mark.long
    def test_lookahead_of_every_optimizer(self, entry):
        """With the optimizer itself as the paper's A, as its weights are set in between."""
        if hasattr(entry.cls, "use_training_weights"):
            pytest.skip("is refused")
        variables, alone = make_variables(), make_variables()
        optimizer, single = WRAPPERS["Lookahead"](entry.make()), entry.make()
        slow = arrays(alone)
        for t in range(STEPS):
            train(optimizer, variables, 1, t)
            train(single, alone, 1, t)
            if t % 3 == 2:
                slow = [s + np.float32(0.3) * (v.numpy() - s) for s, v in zip(slow, alone)]
                for variable, value in zip(alone, slow, strict=True):
                    variable.assign(value)
            assert_close(variables, arrays(alone), rtol=1e-4, atol=1e-5)

    def test_decay_from_a_schedule_and_updates_from_a_variable(self):
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.5, 0.75])
        updates = tf.Variable(1000)
        optimizer = tf_optim_ext.MovingAverage(
            tf_optim_ext.SGD(1.0), average_decay=schedule, num_updates=updates
        )
        variable = tf.Variable(0.0)
        step = in_mode("function", optimizer, [variable])
        average, weight = 0.0, 0.0
        for t in range(5):
            updates.assign(2 if t == 4 else 1000)
            step([tf.constant(-1.0)])
            weight += 1.0
            decay = 3 / 12 if t == 4 else 0.5 if t <= 2 else 0.75
            average = decay * average + (1 - decay) * weight
            np.testing.assert_allclose(float(optimizer.get_slot(variable, "average")), average)

    def test_a_rate_that_is_set_acts_in_traced_steps(self):
        optimizer = tf_optim_ext.Lookahead(tf_optim_ext.SGD(1.0), 1, slow_step_size=0.5)
        variable = tf.Variable(0.0)
        step = in_mode("function", optimizer, [variable])
        step([tf.constant(-1.0)])
        optimizer.slow_step_size = 0.25
        optimizer.learning_rate = 2.0
        step([tf.constant(-1.0)])
        assert float(variable) == 0.5 + 0.25 * 2.0


class TestPublishedByAddons:
    """Numbers in the tests of TensorFlow Addons."""

    @pytest.mark.parametrize("module", [tf_optim_ext, keras.optimizers], ids=["ours", "keras"])
    def test_moving_average(self, module):
        first, second = tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0])
        optimizer = tf_optim_ext.MovingAverage(module.SGD(2.0), average_decay=0.5)
        for _ in range(2):
            optimizer.apply_gradients(
                [(tf.constant([0.1, 0.1]), first), (tf.constant([0.01, 0.01]), second)]
            )
        assert_close([first, second], [[0.6, 1.6], [2.96, 3.96]])
        averages = [optimizer.get_slot(v, "average") for v in (first, second)]
        assert_close(averages, [[0.75, 1.75], [2.975, 3.975]])
        optimizer.assign_average_vars([first, second])
        assert_close([first, second], [[0.75, 1.75], [2.975, 3.975]])

    @pytest.mark.parametrize(
        ("rate", "options", "weights", "average"),
        [
            (1.0, {"start_step": 1}, [0.8, 1.8], [0.85, 1.85]),
            (2.0, {"dynamic_decay": True}, [0.6, 1.6], [0.64, 1.64]),
        ],
    )
    def test_moving_average_with_options(self, rate, options, weights, average):
        variable = tf.Variable([1.0, 2.0])
        optimizer = tf_optim_ext.MovingAverage(tf_optim_ext.SGD(rate), 0.5, **options)
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant([0.1, 0.1]), variable)])
        assert_close([variable, optimizer.get_slot(variable, "average")], [weights, average])

    def test_swap_weights(self):
        variable = tf.Variable([1.0, 2.0])
        optimizer = tf_optim_ext.MovingAverage(tf_optim_ext.SGD(2.0), average_decay=0.5)
        assert not optimizer.has_shadow_copy
        with pytest.raises(ValueError, match=r"has no averages yet"):
            optimizer.swap_weights()
        optimizer.shadow_copy([variable])
        assert optimizer.has_shadow_copy
        optimizer.apply_gradients([(tf.constant([0.1, 0.1]), variable)])
        average = optimizer.get_slot(variable, "average")
        trained = variable.numpy()
        assert_close([variable, average], [[0.8, 1.8], [0.9, 1.9]])
        optimizer.swap_weights()
        assert_close([variable, average], [[0.9, 1.9], [0.8, 1.8]])
        optimizer.swap_weights()
        assert same([variable.numpy()], [trained])

    def test_swa(self):
        first, second = tf.Variable([1.0, 1.0]), tf.Variable([2.0, 2.0])
        optimizer = tf_optim_ext.SWA(tf_optim_ext.SGD(1.0), 0, 1)
        gradient = tf.constant([0.1, 0.1])
        for _ in range(3):
            optimizer.apply_gradients([(gradient, first), (gradient, second)])
        assert_close([first, second], [[0.7, 0.7], [1.7, 1.7]])
        optimizer.assign_average_vars([first, second])
        assert_close([first, second], [[0.8, 0.8], [1.8, 1.8]])

    @pytest.mark.parametrize("is_sparse", [False, True])
    def test_lookahead(self, is_sparse):
        for k, alpha in ((5, 0.3), (10, 0.7)):
            start, gradient = np.float32([0.3, 0.8]), np.float32([0.5, 0.0])
            quick, slow = tf.Variable(start), tf.Variable(start)
            optimizer = tf_optim_ext.Lookahead("adam", sync_period=k, slow_step_size=alpha)
            alone = keras.optimizers.get("adam")
            for _ in range(k):
                g = tf.IndexedSlices(gradient[:1], [0], [2]) if is_sparse else gradient
                g = g if is_sparse else tf.constant(g)
                alone.apply_gradients([(g, quick)])
                optimizer.apply_gradients([(g, slow)])
            assert_close([slow], [start + (quick.numpy() - start) * alpha])

    @each_wrapper
    def test_names_of_optimizers(self, name):
        cls = getattr(tf_optim_ext, name)
        optimizer = cls("adam")
        assert isinstance(optimizer.inner_optimizer, keras.optimizers.Adam)
        assert optimizer.name == name
        with pytest.raises(TypeError, match=r"needs a `.*optimizers.Optimizer`.*Received: None"):
            cls(None)

    def test_num_updates(self):
        for valid in (1, tf.Variable(1)):
            tf_optim_ext.MovingAverage("sgd", num_updates=valid)
        for invalid in (1.0, tf.Variable(1.0), "a"):
            with pytest.raises(TypeError, match=r"`num_updates` must be an integer"):
                tf_optim_ext.MovingAverage("sgd", num_updates=invalid)


class TestAverages:
    def test_assigned(self):
        trained, other = tf.Variable(1.0), tf.Variable(7.0)
        optimizer = tf_optim_ext.SWA(tf_optim_ext.SGD(1.0), 1, 1)
        with pytest.raises(ValueError, match="has no averages yet"):
            optimizer.assign_average_vars([trained])
        optimizer.apply_gradients([(tf.constant(1.0), trained)])
        optimizer.assign_average_vars([trained, other])  # before the first snapshot
        assert (float(trained), float(other)) == (0.0, 7.0)
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant(1.0), trained)])
        tf.function(lambda: optimizer.assign_average_vars([trained, other]))()
        assert (float(trained), float(other)) == (-1.5, 7.0)
        with pytest.raises(TypeError, match="is needed"):
            optimizer.assign_average_vars([5])

    def test_context(self):
        variables = make_variables(dtype="bfloat16")
        optimizer = tf_optim_ext.MovingAverage(tf_optim_ext.SGD(0.1), 0.5)
        with optimizer.averaged_weights():
            pass  # not built yet
        for t in range(2):
            gradients = [tf.constant(g) for g in make_gradients(t, dtype="bfloat16")]
            optimizer.apply_gradients(zip(gradients, variables))
        before = arrays(variables)
        with optimizer.averaged_weights():
            for variable in variables:
                average = tf.cast(optimizer.get_slot(variable, "average"), "bfloat16")
                assert same([np.array(variable)], [average.numpy()])
        assert same(arrays(variables), before)

    def test_of_a_class_of_users(self):
        class EveryOther(tf_optim_ext.AveragedOptimizerWrapper):
            def __init__(self, optimizer, name="every_other"):
                super().__init__(optimizer, name)

            def is_due(self, count):
                return tf.equal(count % 2, 1)

            def average_momentum(self, count):
                return 0.25

        variable = tf.Variable(0.0)
        optimizer = EveryOther(tf_optim_ext.SGD(1.0))
        step = in_mode("function", optimizer, [variable])
        averages = []
        for _ in range(4):
            step([tf.constant(-1.0)])
            averages.append(float(optimizer.get_slot(variable, "average")))
        assert averages == [0.0, 1.5, 1.5, 0.25 * 1.5 + 0.75 * 4]
