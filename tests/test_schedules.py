"""Schedules of learning rates: their numbers, steps of every kind, configurations, optimizers."""

import copy
import doctest
import inspect
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from common import PACKAGE
from conftest import shortened
from generation import KerasVariable, keras
from hypothesis import given, settings
from hypothesis import strategies as st
from references import schedules as references

import tf_optim_ext
from tf_optim_ext import schedules

KERAS = keras.optimizers.schedules


@keras.saving.register_keras_serializable("test_schedules")
def falling(x):
    return 1 / (1 + x)


def _warmup(shape, initial):
    return (
        schedules.Warmup(schedules.Cosine(0.4, 9, 0.1), 7, initial, shape),
        references.warmed_up(references.cosine(0.4, 9, 0.1), 7, initial, shape),
    )


def _one_cycle(strategy, three_phase):
    arguments = (0.4, 23, 0.35, strategy, 8.0, 50.0, three_phase)
    return schedules.OneCycle(*arguments), references.one_cycle(*arguments)


def _wsd(decay):
    shape = references.WSD_SHAPES[decay]
    return (
        schedules.WarmupStableDecay(0.8, 5, 8, 10, decay, 0.05, 0.02),
        references.warmup_stable_decay(0.8, 5, 8, 10, shape, 0.05, 0.02),
    )


def _halving(x):
    return 0.5 ** (x - 1)


# The schedule, and its reference.
CASES = {
    "linear": (schedules.Linear(0.5, 11, 0.1), references.linear(0.5, 11, 0.1)),
    "rising": (schedules.Linear(0.1, 11, 0.5), references.linear(0.1, 11, 0.5)),
    "fractional steps": (schedules.Linear(0.5, 7.25, 0.1), references.linear(0.5, 7.25, 0.1)),
    "cosine": (schedules.Cosine(0.5, 13, 0.1), references.cosine(0.5, 13, 0.1)),
    "polynomial": (
        schedules.Polynomial(0.5, 12, 0.1, 2.5),
        references.polynomial(0.5, 12, 0.1, 2.5),
    ),
    "root": (schedules.Polynomial(0.5, 12, 0.1, 0.5), references.polynomial(0.5, 12, 0.1, 0.5)),
    "rex": (schedules.REX(0.5, 14), references.rex(0.5, 14)),
    "rex with an end": (schedules.REX(0.5, 14, 0.1), references.rex(0.5, 14, 0.1)),
    "transformer": (
        schedules.InverseSquareRoot((64 * 9) ** -0.5, 9),
        references.transformer(64, 9),
    ),
    "t5": (schedules.InverseSquareRoot(0.25, 16, "constant"), references.t5(16)),
    "wsd linear": _wsd("linear"),
    "wsd cosine": _wsd("cosine"),
    "wsd 1-sqrt": _wsd("1-sqrt"),
    "warmup linear": _warmup("linear", 0.05),
    "warmup cosine": _warmup("cosine", 0.05),
    "warmup exponential": _warmup("exponential", 0.05),
    "warmup constant": _warmup("constant", 0.05),
    "warmup of a number": (
        schedules.Warmup(0.3, 5, 0.1),
        references.warmed_up(lambda t: 0.3, 5, 0.1, "linear"),
    ),
    "warmup of warmup": (
        schedules.Warmup(schedules.Warmup(0.3, 5, 0.1), 4, 0.7, "cosine"),
        references.warmed_up(
            references.warmed_up(lambda t: 0.3, 5, 0.1, "linear"), 4, 0.7, "cosine"
        ),
    ),
    "no warmup": (schedules.Warmup(schedules.REX(0.5, 14), 0), references.rex(0.5, 14)),
    "one cycle": _one_cycle("cos", False),
    "one cycle linear": _one_cycle("linear", False),
    "one cycle in three": _one_cycle("cos", True),
    "one cycle linear in three": _one_cycle("linear", True),
    "triangular": (
        schedules.TriangularCyclicalLearningRate(0.1, 0.7, 5),
        references.cyclical(0.1, 0.7, 5, lambda x: 1, "cycle"),
    ),
    "triangular2": (
        schedules.Triangular2CyclicalLearningRate(0.1, 0.7, 2.5),
        references.cyclical(0.1, 0.7, 2.5, _halving, "cycle"),
    ),
    "triangular2 by iterations": (
        schedules.Triangular2CyclicalLearningRate(0.1, 0.7, 5, "iterations"),
        references.cyclical(0.1, 0.7, 5, _halving, "iterations"),
    ),
    "exponential": (
        schedules.ExponentialCyclicalLearningRate(0.1, 0.7, 5, gamma=0.9),
        references.cyclical(0.1, 0.7, 5, lambda x: 0.9**x, "iterations"),
    ),
    "exponential by cycle": (
        schedules.ExponentialCyclicalLearningRate(0.1, 0.7, 5, "cycle", 0.9),
        references.cyclical(0.1, 0.7, 5, lambda x: 0.9**x, "cycle"),
    ),
    "cyclical": (
        schedules.CyclicalLearningRate(0.1, 0.7, 5, falling),
        references.cyclical(0.1, 0.7, 5, falling, "cycle"),
    ),
    "cyclical by iterations": (
        schedules.CyclicalLearningRate(0.1, 0.7, 5, falling, "iterations"),
        references.cyclical(0.1, 0.7, 5, falling, "iterations"),
    ),
}
CLASSES = {type(schedule) for schedule, _ in CASES.values()}
# One of each family.
FEW = ("linear", "transformer", "wsd 1-sqrt", "warmup linear", "one cycle", "exponential")
STEPS = np.arange(40)
all_cases = pytest.mark.parametrize("name", CASES)
few_cases = pytest.mark.parametrize("name", shortened(CASES, FEW))


def expected(name, steps=STEPS):
    return np.array([CASES[name][1](int(step)) for step in steps])


def assert_rates(actual, wanted):
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=2e-7, atol=1e-12)


def assert_near(actual, wanted):
    """The same but for the rounding of steps in float32."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(wanted), rtol=1e-5, atol=1e-7)


def test_every_class_is_here():
    public = {getattr(schedules, name) for name in schedules.__all__}
    classes = {c for c in public if isinstance(c, type) and issubclass(c, schedules.Schedule)}
    assert classes - {schedules.Schedule} == CLASSES


class TestNumbers:
    @few_cases
    def test_of_single_steps(self, name):
        assert_rates([CASES[name][0](tf.constant(step)) for step in STEPS], expected(name))

    @all_cases
    def test_of_all_steps_at_once(self, name):
        rates = CASES[name][0](tf.constant(STEPS))
        assert rates.dtype == tf.float32
        assert_rates(rates, expected(name))

    @pytest.mark.parametrize("name", shortened(CASES, ("warmup linear", "one cycle")))
    @pytest.mark.parametrize("jit_compile", [False, True], ids=["function", "xla"])
    def test_in_functions(self, name, jit_compile):
        counter = tf.Variable(0, dtype=tf.int64)
        schedule = CASES[name][0]

        @tf.function(jit_compile=jit_compile)
        def rate():
            result = schedule(counter)
            counter.assign_add(1)
            return result

        assert_rates([rate() for _ in STEPS], expected(name))

    @all_cases
    def test_before_the_first_step(self, name):
        assert float(CASES[name][0](-5)) == float(CASES[name][0](0))

    @all_cases
    def test_in_the_end(self, name):
        schedule = CASES[name][0]
        for step in (2**31, 2**31 + 1, 2**40):
            assert_rates(schedule(step), CASES[name][1](step))

    def test_an_end_value_of_zero_is_one(self):
        for cls in (schedules.Linear, schedules.Cosine, schedules.Polynomial, schedules.REX):
            assert float(cls(0.1, 10)(10)) == float(cls(0.1, 10)(11)) == 0.0
        for decay in references.WSD_SHAPES:
            assert float(schedules.WarmupStableDecay(0.1, 1, 2, 3, decay)(6)) == 0.0


KINDS_OF_STEPS = {
    "int": int,
    "float": float,
    "bool": bool,
    "numpy": np.int64,
    "int32": lambda step: tf.constant(step, tf.int32),
    "int64": lambda step: tf.constant(step, tf.int64),
    "uint8": lambda step: tf.constant(step, tf.uint8),
    "float32": lambda step: tf.constant(step, tf.float32),
    "float64": lambda step: tf.constant(step, tf.float64),
    "float16": lambda step: tf.constant(step, tf.float16),
    "tf variable": lambda step: tf.Variable(step, dtype=tf.int64),
    "keras variable": lambda step: KerasVariable(step, dtype="int64"),
}


class TestSteps:
    @pytest.mark.parametrize("kind", KINDS_OF_STEPS)
    def test_of_every_kind(self, kind):
        for name in FEW:
            rate = CASES[name][0](KINDS_OF_STEPS[kind](1))
            assert rate.dtype == tf.float32 and rate.shape == ()
            assert_rates(rate, CASES[name][1](1))

    @pytest.mark.parametrize("power", [20, 31, 40])
    def test_large_counts_lose_nothing(self, power):
        """The last steps of a long training: what float32 would count as its end."""
        steps = 2**power
        for left in (1, 2, 1001):
            part = left / steps
            for cls, wanted in (
                (schedules.Linear, part),
                (schedules.Cosine, np.sin(np.pi / 2 * part) ** 2),
                (schedules.REX, part / (0.5 + 0.5 * part)),
                (schedules.Polynomial, part),
            ):
                assert_rates(float(cls(1.0, steps)(steps - left)) / wanted, 1.0)
            wsd = schedules.WarmupStableDecay(1.0, 5, steps, steps, "1-sqrt")
            rate = float(wsd(2 * steps + 5 - left))
            assert_rates(rate / (part / (1 + np.sqrt(1 - part))), 1.0)
            triangles = schedules.TriangularCyclicalLearningRate(0.0, 1.0, 1000)
            assert_rates(triangles(2000 * steps + left), 1 - abs(left % 2000 / 1000 - 1))

    def test_a_schedule_after_a_warmup_gets_its_own(self):
        seen = []

        class Recorder(KERAS.LearningRateSchedule):
            def __call__(self, step):
                seen.append(step)
                return 0.5

            def get_config(self):
                return {}

        schedule = schedules.Warmup(schedules.Warmup(Recorder(), 100), 2**31)
        for step, wanted in (
            (0, 0),
            (2**31 + 100, 0),
            (2**31 + 107, 7),
            (2**40, 2**40 - 2**31 - 100),
        ):
            schedule(step)
            assert seen[-1].dtype == tf.int64
            assert int(seen[-1]) == wanted
        schedule(2**31 + 107.25)
        assert float(seen[-1]) == 7.25
        schedules.Warmup(Recorder(), 2.5)(tf.constant(10))
        assert float(seen[-1]) == 7.5


rates = st.floats(0, 10)
few_steps = st.integers(1, 50)


@st.composite
def any_schedule(draw):
    """A continuous schedule, and the ends of its phases."""
    low, high, n, m, k = (draw(s) for s in (rates, rates, few_steps, few_steps, few_steps))
    cls = draw(st.sampled_from([schedules.Linear, schedules.Cosine, schedules.REX]))
    decay = cls(high, n, low)
    decays = st.sampled_from(["linear", "cosine", "1-sqrt"])
    cycle = schedules.OneCycle(
        high, 2 * n + 2 * m + 2, n / (2 * n + 2 * m), div_factor=1 + low, three_phase=True
    )
    return draw(
        st.sampled_from(
            [
                (decay, [n]),
                (schedules.Warmup(decay, m, low, draw(st.sampled_from(["linear", "cosine"]))), [m]),
                (
                    schedules.WarmupStableDecay(high, n, m, k, draw(decays), low, low / 2),
                    [n, n + m, n + m + k],
                ),
                (schedules.InverseSquareRoot(high, n), [n - 1]),
                (cycle, [cycle.pct_start * cycle.total_steps - 1, cycle.total_steps - 1]),
                (schedules.TriangularCyclicalLearningRate(low, high, n), [n, 2 * n, 3 * n]),
            ]
        )
    ), max(low, high)


class TestProperties:
    @settings(max_examples=40, deadline=None)
    @given(any_schedule())
    def test_continuous_and_bounded(self, drawn):
        (schedule, ends), highest = drawn
        around = np.array([[end - 1e-9, end, end + 1e-9] for end in ends])
        before, at, after = np.asarray(schedule(around)).T
        # A root is steep at its beginning.
        np.testing.assert_allclose(before, at, atol=1e-3 * (1 + highest) / 10)
        np.testing.assert_allclose(after, at, atol=1e-3 * (1 + highest) / 10)
        values = np.asarray(schedule(np.linspace(0, 200, 301)))
        assert np.all(np.isfinite(values))
        assert np.all((values >= 0) & (values <= np.float32(highest) * (1 + 1e-6)))

    @settings(max_examples=30, deadline=None)
    @given(
        st.sampled_from([schedules.Linear, schedules.Cosine, schedules.REX, schedules.Polynomial]),
        rates,
        rates,
        few_steps,
    )
    def test_decays_are_monotonic(self, cls, first, last, steps):
        values = np.asarray(cls(first, steps, last)(np.arange(steps + 2)))
        assert np.all(np.diff(values) * np.sign(last - first) >= -1e-6)
        assert_rates(values[[0, -2, -1]], np.float32([first, last, last]))


# Of PyTorch 2.13: `OneCycleLR(max_lr=0.4, total_steps=12, pct_start=0.35, div_factor=8,
# final_div_factor=50)`, the learning rate and the momentum, by strategy and `three_phase`.
OF_PYTORCH = {
    ("cos", False): (
        [0.05, 0.1277752092, 0.2919696007, 0.3966374241, 0.3897330202, 0.3498278943, 0.286024166]
        + [0.2085330551, 0.129756325, 0.06230149147, 0.01696410099, 0.001],
        [0.95, 0.9277785117, 0.8808658284, 0.850960736, 0.8525731779, 0.8625744626, 0.8785653719]
        + [0.897986703, 0.9177302444, 0.9346362177, 0.9459989722, 0.95],
    ),
    ("linear", False): (
        [0.05, 0.159375, 0.26875, 0.378125, 0.3590769231, 0.3079230769, 0.2567692308]
        + [0.2056153846, 0.1544615385, 0.1033076923, 0.05215384615, 0.001],
        [0.95, 0.91875, 0.8875, 0.85625, 0.8602564103, 0.8730769231, 0.8858974359, 0.8987179487]
        + [0.9115384615, 0.9243589744, 0.9371794872, 0.95],
    ),
    ("cos", True): (
        [0.05, 0.1277752092, 0.2919696007, 0.3966374241, 0.3487436867, 0.1908591936, 0.06332108181]
        + [0.04797167689, 0.03677159342, 0.02051532768, 0.006495073378, 0.001],
        [0.95, 0.9277785117, 0.8808658284, 0.850960736, 0.8646446609, 0.9097545161, 0.9461939766]
        + [0.95, 0.95, 0.95, 0.95, 0.95],
    ),
    ("linear", True): (
        [0.05, 0.159375, 0.26875, 0.378125, 0.3125, 0.203125, 0.09375, 0.04360869565]
        + [0.03295652174, 0.02230434783, 0.01165217391, 0.001],
        [0.95, 0.91875, 0.8875, 0.85625, 0.875, 0.90625, 0.9375, 0.95, 0.95, 0.95, 0.95, 0.95],
    ),
}
_FIRST_THREE = "initial_learning_rate maximal_learning_rate step_size"
ARGUMENTS_OF_ADDONS = {
    "CyclicalLearningRate": f"{_FIRST_THREE} scale_fn scale_mode name",
    "TriangularCyclicalLearningRate": f"{_FIRST_THREE} scale_mode name",
    "Triangular2CyclicalLearningRate": f"{_FIRST_THREE} scale_mode name",
    "ExponentialCyclicalLearningRate": f"{_FIRST_THREE} scale_mode gamma name",
}
# Of TensorFlow Addons' file, run with float64 arguments: initial rate 0.1, maximal rate 0.7, step
# size 5, at these steps.
STEPS_OF_ADDONS = np.array([0, 1, 3, 4, 5, 9, 10, 14, 20, 23, 33])
OF_ADDONS = [
    (
        schedules.TriangularCyclicalLearningRate,
        {},
        [0.1, 0.22, 0.46, 0.58, 0.7, 0.22, 0.1, 0.58, 0.1, 0.46, 0.46],
    ),
    (
        schedules.Triangular2CyclicalLearningRate,
        {},
        [0.1, 0.22, 0.46, 0.58, 0.7, 0.22, 0.1, 0.34, 0.1, 0.19, 0.145],
    ),
    (
        schedules.Triangular2CyclicalLearningRate,
        {"scale_mode": "iterations"},
        [0.1, 0.22, 0.19, 0.16, 0.1375, 0.10046875, 0.1, 0.1000585938, 0.1, 0.1000000858]
        + [0.1000000001],
    ),
    (
        schedules.ExponentialCyclicalLearningRate,
        {"gamma": 0.9},
        [0.1, 0.208, 0.36244, 0.414928, 0.454294, 0.1464904587, 0.1, 0.2098086038, 0.1]
        + [0.1319065772, 0.1111251356],
    ),
    (
        schedules.ExponentialCyclicalLearningRate,
        {"gamma": 0.9, "scale_mode": "cycle"},
        [0.1, 0.208, 0.424, 0.532, 0.64, 0.208, 0.1, 0.4888, 0.1, 0.36244, 0.336196],
    ),
    (
        schedules.CyclicalLearningRate,
        {"scale_fn": falling},
        [0.1, 0.16, 0.28, 0.34, 0.4, 0.16, 0.1, 0.26, 0.1, 0.19, 0.172],
    ),
    (
        schedules.CyclicalLearningRate,
        {"scale_fn": falling, "scale_mode": "iterations"},
        [0.1, 0.16, 0.19, 0.196, 0.2, 0.112, 0.1, 0.132, 0.1, 0.115, 0.1105882353],
    ),
]


class TestOthers:
    @pytest.mark.parametrize(("strategy", "three_phase"), OF_PYTORCH)
    def test_pytorch(self, strategy, three_phase):
        schedule = schedules.OneCycle(
            0.4,
            12,
            pct_start=0.35,
            anneal_strategy=strategy,
            div_factor=8.0,
            final_div_factor=50.0,
            three_phase=three_phase,
        )
        of_rate, of_momentum = OF_PYTORCH[strategy, three_phase]
        assert_rates(schedule(np.arange(12)), of_rate)
        assert_rates(schedule.momentum()(np.arange(12)), of_momentum)
        assert type(schedule.momentum()) is schedules.OneCycle

    def test_one_cycle_without_a_phase(self):
        """Where PyTorch would divide by zero, or begin before step 0."""
        steps = np.arange(5)
        cycle = schedules.OneCycle(1.0, 5, 0.0, "linear", 4.0, 1e9)
        np.testing.assert_allclose(cycle(steps), [1.0, 0.75, 0.5, 0.25, 0.0], atol=1e-6)
        cycle = schedules.OneCycle(1.0, 5, 1.0, "linear", 5.0)
        np.testing.assert_allclose(cycle(steps), [0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-6)

    @pytest.mark.parametrize(("cls", "options", "wanted"), OF_ADDONS)
    def test_addons(self, cls, options, wanted):
        assert_rates(cls(0.1, 0.7, 5, **options)(STEPS_OF_ADDONS), wanted)

    def test_keras(self):
        steps = range(0, 40, 3)
        pairs = [
            (schedules.Cosine(0.5, 30, 0.1), KERAS.CosineDecay(0.5, 30, 0.2)),
            (
                schedules.Warmup(schedules.Cosine(0.5, 20, 0.05), 10, 0.1),
                KERAS.CosineDecay(0.1, 20, 0.1, warmup_target=0.5, warmup_steps=10),
            ),
            (schedules.Polynomial(0.5, 30, 0.1, 2.5), KERAS.PolynomialDecay(0.5, 30, 0.1, 2.5)),
            (schedules.Linear(0.5, 30, 0.1), KERAS.PolynomialDecay(0.5, 30, 0.1)),
        ]
        for ours, theirs in pairs:
            for step in steps:
                assert_near(ours(step), theirs(tf.constant(step, tf.int64)))

    def test_a_schedule_of_keras_after_a_warmup(self):
        schedule = schedules.Warmup(KERAS.PiecewiseConstantDecay([2, 4], [0.5, 0.25, 0.125]), 4)
        wanted = [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
        assert [float(schedule(step)) for step in range(10)] == wanted

    @pytest.mark.parametrize("name", ARGUMENTS_OF_ADDONS)
    def test_signatures_of_addons(self, name):
        parameters = inspect.signature(getattr(schedules, name)).parameters
        given = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
        assert list(parameters) == ARGUMENTS_OF_ADDONS[name].split()
        assert given.pop("name") == name
        assert given.pop("gamma", 1.0) == 1.0
        is_exponential = name.startswith("Exponential")
        assert given == {"scale_mode": "iterations" if is_exponential else "cycle"}

    def test_a_scale_of_tensors(self):
        """Functions that Addons called got float32."""

        def scale(x):
            assert x.dtype == tf.float32
            return tf.constant(0.5) * x

        schedule = schedules.CyclicalLearningRate(0.0, 1.0, 2, scale)
        assert [float(schedule(step)) for step in range(8)] == [0, 0.25, 0.5, 0.25, 0, 0.5, 1, 0.5]


class TestConfiguration:
    @all_cases
    def test_round_trip(self, name):
        schedule = CASES[name][0]
        assert isinstance(schedule, KERAS.LearningRateSchedule)
        copies = [
            type(schedule).from_config(schedule.get_config()),
            KERAS.deserialize(json.loads(json.dumps(KERAS.serialize(schedule)))),
            copy.deepcopy(schedule),
            pickle.loads(pickle.dumps(schedule)),
        ]
        for other in copies:
            assert type(other) is type(schedule)
            assert other.get_config() == schedule.get_config()
            assert repr(other) == repr(schedule)
            assert_rates(other(STEPS), schedule(STEPS))

    @all_cases
    def test_is_registered(self, name):
        cls = type(CASES[name][0])
        assert keras.saving.get_registered_name(cls) == f"tf_optim_ext>{cls.__name__}"

    def test_arguments_of_addons(self):
        schedule = schedules.ExponentialCyclicalLearningRate(
            initial_learning_rate=tf.constant(0.25),
            maximal_learning_rate=1,
            step_size=np.float32(10),
            gamma=tf.constant(0.5, tf.float64),
            name="mine",
        )
        assert schedule.get_config() == {
            "initial_learning_rate": 0.25,
            "maximal_learning_rate": 1.0,
            "step_size": 10,
            "scale_mode": "iterations",
            "gamma": 0.5,
            "name": "mine",
        }

    def test_functions_of_users_are_kept(self):
        schedule = schedules.CyclicalLearningRate(0.1, 0.7, 5, lambda x: 1.0)
        other = schedules.CyclicalLearningRate.from_config(schedule.get_config())
        assert other.scale_fn is schedule.scale_fn

    def test_of_users(self):
        class Halving(schedules.Schedule):
            """Half of what it was after each period."""

            def __init__(self, rate, period=10, name=None):
                super().__init__(name)
                self.rate, self.period = rate, period

            def compute(self, step):
                return self.rate * 0.5 ** tf.cast(step // self.period, tf.float64)

        schedule = Halving.from_config(Halving(0.5, 4).get_config())
        assert [float(schedule(step)) for step in (0, 3, 4, 8)] == [0.5, 0.5, 0.25, 0.125]
        assert repr(schedule) == "Halving(rate=0.5, period=4, name=None)"


WRONG = [
    (lambda: schedules.Linear(-0.1, 10), r"Linear: `initial_learning_rate` must be in \[0, inf\)"),
    (lambda: schedules.Linear(0.1, 0), r"Linear: `decay_steps` must be in \(0, inf\)"),
    (lambda: schedules.Linear(0.1, float("nan")), "`decay_steps`"),
    (lambda: schedules.Linear(0.1, float("inf")), "`decay_steps`"),
    (lambda: schedules.Cosine(0.1, "10 epochs"), "`decay_steps` must be a number"),
    (lambda: schedules.Cosine(0.1, 10, -1.0), "`end_learning_rate`"),
    (lambda: schedules.Polynomial(0.1, 10, power=0), "`power`"),
    (lambda: schedules.REX(True, 10), "`initial_learning_rate`"),
    (lambda: schedules.Warmup("0.1x", 10), "`learning_rate` must be a number"),
    (lambda: schedules.Warmup(lambda: 0.1, 10), "`learning_rate` must be a number"),
    (lambda: schedules.Warmup(0.1, -1), "`warmup_steps`"),
    (lambda: schedules.Warmup(0.1, 10, shape="root"), "`shape` must be one of 'linear', 'cosine'"),
    (lambda: schedules.Warmup(0.1, 10, shape="exponential"), r"`initial_.*` must be in \(0, inf\)"),
    (lambda: schedules.InverseSquareRoot(0.1, 0), r"`warmup_steps` must be in \[1, inf\)"),
    (lambda: schedules.InverseSquareRoot(0.1, 10, "cosine"), "`warmup`"),
    (lambda: schedules.WarmupStableDecay(0.1, 1, 1, -1), "`decay_steps`"),
    (lambda: schedules.WarmupStableDecay(0.1, 1, 1, 1, "sqrt"), "`decay` must be one of"),
    (lambda: schedules.OneCycle(0.1, 1), "`total_steps` must be an integer >= 2"),
    (lambda: schedules.OneCycle(0.1, 10.5), "`total_steps`"),
    (lambda: schedules.OneCycle(0.1, 10, 1.5), r"`pct_start` must be in \[0, 1\]"),
    (lambda: schedules.OneCycle(0.1, 10, 0.6, three_phase=True), r"must be in \[0, 0.5\]"),
    (lambda: schedules.OneCycle(0.1, 10, anneal_strategy="cosine"), "'cos', 'linear'"),
    (lambda: schedules.OneCycle(0.1, 10, div_factor=0), "`div_factor`"),
    (lambda: schedules.OneCycle(0.1, 10).momentum(0.0), "`base_momentum`"),
    (lambda: schedules.TriangularCyclicalLearningRate(0.1, 1, 0), "`step_size`"),
    (lambda: schedules.TriangularCyclicalLearningRate(0.1, 1, 5, "epochs"), "`scale_mode`"),
    (lambda: schedules.ExponentialCyclicalLearningRate(0.1, 1, 5, gamma=1.5), "`gamma`"),
]


class TestErrors:
    @pytest.mark.parametrize(("make", "message"), WRONG)
    def test_arguments(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_a_scale_that_is_no_function(self):
        with pytest.raises(TypeError, match="`scale_fn` must be a function"):
            schedules.CyclicalLearningRate(0.1, 1, 5, 0.5)


OPTIMIZERS = {"ours": tf_optim_ext.SGD, "keras": keras.optimizers.SGD}
MODES = {"eager": None, "function": {}, "xla": {"jit_compile": True}}


def path(optimizer, steps, mode):
    """The size of each update: the learning rate, if the gradient is 1."""
    variable = tf.Variable(0.0)
    optimizer.build([variable])

    def step():
        optimizer.apply_gradients([(tf.constant(1.0), variable)])

    if MODES[mode] is not None:
        step = tf.function(step, **MODES[mode])
    sizes = []
    for _ in range(steps):
        variable.assign(0.0)
        step()
        sizes.append(-float(variable))
    return sizes


class TestOptimizers:
    @few_cases
    @pytest.mark.parametrize("whose", OPTIMIZERS)
    def test_learning_rates(self, name, whose):
        optimizer = OPTIMIZERS[whose](CASES[name][0])
        assert_near(path(optimizer, 12, "function"), expected(name, range(12)))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("whose", OPTIMIZERS)
    def test_in_every_mode(self, mode, whose):
        optimizer = OPTIMIZERS[whose](CASES["warmup linear"][0])
        assert_near(path(optimizer, 12, mode), expected("warmup linear", range(12)))

    def test_other_hyperparameters(self):
        """SGD, written out; with the momentum that belongs to the learning rate."""
        rate = schedules.OneCycle(0.5, 10)
        decay = schedules.Linear(0.1, 6)
        optimizer = tf_optim_ext.SGD(rate, momentum=rate.momentum(), weight_decay=decay)
        variable = tf.Variable(1.0)
        w, m = 1.0, 0.0
        for step in range(10):
            optimizer.apply_gradients([(tf.constant(0.25), variable)])
            η, μ, λ = (float(s(step)) for s in (rate, rate.momentum(), decay))
            m = μ * m - η * 0.25
            w = w * (1 - η * λ) + m
            assert_near(variable, w)
        copied = type(optimizer).from_config(optimizer.get_config())
        assert repr(copied.momentum) == repr(optimizer.momentum)

    def test_the_reported_rate(self):
        optimizer = tf_optim_ext.Adam(schedules.Linear(0.5, 4))
        variable = tf.Variable(1.0)
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert float(optimizer.learning_rate) == 0.375


def model_with(optimizer, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **options)
    return model


X, Y = np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)


class TestModels:
    @few_cases
    @pytest.mark.parametrize("whose", OPTIMIZERS)
    def test_files(self, name, whose, tmp_path):
        schedule = CASES[name][0]
        model = model_with(OPTIMIZERS[whose](schedule))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        rate = keras.saving.deserialize_keras_object(loaded.optimizer.get_config()["learning_rate"])
        assert type(rate) is type(schedule)
        assert repr(rate) == repr(schedule)

    @pytest.mark.parametrize("whose", OPTIMIZERS)
    def test_training_goes_on(self, whose, tmp_path):
        schedule = schedules.Warmup(schedules.Cosine(0.1, 6), 3)
        model = model_with(OPTIMIZERS[whose](schedule))
        model.fit(X, Y, batch_size=2, verbose=0, shuffle=False)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        for each in (model, loaded):
            each.fit(X, Y, batch_size=2, verbose=0, shuffle=False)
        assert int(loaded.optimizer.iterations) == 8
        assert_near(loaded.get_weights()[0], model.get_weights()[0])

    def test_inside_xla(self):
        models = [
            model_with(tf_optim_ext.Adam(CASES["one cycle"][0]), jit_compile=jit)
            for jit in (False, True)
        ]
        for model in models:
            model.fit(X, Y, batch_size=2, verbose=0, shuffle=False)
        assert_near(models[0].get_weights()[0], models[1].get_weights()[0])


class TestPlot:
    @pytest.fixture(autouse=True)
    def pyplot(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("agg")
        from matplotlib import pyplot

        yield pyplot
        pyplot.close("all")

    def test_one(self):
        ax = schedules.plot(schedules.Linear(0.5, 5), 6)
        (line,) = ax.lines
        assert line.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
        assert_near(line.get_ydata(), [0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
        assert ax.get_xlabel() == "step" and ax.get_ylabel() == "learning rate"
        assert ax.get_yscale() == "linear"
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Linear"]

    def test_several(self, pyplot):
        given = [schedules.Linear(1, 5), schedules.Linear(2, 5), KERAS.CosineDecay(0.1, 5)]
        mine = pyplot.subplots()[1]
        ax = schedules.plot(given, [1, 2, 3.5], ax=mine, log=True)
        assert ax is mine and ax.get_yscale() == "log"
        labels = [line.get_label() for line in ax.lines]
        assert labels == ["Linear 0", "Linear 1", "CosineDecay 2"]
        assert ax.lines[0].get_xdata().tolist() == [1, 2, 3.5]

    def test_labels(self):
        ax = schedules.plot({"a": schedules.Linear(1, 5), "b": schedules.REX(1, 5)}, 3)
        assert [line.get_label() for line in ax.lines] == ["a", "b"]

    def test_of_many_steps_some_are_drawn(self):
        (line,) = schedules.plot(schedules.Linear(1, 10**6), 10**6).lines
        steps = line.get_xdata()
        assert len(steps) == 1000 and steps[0] == 0 and steps[-1] == 10**6 - 1

    @pytest.mark.parametrize(
        ("given", "steps", "error", "message"),
        [
            ([0.1], 10, TypeError, "must be a `LearningRateSchedule`"),
            ([], 10, ValueError, "at least one schedule"),
            (schedules.Linear(1, 5), 0, ValueError, "`steps` must be an integer >= 1"),
            (schedules.Linear(1, 5), 2.5, ValueError, "`steps` must be an integer >= 1"),
            (schedules.Linear(1, 5), ["a"], ValueError, "`steps` must be numbers"),
        ],
    )
    def test_errors(self, given, steps, error, message):
        with pytest.raises(error, match=message):
            schedules.plot(given, steps)

    def test_without_matplotlib(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"`plot` needs matplotlib: pip install"):
            schedules.plot(schedules.Linear(1, 5), 3)


class TestBothGenerations:
    """`tf_optim_ext.tf_keras.schedules` has the classes of Keras 2."""

    @pytest.fixture
    def of_keras_2(self):
        pytest.importorskip("tf_keras")
        return tf_optim_ext.tf_keras.schedules

    def test_classes(self, of_keras_2):
        import tf_keras

        assert of_keras_2.__all__ == schedules.__all__
        for cls in CLASSES:
            twin = getattr(of_keras_2, cls.__name__)
            assert issubclass(twin, (cls, tf_keras.optimizers.schedules.LearningRateSchedule))
            assert issubclass(twin, of_keras_2.Schedule)
            assert twin.__doc__ == cls.__doc__
            assert tf_keras.saving.get_registered_name(twin) == f"tf_optim_ext>{cls.__name__}"
            if keras is not tf_keras:
                assert not issubclass(twin, KERAS.LearningRateSchedule)
        cyclical = of_keras_2.CyclicalLearningRate
        assert issubclass(of_keras_2.TriangularCyclicalLearningRate, cyclical)
        assert of_keras_2.plot is schedules.plot

    def test_in_a_model(self, of_keras_2, tmp_path):
        import tf_keras

        schedule = of_keras_2.Warmup(of_keras_2.OneCycle(0.1, 20), 5)
        for cls in (tf_optim_ext.tf_keras.SGD, tf_keras.optimizers.SGD):
            model = tf_keras.Sequential([tf_keras.layers.Dense(1)])
            model.compile(cls(schedule), "mse")
            model.fit(X, Y, batch_size=2, verbose=0)
            model.save(tmp_path / "model.keras")
            loaded = tf_keras.models.load_model(tmp_path / "model.keras")
            config = loaded.optimizer.get_config()["learning_rate"]
            rate = tf_keras.saving.deserialize_keras_object(config)
            assert type(rate) is of_keras_2.Warmup
            assert repr(rate) == repr(schedule)

    def test_copies(self, of_keras_2):
        schedule = of_keras_2.Warmup(of_keras_2.Linear(0.1, 20), 5)
        for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
            assert type(other) is type(schedule) and repr(other) == repr(schedule)

    def test_one_of_the_other_generation(self, of_keras_2):
        if of_keras_2.Linear is schedules.Linear:
            pytest.skip("all is Keras 2")
        for mine, other in ((schedules, of_keras_2), (of_keras_2, schedules)):
            with pytest.raises(ValueError, match="must be a schedule of the same Keras"):
                mine.Warmup(other.Linear(0.1, 20), 5)


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=True).stdout


@pytest.mark.long
class TestProcesses:
    def test_files_need_no_more_than_the_package(self, tmp_path):
        model = model_with(tf_optim_ext.SGD(schedules.Warmup(schedules.REX(0.1, 9), 3)))
        model.save(tmp_path / "model.keras")
        code = (
            "import sys; import tensorflow as tf; import tf_optim_ext; "
            "print(type(tf.keras.models.load_model(sys.argv[1]).optimizer.learning_rate))"
        )
        assert "EagerTensor" in run(code, tmp_path / "model.keras")

    def test_the_import_is_light(self):
        """Keras may import matplotlib; the package does not."""
        code = (
            "import sys; sys.modules['matplotlib'] = None; import tf_optim_ext; "
            "print(tf_optim_ext.schedules.Linear(0.5, 5))"
        )
        assert run(code).startswith("Linear(")


@pytest.mark.parametrize("cls", sorted(CLASSES, key=lambda cls: cls.__name__))
def test_docstrings(cls):
    assert "arXiv" in cls.__doc__ and "Raises:" in cls.__doc__
    for name in CASES_ARGUMENTS[cls]:
        assert f"        {name}: " in cls.__doc__, name
    assert doctest.testmod(sys.modules[cls.__module__]).failed == 0
    assert ">>>" in cls.__doc__


CASES_ARGUMENTS = {cls: cls._arguments() for cls in CLASSES}
