"""Checks the references of the descendants of Adam and of momentum in limit cases."""

import numpy as np
import pytest
import references
from references import descendants

pytestmark = pytest.mark.once

SHAPES = ((), (3,), (4, 5), (2, 3, 4), (0,), (2, 0))

RATES = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9}
ADAM = RATES | {"epsilon": 1e-3}
# Most add epsilon to another square root than `adam`, which without it does not matter.
NO_EPSILON = RATES | {"epsilon": 0.0}
ADEMAMIX = ADAM | {"beta_3": 0.95, "alpha": 3.0}
QHADAM = ADAM | {"nu_1": 0.7, "nu_2": 0.6}
BOUND = ADAM | {"final_learning_rate": 0.2, "gamma": 0.3}
MADGRAD = {"learning_rate": 0.1, "momentum": 0.8, "epsilon": 1e-3}
MARS = ADAM | {"gamma": 0.1}
SOPHIA = RATES | {"rho": 0.05, "epsilon": 1e-6}
ESTIMATES = {1: 1.0, 2: -3.0, 4: 50.0}

# Each with arguments that make every term of its update count.
ALL = (
    (descendants.nadamw, ADAM | {"momentum_decay": 0.3}),
    (descendants.adamaxw, ADAM),
    (descendants.adan, ADAM | {"beta_3": 0.95}),
    (descendants.adopt, ADAM),
    (descendants.adopt, ADAM | {"clipped": False}),
    (descendants.ademamix, ADEMAMIX),
    (descendants.ademamix, ADEMAMIX | {"alpha_warmup_steps": 3, "beta_3_warmup_steps": 5}),
    (descendants.laprop, ADAM),
    (descendants.qhadam, QHADAM),
    (descendants.qhm, {"learning_rate": 0.1, "beta": 0.8, "nu": 0.7}),
    (descendants.adabound, BOUND),
    (descendants.amsbound, BOUND),
    (descendants.stableadamw, ADAM),
    (descendants.madgrad, MADGRAD),
    (descendants.mars, MARS),
    (descendants.grams, ADAM),
    (descendants.sophia, SOPHIA | {"hessian_estimates": ESTIMATES}),
    (descendants.cautious_adamw, ADAM),
    (descendants.cautious_lion, RATES),
    (descendants.cautious_decay_adamw, ADAM),
)

# Their decay is not just a decay of the weights before every step.
UNUSUAL_DECAY = (descendants.adan, descendants.adopt, descendants.madgrad)


def weights(steps):
    return np.stack([theta for theta, _ in steps])


def slot(steps, name):
    return np.stack([slots[name] for _, slots in steps])


def make(shape=(3, 4), steps=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.normal(size=(steps, *shape))


def assert_same(actual, expected, rtol=1e-12):
    for (theta, slots), (other, others) in zip(actual, expected, strict=True):
        np.testing.assert_allclose(theta, other, rtol=rtol)
        for name in set(slots) & set(others):
            np.testing.assert_allclose(slots[name], others[name], rtol=rtol)


class TestAll:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize(("reference", "arguments"), ALL)
    def test_shapes_and_types(self, reference, arguments, shape):
        theta, gradients = make(shape)
        steps = list(reference(theta, gradients, **arguments, weight_decay=0.5))
        assert len(steps) == len(gradients)
        for new, slots in steps:
            for array in (new, *slots.values()):
                assert isinstance(array, np.ndarray)
                assert array.dtype == np.float64
                assert array.shape == shape
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
        expected = list(reference(theta, gradients, **arguments, weight_decay=0.5))
        actual = []
        for new, slots in reference(theta, gradients, **arguments, weight_decay=0.5):
            actual.append(new.copy())
            for array in (new, *slots.values()):
                array[...] = np.nan
        np.testing.assert_array_equal(np.stack(actual), weights(expected))
        np.testing.assert_array_equal(theta, theta_before)
        np.testing.assert_array_equal(gradients, gradients_before)

    @pytest.mark.parametrize(("reference", "arguments"), ALL)
    def test_keeps_no_gradients_of_the_caller(self, reference, arguments):
        theta, gradients = make()

        def reused():
            g = np.empty_like(theta)
            for gradient in gradients:
                g[...] = gradient
                yield g

        np.testing.assert_array_equal(
            weights(reference(theta, reused(), **arguments)),
            weights(reference(theta, gradients, **arguments)),
        )

    @pytest.mark.parametrize(("reference", "arguments"), ALL)
    def test_no_decay_is_zero_decay(self, reference, arguments):
        np.testing.assert_array_equal(
            weights(reference(*make(), **arguments, weight_decay=None)),
            weights(reference(*make(), **arguments, weight_decay=0.0)),
        )

    @pytest.mark.parametrize(
        ("reference", "arguments"), [case for case in ALL if case[0] not in UNUSUAL_DECAY]
    )
    def test_zero_gradients_leave_only_the_decay(self, reference, arguments):
        theta, gradients = make()
        actual = weights(reference(theta, 0 * gradients, **arguments, weight_decay=0.5))
        factors = (1 - 0.1 * 0.5) ** np.arange(1, len(gradients) + 1)
        np.testing.assert_allclose(actual, np.multiply.outer(factors, theta), rtol=1e-14)


class TestNAdamW:
    def test_with_keras_schedule_is_nadam(self):
        assert_same(
            descendants.nadamw(*make(), **ADAM, momentum_decay=1.0, weight_decay=0.5),
            references.nadam(*make(), **ADAM, weight_decay=0.5),
        )

    def test_without_momentum_is_adam(self):
        arguments = NO_EPSILON | {"beta_1": 0.0}
        assert_same(descendants.nadamw(*make(), **arguments), references.adam(*make(), **arguments))

    @pytest.mark.parametrize(("momentum_decay", "mu"), [(0.0, 0.4), (1e4, 0.8)])
    def test_schedule_is_from_half_of_beta_1_to_beta_1(self, momentum_decay, mu):
        theta, gradients = make()
        steps = list(descendants.nadamw(theta, gradients, **ADAM, momentum_decay=momentum_decay))
        t = np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        m_hat = mu * slot(steps, "momentum") / (1 - mu ** (t + 1))
        m_hat = m_hat + (1 - mu) * gradients / (1 - mu**t)
        v_hat = slot(steps, "velocity") / (1 - 0.9**t)
        updates = 0.1 * m_hat / (np.sqrt(v_hat) + 1e-3)
        np.testing.assert_allclose(weights(steps), theta - np.cumsum(updates, axis=0), rtol=1e-11)


class TestAdamaxW:
    def test_is_adamax_with_decay(self):
        assert_same(
            descendants.adamaxw(*make(), **ADAM, weight_decay=0.5),
            references.adamax(*make(), **ADAM, weight_decay=0.5),
        )


class TestAdan:
    def test_with_beta_2_zero_is_adam(self):
        # Then the differences count neither in the update nor in the average of squares.
        actual = descendants.adan(*make(), **NO_EPSILON | {"beta_2": 0.0}, beta_3=0.9)
        assert_same(actual, references.adam(*make(), **NO_EPSILON))

    def test_a_constant_gradient_has_no_differences(self):
        theta, gradients = make()
        gradients[:] = gradients[0]
        steps = list(descendants.adan(theta, gradients, **ADAM, beta_3=0.95))
        np.testing.assert_array_equal(slot(steps, "difference"), 0 * gradients)
        updates = 0.1 * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(weights(steps), theta - np.cumsum(updates, axis=0), rtol=1e-12)

    def test_without_other_averages_a_linear_gradient_shows_that_of_the_differences(self):
        theta, gradients = make()
        t = np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        d = gradients[0]
        arguments = {"learning_rate": 0.1, "beta_1": 0.0, "beta_2": 0.9, "beta_3": 0.0}
        steps = list(descendants.adan(theta, t * d, **arguments, epsilon=1e-3))
        # Biased, as there is no difference in the first step.
        v_hat = d * (1 - 0.9 ** (t - 1)) / (1 - 0.9**t)
        denominators = np.abs(t * d + 0.9 * d * (t > 1)) + 1e-3
        updates = 0.1 * (t * d + 0.9 * v_hat) / denominators
        np.testing.assert_allclose(weights(steps), theta - np.cumsum(updates, axis=0), rtol=1e-12)

    def test_decay_is_proximal(self):
        theta, gradients = make()
        arguments = ADAM | {"beta_3": 0.95}
        actual = weights(descendants.adan(theta, 0 * gradients, **arguments, weight_decay=0.5))
        factors = 1.05 ** -np.arange(1.0, len(gradients) + 1)
        np.testing.assert_allclose(actual, np.multiply.outer(factors, theta), rtol=1e-14)
        ((actual, _),) = descendants.adan(theta, gradients[:1], **arguments, weight_decay=0.5)
        ((plain, _),) = descendants.adan(theta, gradients[:1], **arguments)
        np.testing.assert_allclose(actual, plain / 1.05, rtol=1e-14)


class TestADOPT:
    def test_first_steps(self):
        theta, gradients = make(steps=3)
        gradients[1] *= [10.0, 0.1, 1.0, 0.0]
        (first, a), (second, b), (third, c) = descendants.adopt(
            theta, gradients, **ADAM, weight_decay=0.5
        )
        np.testing.assert_array_equal(first, theta)
        np.testing.assert_array_equal(a["momentum"], 0 * theta)
        np.testing.assert_allclose(a["velocity"], gradients[0] ** 2, rtol=1e-14)
        n = np.clip(gradients[1] / np.abs(gradients[0]), -1, 1)
        np.testing.assert_allclose(b["momentum"], 0.2 * n, rtol=1e-14)
        np.testing.assert_allclose(second, 0.95 * theta - 0.1 * 0.2 * n, rtol=1e-13)
        v = 0.9 * gradients[0] ** 2 + 0.1 * gradients[1] ** 2
        np.testing.assert_allclose(b["velocity"], v, rtol=1e-14)
        n = np.clip(gradients[2] / np.sqrt(v), -(2**0.25), 2**0.25)
        np.testing.assert_allclose(c["momentum"], 0.8 * b["momentum"] + 0.2 * n, rtol=1e-13)
        np.testing.assert_allclose(third, 0.95 * second - 0.1 * c["momentum"], rtol=1e-13)

    def test_unclipped_is_clipped_while_gradients_shrink(self):
        theta, gradients = make()
        gradients = np.sort(np.abs(gradients), axis=0)[::-1]
        assert_same(
            descendants.adopt(theta, gradients, **ADAM, clipped=False),
            descendants.adopt(theta, gradients, **ADAM),
        )

    def test_first_gradient_of_zero_is_divided_by_epsilon(self):
        (_, (actual, _)) = descendants.adopt(
            np.zeros(2), [[0.0, 0.0], [1e-4, 1.0]], **ADAM, clipped=False
        )
        np.testing.assert_allclose(actual, [-0.1 * 0.2 * 0.1, -0.1 * 0.2 * 1000], rtol=1e-13)


class TestAdEMAMix:
    def test_without_slow_momentum_is_adam(self):
        assert_same(
            descendants.ademamix(*make(), **NO_EPSILON, beta_3=0.95, alpha=0.0),
            references.adam(*make(), **NO_EPSILON),
        )

    def test_a_constant_gradient_shows_the_bias_of_the_slow_momentum(self):
        theta, gradients = make()
        gradients[:] = gradients[0]
        t = np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        factors = 1 + 3 * (1 - 0.95**t)
        updates = 0.1 * factors * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(
            weights(descendants.ademamix(theta, gradients, **ADEMAMIX)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )

    def test_warmup_of_alpha_is_linear(self):
        theta, gradients = make()
        gradients[:] = gradients[0]
        t = np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        factors = 1 + np.minimum(t / 4, 1) * 3 * (1 - 0.95**t)
        updates = 0.1 * factors * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(
            weights(descendants.ademamix(theta, gradients, **ADEMAMIX, alpha_warmup_steps=4)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )

    def test_warmup_of_beta_3_is_linear_in_the_half_life(self):
        theta, gradients = make()
        steps = descendants.ademamix(theta, gradients, **ADEMAMIX, beta_3_warmup_steps=4)
        m = slot(steps, "slow_momentum")
        before = np.concatenate([0 * m[:1], m[:-1]])
        betas = (m - gradients) / (before - gradients)
        t = np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        a = np.minimum(t / 4, 1)
        half_lives = (1 - a) * np.log(0.5) / np.log(0.8) + a * np.log(0.5) / np.log(0.95)
        np.testing.assert_allclose(
            betas, np.broadcast_to(0.5 ** (1 / half_lives), betas.shape), rtol=1e-10
        )


class TestLaProp:
    def test_without_momentum_is_adam(self):
        arguments = NO_EPSILON | {"beta_1": 0.0}
        actual = descendants.laprop(*make(), **arguments)
        expected = references.adam(*make(), **arguments)
        np.testing.assert_allclose(weights(actual), weights(expected), rtol=1e-12)

    def test_without_average_of_squares_is_momentum_of_signs(self):
        theta, gradients = make()
        arguments = NO_EPSILON | {"beta_2": 0.0}
        m = slot(descendants.laprop(theta, gradients, **arguments), "momentum")
        for t in range(1, len(gradients) + 1):
            expected = sum(
                0.2 * 0.8 ** (t - i) * np.sign(gradients[i - 1]) for i in range(1, t + 1)
            )
            np.testing.assert_allclose(m[t - 1], expected, rtol=1e-12, atol=1e-15)

    def test_a_constant_gradient_shows_the_place_of_epsilon(self):
        theta, gradients = make()
        gradients[:] = gradients[0]
        updates = 0.1 * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(
            weights(descendants.laprop(theta, gradients, **ADAM)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )


class TestQHAdam:
    def test_with_nu_1_is_adam(self):
        assert_same(
            descendants.qhadam(*make(), **NO_EPSILON, nu_1=1.0, nu_2=1.0),
            references.adam(*make(), **NO_EPSILON),
        )

    def test_with_nu_0_is_normalized_gradient_descent(self):
        theta, gradients = make()
        updates = 0.1 * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(
            weights(descendants.qhadam(theta, gradients, **ADAM, nu_1=0.0, nu_2=0.0)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )

    def test_is_linear_in_nu_1(self):
        zero, one, between = (
            weights(descendants.qhadam(*make(), **ADAM, nu_1=nu_1, nu_2=0.6))
            for nu_1 in (0.0, 1.0, 0.3)
        )
        np.testing.assert_allclose(between, 0.7 * zero + 0.3 * one, rtol=1e-12)


class TestQHM:
    def test_with_nu_0_is_gradient_descent(self):
        assert_same(
            descendants.qhm(*make(), learning_rate=0.1, beta=0.8, nu=0.0),
            references.sgd(*make(), learning_rate=0.1),
        )

    # The average is 1 - beta times the sum of momentum; section 3 has nu = beta as Nesterov's.
    @pytest.mark.parametrize(("nu", "nesterov"), [(1.0, False), (0.8, True)])
    def test_is_momentum(self, nu, nesterov):
        actual = descendants.qhm(*make(), learning_rate=0.1, beta=0.8, nu=nu, weight_decay=0.5)
        # The decay of the latter has its own, smaller learning rate.
        expected = references.sgd(
            *make(), learning_rate=0.02, momentum=0.8, nesterov=nesterov, weight_decay=2.5
        )
        np.testing.assert_allclose(weights(actual), weights(expected), rtol=1e-12)


class TestAdaBound:
    @pytest.mark.parametrize("amsgrad", [False, True])
    def test_with_wide_bounds_is_adam(self, amsgrad):
        assert_same(
            descendants.adabound(*make(), **BOUND | {"gamma": 1e-9}, amsgrad=amsgrad),
            references.adam(*make(), **ADAM, amsgrad=amsgrad),
        )

    def test_with_narrow_bounds_is_gradient_descent(self):
        steps = list(descendants.adabound(*make(), **BOUND | {"gamma": 1e15}))
        expected = make()[0] - 0.2 * np.cumsum(slot(steps, "momentum"), axis=0)
        np.testing.assert_allclose(weights(steps), expected, rtol=1e-12)

    def test_bounds(self):
        # The gradients are so large or so small that one of the bounds is reached.
        gradients = np.tile([1e9, 1e-9], (5, 1))
        steps = list(descendants.adabound(np.zeros(2), gradients, **BOUND | {"epsilon": 0.0}))
        t = np.arange(1, 6)
        rates = np.stack([0.2 * (1 - 1 / (0.3 * t + 1)), 0.2 * (1 + 1 / (0.3 * t))], axis=1)
        np.testing.assert_allclose(
            weights(steps), -np.cumsum(rates * slot(steps, "momentum"), axis=0), rtol=1e-12
        )

    def test_amsbound_is_adabound_with_amsgrad(self):
        assert_same(
            descendants.amsbound(*make(), **BOUND, weight_decay=0.5),
            descendants.adabound(*make(), **BOUND, amsgrad=True, weight_decay=0.5),
        )

    def test_amsbound_is_adabound_while_gradients_grow(self):
        theta, gradients = make()
        gradients = np.cumsum(np.abs(gradients), axis=0)
        assert_same(
            descendants.amsbound(theta, gradients, **BOUND),
            descendants.adabound(theta, gradients, **BOUND),
        )
        gradients = 1e-3 * gradients[::-1]
        expected = weights(descendants.adabound(theta, gradients, **BOUND | {"gamma": 1e-9}))
        actual = weights(descendants.amsbound(theta, gradients, **BOUND | {"gamma": 1e-9}))
        assert np.all(actual[-1] != expected[-1])


class TestStableAdamW:
    def test_is_adamw_while_gradients_shrink(self):
        theta, gradients = make()
        gradients = np.sort(np.abs(gradients), axis=0)[::-1]
        actual = descendants.stableadamw(theta, gradients, **NO_EPSILON, weight_decay=0.5)
        expected = references.adamw(theta, gradients, **NO_EPSILON, weight_decay=0.5)
        np.testing.assert_allclose(weights(actual), weights(expected), rtol=1e-12)

    def test_slots_are_those_of_adam_after_bias_correction(self):
        theta, gradients = make()
        steps = list(descendants.stableadamw(theta, gradients, **ADAM))
        expected = list(references.adam(theta, gradients, **ADAM))
        t = np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        for name, beta in (("momentum", 0.8), ("velocity", 0.9)):
            np.testing.assert_allclose(
                slot(steps, name), slot(expected, name) / (1 - beta**t), rtol=1e-11
            )

    def test_a_large_gradient_has_a_small_rate(self):
        theta, gradients = make(steps=2)
        gradients[1] = 10 * gradients[0]
        (first, _), (second, slots) = descendants.stableadamw(
            theta, gradients, **ADAM | {"epsilon": 1e-9}, weight_decay=0.5
        )
        u = (0.9 * gradients[0] ** 2 + gradients[1] ** 2) / 1.9
        np.testing.assert_allclose(slots["velocity"], u, rtol=1e-13)
        # The same for all elements.
        eta = 0.1 / np.sqrt(100 / (100.9 / 1.9))
        expected = first - eta * 0.5 * first - eta * slots["momentum"] / np.sqrt(u)
        np.testing.assert_allclose(second, expected, rtol=1e-7)

    def test_squares_are_at_least_that_of_epsilon(self):
        (first, _), (second, slots) = descendants.stableadamw(
            np.zeros(1), [[1e-3], [1.0]], **ADAM | {"epsilon": 0.8}
        )
        assert slots["velocity"] < 0.8**2
        update = slots["momentum"] / (np.sqrt(slots["velocity"]) + 0.8)
        # RMS is that of 1 / 0.8^2.
        np.testing.assert_allclose(second, first - 0.1 * 0.8 * update, rtol=1e-12)


class TestMADGRAD:
    def test_a_constant_gradient(self):
        theta, gradients = make()
        gradients[:] = gradients[0]
        total = 0.1 * np.cumsum(np.sqrt(np.arange(1, len(gradients) + 1))).reshape(-1, 1, 1)
        z = theta - total * gradients / (np.cbrt(total * gradients**2) + 1e-3)
        actual = weights(descendants.madgrad(theta, gradients, **MADGRAD | {"momentum": 0.0}))
        np.testing.assert_allclose(actual, z, rtol=1e-12)
        x = theta
        for actual, slots in descendants.madgrad(theta, gradients, **MADGRAD):
            x, z = 0.8 * x + 0.2 * z[0], z[1:]
            np.testing.assert_allclose(actual, x, rtol=1e-12)
            np.testing.assert_array_equal(slots["initial_weights"], theta)

    def test_weights_minimize_the_linear_model(self):
        # Dual averaging: of <s, z> + 1/2 sum_i A_i (z - x_0)_i^2 with A = cbrt(nu) + epsilon.
        theta, gradients = make()
        for z, slots in descendants.madgrad(theta, gradients, **MADGRAD | {"momentum": 0.0}):
            A = np.cbrt(slots["squared_sum"]) + 1e-3
            np.testing.assert_allclose(
                slots["gradient_sum"], -A * (z - theta), rtol=1e-11, atol=1e-13
            )

    def test_decay_is_of_the_old_weights(self):
        theta, gradients = make()
        ((actual, _),) = descendants.madgrad(theta, gradients[:1], **MADGRAD, weight_decay=0.5)
        ((plain, _),) = descendants.madgrad(theta, gradients[:1], **MADGRAD)
        np.testing.assert_allclose(actual, plain - 0.05 * theta, rtol=1e-13)


class TestMARS:
    def test_without_correction_and_with_small_gradients_is_adamw(self):
        theta, gradients = make()
        gradients /= 10
        assert_same(
            descendants.mars(theta, gradients, **NO_EPSILON, gamma=0.0, weight_decay=0.5),
            references.adamw(theta, gradients, **NO_EPSILON, weight_decay=0.5),
        )

    def test_is_adamw_of_the_corrected_gradients(self):
        theta, gradients = make()
        before = np.concatenate([0 * gradients[:1], gradients[:-1]])
        c = gradients + 0.1 * 4 * (gradients - before)
        norms = np.sqrt(np.sum(c**2, axis=(1, 2), keepdims=True))
        assert np.all(norms > 1)
        steps = list(descendants.mars(theta, gradients, **NO_EPSILON, gamma=0.1))
        assert_same(steps, references.adamw(theta, c / norms, **NO_EPSILON, weight_decay=None))
        np.testing.assert_array_equal(slot(steps, "previous_gradient"), gradients)

    def test_a_constant_gradient_shows_the_place_of_epsilon(self):
        theta, gradients = make()
        gradients[:] = gradients[0] / 10
        updates = 0.1 * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(
            weights(descendants.mars(theta, gradients, **ADAM, gamma=0.0)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )


class TestGrams:
    def test_is_adam_while_signs_agree(self):
        theta, gradients = make()
        gradients = np.abs(gradients) * np.sign(gradients[0])
        assert_same(
            descendants.grams(theta, gradients, **NO_EPSILON),
            references.adam(theta, gradients, **NO_EPSILON),
        )

    def test_updates_have_adams_size_and_the_gradients_sign(self):
        theta, gradients = make()
        gradients[3, 0] = 0
        actual, expected = (
            np.diff(weights(reference(theta, gradients, **NO_EPSILON)), axis=0)
            for reference in (descendants.grams, references.adam)
        )
        signs = -np.sign(gradients[1:])
        assert np.any(np.sign(expected) == -signs)
        np.testing.assert_allclose(actual, signs * np.abs(expected), rtol=1e-10)

    def test_a_constant_gradient_shows_the_place_of_epsilon(self):
        theta, gradients = make()
        gradients[:] = gradients[0]
        updates = 0.1 * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(
            weights(descendants.grams(theta, gradients, **ADAM)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )


class TestSophia:
    @pytest.mark.parametrize("estimates", [None, {}, {1: -1.0, 3: 0.0}])
    def test_without_curvature_is_sign_descent(self, estimates):
        steps = list(descendants.sophia(*make(), **SOPHIA, hessian_estimates=estimates))
        expected = make()[0] - 0.1 * np.cumsum(np.sign(slot(steps, "momentum")), axis=0)
        np.testing.assert_allclose(weights(steps), expected, rtol=1e-12)

    def test_with_large_curvature_is_preconditioned_momentum(self):
        theta, gradients = make()
        h = np.linspace(1e4, 2e4, theta.size).reshape(theta.shape)
        steps = list(descendants.sophia(theta, gradients, **SOPHIA, hessian_estimates={1: h}))
        np.testing.assert_allclose(
            slot(steps, "hessian"), np.broadcast_to(0.1 * h, gradients.shape), rtol=1e-14
        )
        updates = 0.1 * slot(steps, "momentum") / (0.05 * 0.1 * h)
        np.testing.assert_allclose(weights(steps), theta - np.cumsum(updates, axis=0), rtol=1e-12)

    def test_estimates_count_from_their_step_on(self):
        theta, gradients = make()
        steps = list(
            descendants.sophia(theta, gradients, **SOPHIA, hessian_estimates={3: 1e4, 5: 2e4})
        )
        expected = np.array([0, 0, 1e3, 1e3, 0.9 * 1e3 + 2e3, 2.9e3, 2.9e3])
        np.testing.assert_allclose(slot(steps, "hessian")[:, 0, 0], expected, rtol=1e-14)
        plain = weights(descendants.sophia(theta, gradients, **SOPHIA))
        np.testing.assert_array_equal(weights(steps)[:2], plain[:2])
        assert np.all(weights(steps)[2] != plain[2])

    def test_numbers_of_steps_may_be_text(self):
        assert_same(
            descendants.sophia(*make(), **SOPHIA, hessian_estimates=ESTIMATES),
            descendants.sophia(
                *make(),
                **SOPHIA,
                hessian_estimates={str(t): h for t, h in ESTIMATES.items()},
            ),
        )


class TestCautious:
    @pytest.mark.parametrize(
        ("reference", "plain", "arguments"),
        [
            (descendants.cautious_adamw, references.adamw, ADAM),
            (descendants.cautious_lion, references.lion, RATES),
        ],
    )
    def test_changes_nothing_while_signs_agree(self, reference, plain, arguments):
        theta, gradients = make()
        gradients = np.abs(gradients) * np.sign(gradients[0])
        assert_same(
            reference(theta, gradients, **arguments, weight_decay=0.5),
            plain(theta, gradients, **arguments, weight_decay=0.5),
        )

    @pytest.mark.parametrize(
        ("reference", "plain", "arguments"),
        [
            (descendants.cautious_adamw, references.adamw, ADAM),
            (descendants.cautious_lion, references.lion, RATES | {"beta_1": 0.95}),
        ],
    )
    def test_only_what_agrees_is_scaled_up_and_the_decay_is_of_all(
        self, reference, plain, arguments
    ):
        # The third step has the other sign in the first four of twelve elements.
        theta, gradients = make(steps=3)
        gradients[:2] = np.sign(gradients[0])
        gradients[2] = 0.1 * gradients[0]
        gradients[2, 0] *= -1
        actual = list(reference(theta, gradients, **arguments, weight_decay=0.5))
        expected = list(plain(theta, gradients, **arguments, weight_decay=0.5))
        for (_, slots), (_, others) in zip(actual, expected, strict=True):
            for name, array in slots.items():
                np.testing.assert_allclose(array, others[name], rtol=1e-14)
        actual, expected = weights(actual), weights(expected)
        np.testing.assert_allclose(actual[1], expected[1], rtol=1e-12)
        before = 0.95 * expected[1]
        update = expected[2] - before
        np.testing.assert_allclose(actual[2, 0], before[0], rtol=1e-12)
        np.testing.assert_allclose(actual[2, 1:], before[1:] + 1.5 * update[1:], rtol=1e-11)

    @pytest.mark.parametrize(
        ("reference", "arguments"),
        [(descendants.cautious_adamw, ADAM), (descendants.cautious_lion, RATES)],
    )
    def test_the_scale_is_at_most_1000(self, reference, arguments):
        gradients = np.zeros((1, 5000))
        gradients[0, 0] = 1e9
        ((actual, _),) = reference(np.zeros(5000), gradients, **arguments)
        np.testing.assert_allclose(actual[0], -0.1 * 1000, rtol=1e-9)
        np.testing.assert_array_equal(actual[1:], 0)

    def test_nothing_is_left_where_nothing_agrees(self):
        theta, _ = make()
        gradients = np.stack([np.ones_like(theta), -0.01 * np.ones_like(theta)])
        first, second = weights(descendants.cautious_adamw(theta, gradients, **ADAM))
        np.testing.assert_array_equal(second, first)


class TestCautiousDecay:
    def test_without_decay_is_adamw(self):
        assert_same(
            descendants.cautious_decay_adamw(*make(), **ADAM),
            references.adamw(*make(), **ADAM, weight_decay=None),
        )

    def test_decay_is_that_of_adamw_where_the_update_is_towards_zero(self):
        theta, gradients = make(steps=1)
        towards_zero = theta * gradients[0] > 0
        assert 0 < np.sum(towards_zero) < theta.size
        ((actual, _),) = descendants.cautious_decay_adamw(
            theta, gradients, **ADAM, weight_decay=0.5
        )
        ((decayed, _),) = references.adamw(theta, gradients, **ADAM, weight_decay=0.5)
        ((plain, _),) = references.adamw(theta, gradients, **ADAM, weight_decay=None)
        np.testing.assert_allclose(actual, np.where(towards_zero, decayed, plain), rtol=1e-13)

    def test_the_update_and_not_the_gradient_is_compared(self):
        # The second gradient is against the momentum, which stays towards zero.
        (first, _), (second, slots) = descendants.cautious_decay_adamw(
            np.full(1, 9.0), [[1.0], [-0.01]], **ADAM | {"epsilon": 0.0}, weight_decay=0.5
        )
        np.testing.assert_allclose(first, [9 - 0.1 - 0.45], rtol=1e-14)
        u = slots["momentum"] / (1 - 0.8**2) / np.sqrt(slots["velocity"] / (1 - 0.9**2))
        assert u > 0
        np.testing.assert_allclose(second, 0.95 * first - 0.1 * u, rtol=1e-14)

    def test_weights_are_compared_before_the_update(self):
        # The update passes zero.
        ((actual, _),) = descendants.cautious_decay_adamw(
            np.full(1, 0.01), [[1.0]], **NO_EPSILON, weight_decay=0.5
        )
        np.testing.assert_allclose(actual, [0.95 * 0.01 - 0.1], rtol=1e-13)
