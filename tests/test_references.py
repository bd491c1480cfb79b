"""Checks the references against recordings of other implementations, and in limit cases.

Nothing here needs TensorFlow.
"""

import json

import numpy as np
import pytest
import record_trajectories
import references

# Relative to the largest magnitude which the same element had so far, as that is what rounding
# errors scale with when an average or a weight comes to cancel.
#
# In float64 the recordings and the references round differently, by a few units in the last place
# (2e-16 each). In float32 a unit is 1e-7, the references being exact beside it; averages forget
# their errors, but those of the weights add up over 25 steps of a few roundings each.
TOLERANCES = {"float64": 1e-14, "float32": 2e-6}

RECORDINGS = {recording.name: recording for recording in record_trajectories.RECORDINGS}

SHAPES = ((), (3,), (4, 5), (2, 3, 4), (0,), (2, 0))

ADAM = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}

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
)


def weights(steps):
    return np.stack([theta for theta, _ in steps])


def make(shape=(3, 4), steps=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.normal(size=(steps, *shape))


def assert_close_along_steps(actual, expected, tolerance):
    scale = np.maximum.accumulate(np.abs(expected.astype(np.float64)), axis=0)
    error = np.abs(actual - expected)
    worst = np.max(error / np.where(scale > 0, scale, 1.0))
    assert np.all(error <= tolerance * scale), f"{worst} > {tolerance}"


class TestRecordings:
    def test_files_are_those_of_the_script(self):
        files = {path.stem for path in record_trajectories.DIRECTORY.glob("*.npz")}
        assert files == set(RECORDINGS)

    @pytest.mark.parametrize("name", RECORDINGS)
    def test_metadata_is_that_of_the_script(self, name):
        metadata, _ = record_trajectories.load(record_trajectories.DIRECTORY / f"{name}.npz")
        # Through JSON, which has no tuples.
        recording = json.loads(json.dumps(vars(RECORDINGS[name])))
        del recording["call"]
        assert {key: metadata[key] for key in recording} == recording

    @pytest.mark.parametrize("name", RECORDINGS)
    def test_reference_gives_the_same(self, name):
        metadata, variables = record_trajectories.load(
            record_trajectories.DIRECTORY / f"{name}.npz"
        )
        reference = getattr(references, metadata["reference"])
        for variable in variables:
            steps = list(
                reference(variable["initial"], variable["gradients"], **metadata["arguments"])
            )
            tolerance = TOLERANCES[metadata["dtype"]]
            assert_close_along_steps(weights(steps), variable["weights"], tolerance)
            for _, slots in steps:
                assert set(slots) == set(metadata["slots"])
            for slot, expected in variable["slots"].items():
                actual = np.stack([slots[slot] for _, slots in steps])
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
        ("reference", "arguments"), [case for case in ALL if case[0] is not references.lamb]
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
