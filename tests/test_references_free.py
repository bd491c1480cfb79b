"""Checks the references of the parameter-free and the schedule-free optimizers.

As `test_references` does, against recordings and in limit cases. Nothing here needs TensorFlow.
"""

import json
import math

import numpy as np
import pytest
import recordings
from recordings import parameter_free as parameter_free_recordings
from recordings import schedule_free as schedule_free_recordings
from references import adam, parameter_free, schedule_free
from references.parameter_free import dadaptadam, dadaptlion, dadaptsgd, dog, ldog, prodigy
from references.schedule_free import (
    averaged,
    schedulefreeadamw,
    schedulefreeradam,
    schedulefreesgd,
)

pytestmark = pytest.mark.once

# Relative to the largest magnitude which the same element had so far (initial weights included).
# The sums over all elements are rounded differently, too, but by no more than the elements are:
# they consist mostly of a few large terms.
TOLERANCE = 1e-14

RECORDINGS = {
    recording.name: recording
    for module in (parameter_free_recordings, schedule_free_recordings)
    for recording in module.RECORDINGS
}

SHAPES = ((), (3,), (4, 5), (2, 3, 4), (0,), (2, 0))

PRODIGY = {
    "learning_rate": 0.7,
    "beta_1": 0.8,
    "beta_2": 0.9,
    "epsilon": 1e-3,
    "initial_d": 0.01,
}
D_ADAM = PRODIGY
D_SGD = {"learning_rate": 0.7, "initial_d": 0.01}
D_LION = {"learning_rate": 0.7, "beta_1": 0.8, "beta_2": 0.9, "initial_d": 0.01}
DOG = {"learning_rate": 0.7, "reps_rel": 0.01, "epsilon": 1e-3}

JOINT = (
    (prodigy, PRODIGY),
    (
        prodigy,
        PRODIGY
        | {
            "beta_3": 0.7,
            "d_coefficient": 1.5,
            "growth_rate": 1.3,
            "use_bias_correction": True,
            "safeguard_warmup": True,
        },
    ),
    (dadaptadam, D_ADAM),
    (dadaptadam, D_ADAM | {"growth_rate": 1.3, "use_bias_correction": True}),
    (dadaptsgd, D_SGD),
    (dadaptsgd, D_SGD | {"growth_rate": 1.3, "momentum": 0.8}),
    (dadaptlion, D_LION),
    (dog, DOG),
)

SGD = {"learning_rate": 0.1, "momentum": 0.8}
ADAMW = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}
WARMUP = {"warmup_steps": 3, "r": 0.5, "weight_lr_power": 1.5}

SCHEDULE_FREE = (
    (schedulefreesgd, SGD),
    (schedulefreesgd, SGD | WARMUP),
    (schedulefreeadamw, ADAMW),
    (schedulefreeadamw, ADAMW | WARMUP),
    (schedulefreeradam, ADAMW),
    (schedulefreeradam, ADAMW | {"silent_sgd_phase": False, "r": 0.5, "weight_lr_power": 1.5}),
    (schedulefreeradam, ADAMW | {"weight_lr_power": 0.0}),
)


def one(reference):
    """A joint reference as one for a single variable, without the numbers."""

    def generator(theta, gradients, **arguments):
        for (new,), (slots,), _ in reference([theta], ([g] for g in gradients), **arguments):
            yield new, slots

    return generator


ALL = (
    *((one(reference), arguments) for reference, arguments in JOINT),
    *SCHEDULE_FREE,
)
IDS = [f"{r.__name__}-{i}" for i, (r, _) in enumerate(JOINT + SCHEDULE_FREE)]
JOINT_IDS = IDS[: len(JOINT)]


def weights(steps):
    return np.stack([theta for theta, _ in steps])


def numbers(steps, name):
    return np.array([shared[name] for *_, shared in steps])


def make(shape=(3, 4), steps=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.normal(size=(steps, *shape))


def make_list(shapes=((3, 4), (2,), ()), steps=12):
    pairs = [make(shape, steps, seed) for seed, shape in enumerate(shapes)]
    return [theta for theta, _ in pairs], list(zip(*[g for _, g in pairs], strict=True))


def constant(steps):
    """Weights and always the same gradients, such that every estimate grows."""
    theta, gradients = make(steps=steps)
    gradients[:] = gradients[0]
    return theta, gradients


def assert_close_along_steps(actual, expected, tolerance, initial=0.0):
    scale = np.maximum.accumulate(np.abs(expected), axis=0)
    scale = np.maximum(scale, np.abs(initial))
    error = np.abs(actual - expected)
    worst = np.max(error / np.where(scale > 0, scale, 1.0))
    assert np.all(error <= tolerance * scale), f"{worst} > {tolerance}"


def run(metadata, variables):
    """The steps of a recording's reference, for each variable."""
    module = schedule_free if metadata["reference"].startswith("schedulefree") else parameter_free
    reference = getattr(module, metadata["reference"])
    initial = [variable["initial"] for variable in variables]
    gradients = [variable["gradients"] for variable in variables]
    if not getattr(reference, "joint", False):
        return [
            list(reference(theta, g, **metadata["arguments"]))
            for theta, g in zip(initial, gradients, strict=True)
        ]
    steps = list(reference(initial, zip(*gradients, strict=True), **metadata["arguments"]))
    return [[(new[i], slots[i]) for new, slots, _ in steps] for i in range(len(variables))]


class TestRecordings:
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
        for variable, steps in zip(variables, run(metadata, variables), strict=True):
            assert_close_along_steps(
                weights(steps), variable["weights"], TOLERANCE, variable["initial"]
            )
            for _, slots in steps:
                assert set(slots) == set(metadata["slots"])
            for slot, expected in variable["slots"].items():
                actual = np.stack([slots[slot] for _, slots in steps])
                # One number for the variable, which the recording repeats for all elements.
                actual = actual.reshape(actual.shape + (1,) * (expected.ndim - actual.ndim))
                assert_close_along_steps(actual, expected, TOLERANCE)

    @pytest.mark.parametrize(
        "name", [recording.name for recording in parameter_free_recordings.RECORDINGS]
    )
    def test_estimates_grow(self, name):
        # A recording in which they do not would hardly check them.
        metadata, variables = recordings.load(recordings.DIRECTORY / f"{name}.npz")
        reference = getattr(parameter_free, metadata["reference"])
        if reference is ldog:
            distances = [
                [s["max_distance"] for _, s in steps] for steps in run(metadata, variables)
            ]
            assert max(np.unique(found).size for found in distances) > 1
            return
        steps = list(
            reference(
                [variable["initial"] for variable in variables],
                zip(*[variable["gradients"] for variable in variables], strict=True),
                **metadata["arguments"],
            )
        )
        estimates = numbers(steps, "max_distance" if reference is dog else "d")
        assert np.unique(estimates).size > 1


class TestAll:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize(("reference", "arguments"), ALL, ids=IDS)
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

    @pytest.mark.parametrize(("reference", "arguments"), ALL, ids=IDS)
    def test_lower_precision_inputs_are_computed_with_in_float64(self, reference, arguments):
        theta, gradients = (array.astype(np.float32) for array in make())
        actual = reference(theta, gradients, **arguments, weight_decay=0.5)
        theta, gradients = theta.astype(np.float64), gradients.astype(np.float64)
        expected = reference(theta, gradients, **arguments, weight_decay=0.5)
        np.testing.assert_array_equal(weights(actual), weights(expected))

    @pytest.mark.parametrize(("reference", "arguments"), ALL, ids=IDS)
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

    @pytest.mark.parametrize(("reference", "arguments"), ALL, ids=IDS)
    def test_no_decay_is_zero_decay(self, reference, arguments):
        np.testing.assert_array_equal(
            weights(reference(*make(), **arguments, weight_decay=None)),
            weights(reference(*make(), **arguments, weight_decay=0.0)),
        )

    @pytest.mark.parametrize(("reference", "arguments"), ALL, ids=IDS)
    def test_zero_gradients_without_decay_leave_the_weights(self, reference, arguments):
        theta, gradients = make()
        actual = weights(reference(theta, 0 * gradients, **arguments))
        np.testing.assert_allclose(actual, np.broadcast_to(theta, actual.shape), rtol=1e-15)


class TestJoint:
    @pytest.mark.parametrize(("reference", "arguments"), JOINT, ids=JOINT_IDS)
    def test_is_marked_and_yields_lists_and_numbers(self, reference, arguments):
        assert reference.joint
        theta, gradients = make_list()
        for new, slots, shared in reference(theta, gradients, **arguments, weight_decay=0.5):
            assert isinstance(new, list) and isinstance(slots, list)
            assert len(new) == len(slots) == len(theta)
            for array, new_array, variable_slots in zip(theta, new, slots, strict=True):
                assert new_array.shape == array.shape
                assert all(slot.shape == array.shape for slot in variable_slots.values())
            assert all(type(number) is float for number in shared.values())

    @pytest.mark.parametrize(("reference", "arguments"), JOINT, ids=JOINT_IDS)
    def test_does_not_depend_on_how_weights_are_distributed_over_variables(
        self, reference, arguments
    ):
        theta, gradients = make((12,), steps=12)
        whole = list(reference([theta], [[g] for g in gradients], **arguments, weight_decay=0.1))
        parts = list(
            reference(
                [theta[:5].reshape(5, 1), theta[5:5], theta[5:]],
                [[g[:5].reshape(5, 1), g[5:5], g[5:]] for g in gradients],
                **arguments,
                weight_decay=0.1,
            )
        )
        for (new, slots, shared), (new_parts, slots_parts, shared_parts) in zip(
            whole, parts, strict=True
        ):
            flat = np.concatenate([part.ravel() for part in new_parts])
            np.testing.assert_allclose(flat, new[0], rtol=1e-12)
            for name, slot in slots[0].items():
                flat = np.concatenate([part[name].ravel() for part in slots_parts])
                np.testing.assert_allclose(flat, slot, rtol=1e-12, atol=1e-15)
            assert shared.keys() == shared_parts.keys()
            for name, number in shared.items():
                np.testing.assert_allclose(shared_parts[name], number, rtol=1e-12, atol=1e-15)

    @pytest.mark.parametrize(("reference", "arguments"), JOINT, ids=JOINT_IDS)
    def test_weights_do_not_depend_on_the_scale_of_the_gradients(self, reference, arguments):
        # By a power of 2, which rounds nothing.
        theta, gradients = make_list()
        if "epsilon" in arguments:
            # Beside which only zeros are small.
            arguments = arguments | {"epsilon": 1e-100}
        for (actual, *_), (expected, *_) in zip(
            reference(theta, [[1024 * g for g in gs] for gs in gradients], **arguments),
            reference(theta, gradients, **arguments),
            strict=True,
        ):
            for new, other in zip(actual, expected, strict=True):
                assert np.all(np.isfinite(new))
                np.testing.assert_array_equal(new, other)

    @pytest.mark.parametrize(("reference", "arguments"), JOINT, ids=JOINT_IDS)
    def test_estimates_never_fall_and_rise_for_constant_gradients(self, reference, arguments):
        name = "max_distance" if reference is dog else "d"
        theta, gradients = make_list(steps=40)
        estimates = numbers(reference(theta, gradients, **arguments), name)
        assert np.all(np.diff(estimates) >= 0)
        estimates = numbers(reference(theta, [gradients[0]] * 40, **arguments), name)
        assert estimates[-1] > 2 * estimates[0]

    @pytest.mark.parametrize("weight_decay", [None, 0.5])
    @pytest.mark.parametrize(
        ("reference", "arguments"),
        [case for case in JOINT if case[0] in (prodigy, dadaptadam, dadaptsgd)],
    )
    def test_begins_with_the_first_gradients_that_are_not_zero(
        self, reference, arguments, weight_decay
    ):
        theta, gradients = make_list()
        zeros = [[0 * g for g in gradients[0]]] * 3
        arguments = arguments | {"weight_decay": weight_decay}
        expected = list(reference(theta, gradients, **arguments))
        actual = list(reference(theta, zeros + gradients, **arguments))
        for new, _, shared in actual[:3]:
            for array, other in zip(new, theta, strict=True):
                np.testing.assert_array_equal(array, other)
            assert shared["d"] == arguments["initial_d"] and shared["d_numerator"] == 0
        for (new, _, shared), (other, _, other_shared) in zip(actual[3:], expected, strict=True):
            for array, other_array in zip(new, other, strict=True):
                np.testing.assert_array_equal(array, other_array)
            assert shared == other_shared


class TestProdigy:
    def test_two_steps_by_hand(self):
        # With d 0.5, gamma 2, beta_1 0.5, beta_2 0.25 (so that its root is 0.5) and gradient 4:
        # s = d / d_0 * d * gamma * 4 = 4, no numerator yet; m = 0.5 * 0.5 * 4 = 1 and
        # v = 0.75 * 0.25 * 16 = 3, so that x is 3 - 2 * 0.5 * 1 / sqrt(3).
        x_1 = 3 - 1 / math.sqrt(3)
        # Then the numerator is 1 * (3 - x_1) * 4, and s = 0.5 * 4 + 4; m = 0.5 + 1 and
        # v = 0.25 * 3 + 3, still with d 0.5, as is the rate.
        numerator = 4 * (3 - x_1)
        x_2 = x_1 - 1.5 / math.sqrt(3.75)
        steps = list(
            prodigy(
                [np.array(3.0)],
                [[4.0], [4.0]],
                learning_rate=2.0,
                beta_1=0.5,
                beta_2=0.25,
                epsilon=0.0,
                initial_d=0.5,
                d_coefficient=3.0,
            )
        )
        np.testing.assert_allclose([new[0] for new, *_ in steps], [x_1, x_2], rtol=1e-14)
        np.testing.assert_allclose([slots[0]["s"] for _, slots, _ in steps], [4, 6], rtol=1e-14)
        np.testing.assert_allclose(numbers(steps, "d_numerator"), [0, numerator], rtol=1e-14)
        np.testing.assert_allclose(numbers(steps, "d"), [0.5, 3 * numerator / 6], rtol=1e-14)
        np.testing.assert_array_equal(numbers(steps, "d_max"), numbers(steps, "d"))

    def test_with_a_constant_estimate_is_adam(self):
        theta, gradients = make()
        arguments = PRODIGY | {"use_bias_correction": True, "d_coefficient": 0.0}
        d = arguments["initial_d"]
        steps = list(prodigy([theta], [[g] for g in gradients], **arguments))
        np.testing.assert_array_equal(numbers(steps, "d"), d)
        adams = adam(
            theta,
            gradients,
            learning_rate=d * 0.7,
            **{name: PRODIGY[name] for name in ("beta_1", "beta_2", "epsilon")},
        )
        for (new, slots, _), (expected, expected_slots) in zip(steps, adams, strict=True):
            np.testing.assert_allclose(new[0], expected, rtol=1e-13)
            np.testing.assert_allclose(
                slots[0]["momentum"], d * expected_slots["momentum"], rtol=1e-13
            )
            np.testing.assert_allclose(
                slots[0]["velocity"], d**2 * expected_slots["velocity"], rtol=1e-13
            )

    def test_decay_has_the_rate_of_the_step_from_before_it(self):
        theta, gradients = constant(steps=10)
        arguments = PRODIGY | {"use_bias_correction": True}
        steps = list(prodigy([theta], [[g] for g in gradients], **arguments, weight_decay=0.3))
        d = np.concatenate([[arguments["initial_d"]], numbers(steps, "d")])
        assert d[-1] > d[0]
        for t, (new, (slots,), _) in enumerate(steps, 1):
            rate = d[t - 1] * 0.7 * math.sqrt(1 - 0.9**t) / (1 - 0.8**t)
            update = slots["momentum"] / (np.sqrt(slots["velocity"]) + d[t] * 1e-3)
            theta = theta - rate * (0.3 * theta + update)
            np.testing.assert_allclose(new[0], theta, rtol=1e-13)

    def test_growth_rate_limits_all_growth_but_the_first(self):
        theta, gradients = constant(steps=30)
        gradients = [[g] for g in gradients]
        free = numbers(prodigy([theta], gradients, **PRODIGY), "d")
        first = np.flatnonzero(free > free[0])[0]
        limited = numbers(prodigy([theta], gradients, **PRODIGY, growth_rate=1.0), "d")
        np.testing.assert_array_equal(limited[: first + 1], free[: first + 1])
        np.testing.assert_array_equal(limited[first:], free[first])
        limited = numbers(prodigy([theta], gradients, **PRODIGY, growth_rate=1.1), "d")
        ratios = limited[first + 1 :] / limited[first:-1]
        assert np.all(ratios <= 1.1 * (1 + 1e-15)) and np.max(ratios) > 1.1 * (1 - 1e-15)

    def test_by_default_is_the_papers(self):
        theta, gradients = make(steps=30)
        x, m, v, s, r, d = theta, 0.0, 0.0, 0.0, 0.0, 0.01
        root = math.sqrt(0.9)
        for g, (new, _, shared) in zip(
            gradients,
            prodigy([theta], [[g] for g in gradients], **PRODIGY | {"epsilon": 0.0}),
            strict=True,
        ):
            m = 0.8 * m + 0.2 * d * g
            v = 0.9 * v + 0.1 * d**2 * g**2
            r = root * r + (1 - root) * 0.7 * d**2 * np.sum(g * (theta - x))
            s = root * s + (1 - root) * 0.7 * d**2 * g
            x = x - 0.7 * d * m / np.sqrt(v)
            d = max(d, r / np.sum(np.abs(s)))
            np.testing.assert_allclose(new[0], x, rtol=1e-12)
            np.testing.assert_allclose(shared["d"], d, rtol=1e-11)
        assert d > 0.01

    def test_safeguard_keeps_the_learning_rate_out_of_the_denominator(self):
        theta, gradients = make()
        gradients = [[g] for g in gradients]
        arguments = PRODIGY | {"d_coefficient": 0.0}
        for (_, plain, numerator), (_, safe, safe_numerator) in zip(
            prodigy([theta], gradients, **arguments),
            prodigy([theta], gradients, **arguments, safeguard_warmup=True),
            strict=True,
        ):
            np.testing.assert_allclose(plain[0]["s"], 0.7 * safe[0]["s"], rtol=1e-13)
            assert numerator == safe_numerator


class TestDAdaptAdam:
    def test_two_steps_by_hand(self):
        # With d 0.5, gamma 2, beta_1 0.5, beta_2 0.25 (so that its root is 0.5), epsilon 1 and
        # gradient 4: m = 2, v = 12 and s = 2, no numerator yet. Then m = 1 + 2, v = 3 + 12 and
        # s = 1 + 2; the numerator has v and s from before.
        x_1 = 3 - 2 / (math.sqrt(12) + 1)
        x_2 = x_1 - 3 / (math.sqrt(15) + 1)
        numerator = 0.5 * 4 * 2 / (math.sqrt(12) + 1)
        steps = list(
            dadaptadam(
                [np.array(3.0)],
                [[4.0], [4.0]],
                learning_rate=2.0,
                beta_1=0.5,
                beta_2=0.25,
                epsilon=1.0,
                initial_d=0.5,
            )
        )
        np.testing.assert_allclose([new[0] for new, *_ in steps], [x_1, x_2], rtol=1e-14)
        np.testing.assert_allclose([slots[0]["s"] for _, slots, _ in steps], [2, 3], rtol=1e-14)
        np.testing.assert_allclose(numbers(steps, "d_numerator"), [0, numerator], rtol=1e-14)
        np.testing.assert_allclose(numbers(steps, "d"), [0.5, numerator / (0.5 * 3)], rtol=1e-14)

    def test_with_a_constant_estimate_is_adam_without_bias_correction(self):
        theta, gradients = make()
        rate = 0.7 * 0.01
        steps = dadaptadam([theta], [[g] for g in gradients], **D_ADAM, growth_rate=1.0)
        adams = adam(theta, gradients, learning_rate=1.0, beta_1=0.8, beta_2=0.9, epsilon=1e-3)
        for (new, slots, shared), (_, expected) in zip(steps, adams, strict=True):
            assert shared["d"] == 0.01
            theta = theta - rate * expected["momentum"] / (np.sqrt(expected["velocity"]) + 1e-3)
            np.testing.assert_allclose(new[0], theta, rtol=1e-13)
            np.testing.assert_allclose(
                slots[0]["momentum"], rate * expected["momentum"], rtol=1e-13
            )
            np.testing.assert_allclose(slots[0]["velocity"], expected["velocity"], rtol=1e-13)

    def test_bias_correction_is_of_the_rate_at_each_gradient(self):
        theta, gradients = make()
        expected = np.zeros_like(theta)
        for t, (_, slots, _) in enumerate(
            dadaptadam(
                [theta],
                [[g] for g in gradients],
                **D_ADAM,
                growth_rate=1.0,
                use_bias_correction=True,
            ),
            1,
        ):
            rate = 0.7 * 0.01 * math.sqrt(1 - 0.9**t) / (1 - 0.8**t)
            expected = 0.8 * expected + 0.2 * rate * gradients[t - 1]
            np.testing.assert_allclose(slots[0]["momentum"], expected, rtol=1e-13)

    def test_decay_has_the_rate_from_before_the_step(self):
        theta, gradients = constant(steps=20)
        steps = list(dadaptadam([theta], [[g] for g in gradients], **D_ADAM, weight_decay=0.3))
        d = np.concatenate([[0.01], numbers(steps, "d")])
        assert d[-1] > d[0]
        for t, (new, (slots,), _) in enumerate(steps, 1):
            update = slots["momentum"] / (np.sqrt(slots["velocity"]) + 1e-3)
            theta = theta - d[t - 1] * 0.7 * 0.3 * theta - update
            np.testing.assert_allclose(new[0], theta, rtol=1e-13)

    def test_growth_rate_limits_the_growth(self):
        theta, gradients = constant(steps=30)
        d = numbers(dadaptadam([theta], [[g] for g in gradients], **D_ADAM, growth_rate=1.1), "d")
        ratios = d[1:] / d[:-1]
        assert np.all(ratios <= 1.1 * (1 + 1e-15)) and np.max(ratios) > 1.1 * (1 - 1e-15)


class TestDAdaptSGD:
    def test_two_steps_by_hand(self):
        # With d 0.5 and gamma 2, the first gradient has length 5, and the rate is 1 / 5.
        theta = [np.array([1.0, 2.0])]
        g, h = np.array([3.0, 4.0]), np.array([10.0, 0.0])
        steps = list(dadaptsgd(theta, [[g], [h]], learning_rate=2.0, initial_d=0.5))
        s_2 = (g + h) / 5
        numerator = (h @ g) / 25
        np.testing.assert_allclose(steps[0][0][0], theta[0] - g / 5, rtol=1e-14)
        np.testing.assert_allclose(steps[1][0][0], theta[0] - s_2, rtol=1e-14)
        np.testing.assert_allclose(numbers(steps, "initial_gradient_norm"), 5, rtol=1e-14)
        np.testing.assert_allclose(numbers(steps, "d_numerator"), [0, numerator], rtol=1e-14)
        expected = [0.5, 2 * numerator / np.linalg.norm(s_2)]
        assert expected[1] > 0.5
        np.testing.assert_allclose(numbers(steps, "d"), expected, rtol=1e-14)

    def test_with_a_constant_estimate_is_gradient_descent(self):
        theta, gradients = make()
        actual = weights(one(dadaptsgd)(theta, gradients, **D_SGD, growth_rate=1.0))
        rate = 0.7 * 0.01 / np.linalg.norm(gradients[0])
        np.testing.assert_allclose(actual, theta - rate * np.cumsum(gradients, axis=0), rtol=1e-13)

    def test_momentum_averages_the_weights_without_it(self):
        theta, gradients = make()
        plain = weights(one(dadaptsgd)(theta, gradients, **D_SGD))
        x = theta
        for z, (new, slots) in zip(
            plain, one(dadaptsgd)(theta, gradients, **D_SGD, momentum=0.8), strict=True
        ):
            np.testing.assert_allclose(slots["z"], z, rtol=1e-13)
            x = 0.8 * x + 0.2 * z
            np.testing.assert_allclose(new, x, rtol=1e-13)

    def test_decay_is_part_of_the_gradients(self):
        # From zero weights, so that the first gradient is the same.
        theta, gradients = make()
        theta = 0 * theta
        expected = theta

        def decayed():
            for g in gradients:
                yield g + 0.3 * expected

        for actual, expected in zip(
            weights(one(dadaptsgd)(theta, gradients, **D_SGD, momentum=0.8, weight_decay=0.3)),
            (new for new, _ in one(dadaptsgd)(theta, decayed(), **D_SGD, momentum=0.8)),
            strict=True,
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-13)

    def test_decay_is_not_in_the_norm_of_the_first_gradient(self):
        theta, gradients = make()
        ((new, _, shared),) = dadaptsgd([theta], [[gradients[0]]], **D_SGD, weight_decay=0.3)
        norm = np.linalg.norm(gradients[0])
        np.testing.assert_allclose(shared["initial_gradient_norm"], norm, rtol=1e-14)
        expected = theta - 0.7 * 0.01 / norm * (gradients[0] + 0.3 * theta)
        np.testing.assert_allclose(new[0], expected, rtol=1e-13)


class TestDAdaptLion:
    def test_without_averages_is_sign_descent(self):
        # As long as d does not grow.
        theta, gradients = make(steps=2)
        gradients[1] = -gradients[0]
        arguments = D_LION | {"beta_1": 0.0}
        steps = list(dadaptlion([theta], [[g] for g in gradients], **arguments))
        np.testing.assert_array_equal(numbers(steps, "d"), 0.01)
        np.testing.assert_allclose(
            steps[0][0][0], theta - 0.007 * np.sign(gradients[0]), rtol=1e-14
        )
        np.testing.assert_allclose(steps[1][0][0], theta, rtol=1e-14)

    def test_for_a_constant_gradient(self):
        theta, gradients = constant(steps=30)
        root, d, s, r = math.sqrt(0.9), 0.01, 0.0, 0.0
        x = theta
        for new, slots, shared in dadaptlion([theta], [[g] for g in gradients], **D_LION):
            x = x - 0.7 * d * np.sign(gradients[0])
            r = root * r + (1 - root) * 0.7 * d * theta.size * s
            s = root * s + (1 - root) * 0.7 * d
            d = max(d, r / ((1 - root) * theta.size * s))
            np.testing.assert_allclose(new[0], x, rtol=1e-12)
            np.testing.assert_allclose(slots[0]["s"], s * np.sign(gradients[0]), rtol=1e-12)
            np.testing.assert_allclose(shared["d_numerator"], r, rtol=1e-12)
            np.testing.assert_allclose(shared["d"], d, rtol=1e-12)
        assert d > 0.02

    def test_momentum_has_the_rate_but_the_gradient_beside_it_has_not(self):
        theta = [np.zeros(2)]
        # The momentum 0.5 * 0.1 * g is smaller than the second gradient in one element only.
        gradients = [[np.array([1.0, 1.0])], [np.array([-0.01, -0.1])]]
        arguments = {"learning_rate": 1.0, "beta_1": 0.5, "beta_2": 0.5, "initial_d": 0.1}
        first, second = dadaptlion(theta, gradients, **arguments)
        np.testing.assert_allclose(first[1][0]["momentum"], [0.05, 0.05], rtol=1e-14)
        np.testing.assert_allclose(first[0][0], [-0.1, -0.1], rtol=1e-14)
        np.testing.assert_allclose(second[0][0], [-0.2, 0.0], rtol=1e-14, atol=1e-16)

    def test_zero_gradients_leave_only_the_decay(self):
        theta, gradients = make()
        actual = weights(one(dadaptlion)(theta, 0 * gradients, **D_LION, weight_decay=0.5))
        factors = (1 - 0.7 * 0.01 * 0.5) ** np.arange(1, len(gradients) + 1)
        np.testing.assert_allclose(actual, np.multiply.outer(factors, theta), rtol=1e-14)


class TestDoG:
    def test_two_steps_by_hand(self):
        theta = [np.array([3.0]), np.array([4.0])]
        g, h = np.array([1.0, 2.0]), np.array([4.0, 2.0])
        steps = list(dog(theta, [g.reshape(2, 1), h.reshape(2, 1)], **DOG | {"reps_rel": 0.5}))
        x_1 = [3, 4] - 0.7 * 3 / math.sqrt(5 + 1e-3) * g
        np.testing.assert_allclose(np.concatenate(steps[0][0]), x_1, rtol=1e-14)
        # The distance is shorter than what it began with.
        x_2 = x_1 - 0.7 * 3 / math.sqrt(25 + 1e-3) * h
        np.testing.assert_allclose(np.concatenate(steps[1][0]), x_2, rtol=1e-14)
        np.testing.assert_allclose(numbers(steps, "max_distance"), 3, rtol=1e-14)
        np.testing.assert_allclose(numbers(steps, "squared_norm_sum"), [5, 25], rtol=1e-14)

    def test_distance_is_the_largest_to_the_initial_weights(self):
        theta, gradients = make(steps=30)
        arguments = DOG | {"learning_rate": 3.0}
        steps = list(dog([theta], [[g] for g in gradients], **arguments))
        points = [theta] + [new[0] for new, *_ in steps[:-1]]
        distances = [np.linalg.norm(point - theta) for point in points]
        distances[0] = 0.01 * (1 + np.linalg.norm(theta))
        np.testing.assert_allclose(
            numbers(steps, "max_distance"), np.maximum.accumulate(distances), rtol=1e-13
        )
        assert np.any(np.diff(distances) < 0)

    def test_decay_is_a_part_of_the_gradient(self):
        theta, gradients = make(steps=2)
        steps = list(dog([theta], [[g] for g in gradients], **DOG, weight_decay=0.5))
        r_bar, G, x = 0.01 * (1 + np.linalg.norm(theta)), 0.0, theta
        for t, (g, (new, _, shared)) in enumerate(zip(gradients, steps, strict=True)):
            if t > 0:
                r_bar = max(r_bar, np.linalg.norm(x - theta))
            g = g + 0.5 * x
            G += np.sum(g**2)
            x = x - 0.7 * r_bar / math.sqrt(G + 1e-3) * g
            np.testing.assert_allclose(shared["max_distance"], r_bar, rtol=1e-13)
            np.testing.assert_allclose(new[0], x, rtol=1e-13)

    def test_decay_by_hand(self):
        arguments = {"learning_rate": 1.0, "reps_rel": 0.1, "epsilon": 1e-8, "weight_decay": 0.5}
        steps = dog([np.array(1.0)], [[0.01]] * 4, **arguments)
        np.testing.assert_allclose(
            [new[0] for new, *_ in steps], [0.8, 0.674689, 0.522166, 0.357968], atol=1e-6
        )


class TestLDoG:
    def test_is_dog_for_each_variable(self):
        (theta, gradients), (other, others) = make(), make((5,), seed=1)
        for weights_of_one, its_gradients in ((theta, gradients), (other, others)):
            joint_steps = dog(
                [weights_of_one], [[g] for g in its_gradients], **DOG, weight_decay=0.3
            )
            steps = ldog(weights_of_one, its_gradients, **DOG, weight_decay=0.3)
            for (new, slots), ((expected,), _, shared) in zip(steps, joint_steps, strict=True):
                np.testing.assert_allclose(new, expected, rtol=1e-13)
                assert slots["max_distance"] == pytest.approx(shared["max_distance"], rel=1e-13)


class TestScheduleFree:
    @pytest.mark.parametrize(("reference", "arguments"), SCHEDULE_FREE, ids=IDS[len(JOINT) :])
    @pytest.mark.parametrize("weight_decay", [None, 0.3])
    def test_average_lies_between_its_last_value_and_z(self, reference, arguments, weight_decay):
        theta, gradients = make(steps=12)
        beta = arguments.get("momentum", arguments.get("beta_1"))
        before, z_before = theta, theta
        for y, slots in reference(theta, gradients, **arguments, weight_decay=weight_decay):
            x = averaged(y, slots["z"], beta)
            moved = np.abs(slots["z"] - z_before).max() > 0
            # The same fraction of the way for all elements.
            if moved:
                c = (x - before) / (slots["z"] - before)
                assert np.ptp(c) < 1e-9
                assert -1e-9 < c.flat[0] < 1 + 1e-9
            before, z_before = x, slots["z"]

    def test_averaged_inverts_the_definition_of_y(self):
        x, z = make()[0], make(seed=1)[0]
        np.testing.assert_allclose(averaged(0.2 * z + 0.8 * x, z, 0.8), x, rtol=1e-14)

    def test_sgd_by_hand(self):
        theta, gradients = make(steps=3)
        g_1, g_2, g_3 = gradients
        z_1 = theta - 0.1 * g_1
        z_2 = z_1 - 0.1 * g_2
        z_3 = z_2 - 0.1 * g_3
        expected = [(z_1, z_1), ((z_1 + z_2) / 2, z_2), ((z_1 + z_2 + z_3) / 3, z_3)]
        for (y, slots), (x, z) in zip(
            schedulefreesgd(theta, gradients, **SGD), expected, strict=True
        ):
            np.testing.assert_allclose(slots["z"], z, rtol=1e-14)
            np.testing.assert_allclose(y, 0.2 * z + 0.8 * x, rtol=1e-13)
            np.testing.assert_allclose(averaged(y, slots["z"], 0.8), x, rtol=1e-13)

    def test_sgd_with_warm_up_by_hand(self):
        # gamma is 0.1 / 2, 0.1, 0.1, and the weights of the average are 1, 4, 4 with power 2, and
        # 1, 2 * 2, 3 * 2 with power 1 and r 1.
        theta, gradients = make(steps=3)
        gammas = np.array([0.05, 0.1, 0.1]).reshape(3, 1, 1)
        z = theta - np.cumsum(gammas * gradients, axis=0)
        for r, power, w in ((0.0, 2.0, [1, 4, 4]), (1.0, 1.0, [1, 4, 6])):
            for t, (y, slots) in enumerate(
                schedulefreesgd(
                    theta, gradients, **SGD, warmup_steps=2, r=r, weight_lr_power=power
                ),
                1,
            ):
                np.testing.assert_allclose(slots["z"], z[t - 1], rtol=1e-14)
                x = np.average(z[:t], axis=0, weights=w[:t])
                np.testing.assert_allclose(averaged(y, slots["z"], 0.8), x, rtol=1e-12)

    def test_decay_is_at_y_and_after_the_normalization(self):
        theta, gradients = make(steps=2)
        direction = [g / (np.abs(g) + 1e-3) for g in gradients]
        arguments = ADAMW | {"beta_2": 0.0}
        (y, _), (_, slots) = schedulefreeadamw(theta, gradients, **arguments, weight_decay=0.5)
        z = theta - 0.1 * (direction[0] + 0.5 * theta)
        # The first average is z, and so is y.
        np.testing.assert_allclose(y, z, rtol=1e-14)
        z = z - 0.1 * (direction[1] + 0.5 * y)
        np.testing.assert_allclose(slots["z"], z, rtol=1e-13)

    def test_z_of_adamw_is_adam_without_momentum(self):
        # Adam's epsilon is that of the uncorrected average, hence none.
        theta, gradients = make()
        arguments = ADAMW | {"epsilon": 0.0}
        expected = weights(adam(theta, gradients, **arguments | {"beta_1": 0.0}))
        for (_, slots), z in zip(
            schedulefreeadamw(theta, gradients, **arguments), expected, strict=True
        ):
            np.testing.assert_allclose(slots["z"], z, rtol=1e-13)

    def test_adamw_shows_the_place_of_epsilon(self):
        theta, gradients = constant(steps=7)
        updates = 0.1 * gradients / (np.abs(gradients) + 1e-3)
        z = theta - np.cumsum(updates, axis=0)
        for (_, slots), expected in zip(
            schedulefreeadamw(theta, gradients, **ADAMW), z, strict=True
        ):
            np.testing.assert_allclose(slots["z"], expected, rtol=1e-13)

    @pytest.mark.parametrize("weight_decay", [None, 0.5])
    @pytest.mark.parametrize(("beta_2", "silent"), [(0.999, 4), (0.8, 4), (0.7, 5), (0.5, 20)])
    def test_radam_is_silent_at_first(self, beta_2, silent, weight_decay):
        theta, gradients = make(steps=20)
        arguments = ADAMW | {"beta_2": beta_2}
        v = np.zeros_like(theta)
        count = 0
        for g, (y, slots) in zip(
            gradients,
            schedulefreeradam(theta, gradients, **arguments, weight_decay=weight_decay),
            strict=True,
        ):
            v = beta_2 * v + (1 - beta_2) * g**2
            np.testing.assert_allclose(slots["velocity"], v, rtol=1e-13)
            count += np.allclose(y, theta, rtol=1e-14)
        assert count == silent

    def test_radam_is_sgd_at_first_if_not_silent(self):
        theta, gradients = make(steps=4)
        for (actual, slots), (expected, expected_slots) in zip(
            schedulefreeradam(theta, gradients, **ADAMW, silent_sgd_phase=False, weight_decay=0.5),
            schedulefreesgd(theta, gradients, **SGD, weight_decay=0.5),
            strict=True,
        ):
            np.testing.assert_array_equal(actual, expected)
            np.testing.assert_array_equal(slots["z"], expected_slots["z"])

    @pytest.mark.parametrize("power", [0.0, 2.0])
    def test_radam_averages_with_the_rectified_rates(self, power):
        theta, gradients = make(steps=15)
        beta_2 = 0.99
        rho_inf = 2 / (1 - beta_2) - 1
        z, v = theta, np.zeros_like(theta)
        average, total, largest = theta, 0.0, 0.0
        for t, (g, (y, slots)) in enumerate(
            zip(
                gradients,
                schedulefreeradam(
                    theta, gradients, **ADAMW | {"beta_2": beta_2}, weight_lr_power=power
                ),
                strict=True,
            ),
            1,
        ):
            v = beta_2 * v + (1 - beta_2) * g**2
            rho = rho_inf - 2 * t * beta_2**t / (1 - beta_2**t)
            rate = 0.0
            if rho > 4:
                rate = 0.1 * math.sqrt(
                    (rho - 4) / (rho_inf - 4) * (rho - 2) / (rho_inf - 2) * rho_inf / rho
                )
            z = z - rate * g / (np.sqrt(v / (1 - beta_2**t)) + 1e-3)
            largest = max(largest, rate)
            total += largest**power
            if total > 0:
                average = average + largest**power / total * (z - average)
            np.testing.assert_allclose(slots["z"], z, rtol=1e-12)
            np.testing.assert_allclose(averaged(y, slots["z"], 0.8), average, rtol=1e-12)
        assert rate > 0
