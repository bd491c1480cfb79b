"""Checks the references of `references.addons` in limit cases.

Their recordings are among those of `test_references`. Nothing here needs TensorFlow.
"""

import math

import numpy as np
import pytest
from references import addons, builtin

pytestmark = pytest.mark.once

SHAPES = ((), (3,), (4, 5), (2, 3, 4), (0,), (2, 0))
MATRICES = ((4, 5), (5, 2), (1, 1), (0, 3), (2, 0))

ADAM = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}
SCHEDULE = {"total_steps": 6, "warmup_proportion": 0.5, "min_lr": 0.01}
SGDW = {"learning_rate": 0.1}
COCOB = {"alpha": 2.0, "epsilon": 1e-3}
FRANK_WOLFE = {"learning_rate": 0.9, "lambda_": 0.3, "epsilon": 1e-3}
NUCLEAR = FRANK_WOLFE | {"ord": "nuclear"}
PROXIMAL = {"learning_rate": 0.1, "initial_accumulator_value": 0.3}
REGULARIZERS = {"l1_regularization_strength": 0.5, "l2_regularization_strength": 0.7}
LARS = {"learning_rate": 0.1, "momentum": 0.9, "trust_coefficient": 0.2, "epsilon": 1e-3}
SIGNUM = {"learning_rate": 0.1, "momentum": 0.8}

# Each with arguments that make every term of its update count.
ALL = (
    (addons.adabelief, ADAM),
    (addons.adabelief, ADAM | {"amsgrad": True}),
    (addons.adabelief, ADAM | {"rectify": False}),
    (addons.adabelief, ADAM | SCHEDULE),
    (addons.rectifiedadam, ADAM),
    (addons.rectifiedadam, ADAM | {"amsgrad": True}),
    (addons.rectifiedadam, ADAM | SCHEDULE),
    (addons.sgdw, SGDW),
    (addons.sgdw, SGDW | {"momentum": 0.9}),
    (addons.sgdw, SGDW | {"momentum": 0.9, "nesterov": True}),
    (addons.cocob, COCOB),
    (addons.cocob, COCOB | {"learning_rate": 0.4}),
    (addons.conditionalgradient, FRANK_WOLFE),
    (addons.conditionalgradient, NUCLEAR),
    (addons.novograd, ADAM),
    (addons.novograd, ADAM | {"grad_averaging": True}),
    (addons.novograd, ADAM | {"amsgrad": True}),
    (addons.proximaladagrad, PROXIMAL),
    (addons.proximaladagrad, PROXIMAL | REGULARIZERS),
    (addons.yogi, ADAM),
    (addons.yogi, ADAM | REGULARIZERS | {"activation": "tanh"}),
    (addons.lars, LARS),
    (addons.lars, LARS | {"nesterov": True}),
    (addons.signum, SIGNUM),
    (addons.signsgd, {"learning_rate": 0.1}),
    (addons.tiger, {"learning_rate": 0.1, "beta": 0.8}),
)

# Their slots of one number, whatever the variable's shape.
NUMBERS = {addons.novograd: ("velocity", "velocity_hat")}


def weights(steps):
    return np.stack([theta for theta, _ in steps])


def make(shape=(3, 4), steps=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.normal(size=(steps, *shape))


def assert_same_steps(actual, expected, rtol=1e-12):
    for (theta, slots), (expected_theta, expected_slots) in zip(actual, expected, strict=True):
        np.testing.assert_allclose(theta, expected_theta, rtol=rtol)
        assert set(slots) == set(expected_slots)
        for name, slot in slots.items():
            np.testing.assert_allclose(slot, expected_slots[name], rtol=rtol)


class TestAll:
    @pytest.mark.parametrize(("reference", "arguments"), ALL)
    def test_shapes_and_types(self, reference, arguments):
        for shape in MATRICES if arguments is NUCLEAR else SHAPES:
            theta, gradients = make(shape)
            steps = list(reference(theta, gradients, **arguments, weight_decay=0.5))
            assert len(steps) == len(gradients)
            for new, slots in steps:
                assert new.shape == shape
                for name, slot in slots.items():
                    assert slot.shape == (() if name in NUMBERS.get(reference, ()) else shape)
                for array in (new, *slots.values()):
                    assert isinstance(array, np.ndarray)
                    assert array.dtype == np.float64
                    assert np.all(np.isfinite(array))

    @pytest.mark.parametrize(("reference", "arguments"), ALL)
    def test_lower_precision_inputs_are_computed_with_in_float64(self, reference, arguments):
        theta, gradients = (array.astype(np.float32) for array in make())
        actual = reference(theta, gradients, **arguments, weight_decay=0.5)
        theta, gradients = theta.astype(np.float64), gradients.astype(np.float64)
        expected = reference(theta, gradients, **arguments, weight_decay=0.5)
        np.testing.assert_array_equal(weights(actual), weights(expected))

    @pytest.mark.parametrize(("reference", "arguments"), ALL)
    def test_yields_copies(self, reference, arguments):
        theta, gradients = make()
        theta_before, gradients_before = theta.copy(), gradients.copy()
        expected = weights(reference(theta, gradients, **arguments, weight_decay=0.5))
        actual = []
        for new, slots in reference(theta, gradients, **arguments, weight_decay=0.5):
            actual.append(new.copy())
            for array in (new, *slots.values()):
                array[...] = np.nan
        np.testing.assert_array_equal(np.stack(actual), expected)
        np.testing.assert_array_equal(theta, theta_before)
        np.testing.assert_array_equal(gradients, gradients_before)

    @pytest.mark.parametrize(("reference", "arguments"), ALL)
    def test_no_decay_is_zero_decay(self, reference, arguments):
        np.testing.assert_array_equal(
            weights(reference(*make(), **arguments, weight_decay=None)),
            weights(reference(*make(), **arguments, weight_decay=0.0)),
        )

    # Of these the update depends on the weights, or the decay goes through a momentum.
    @pytest.mark.parametrize(
        ("reference", "arguments"),
        [
            case
            for case in ALL
            if case[0]
            not in (
                addons.sgdw,
                addons.cocob,
                addons.conditionalgradient,
                addons.novograd,
                addons.lars,
            )
            and "total_steps" not in case[1]
            and "l1_regularization_strength" not in case[1]
        ],
    )
    def test_zero_gradients_leave_only_the_decay(self, reference, arguments):
        theta, gradients = make()
        actual = weights(reference(theta, 0 * gradients, **arguments, weight_decay=0.5))
        factors = (1 - 0.1 * 0.5) ** np.arange(1, len(gradients) + 1)
        np.testing.assert_allclose(actual, np.multiply.outer(factors, theta), rtol=1e-14)


class TestRectifiedAdam:
    def test_below_the_threshold_is_momentum_without_bias(self):
        theta, gradients = make()
        actual = weights(addons.rectifiedadam(theta, gradients, **ADAM, sma_threshold=1e9))
        updates = []
        for t in range(1, len(gradients) + 1):
            factors = 0.8 ** np.arange(t)[::-1]
            updates.append(np.tensordot(factors / np.sum(factors), gradients[:t], axes=1))
        np.testing.assert_allclose(actual, theta - 0.1 * np.cumsum(updates, axis=0), rtol=1e-12)

    def test_is_adam_in_the_long_run(self):
        # Then rho_t is rho_inf and r_t is 1.
        theta, gradients = make(steps=400)
        arguments = ADAM | {"epsilon": 0.0}
        actual = weights(addons.rectifiedadam(theta, gradients, **arguments))
        expected = weights(builtin.adam(theta, gradients, **arguments))
        np.testing.assert_allclose(
            np.diff(actual, axis=0)[-5:], np.diff(expected, axis=0)[-5:], rtol=1e-9, atol=1e-13
        )

    def test_rectification_by_hand(self):
        # beta_2 = 0.9 has rho_inf = 19; rho_5 = 19 - 10 * 0.59049 / 0.40951 = 4.5806...
        # and rho_6 = 19 - 12 * 0.531441 / 0.468559 = 5.3895...
        gradients = np.ones(6)
        steps = weights(addons.rectifiedadam(0.0, gradients, **ADAM))
        rho = 19 - 12 * 0.531441 / 0.468559
        r = math.sqrt((rho - 4) * (rho - 2) * 19 / (15 * 17 * rho))
        np.testing.assert_allclose(
            -np.diff(steps, prepend=0.0), [0.1] * 5 + [0.1 * r / (1 + 1e-3)], rtol=1e-12
        )

    def test_amsgrad_is_the_same_while_gradients_grow(self):
        theta, gradients = make(steps=20)
        gradients = np.cumsum(np.abs(gradients), axis=0)
        for order, same in ((gradients, True), (gradients[::-1], False)):
            expected = weights(addons.rectifiedadam(theta, order, **ADAM))
            actual = weights(addons.rectifiedadam(theta, order, **ADAM, amsgrad=True))
            assert np.array_equal(actual, expected) == same

    @pytest.mark.parametrize("reference", [addons.rectifiedadam, addons.adabelief])
    def test_schedule_goes_up_and_down(self, reference):
        # With zero gradients, the decay shows it.
        steps = weights(
            reference(1.0, np.zeros(9), **ADAM, **SCHEDULE | {"total_steps": 8}, weight_decay=0.5)
        )
        rates = 2 * (1 - steps / np.concatenate([[1.0], steps[:-1]]))
        expected = [0.025, 0.05, 0.075, 0.1, 0.0775, 0.055, 0.0325, 0.01, 0.01]
        np.testing.assert_allclose(rates, expected, rtol=1e-13)


class TestAdaBelief:
    def test_a_constant_gradient_has_momentum_errors_only(self):
        # g - m_t = beta_1^t g, so that s_t is a geometric sum.
        theta, gradients = make()
        gradients[:] = gradients[0]
        s, update = 0.0, []
        for t in range(1, len(gradients) + 1):
            s = 0.9 * s + 0.1 * (0.8**t * gradients[0]) ** 2 + 1e-3
            update.append(0.1 * gradients[0] / (np.sqrt(s / (1 - 0.9**t)) + 1e-3))
        np.testing.assert_allclose(
            weights(addons.adabelief(theta, gradients, **ADAM, rectify=False)),
            theta - np.cumsum(update, axis=0),
            rtol=1e-12,
        )

    def test_zero_gradients_sum_epsilon(self):
        for t, (_, slots) in enumerate(addons.adabelief(1.0, np.zeros(5), **ADAM), 1):
            np.testing.assert_allclose(slots["velocity"], 1e-3 * (1 - 0.9**t) / 0.1, rtol=1e-13)

    def test_without_momentum_ignores_the_gradients_size(self):
        # g - m_t = 0: the belief is perfect, and only epsilon divides.
        theta, gradients = make()
        arguments = ADAM | {"beta_1": 0.0, "beta_2": 0.0, "rectify": False}
        np.testing.assert_allclose(
            weights(addons.adabelief(theta, gradients, **arguments)),
            theta - 0.1 * np.cumsum(gradients, axis=0) / (math.sqrt(1e-3) + 1e-3),
            rtol=1e-12,
        )

    def test_below_the_threshold_is_rectified_adam(self):
        for (actual, _), (expected, _) in zip(
            addons.adabelief(*make(), **ADAM, sma_threshold=1e9),
            addons.rectifiedadam(*make(), **ADAM, sma_threshold=1e9),
            strict=True,
        ):
            np.testing.assert_array_equal(actual, expected)

    def test_rectification_is_a_factor(self):
        theta, gradients = make(steps=6)
        arguments = ADAM | {"weight_decay": None}
        plain = weights(addons.adabelief(theta, gradients, **arguments, rectify=False))
        rectified = weights(addons.adabelief(theta, gradients, **arguments))
        rho = 19 - 12 * 0.531441 / 0.468559
        r = math.sqrt((rho - 4) * (rho - 2) * 19 / (15 * 17 * rho))
        np.testing.assert_allclose(
            rectified[-1] - rectified[-2], r * (plain[-1] - plain[-2]), rtol=1e-11
        )

    def test_amsgrad_keeps_the_maximum(self):
        theta, gradients = make(steps=20)
        velocities = []
        for _, slots in addons.adabelief(theta, gradients, **ADAM, amsgrad=True):
            velocities.append(slots["velocity"])
            np.testing.assert_array_equal(slots["velocity_hat"], np.max(velocities, axis=0))


class TestSGDW:
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    @pytest.mark.parametrize("nesterov", [False, True])
    def test_without_decay_is_sgd(self, momentum, nesterov):
        arguments = SGDW | {"momentum": momentum, "nesterov": nesterov}
        assert_same_steps(
            addons.sgdw(*make(), **arguments), builtin.sgd(*make(), **arguments), rtol=1e-11
        )

    def test_decay_is_not_multiplied_by_the_learning_rate(self):
        arguments = SGDW | {"momentum": 0.9, "nesterov": True}
        assert_same_steps(
            addons.sgdw(*make(), **arguments, weight_decay=0.05),
            builtin.sgd(*make(), **arguments, weight_decay=0.5),
            rtol=1e-11,
        )
        theta, gradients = make()
        ((actual, _),) = addons.sgdw(theta, 0 * gradients[:1], learning_rate=0.0, weight_decay=0.5)
        np.testing.assert_array_equal(actual, theta / 2)


class TestCOCOB:
    def test_a_constant_gradient_bets_ever_more(self):
        # In units of |g|: L is 1 and G is t, and with alpha 0 the bet is t / (t + 1) of the wealth,
        # which the outcome of each round changes.
        wealth, position = 1.0, 0.0
        for t, (w, slots) in enumerate(
            addons.cocob(5.0, -2.0 * np.ones(6), alpha=0.0, epsilon=1e-30), 1
        ):
            wealth += position
            position = t / (t + 1) * wealth
            # L + Reward is in units of L.
            np.testing.assert_allclose(w, 5.0 + position, rtol=1e-13)
            np.testing.assert_allclose(slots["lipschitz"] + slots["reward"], 2 * wealth)

    def test_scale_of_the_gradients_does_not_count(self):
        theta, gradients = make()
        arguments = COCOB | {"epsilon": 1e-30}
        np.testing.assert_allclose(
            weights(addons.cocob(theta, 1024 * gradients, **arguments)),
            weights(addons.cocob(theta, gradients, **arguments)),
            rtol=1e-13,
        )

    def test_first_step_is_the_sign_over_alpha(self):
        theta, gradients = make()
        ((actual, _),) = addons.cocob(theta, gradients[:1], alpha=100.0, epsilon=1e-30)
        np.testing.assert_allclose(actual, theta - np.sign(gradients[0]) / 100, rtol=1e-13)

    def test_zero_gradients_leave_the_weights(self):
        theta, gradients = make()
        actual = weights(addons.cocob(theta, 0 * gradients, **COCOB))
        np.testing.assert_array_equal(actual, np.broadcast_to(theta, actual.shape))

    def test_learning_rate_multiplies_the_distance(self):
        theta, gradients = make()
        ((half, _),) = addons.cocob(theta, gradients[:1], **COCOB, learning_rate=0.5)
        ((full, _),) = addons.cocob(theta, gradients[:1], **COCOB)
        np.testing.assert_allclose(half - theta, (full - theta) / 2, rtol=1e-12)

    def test_decay_is_of_the_weights_before_the_step(self):
        theta, gradients = make()
        first, second = addons.cocob(
            theta, 0 * gradients[:2], **COCOB, learning_rate=0.5, weight_decay=0.2
        )
        np.testing.assert_allclose(first[0], 0.9 * theta, rtol=1e-14)
        # It does not add up, as the weights are not what the update adds to.
        np.testing.assert_allclose(second[0], (1 - 0.1 * 0.9) * theta, rtol=1e-14)


class TestConditionalGradient:
    @pytest.mark.parametrize("ord", ["fro", "nuclear"])
    def test_stays_in_the_ball(self, ord):
        theta, gradients = make(steps=200)
        norm = {"fro": None, "nuclear": "nuc"}[ord]
        theta = 0.3 * theta / np.linalg.norm(theta, norm)
        for new, _ in addons.conditionalgradient(theta, gradients, **FRANK_WOLFE, ord=ord):
            assert np.linalg.norm(new, norm) <= 0.3 * (1 + 1e-12)

    @pytest.mark.parametrize("ord", ["fro", "nuclear"])
    def test_a_constant_gradient_goes_to_the_minimum_on_the_ball(self, ord):
        theta, gradients = make(steps=400)
        gradients[:] = gradients[0]
        arguments = FRANK_WOLFE | {"epsilon": 0.0, "ord": ord}
        *_, (actual, _) = addons.conditionalgradient(theta, gradients, **arguments)
        # The minimum of a linear function on a ball is minus its radius times the dual norm.
        dual = {"fro": None, "nuclear": 2}[ord]
        np.testing.assert_allclose(
            np.sum(gradients[0] * actual), -0.3 * np.linalg.norm(gradients[0], dual), rtol=1e-12
        )

    def test_norms_are_the_same_for_gradients_of_rank_one(self):
        rng = np.random.default_rng(0)
        theta, gradients = make()
        gradients = np.stack([np.outer(rng.normal(size=3), rng.normal(size=4)) for _ in range(7)])
        arguments = FRANK_WOLFE | {"epsilon": 0.0}
        np.testing.assert_allclose(
            weights(addons.conditionalgradient(theta, gradients, **arguments, ord="nuclear")),
            weights(addons.conditionalgradient(theta, gradients, **arguments, ord="fro")),
            rtol=1e-11,
            atol=1e-14,
        )

    def test_epsilon_keeps_zero_gradients_from_moving(self):
        theta, gradients = make()
        actual = weights(addons.conditionalgradient(theta, 0 * gradients, **FRANK_WOLFE))
        factors = 0.9 ** np.arange(1, len(gradients) + 1)
        np.testing.assert_allclose(actual, np.multiply.outer(factors, theta), rtol=1e-14)


class TestNovoGrad:
    @pytest.mark.parametrize("grad_averaging", [False, True])
    def test_two_steps_by_hand(self, grad_averaging):
        # Norms are 5 and 13, and velocities 25 and 0.9 * 25 + 0.1 * 169 = 39.4.
        theta = np.array([1.0, -2.0])
        (first, first_slots), (second, second_slots) = addons.novograd(
            theta,
            [[3.0, -4.0], [5.0, 12.0]],
            **ADAM,
            grad_averaging=grad_averaging,
            weight_decay=0.5,
        )
        m = np.array([3.0, -4.0]) / (5 + 1e-3) + 0.5 * theta
        np.testing.assert_allclose(first, theta - 0.1 * m, rtol=1e-14)
        np.testing.assert_allclose(first_slots["velocity"], 25, rtol=1e-14)
        np.testing.assert_allclose(first_slots["momentum"], m, rtol=1e-14)
        update = np.array([5.0, 12.0]) / (math.sqrt(39.4) + 1e-3) + 0.5 * first
        m = 0.8 * m + (0.2 if grad_averaging else 1.0) * update
        np.testing.assert_allclose(second, first - 0.1 * m, rtol=1e-13)
        np.testing.assert_allclose(second_slots["velocity"], 39.4, rtol=1e-14)
        np.testing.assert_allclose(second_slots["momentum"], m, rtol=1e-13)

    def test_without_averages_is_normalized_gradient_descent(self):
        theta, gradients = make()
        arguments = ADAM | {"beta_1": 0.0, "beta_2": 0.0}
        norms = np.sqrt(np.sum(gradients**2, axis=(1, 2), keepdims=True))
        np.testing.assert_allclose(
            weights(addons.novograd(theta, gradients, **arguments)),
            theta - 0.1 * np.cumsum(gradients / (norms + 1e-3), axis=0),
            rtol=1e-12,
        )

    def test_amsgrad_is_the_same_while_gradients_grow(self):
        theta, gradients = make()
        gradients = np.cumsum(np.abs(gradients), axis=0)
        for order, same in ((gradients, True), (gradients[::-1], False)):
            expected = weights(addons.novograd(theta, order, **ADAM))
            actual = weights(addons.novograd(theta, order, **ADAM, amsgrad=True))
            assert np.array_equal(actual, expected) == same


class TestProximalAdagrad:
    def test_without_regularizers_is_adagrad(self):
        assert_same_steps(
            addons.proximaladagrad(*make(), **PROXIMAL, weight_decay=0.5),
            builtin.adagrad(*make(), **PROXIMAL, epsilon=0.0, weight_decay=0.5),
        )

    def test_steps_minimize_the_regularized_bound(self):
        # g z + lambda_1 |z| + lambda_2 / 2 z^2 + s / (2 eta) (z - x)^2 over z
        theta, gradients = make(steps=20)
        actual = weights(addons.proximaladagrad(theta, gradients, **PROXIMAL, **REGULARIZERS))
        before = np.concatenate([theta[np.newaxis], actual[:-1]])
        s = np.sqrt(0.3 + np.cumsum(gradients**2, axis=0))
        derivative = gradients + 0.7 * actual + s / 0.1 * (actual - before)
        zero = actual == 0
        assert 0 < np.sum(zero) < zero.size
        np.testing.assert_allclose(derivative[~zero], -0.5 * np.sign(actual[~zero]), rtol=1e-11)
        assert np.all(np.abs(derivative[zero]) <= 0.5)


class TestYogi:
    @pytest.mark.parametrize("activation", ["sign", "tanh"])
    def test_growing_gradients_add_their_squares(self, activation):
        # By far more than the factor 1 / (1 - beta_2), so that v stays below the next square.
        theta, gradients = make()
        gradients[:] = 10.0 ** np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        sums = 1e-6 + 0.1 * np.cumsum(gradients**2, axis=0)
        for (_, slots), expected in zip(
            addons.yogi(theta, gradients, **ADAM, activation=activation), sums, strict=True
        ):
            np.testing.assert_allclose(slots["velocity"], expected, rtol=1e-13)

    def test_small_gradients_subtract_their_squares(self):
        theta, gradients = make()
        for t, (_, slots) in enumerate(
            addons.yogi(theta, 0 * gradients + 0.5, **ADAM, initial_accumulator_value=9.0), 1
        ):
            np.testing.assert_allclose(slots["velocity"], 9 - t * 0.1 * 0.25, rtol=1e-13)

    def test_tanh_is_gradual(self):
        ((_, slots),) = addons.yogi(
            0.0, [1.0], **ADAM, initial_accumulator_value=1.05, activation="tanh"
        )
        np.testing.assert_allclose(slots["velocity"], 1.05 - 0.1 * math.tanh(0.5), rtol=1e-13)

    def test_where_it_is_an_average_it_is_adam(self):
        # For v_{t-1} = 0 and so the first step, both have (1 - beta_2) g^2.
        theta, gradients = make()
        actual = addons.yogi(theta, gradients[:1], **ADAM, initial_accumulator_value=0.0)
        assert_same_steps(actual, builtin.adam(theta, gradients[:1], **ADAM))

    def test_regularizers_are_proximal(self):
        theta, gradients = make(steps=20)
        steps = list(addons.yogi(theta, gradients, **ADAM, **REGULARIZERS))
        actual = weights(steps)
        before = np.concatenate([theta[np.newaxis], actual[:-1]])
        t = np.arange(1, 21).reshape(-1, 1, 1)
        m = np.stack([slots["momentum"] for _, slots in steps])
        v = np.stack([slots["velocity"] for _, slots in steps])
        eta = 0.1 * np.sqrt(1 - 0.9**t) / (1 - 0.8**t) / (np.sqrt(v) + 1e-3)
        derivative = m + 0.7 * actual + (actual - before) / eta
        zero = actual == 0
        assert 0 < np.sum(zero) < zero.size
        np.testing.assert_allclose(derivative[~zero], -0.5 * np.sign(actual[~zero]), rtol=1e-10)
        assert np.all(np.abs(derivative[zero]) <= 0.5)


class TestLARS:
    def test_ratio_by_hand(self):
        # ||w|| = 5 and ||g|| = 13: 0.2 * 5 / (13 + 0.4 * 5 + 1)
        w, g = np.array([3.0, -4.0]), np.array([5.0, 12.0])
        ((actual, slots),) = addons.lars(w, [g], **LARS | {"epsilon": 1.0}, weight_decay=0.4)
        step = 0.1 * (1 / 16) * (g + 0.4 * w)
        np.testing.assert_allclose(actual, w - step, rtol=1e-14)
        np.testing.assert_allclose(slots["momentum"], step, rtol=1e-14)

    @pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 3, 4)], ids=str)
    def test_norm_of_the_step_is_that_of_the_weights(self, shape):
        theta, gradients = make(shape)
        arguments = LARS | {"momentum": 0.0, "epsilon": 0.0}
        for new, _ in addons.lars(theta, gradients, **arguments):
            np.testing.assert_allclose(
                np.linalg.norm(new - theta), 0.02 * np.linalg.norm(theta), rtol=1e-12
            )
            theta = new

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_ratio_of_zero_weights_or_gradients_is_1(self, nesterov):
        theta, gradients = make()
        sgd = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": nesterov}
        ((actual, _),) = addons.lars(
            0 * theta, gradients[:1], **LARS, nesterov=nesterov, weight_decay=0.5
        )
        ((expected, _),) = builtin.sgd(0 * theta, gradients[:1], **sgd)
        np.testing.assert_allclose(actual, expected, rtol=1e-14)
        ((actual, _),) = addons.lars(
            theta, 0 * gradients[:1], **LARS, nesterov=nesterov, weight_decay=0.5
        )
        ((expected, _),) = builtin.sgd(theta, 0.5 * theta[np.newaxis], **sgd)
        np.testing.assert_allclose(actual, expected, rtol=1e-14)

    def test_scale_of_the_gradients_does_not_count(self):
        theta, gradients = make()
        arguments = LARS | {"epsilon": 0.0}
        np.testing.assert_allclose(
            weights(addons.lars(theta, 1000 * gradients, **arguments)),
            weights(addons.lars(theta, gradients, **arguments)),
            rtol=1e-12,
        )


class TestSigns:
    def test_sign_descent(self):
        theta, gradients = make()
        gradients[:, 0] = 0
        np.testing.assert_allclose(
            weights(addons.signsgd(theta, gradients, learning_rate=0.1)),
            theta - 0.1 * np.cumsum(np.sign(gradients), axis=0),
            rtol=1e-12,
            atol=1e-15,
        )

    def test_signum_without_momentum_is_sign_descent(self):
        np.testing.assert_array_equal(
            weights(addons.signum(*make(), learning_rate=0.1, momentum=0.0, weight_decay=0.5)),
            weights(addons.signsgd(*make(), learning_rate=0.1, weight_decay=0.5)),
        )

    def test_signum_is_lion_with_one_average(self):
        # Lion's sign is of another average than the one it keeps, unless both betas are the same.
        assert_same_steps(
            addons.signum(*make(), **SIGNUM, weight_decay=0.5),
            builtin.lion(*make(), learning_rate=0.1, beta_1=0.8, beta_2=0.8, weight_decay=0.5),
        )

    def test_tiger_is_signum_with_decay(self):
        assert_same_steps(
            addons.tiger(*make(), learning_rate=0.1, beta=0.8, weight_decay=0.5),
            addons.signum(*make(), **SIGNUM, weight_decay=0.5),
            rtol=1e-11,
        )

    def test_momentum_outvotes_a_gradient(self):
        (_, _), (second, _) = addons.signum(
            np.zeros(2), [[1.0, 1.0], [-0.5, -5.0]], learning_rate=0.1, momentum=0.8
        )
        # 0.8 * 0.2 - 0.2 * 0.5 > 0 > 0.8 * 0.2 - 0.2 * 5
        np.testing.assert_allclose(second, [-0.2, 0.0], atol=1e-15)
