"""Checks the references against recordings of other implementations, and in limit cases.

Nothing here needs TensorFlow.
"""

import json

import numpy as np
import pytest
import recordings
import references

pytestmark = pytest.mark.once

# Relative to the largest magnitude which the same element had so far (initial weights included), as
# that is what rounding errors scale with when an average or a weight comes to cancel.
#
# In float64 the recordings and the references round differently, by a few ulps
# (2e-16 each). In float32 a unit is 1e-7, the references being exact beside it; averages forget
# their errors, but those of the weights add up over 25 steps of a few roundings each.
TOLERANCES = {"float64": 1e-14, "float32": 2e-6}

RECORDINGS = {recording.name: recording for recording in recordings.RECORDINGS}

SHAPES = ((), (3,), (4, 5), (2, 3, 4), (0,), (2, 0))

ADAM = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}

ADADELTA = {"learning_rate": 0.1, "rho": 0.9, "epsilon": 1e-3}
ADAGRAD = {"learning_rate": 0.1, "initial_accumulator_value": 0.3, "epsilon": 1e-3}
RMSPROP = {"learning_rate": 0.1, "rho": 0.9, "epsilon": 1e-3}
FTRL = {"learning_rate": 0.1, "learning_rate_power": -0.5, "initial_accumulator_value": 0.3}
REGULARIZED_FTRL = FTRL | {
    "l1_regularization_strength": 0.5,
    "l2_regularization_strength": 0.7,
    "l2_shrinkage_regularization_strength": 0.2,
    "beta": 0.4,
}

# Each with arguments that make every term of its update count.
ALL = (
    (references.sgd, {"learning_rate": 0.1}),
    (references.sgd, {"learning_rate": 0.1, "momentum": 0.9}),
    (references.sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    (references.adam, ADAM),
    (references.adam, ADAM | {"amsgrad": True}),
    (references.adamw, ADAM),
    (references.adamw, ADAM | {"amsgrad": True}),
    (references.lion, {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9}),
    (references.lamb, ADAM),
    (references.adadelta, ADADELTA),
    (references.adagrad, ADAGRAD),
    (references.adamax, ADAM),
    (references.nadam, ADAM),
    (references.rmsprop, RMSPROP),
    (references.rmsprop, RMSPROP | {"momentum": 0.8}),
    (references.rmsprop, RMSPROP | {"centered": True}),
    (references.rmsprop, RMSPROP | {"momentum": 0.8, "centered": True}),
    (references.ftrl, FTRL),
    (references.ftrl, REGULARIZED_FTRL),
)

# Their decay is not just a decay of the weights.
UNUSUAL_DECAY = (references.lamb, references.ftrl)


def weights(steps):
    return np.stack([theta for theta, _ in steps])


def make(shape=(3, 4), steps=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.normal(size=(steps, *shape))


def assert_close_along_steps(actual, expected, tolerance, initial=0.0):
    scale = np.maximum.accumulate(np.abs(expected.astype(np.float64)), axis=0)
    scale = np.maximum(scale, np.abs(initial))
    error = np.abs(actual - expected)
    worst = np.max(error / np.where(scale > 0, scale, 1.0))
    assert np.all(error <= tolerance * scale), f"{worst} > {tolerance}"


class TestRecordings:
    def test_files_are_those_of_the_script(self):
        files = {path.stem for path in recordings.DIRECTORY.glob("*.npz")}
        assert files == set(RECORDINGS)

    @pytest.mark.parametrize("name", RECORDINGS)
    def test_metadata_is_that_of_the_script(self, name):
        metadata, _ = recordings.load(recordings.DIRECTORY / f"{name}.npz")
        # Through JSON, which has no tuples.
        recording = json.loads(json.dumps(vars(RECORDINGS[name])))
        del recording["call"]
        assert {key: metadata[key] for key in recording} == recording

    @pytest.mark.parametrize("name", RECORDINGS)
    def test_reference_gives_the_same(self, name):
        metadata, variables = recordings.load(recordings.DIRECTORY / f"{name}.npz")
        reference = references.find(metadata["reference"])
        if getattr(reference, "joint", False):
            pytest.skip("takes all variables at once: see test_references_free.py")
        for variable in variables:
            steps = list(
                reference(variable["initial"], variable["gradients"], **metadata["arguments"])
            )
            tolerance = TOLERANCES[metadata["dtype"]]
            assert_close_along_steps(
                weights(steps), variable["weights"], tolerance, variable["initial"]
            )
            for _, slots in steps:
                assert set(slots) == set(metadata["slots"])
            for slot, expected in variable["slots"].items():
                actual = np.stack([slots[slot] for _, slots in steps])
                # One number for the variable, which the recording repeats for all elements.
                actual = actual.reshape(actual.shape + (1,) * (expected.ndim - actual.ndim))
                assert_close_along_steps(actual, expected, tolerance)


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


class TestSGD:
    @pytest.mark.parametrize("nesterov", [False, True])
    def test_without_momentum_is_plain_gradient_descent(self, nesterov):
        theta, gradients = make()
        steps = list(references.sgd(theta, gradients, learning_rate=0.1, nesterov=nesterov))
        np.testing.assert_allclose(
            weights(steps), theta - 0.1 * np.cumsum(gradients, axis=0), rtol=1e-13
        )
        assert all(slots == {} for _, slots in steps)

    def test_momentum_for_a_constant_gradient(self):
        theta, gradients = make()
        gradients[:] = gradients[0]
        for t, (_, slots) in enumerate(
            references.sgd(theta, gradients, learning_rate=0.1, momentum=0.9), 1
        ):
            expected = -0.1 * gradients[0] * (1 - 0.9**t) / (1 - 0.9)
            np.testing.assert_allclose(slots["momentum"], expected, rtol=1e-13)

    def test_nesterov_is_the_gradient_at_the_point_looked_ahead_to(self):
        # Sutskever et al., equations 3 and 4, for f = a theta^2 / 2. The reference's weights are
        # the points looked ahead to, which begin where the weights do.
        theta, _ = make()
        a = np.linspace(0.1, 2.0, theta.size).reshape(theta.shape)
        eps, mu = 0.1, 0.9
        current = theta

        def gradients():
            for _ in range(20):
                yield a * current

        x, v = theta, np.zeros_like(theta)
        for current, slots in references.sgd(
            theta, gradients(), learning_rate=eps, momentum=mu, nesterov=True
        ):
            v = mu * v - eps * a * (x + mu * v)
            x = x + v
            np.testing.assert_allclose(current, x + mu * v, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(slots["momentum"], v, rtol=1e-12, atol=1e-14)


class TestAdam:
    @pytest.mark.parametrize("amsgrad", [False, True])
    def test_adamw_without_decay_is_adam(self, amsgrad):
        for (actual, actual_slots), (expected, expected_slots) in zip(
            references.adamw(*make(), **ADAM, amsgrad=amsgrad, weight_decay=0.0),
            references.adam(*make(), **ADAM, amsgrad=amsgrad),
            strict=True,
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-13)
            assert set(actual_slots) == set(expected_slots)
            for name, slot in actual_slots.items():
                np.testing.assert_array_equal(slot, expected_slots[name])

    @pytest.mark.parametrize("amsgrad", [False, True])
    def test_adamw_is_adam_with_decay(self, amsgrad):
        arguments = ADAM | {"amsgrad": amsgrad, "weight_decay": 0.5}
        np.testing.assert_allclose(
            weights(references.adamw(*make(), **arguments)),
            weights(references.adam(*make(), **arguments)),
            rtol=1e-13,
        )

    def test_amsgrad_is_adam_while_gradients_grow(self):
        theta, gradients = make()
        gradients = np.cumsum(np.abs(gradients), axis=0)
        expected = weights(references.adam(theta, gradients, **ADAM))
        actual = weights(references.adam(theta, gradients, **ADAM, amsgrad=True))
        np.testing.assert_array_equal(actual, expected)
        gradients = gradients[::-1]
        expected = weights(references.adam(theta, gradients, **ADAM))
        actual = weights(references.adam(theta, gradients, **ADAM, amsgrad=True))
        assert np.all(actual[-1] != expected[-1])

    @pytest.mark.parametrize("reference", [references.adam, references.adamw])
    def test_without_averages_is_normalized_gradient_descent(self, reference):
        theta, gradients = make()
        arguments = ADAM | {"beta_1": 0.0, "beta_2": 0.0, "weight_decay": None}
        updates = 0.1 * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(
            weights(reference(theta, gradients, **arguments)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )

    @pytest.mark.parametrize("reference", [references.adam, references.adamw])
    def test_a_constant_gradient_shows_the_place_of_epsilon(self, reference):
        theta, gradients = make()
        gradients[:] = gradients[0]
        t = np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        updates = 0.1 * gradients / (np.abs(gradients) + 1e-3 / np.sqrt(1 - 0.9**t))
        np.testing.assert_allclose(
            weights(reference(theta, gradients, **ADAM, weight_decay=None)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )


class TestLion:
    def test_without_averages_is_sign_descent(self):
        theta, gradients = make()
        gradients[:, 0] = 0
        np.testing.assert_allclose(
            weights(references.lion(theta, gradients, learning_rate=0.1, beta_1=0.0, beta_2=0.0)),
            theta - 0.1 * np.cumsum(np.sign(gradients), axis=0),
            rtol=1e-13,
        )

    def test_first_update_has_the_gradients_sign_and_the_next_the_momentums(self):
        # beta_1 is so near 1 that only the momentum of the first step counts in the second.
        (first, _), (second, _) = references.lion(
            np.zeros(2), [[1.0, -1.0], [-1.0, 1.0]], learning_rate=0.1, beta_1=0.99, beta_2=0.5
        )
        np.testing.assert_allclose(first, [-0.1, 0.1], rtol=1e-14)
        np.testing.assert_allclose(second, [-0.2, 0.2], rtol=1e-14)


class TestLamb:
    def test_trust_ratio_of_zero_weights_is_1(self):
        theta, gradients = make()
        ((actual, _),) = references.lamb(0 * theta, gradients[:1], **ADAM, weight_decay=0.5)
        r = gradients[0] / (np.abs(gradients[0]) + 1e-3)
        np.testing.assert_allclose(actual, -0.1 * r, rtol=1e-13)

    def test_trust_ratio_of_a_zero_update_is_1(self):
        theta, gradients = make()
        actual = weights(references.lamb(theta, 0 * gradients, **ADAM))
        np.testing.assert_array_equal(actual, np.broadcast_to(theta, actual.shape))

    @pytest.mark.parametrize("weight_decay", [None, 0.5])
    @pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 3, 4)], ids=str)
    def test_norm_of_the_step_is_that_of_the_weights(self, shape, weight_decay):
        theta, gradients = make(shape)
        for new, _ in references.lamb(theta, gradients, **ADAM, weight_decay=weight_decay):
            np.testing.assert_allclose(
                np.linalg.norm(new - theta), 0.1 * np.linalg.norm(theta), rtol=1e-12
            )
            theta = new

    def test_zero_gradients_with_decay_shrink_by_the_learning_rate(self):
        # The ratio cancels the decay's factor, which shows that the decay is within.
        theta, gradients = make()
        actual = weights(references.lamb(theta, 0 * gradients, **ADAM, weight_decay=0.5))
        factors = 0.9 ** np.arange(1, len(gradients) + 1)
        np.testing.assert_allclose(actual, np.multiply.outer(factors, theta), rtol=1e-13)

    def test_direction_without_decay_is_adams(self):
        # With beta_2 0 the two places of epsilon are the same.
        theta, gradients = make()
        arguments = ADAM | {"beta_2": 0.0}
        actual = np.diff(weights(references.lamb(theta, gradients, **arguments)), axis=0)
        expected = np.diff(weights(references.adam(theta, gradients, **arguments)), axis=0)
        for update, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(
                update / np.linalg.norm(update), other / np.linalg.norm(other), rtol=1e-11
            )


class TestAdadelta:
    def test_first_step(self):
        theta, gradients = make()
        g = gradients[0]
        ((actual, slots),) = references.adadelta(theta, gradients[:1], **ADADELTA)
        delta = -np.sqrt(1e-3 / (0.1 * g**2 + 1e-3)) * g
        np.testing.assert_allclose(actual, theta + 0.1 * delta, rtol=1e-13)
        np.testing.assert_allclose(slots["accumulated_grad"], 0.1 * g**2, rtol=1e-13)
        np.testing.assert_allclose(slots["accumulated_delta_var"], 0.1 * delta**2, rtol=1e-13)

    def test_updates_have_the_units_of_the_weights(self):
        # Those of the gradients cancel; epsilon, which has units, only counts for the weights.
        theta, gradients = make()
        arguments = ADADELTA | {"epsilon": 1e-30}
        for (actual, actual_slots), (expected, expected_slots) in zip(
            references.adadelta(0 * theta, 1000 * gradients, **arguments),
            references.adadelta(0 * theta, gradients, **arguments),
            strict=True,
        ):
            assert np.all(expected != 0)
            np.testing.assert_allclose(actual, expected, rtol=1e-12)
            for name, factor in (("accumulated_grad", 1e6), ("accumulated_delta_var", 1)):
                np.testing.assert_allclose(
                    actual_slots[name], factor * expected_slots[name], rtol=1e-12
                )

    def test_learning_rate_multiplies_only_what_is_added_to_the_weights(self):
        theta, gradients = make()
        for (actual, actual_slots), (expected, expected_slots) in zip(
            references.adadelta(0 * theta, gradients, **ADADELTA | {"learning_rate": 8.0}),
            references.adadelta(0 * theta, gradients, **ADADELTA | {"learning_rate": 1.0}),
            strict=True,
        ):
            np.testing.assert_allclose(actual, 8 * expected, rtol=1e-13)
            for name, slot in actual_slots.items():
                np.testing.assert_array_equal(slot, expected_slots[name])


class TestAdagrad:
    def test_first_step_is_sign_descent(self):
        theta, gradients = make()
        arguments = ADAGRAD | {"initial_accumulator_value": 0.0, "epsilon": 0.0}
        ((actual, _),) = references.adagrad(theta, gradients[:1], **arguments)
        np.testing.assert_allclose(actual, theta - 0.1 * np.sign(gradients[0]), rtol=1e-13)

    def test_a_constant_gradient_has_steps_with_the_root_of_time(self):
        theta, gradients = make()
        gradients[:] = gradients[0]
        t = np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        updates = 0.1 * gradients / np.sqrt(0.3 + t * gradients**2 + 1e-3)
        np.testing.assert_allclose(
            weights(references.adagrad(theta, gradients, **ADAGRAD)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-13,
        )

    def test_epsilon_is_beside_the_initial_value_but_not_in_the_slot(self):
        theta, gradients = make()
        for (actual, actual_slots), (expected, expected_slots) in zip(
            references.adagrad(theta, gradients, **ADAGRAD | {"epsilon": 0.2}),
            references.adagrad(
                theta,
                gradients,
                **ADAGRAD | {"initial_accumulator_value": 0.5, "epsilon": 0.0},
            ),
            strict=True,
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-13)
            np.testing.assert_allclose(
                actual_slots["accumulator"] + 0.2, expected_slots["accumulator"], rtol=1e-13
            )


class TestAdamax:
    def test_norm_is_the_largest_decayed_gradient(self):
        theta, gradients = make()
        for t, (_, slots) in enumerate(references.adamax(theta, gradients, **ADAM), 1):
            decayed = [0.9 ** (t - i) * np.abs(gradients[i - 1]) for i in range(1, t + 1)]
            np.testing.assert_allclose(slots["norm"], np.max(decayed, axis=0), rtol=1e-13)

    def test_norm_is_the_limit_of_those_of_higher_order(self):
        # Section 7.1: Adam's average of squares is the case p = 2 of this.
        theta, gradients = make()
        p = 200
        v = np.zeros_like(theta)
        for g, (_, slots) in zip(
            gradients, references.adamax(theta, gradients, **ADAM), strict=True
        ):
            v = 0.9**p * v + (1 - 0.9**p) * np.abs(g) ** p
            np.testing.assert_allclose(slots["norm"], v ** (1 / p), rtol=0.01)

    def test_a_constant_gradient_shows_the_place_of_epsilon(self):
        theta, gradients = make()
        gradients[:] = gradients[0]
        updates = 0.1 * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(
            weights(references.adamax(theta, gradients, **ADAM)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )


class TestNadam:
    def test_without_momentum_is_adam(self):
        arguments = ADAM | {"beta_1": 0.0, "epsilon": 0.0}
        np.testing.assert_allclose(
            weights(references.nadam(*make(), **arguments)),
            weights(references.adam(*make(), **arguments)),
            rtol=1e-12,
        )

    def test_a_constant_gradient_shows_the_schedule_and_the_place_of_epsilon(self):
        theta, gradients = make(steps=300)
        gradients[:] = gradients[0]
        t = np.arange(1, len(gradients) + 2)
        mu = 0.8 * (1 - 0.96**t / 2)
        product = np.cumprod(mu)
        factors = mu[1:] * (1 - 0.8 ** t[:-1]) / (1 - product[1:])
        factors += (1 - mu[:-1]) / (1 - product[:-1])
        # It is a weighted average in the end.
        np.testing.assert_allclose(factors[-1], 1, rtol=1e-6)
        updates = factors.reshape(-1, 1, 1) * 0.1 * gradients / (np.abs(gradients) + 1e-3)
        np.testing.assert_allclose(
            weights(references.nadam(theta, gradients, **ADAM)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-11,
        )


class TestRMSprop:
    @pytest.mark.parametrize(
        ("arguments", "slots"),
        [
            ({}, ["velocity"]),
            ({"momentum": 0.8}, ["velocity", "momentum"]),
            ({"centered": True}, ["velocity", "average_gradient"]),
            (
                {"momentum": 0.8, "centered": True},
                ["velocity", "momentum", "average_gradient"],
            ),
        ],
    )
    def test_slots(self, arguments, slots):
        for _, actual in references.rmsprop(*make(), **RMSPROP, **arguments):
            assert list(actual) == slots

    def test_without_average_is_normalized_gradient_descent(self):
        theta, gradients = make()
        updates = 0.1 * gradients / np.sqrt(gradients**2 + 1e-3)
        np.testing.assert_allclose(
            weights(references.rmsprop(theta, gradients, **RMSPROP | {"rho": 0.0})),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )

    @pytest.mark.parametrize("centered", [False, True])
    def test_a_constant_gradient_shows_the_place_of_epsilon(self, centered):
        theta, gradients = make()
        gradients[:] = gradients[0]
        t = np.arange(1, len(gradients) + 1).reshape(-1, 1, 1)
        # The averages are 1 - 0.9^t times the gradient and its square.
        variance = (1 - 0.9**t) * (0.9**t if centered else 1) * gradients**2
        updates = 0.1 * gradients / np.sqrt(variance + 1e-3)
        np.testing.assert_allclose(
            weights(references.rmsprop(theta, gradients, **RMSPROP, centered=centered)),
            theta - np.cumsum(updates, axis=0),
            rtol=1e-12,
        )

    @pytest.mark.parametrize("centered", [False, True])
    def test_momentum_is_a_sum_of_the_updates_without_it(self, centered):
        theta, gradients = make()
        arguments = RMSPROP | {"centered": centered}
        plain = weights(references.rmsprop(theta, gradients, **arguments))
        updates = -np.diff(plain, axis=0, prepend=theta[np.newaxis])
        before = theta
        for t, (new, slots) in enumerate(
            references.rmsprop(theta, gradients, **arguments, momentum=0.8), 1
        ):
            expected = sum(0.8 ** (t - i) * updates[i - 1] for i in range(1, t + 1))
            np.testing.assert_allclose(slots["momentum"], expected, rtol=1e-11, atol=1e-14)
            np.testing.assert_allclose(before - new, expected, rtol=1e-11, atol=1e-14)
            before = new


class TestFtrl:
    def test_without_regularization_is_adagrad(self):
        arguments = {"learning_rate": 0.1, "initial_accumulator_value": 0.0}
        np.testing.assert_allclose(
            weights(references.ftrl(*make(), **arguments, learning_rate_power=-0.5)),
            weights(references.adagrad(*make(), **arguments, epsilon=0.0)),
            rtol=1e-12,
        )

    def test_with_beta_is_gradient_descent_with_the_papers_learning_rates(self):
        theta, gradients = make()
        eta = 0.1 / (0.4 + np.sqrt(0.3 + np.cumsum(gradients**2, axis=0)))
        np.testing.assert_allclose(
            weights(references.ftrl(0 * theta, gradients, **FTRL, beta=0.4)),
            -np.cumsum(eta * gradients, axis=0),
            rtol=1e-12,
        )

    @pytest.mark.parametrize("initial_accumulator_value", [0.0, 0.3])
    def test_with_power_zero_is_gradient_descent(self, initial_accumulator_value):
        theta, gradients = make()
        arguments = FTRL | {
            "learning_rate_power": 0.0,
            "initial_accumulator_value": initial_accumulator_value,
        }
        np.testing.assert_allclose(
            weights(references.ftrl(0 * theta, gradients, **arguments)),
            -0.1 * np.cumsum(gradients, axis=0),
            rtol=1e-12,
        )

    @pytest.mark.parametrize("power", [0.5, 0.8])
    def test_weights_are_the_regularized_leader(self, power):
        # They minimize g_{1:t} w + sum_s sigma_s / 2 (w - w_s)^2 + lambda_1 |w| + lambda_2 / 2 w^2,
        # where beta and the initial accumulator act like lambda_2.
        theta, gradients = make(steps=20)
        arguments = REGULARIZED_FTRL | {
            "learning_rate_power": -power,
            "l2_shrinkage_regularization_strength": 0.0,
        }
        actual = weights(references.ftrl(theta, gradients, **arguments))
        before = np.concatenate([theta[np.newaxis], actual[:-1]])
        n = 0.3 + np.cumsum(gradients**2, axis=0)
        sigma = np.diff(n**power, axis=0, prepend=0.3**power) / 0.1
        lambda_2 = 2 * 0.7 + 0.4 / 0.1 + 0.3**power / 0.1
        derivative = np.cumsum(gradients - sigma * before, axis=0)
        derivative += (np.cumsum(sigma, axis=0) + lambda_2) * actual
        zero = actual == 0
        assert 0 < np.sum(zero) < zero.size
        np.testing.assert_allclose(derivative[~zero], -0.5 * np.sign(actual[~zero]), rtol=1e-11)
        assert np.all(np.abs(derivative[zero]) <= 0.5)

    def test_shrinkage_is_a_gradient_for_the_slot_linear_alone(self):
        theta, gradients = make()
        ((_, actual),) = references.ftrl(
            theta, gradients[:1], **FTRL, l2_shrinkage_regularization_strength=0.2
        )
        ((_, expected),) = references.ftrl(theta, gradients[:1], **FTRL)
        np.testing.assert_array_equal(actual["accumulator"], expected["accumulator"])
        np.testing.assert_allclose(
            actual["linear"], expected["linear"] + 2 * 0.2 * theta, rtol=1e-12
        )

    def test_decay_is_of_the_weights_before_the_update(self):
        theta, gradients = make()
        ((actual, actual_slots),) = references.ftrl(
            theta, gradients[:1], **REGULARIZED_FTRL, weight_decay=0.5
        )
        ((expected, expected_slots),) = references.ftrl(
            0.95 * theta, gradients[:1], **REGULARIZED_FTRL
        )
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
        np.testing.assert_allclose(actual_slots["linear"], expected_slots["linear"], rtol=1e-12)

    @pytest.mark.parametrize("initial_accumulator_value", [0.0, 0.3])
    def test_zero_gradients_give_zero_weights(self, initial_accumulator_value):
        theta, gradients = make()
        arguments = FTRL | {"initial_accumulator_value": initial_accumulator_value}
        actual = weights(references.ftrl(theta, 0 * gradients, **arguments, weight_decay=0.5))
        np.testing.assert_array_equal(actual, np.zeros_like(gradients))
