"""With suitable arguments or gradients, optimizers do what a simpler one of the package does."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from common import arrays
from generation import keras

import tf_optim_ext as lib

STEPS = 8
SHAPES = ((), (5,), (3, 4), (2, 3, 2))

RATES = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9}
# Some add epsilon to another square root than `Adam`, which does not matter without it.
ADAM = RATES | {"epsilon": 0.0}
NO_MOMENTUM = ADAM | {"beta_1": 0.0}
DECAY = {"weight_decay": 0.3}


def normal(step, weights):
    rng = np.random.default_rng([step, 3])
    return [rng.normal(size=w.shape) for w in weights]


def positive(step, weights):
    return [np.abs(g) + 0.01 for g in normal(step, weights)]


def signs(step, weights):
    return [np.sign(g) for g in normal(step, weights)]


def scaled(factor):
    return lambda step, weights: [factor(step) * g for g in normal(step, weights)]


def with_magnitudes(factor):
    """Gradients of random signs whose magnitudes follow `factor` of the step."""

    def gradients(step, weights):
        fixed = [np.abs(g) + 0.1 for g in normal(100, weights)]
        return [factor(step) * a * s for a, s in zip(fixed, signs(step, weights))]

    return gradients


growing = with_magnitudes(lambda step: 2.0**step)
shrinking = with_magnitudes(lambda step: 0.7**step)


def with_l2(strength):
    return lambda step, weights: [g + strength * w for g, w in zip(normal(step, weights), weights)]


def initial_weights(shapes=SHAPES):
    rng = np.random.default_rng(9)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def trajectory(optimizer, gradients=normal, initial=None, prepare=None):
    """The weights after every step; gradients may depend on the weights."""
    variables = [tf.Variable(w) for w in initial or initial_weights()]
    optimizer.build(variables)
    if prepare:
        prepare(optimizer)
    steps = []
    for step in range(STEPS):
        given = [np.float32(g) for g in gradients(step, arrays(variables))]
        optimizer.apply_gradients(zip(given, variables))
        steps.append(arrays(variables))
    return steps


def assert_same_trajectory(actual, expected, tolerance=2e-6):
    """Relative to how far the weights went, as their size hides small steps."""
    for variable, other in zip(zip(*actual), zip(*expected)):
        variable, other = np.stack(variable), np.stack(other)
        bound = tolerance * max(1.0, np.max(np.abs(other)))
        np.testing.assert_allclose(variable, other, rtol=0, atol=STEPS * bound)
        assert np.ptp(other) > 100 * STEPS * bound, "nothing moved"


class RootOfStep(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 * tf.sqrt(tf.cast(step, tf.float32) + 1.0)


def initial_norm():
    return np.sqrt(sum(np.sum(np.square(g)) for g in normal(0, initial_weights())))


def exclude_from_adaptation(optimizer):
    optimizer.exclude_from_layer_adaptation(var_names=[""])
    return optimizer


def one_hessian(optimizer):
    optimizer.update_hessian([tf.fill(v.shape, 400.0) for v in optimizer._optimized])


@dataclasses.dataclass(frozen=True)
class Case:
    """What `make` gives takes the steps of what `simpler` gives.

    Attributes:
        make, simpler: functions without arguments, of an optimizer.
        gradients: function of the number of the step and the weights.
        others: gradients for `simpler`, where they are not the same.
        initial: weights to start from.
        prepare: called with the built optimizer before the first step.
        tolerance: relative, where the limit is only approached.
    """

    make: Callable
    simpler: Callable
    gradients: Callable = normal
    others: Callable | None = None
    initial: list | None = None
    prepare: Callable | None = None
    tolerance: float = 2e-6


ZEROS = [np.zeros_like(w) for w in initial_weights()]
PENALTIES = {"l1_regularization_strength": 0.2, "l2_regularization_strength": 0.3}

# The schedule-free average is the latest point if its weights grow fast enough.
LATEST = {"r": 300.0}
NEVER = {"sma_threshold": 1e6}

CASES = {
    # ---- descendants of Adam
    "AdamW is Adam with decay": Case(
        lambda: lib.AdamW(**ADAM, **DECAY), lambda: lib.Adam(**ADAM, **DECAY)
    ),
    "AdamaxW is Adamax with decay": Case(
        lambda: lib.AdamaxW(**ADAM, **DECAY), lambda: lib.Adamax(**ADAM, **DECAY)
    ),
    "AdEMAMix without slow momentum is Adam": Case(
        lambda: lib.AdEMAMix(**ADAM, beta_3=0.95, alpha=0.0), lambda: lib.Adam(**ADAM)
    ),
    "QHAdam with nu of 1 is Adam": Case(
        lambda: lib.QHAdam(**ADAM, nu_1=1.0, nu_2=1.0), lambda: lib.Adam(**ADAM)
    ),
    "QHAdam with nu_1 of 0 is Adam without momentum": Case(
        lambda: lib.QHAdam(**ADAM, nu_1=0.0, nu_2=1.0), lambda: lib.Adam(**NO_MOMENTUM)
    ),
    "QHAdam with nu of 0 is SignSGD": Case(
        lambda: lib.QHAdam(**ADAM, nu_1=0.0, nu_2=0.0), lambda: lib.SignSGD(0.1)
    ),
    "Adan without differences is Adam": Case(
        lambda: lib.Adan(**ADAM | {"beta_2": 0.0}, beta_3=0.9), lambda: lib.Adam(**ADAM)
    ),
    "MARS without correction is Adam on small gradients": Case(
        lambda: lib.MARS(**ADAM, gamma=0.0, **DECAY),
        lambda: lib.AdamW(**ADAM, **DECAY),
        scaled(lambda step: 0.01),
    ),
    "MARS without correction is Adam on clipped gradients": Case(
        lambda: lib.MARS(**ADAM, gamma=0.0),
        lambda: lib.Adam(**ADAM, clipnorm=1.0),
        scaled(lambda step: 3.0),
    ),
    "StableAdamW is AdamW on gradients that shrink": Case(
        lambda: lib.StableAdamW(**ADAM, **DECAY), lambda: lib.AdamW(**ADAM, **DECAY), shrinking
    ),
    "Grams without momentum is Adam": Case(
        lambda: lib.Grams(**NO_MOMENTUM), lambda: lib.Adam(**NO_MOMENTUM)
    ),
    "Grams is Adam on gradients of one sign": Case(
        lambda: lib.Grams(**ADAM), lambda: lib.Adam(**ADAM), positive
    ),
    "NAdamW with the schedule of Keras is Nadam": Case(
        lambda: lib.NAdamW(**RATES, epsilon=1e-3, momentum_decay=1.0, **DECAY),
        lambda: lib.Nadam(**RATES, epsilon=1e-3, **DECAY),
    ),
    "Nadam without momentum is Adam": Case(
        lambda: lib.Nadam(**NO_MOMENTUM), lambda: lib.Adam(**NO_MOMENTUM)
    ),
    "LaProp without momentum is Adam": Case(
        lambda: lib.LaProp(**NO_MOMENTUM), lambda: lib.Adam(**NO_MOMENTUM)
    ),
    "LaProp is bias-corrected momentum on signs": Case(
        lambda: lib.LaProp(**ADAM), lambda: lib.RectifiedAdam(**ADAM, **NEVER), signs
    ),
    "ADOPT clips nothing of gradients that shrink": Case(
        lambda: lib.ADOPT(**ADAM), lambda: lib.ADOPT(**ADAM, clipped=False), shrinking
    ),
    "AdaBelief with a long momentum is Adam": Case(
        lambda: lib.AdaBelief(**ADAM | {"beta_1": 0.999999}, rectify=False),
        lambda: lib.Adam(**ADAM | {"beta_1": 0.999999}),
        tolerance=1e-5,
    ),
    "AdaBelief below the threshold is RectifiedAdam": Case(
        lambda: lib.AdaBelief(**ADAM, **NEVER), lambda: lib.RectifiedAdam(**ADAM, **NEVER)
    ),
    "RectifiedAdam below the threshold without momentum is SGD": Case(
        lambda: lib.RectifiedAdam(**NO_MOMENTUM, **NEVER, **DECAY),
        lambda: lib.SGD(0.1, **DECAY),
    ),
    "RectifiedAdam warms up as a schedule does": Case(
        lambda: lib.RectifiedAdam(**ADAM, total_steps=STEPS, warmup_proportion=1.0),
        lambda: lib.RectifiedAdam(
            **ADAM
            | {
                "learning_rate": keras.optimizers.schedules.PolynomialDecay(
                    0.1 / STEPS, STEPS - 1, 0.1
                )
            }
        ),
    ),
    "AdaBound with far bounds is Adam": Case(
        lambda: lib.AdaBound(**ADAM, gamma=1e-9), lambda: lib.Adam(**ADAM)
    ),
    "AdaBound with narrow bounds is QHM": Case(
        lambda: lib.AdaBound(**ADAM, final_learning_rate=0.2, gamma=1e9),
        lambda: lib.QHM(0.2, beta=0.8, nu=1.0),
    ),
    "AMSBound is AdaBound with amsgrad": Case(
        lambda: lib.AMSBound(**RATES, epsilon=1e-3, gamma=0.1),
        lambda: lib.AdaBound(**RATES, epsilon=1e-3, gamma=0.1, amsgrad=True),
    ),
    "AMSBound with far bounds is AMSGrad": Case(
        lambda: lib.AMSBound(**ADAM, gamma=1e-9),
        lambda: lib.Adam(**ADAM, amsgrad=True),
        scaled(lambda step: 0.5**step),
    ),
    "AMSGrad is Adam on gradients that grow": Case(
        lambda: lib.Adam(**ADAM, amsgrad=True), lambda: lib.Adam(**ADAM), growing
    ),
    "Adamax without averages is SignSGD": Case(
        lambda: lib.Adamax(0.1, beta_1=0.0, beta_2=0.0, epsilon=0.0), lambda: lib.SignSGD(0.1)
    ),
    # ---- momentum and signs
    "QHM with nu of 0 is SGD": Case(lambda: lib.QHM(0.1, beta=0.8, nu=0.0), lambda: lib.SGD(0.1)),
    "QHM with nu of 1 is SGD with momentum": Case(
        lambda: lib.QHM(0.5, beta=0.8, nu=1.0, **DECAY),
        lambda: lib.SGD(0.1, momentum=0.8, weight_decay=0.3 * 5),
    ),
    "QHM with nu of beta is Nesterov momentum": Case(
        lambda: lib.QHM(0.5, beta=0.8, nu=0.8), lambda: lib.SGD(0.1, momentum=0.8, nesterov=True)
    ),
    "SGDW is SGD with fully decoupled decay": Case(
        lambda: lib.SGDW(0.03, 0.1, momentum=0.8, nesterov=True),
        lambda: lib.SGD(
            0.1, momentum=0.8, nesterov=True, weight_decay=0.03, fully_decoupled_weight_decay=True
        ),
    ),
    "SGDW is SGD with a decay that is divided by the rate": Case(
        lambda: lib.SGDW(0.03, 0.1), lambda: lib.SGD(0.1, weight_decay=0.3)
    ),
    "Signum without momentum is SignSGD": Case(
        lambda: lib.Signum(0.1, momentum=0.0, **DECAY), lambda: lib.SignSGD(0.1, **DECAY)
    ),
    "Lion with one beta is Signum": Case(
        lambda: lib.Lion(0.1, 0.8, 0.8, **DECAY), lambda: lib.Signum(0.1, 0.8, **DECAY)
    ),
    "Lion without momentum in its update is SignSGD": Case(
        lambda: lib.Lion(0.1, 0.0, 0.8), lambda: lib.SignSGD(0.1)
    ),
    "Tiger is Signum with decay": Case(
        lambda: lib.Tiger(0.1, 0.8, 0.3), lambda: lib.Signum(0.1, 0.8, **DECAY)
    ),
    "RMSprop without average is SignSGD": Case(
        lambda: lib.RMSprop(0.1, rho=0.0, epsilon=0.0), lambda: lib.SignSGD(0.1)
    ),
    "Sophia without estimates is Signum": Case(
        lambda: lib.Sophia(0.1, 0.8, epsilon=1e-30, **DECAY),
        lambda: lib.Signum(0.1, 0.8, **DECAY),
    ),
    "Sophia with one large estimate is QHM": Case(
        lambda: lib.Sophia(0.5, 0.8, beta_2=0.5, rho=0.05, weight_decay=None),
        lambda: lib.QHM(0.05, beta=0.8, nu=1.0),
        prepare=one_hessian,
    ),
    # ---- Adagrad and its like
    "ProximalAdagrad without penalties is Adagrad": Case(
        lambda: lib.ProximalAdagrad(0.1, 0.3), lambda: lib.Adagrad(0.1, 0.3, epsilon=0.0)
    ),
    "Yogi without averages is Adagrad on gradients that grow": Case(
        lambda: lib.Yogi(0.1, 0.0, 0.0, 0.0, initial_accumulator_value=0.0),
        lambda: lib.Adagrad(0.1, 0.0, epsilon=0.0),
        growing,
    ),
    "Yogi with penalties is ProximalAdagrad on gradients that grow": Case(
        lambda: lib.Yogi(0.1, 0.0, 0.0, 0.0, initial_accumulator_value=0.0, **PENALTIES),
        lambda: lib.ProximalAdagrad(0.1, 0.0, **PENALTIES),
        growing,
    ),
    "Ftrl from zero is Adagrad": Case(
        lambda: lib.Ftrl(0.1, initial_accumulator_value=0.3),
        lambda: lib.Adagrad(0.1, 0.3, epsilon=0.0),
        initial=ZEROS,
    ),
    "Ftrl with a power of 0 from zero is SGD": Case(
        lambda: lib.Ftrl(0.1, learning_rate_power=0.0), lambda: lib.SGD(0.1), initial=ZEROS
    ),
    "Adagrad with a large first value is SGD": Case(
        lambda: lib.Adagrad(1e4, initial_accumulator_value=1e10, **{"weight_decay": 3e-6}),
        lambda: lib.SGD(0.1, **DECAY),
    ),
    "Adadelta that averages nothing is SGD": Case(
        lambda: lib.Adadelta(0.1, rho=1.0), lambda: lib.SGD(0.1)
    ),
    "MADGRAD with a large epsilon is SGD with the root of the step": Case(
        lambda: lib.MADGRAD(1e8, momentum=0.0, epsilon=1e9),
        lambda: lib.SGD(RootOfStep()),
        tolerance=1e-5,
    ),
    "COCOB with large bounds is SGD": Case(
        lambda: lib.COCOB(alpha=10.0, epsilon=1e7, learning_rate=1e7), lambda: lib.SGD(0.1)
    ),
    # ---- norms of layers
    "Lamb without adaptation is AdamW": Case(
        lambda: exclude_from_adaptation(lib.Lamb(**ADAM, **DECAY)),
        lambda: lib.AdamW(**ADAM, **DECAY),
    ),
    "LAMB without adaptation is AdamW": Case(
        lambda: lib.LAMB(**ADAM, **DECAY, exclude_from_layer_adaptation=[""]),
        lambda: lib.AdamW(**ADAM, **DECAY),
    ),
    "LARS without adaptation is SGD with L2": Case(
        lambda: exclude_from_adaptation(lib.LARS(0.1, momentum=0.8, **DECAY)),
        lambda: lib.SGD(0.1, momentum=0.8),
        others=with_l2(0.3),
    ),
    "LARS without adaptation is SGD with Nesterov momentum": Case(
        lambda: exclude_from_adaptation(lib.LARS(0.1, momentum=0.8, nesterov=True)),
        lambda: lib.SGD(0.1, momentum=0.8, nesterov=True),
    ),
    "NovoGrad that forgets norms is SGD with clipped gradients": Case(
        lambda: lib.NovoGrad(0.1, 0.8, 0.0, 0.0),
        lambda: lib.SGD(0.1, momentum=0.8, clipnorm=1.0),
        scaled(lambda step: 1000.0),
    ),
    # ---- estimated distances
    "DAdaptAdam that does not grow is Adam": Case(
        lambda: lib.DAdaptAdam(
            0.2,
            0.0,
            0.9,
            1e-12,
            initial_d=0.5,
            growth_rate=1.0,
            use_bias_correction=True,
        ),
        lambda: lib.Adam(**NO_MOMENTUM),
    ),
    "DAdaptSGD that does not grow is SGD": Case(
        lambda: lib.DAdaptSGD(0.2, initial_d=0.5, growth_rate=1.0, weight_decay=0.3),
        lambda: lib.SGD(0.1 / initial_norm()),
        others=with_l2(0.3),
    ),
    "DAdaptSGD that does not grow is SGD with momentum": Case(
        lambda: lib.DAdaptSGD(2.0, momentum=0.8, initial_d=0.5, growth_rate=1.0),
        lambda: lib.SGD(1.0 / initial_norm() * (1 - 0.8), momentum=0.8),
    ),
    "DAdaptLion whose distance is far is Lion": Case(
        lambda: lib.DAdaptLion(1e-4, 0.8, 0.9, initial_d=1e4, **DECAY),
        lambda: lib.Lion(1.0, 0.8, 0.9, **DECAY),
    ),
    "Prodigy with a tiny coefficient is Adam": Case(
        lambda: lib.Prodigy(
            0.2,
            0.8,
            0.9,
            epsilon=1e-3,
            initial_d=0.5,
            d_coefficient=1e-12,
            use_bias_correction=True,
        ),
        lambda: lib.Adam(**RATES, epsilon=1e-3),
    ),
    "DoG of one number with a large first distance is Adagrad": Case(
        lambda: lib.DoG(1e-4, reps_rel=1e3, epsilon=1e-3),
        lambda: lib.Adagrad(0.3, initial_accumulator_value=0.0, epsilon=1e-3),
        initial=[np.float32(2.0)],
    ),
    # ---- schedule-free
    "ScheduleFreeSGD that averages the latest point only is SGD": Case(
        lambda: lib.ScheduleFreeSGD(0.1, **LATEST), lambda: lib.SGD(0.1)
    ),
    "ScheduleFreeSGD at its last point is SGD with L2": Case(
        lambda: lib.ScheduleFreeSGD(0.1, momentum=1e-8, **DECAY), lambda: lib.SGD(0.1, **DECAY)
    ),
    "ScheduleFreeAdamW that averages the latest point only is AdamW": Case(
        lambda: lib.ScheduleFreeAdamW(**ADAM, **LATEST, **DECAY),
        lambda: lib.AdamW(**NO_MOMENTUM, **DECAY),
    ),
    "ScheduleFreeRAdam that averages the latest point only is RectifiedAdam": Case(
        lambda: lib.ScheduleFreeRAdam(**ADAM, **LATEST, silent_sgd_phase=False),
        lambda: lib.RectifiedAdam(**NO_MOMENTUM, sma_threshold=4.0),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case(case):
    actual = trajectory(case.make(), case.gradients, case.initial, case.prepare)
    expected = trajectory(case.simpler(), case.others or case.gradients, case.initial)
    assert_same_trajectory(actual, expected, case.tolerance)


# Whose updates point along gradients of one sign.
FAITHFUL = {
    "Adam": lambda **k: lib.Adam(**ADAM, **k),
    "AdamW-amsgrad": lambda **k: lib.AdamW(**ADAM, amsgrad=True, **k),
    "Adamax": lambda **k: lib.Adamax(**ADAM, **k),
    "AdEMAMix": lambda **k: lib.AdEMAMix(**ADAM, **k),
    "Lion": lambda **k: lib.Lion(0.1, 0.8, 0.9, **k),
    "LaProp": lambda **k: lib.LaProp(**ADAM, **k),
    "MARS": lambda **k: lib.MARS(**ADAM, gamma=0.0, **k),
    "NAdamW": lambda **k: lib.NAdamW(**ADAM | k),
    "QHM": lambda **k: lib.QHM(0.1, 0.8, **k),
    "RectifiedAdam": lambda **k: lib.RectifiedAdam(**ADAM, **k),
    "SGD": lambda **k: lib.SGD(0.1, momentum=0.8, **k),
    "SGD-nesterov": lambda **k: lib.SGD(0.1, momentum=0.8, nesterov=True, **k),
    "Signum": lambda **k: lib.Signum(0.1, 0.8, **k),
    "Tiger": lambda **k: lib.Tiger(**{"learning_rate": 0.1, "beta": 0.8} | k),
}
faithful = pytest.mark.parametrize("make", FAITHFUL.values(), ids=FAITHFUL)


class TestCaution:
    @faithful
    def test_changes_nothing_where_update_and_gradient_agree(self, make):
        assert_same_trajectory(
            trajectory(make(cautious=True, weight_decay=0.3), positive),
            trajectory(make(weight_decay=0.3), positive),
        )

    @faithful
    def test_of_decay_that_helps_everywhere(self, make):
        # The weights stay positive, as the gradients are.
        start = [np.abs(w) + 60.0 for w in initial_weights()]
        assert_same_trajectory(
            trajectory(make(cautious_weight_decay=True, weight_decay=0.3), positive, start),
            trajectory(make(weight_decay=0.3), positive, start),
        )

    @faithful
    def test_of_decay_that_helps_nowhere(self, make):
        start = [-np.abs(w) - 0.1 for w in initial_weights()]
        assert_same_trajectory(
            trajectory(make(cautious_weight_decay=True, weight_decay=0.3), positive, start),
            trajectory(make(weight_decay=0.0), positive, start),
        )

    @pytest.mark.parametrize("name", ["Adam", "Lion", "QHM", "SGD-nesterov"])
    def test_matters_elsewhere(self, name):
        make = FAITHFUL[name]
        plain = trajectory(make(weight_decay=0.3))
        for option in ("cautious", "cautious_weight_decay"):
            other = trajectory(make(weight_decay=0.3, **{option: True}))
            assert not np.allclose(plain[-1][2], other[-1][2], rtol=1e-3)


class TestConditionalGradient:
    def test_norms_agree_on_matrices_of_one_row_or_column(self):
        start = initial_weights(((), (4,), (4, 1), (1, 5), (1, 1)))
        results = [
            trajectory(lib.ConditionalGradient(0.9, 2.0, epsilon=0.0, ord=ord), initial=start)
            for ord in ("fro", "nuclear")
        ]
        assert_same_trajectory(*results, tolerance=1e-5)

    def test_without_pull_weights_shrink(self):
        steps = trajectory(lib.ConditionalGradient(0.9, 0.0))
        for step, weights in enumerate(steps, 1):
            for w, start in zip(weights, initial_weights()):
                np.testing.assert_allclose(w, 0.9**step * start, rtol=1e-5)
