"""What every lowering makes of a traced rule: operations, reductions, rules of the literature."""

import dataclasses

import compiled
import numpy as np
import precision
import pytest
import rules
import tensorflow as tf
from conftest import INSTRUCTION_SETS, shortened

from tf_optim_ext.backends import numpy as numpy_lowering
from tf_optim_ext.backends import scalars
from tf_optim_ext.backends import tensorflow as tensorflow_lowering
from tf_optim_ext.codegen import cpp
from tf_optim_ext.engine import targets
from tf_optim_ext.rule import (
    clip,
    exp,
    global_sum,
    lerp,
    log,
    maximum,
    minimum,
    reduce_sum,
    sqrt,
    trace,
)

pytestmark = pytest.mark.once


def trace_case(case):
    return trace(case.rule, case.slots, tuple(case.hyperparameters))


def _halves(table):
    names = list(table)
    return [names[:13], names[13:]]


def _elementwise(names):
    def rule(w, g, s, h):
        for name in names:
            setattr(s, name, rules.OPERATIONS[name][0](w, g))
        return w

    return trace(rule, names)


def _of_scalars(names):
    # What depends on the step's numbers alone, and what depends on a reduction, too.
    def rule(w, g, s, h):
        for name in names:
            setattr(s, name, w + rules.OPERATIONS[name][0](h.learning_rate, h.gradient_scale))
        return w

    return trace(rule, names)


def _of_reductions(names):
    def rule(w, g, s, h):
        x, y = reduce_sum(w), reduce_sum(g)
        for name in names:
            setattr(s, name, 0.0 * w + rules.OPERATIONS[name][0](x, y))
        return w

    return trace(rule, names)


def _reductions(w, g, s, h):
    for name, (reduction, _) in rules.REDUCTIONS.items():
        setattr(s, name, 0.0 * w + reduction(g))
    return w


def _step_number(w, g, s, h):
    return w + (h.step - h.offset)


def _correction(w, g, s, h):
    return w + (1 - h.beta**h.step) + sqrt(h.tiny) * exp(log(h.tiny) / 2)


def _average(w, g, s, h):
    return lerp(g, w, h.beta)


def _bounded(w, g, s, h):
    # Natively, a bound that is one number has instructions of its own.
    s.lower = minimum(w, h.bound)
    s.upper = maximum(h.bound, w)
    s.lower_of_constant = minimum(0.5, w)
    s.upper_of_constant = maximum(w, -0.5)
    return w


def _clipped(w, g, s, h):
    return clip(g, -h.limit, h.limit)


ELEMENTWISE = [_elementwise(names) for names in _halves(rules.OPERATIONS)]
OF_SCALARS = [_of_scalars(names) for names in _halves(rules.OPERATIONS)]
OF_REDUCTIONS = [_of_reductions(names) for names in _halves(rules.OPERATIONS)]
OTHERS = {
    "reductions": trace(_reductions, tuple(rules.REDUCTIONS)),
    "step": trace(_step_number, (), ("offset",)),
    "correction": trace(_correction, (), ("beta", "tiny")),
    "average": trace(_average, (), ("beta",)),
    "bounded": trace(
        _bounded, ("lower", "upper", "lower_of_constant", "upper_of_constant"), ("bound",)
    ),
    "clipped": trace(_clipped, (), ("limit",)),
}
CASES = {name: trace_case(case) for name, case in rules.CASES.items()}
BY_ROW = trace(
    rules.BY_ROW.rule,
    rules.BY_ROW.slots,
    tuple(rules.BY_ROW.hyperparameters),
    variable_scalars=rules.NUMBERS_BY_ROW,
    by_row=True,
)
LOWERINGS = ("numpy", "tensorflow", "tensorflow float64", "xla", *INSTRUCTION_SETS)
# Where it takes seconds to compile.
EXCEPT_XLA = pytest.mark.parametrize(
    "lower", shortened(LOWERINGS, [name for name in LOWERINGS if name != "xla"]), indirect=True
)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    compiled.find_compiler()
    every = [*ELEMENTWISE, *OF_SCALARS, *OF_REDUCTIONS, *OTHERS.values(), *CASES.values(), BY_ROW]
    return compiled.Library(tmp_path_factory.mktemp("rules"), every)


def _zeros(program, w):
    """The scalar state, before the first step."""
    shape = w.shape[:1] if program.by_row else ()
    return {name: np.zeros(shape)[()] for name in program.state_scalars}


class NumPy:
    """Runs a program in one lowering and keeps the arrays: "w" and the slots in `values`."""

    precise = True

    def __init__(self, program, w, hyperparameters):
        self.program = program
        self.hyperparameters = hyperparameters
        self.values = {name: np.zeros(w.shape) for name in program.slots}
        self.values["w"] = w.astype(np.float64)
        self.values.update(_zeros(program, w))

    def step(self, g, step, learning_rate, gradient_scale=1.0):
        h = {"step": step, "learning_rate": learning_rate, "gradient_scale": gradient_scale}
        h.update(self.hyperparameters)
        h.update({name: self.values[name] for name in self.program.state_scalars})
        h = {name: h[name] for name in self.program.scalars if name != "size"}
        with np.errstate(all="ignore"):
            self.values = numpy_lowering.run(self.program, {**self.values, "g": g}, h)


class TensorFlow:
    def __init__(self, program, w, hyperparameters, dtype=tf.float32, jit_compile=False):
        self.program = program
        self.precise = dtype == tf.float64
        self._w = tf.Variable(w, dtype=dtype)
        self._slots = [tf.Variable(tf.zeros_like(self._w)) for _ in program.slots]
        self._state = [tf.Variable(zeros) for zeros in _zeros(program, w).values()]
        own = len(program.variable_scalars)
        self._targets = targets.Targets(
            [self._w],
            [[slot] for slot in self._slots],
            [[scalar] for scalar in self._state[:own]],
            self._state[own:],
            [self._w],
            program.is_joint,
        )

        def step(g, step, learning_rate, gradient_scale):
            numbers = scalars.Scalars(step - 1, learning_rate, gradient_scale, hyperparameters)
            tensorflow_lowering.step(program, self._targets, [g], numbers)

        self._step = tf.function(step, jit_compile=True) if jit_compile else step
        self._tensors = jit_compile

    def step(self, g, step, learning_rate, gradient_scale=1.0):
        g = tf.constant(g, self._w.dtype)
        if self._tensors:
            step = tf.constant(step, tf.int64)
            learning_rate = tf.constant(learning_rate, tf.float64)
            gradient_scale = tf.constant(gradient_scale, tf.float64)
        self._step(g, step, learning_rate, gradient_scale)

    @property
    def values(self):
        slots = {name: s.numpy() for name, s in zip(self.program.slots, self._slots)}
        state = {name: s.numpy() for name, s in zip(self.program.state_scalars, self._state)}
        return {"w": self._w.numpy(), **slots, **state}


class Native:
    precise = False

    def __init__(self, program, w, hyperparameters, library, instruction_set):
        self.program = program
        self._hyperparameters = hyperparameters
        self._run = lambda *args: library.run(instruction_set, program, *args)
        self.values = {"w": np.array(w, np.float32)}
        self.values.update({name: np.zeros(w.shape, np.float32) for name in program.slots})
        self.values.update(_zeros(program, w))

    def step(self, g, step, learning_rate, gradient_scale=1.0):
        # Copies: `values` of an earlier step stay what they were.
        self.values = {name: np.array(value) for name, value in self.values.items()}
        arrays = [self.values["w"], np.array(g, np.float32)]
        arrays += [self.values[name] for name in self.program.slots]
        h = {"step": step, "learning_rate": learning_rate, "gradient_scale": gradient_scale}
        h.update({name: self.values[name] for name in self.program.state_scalars})
        self.values.update(self._run(arrays, {**h, **self._hyperparameters}))


def lowerings_and(arguments, values, under_xla):
    """Parameters of all lowerings; under XLA, where each is compiled, some are for long tests."""
    return pytest.mark.parametrize(
        ("lower", arguments),
        [
            pytest.param(
                name,
                value,
                id=f"{name}-{value}",
                marks=pytest.mark.long if name == "xla" and value not in under_xla else (),
            )
            for name in LOWERINGS
            for value in values
        ],
        indirect=["lower"],
    )


@pytest.fixture(params=LOWERINGS)
def lower(request):
    """Each lowering, as a function `(program, w, hyperparameters={})` that returns a runner."""
    name = request.param
    if name in INSTRUCTION_SETS:
        library = request.getfixturevalue("library")
        if not library.has(name):
            pytest.skip(f"this processor has no {name}")
        return lambda program, w, h=(): Native(program, w, dict(h), library, name)
    if name == "numpy":
        return lambda program, w, h=(): NumPy(program, w, dict(h))
    options = {"dtype": tf.float64} if "64" in name else {"jit_compile": name == "xla"}
    return lambda program, w, h=(): TensorFlow(program, w, dict(h), **options)


NAN, INF = float("nan"), float("inf")
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-3, 1e8, -1e20, 3e38, 1e-30]
PAIRS = np.array([[x, y] for x in SPECIAL for y in SPECIAL]).astype(np.float32).astype(np.float64)


def assert_equal(actual, expected, tolerance, what):
    """Equal up to a relative tolerance; also NaN, infinities and what float32 makes of them."""
    with np.errstate(all="ignore"):
        expected = np.float64(np.asarray(expected).astype(np.asarray(actual).dtype))
        close = np.isclose(
            actual, expected, rtol=tolerance, atol=precision.SMALLEST, equal_nan=True
        )
    assert np.all(close), f"{what}: {np.asarray(actual)[~close]} is not {expected[~close]}"


class TestOperations:
    # powf, expf and logf of the C library and of Eigen are off by a few ulps,
    # and Eigen's, at the ends of the range, by some more.
    TOLERANCE = 1e-6

    @pytest.mark.parametrize("half", [0, 1])
    def test_of_tensors(self, lower, half):
        x, y = PAIRS[:, 0], PAIRS[:, 1]
        runner = lower(ELEMENTWISE[half], x)
        runner.step(y, 1, 0.1)
        assert_equal(runner.values["w"], x, 0, "w")
        for name in ELEMENTWISE[half].slots:
            with np.errstate(all="ignore"):
                expected = rules.OPERATIONS[name][1](x, y)
            assert_equal(runner.values[name], expected, self.TOLERANCE, name)

    def test_bounds_that_are_numbers(self, lower):
        x = np.array(SPECIAL, np.float32).astype(np.float64)
        for bound in (1.0, -1.0, 0.0, INF, -INF, NAN):
            runner = lower(OTHERS["bounded"], x, {"bound": bound})
            if np.isnan(bound) and isinstance(runner, TensorFlow):
                continue  # XLA leaves out a bound that is the constant NaN
            runner.step(np.zeros_like(x), 1, 0.1)
            expected = {
                "lower": np.minimum(x, bound),
                "upper": np.maximum(x, bound),
                "lower_of_constant": np.minimum(x, 0.5),
                "upper_of_constant": np.maximum(x, -0.5),
            }
            for name, values in expected.items():
                assert_equal(runner.values[name], values, 0, f"{name}, {bound}")

    @pytest.mark.parametrize("half", [0, 1])
    def test_of_numbers(self, lower, half):
        program = OF_SCALARS[half]
        runner = lower(program, np.zeros(2))
        for x, y in PAIRS.tolist()[:: 7 if isinstance(runner, TensorFlow) else 2]:
            if (x, y) == (-INF, 0.5):
                continue  # NumPy's power takes a square root, which has no infinity here
            if isinstance(runner, TensorFlow) and "-0.0" in (str(x), str(y)):
                continue  # TensorFlow's cache of constants takes it for 0.0
            runner.step(np.zeros(2), 1, x, y)
            for name in program.slots:
                with np.errstate(all="ignore"):
                    expected = rules.OPERATIONS[name][1](np.full(2, x), np.full(2, y))
                assert_equal(runner.values[name], expected, self.TOLERANCE, f"{name} of {x}, {y}")

    @pytest.mark.parametrize("half", [0, 1])
    @lowerings_and("pair", [(3.0, -2.5), (-1.0, 0.0)], [(3.0, -2.5)])
    def test_of_reductions(self, lower, half, pair):
        program = OF_REDUCTIONS[half]
        x, y = (np.array([value, 1.0, -1.0]) for value in pair)
        runner = lower(program, x)
        runner.step(y, 1, 0.1)
        for name in program.slots:
            with np.errstate(all="ignore"):
                expected = np.full(3, rules.OPERATIONS[name][1](*map(np.float64, pair)))
            assert_equal(runner.values[name], expected, self.TOLERANCE, name)

    @lowerings_and(
        "shape", [(), (1,), (7,), (3, 5), (255,), (257,), (1024,), (40_000,)], [(), (257,)]
    )
    def test_reductions(self, lower, shape):
        rng = np.random.default_rng(3)
        g = rng.normal(1.0, 0.5, size=shape).astype(np.float32).astype(np.float64)
        runner = lower(OTHERS["reductions"], np.ones(shape))
        runner.step(g, 1, 0.1)
        for name, (_, expected) in rules.REDUCTIONS.items():
            expected = np.full(shape, expected(g))
            assert_equal(runner.values[name], expected, 3e-6, name)

    def test_reductions_of_nothing(self, lower):
        runner = lower(OTHERS["reductions"], np.ones((0, 3)))
        runner.step(np.ones((0, 3)), 1, 0.1)
        assert all(value.shape == (0, 3) for value in runner.values.values())

    def test_reductions_of_special_values(self, lower):
        runner = lower(OTHERS["reductions"], np.zeros(20_000))
        for value in (NAN, INF, -INF):
            for position in (0, 5, 299, 19_999):
                g = np.ones(20_000)
                g[position] = value
                runner.step(g, 1, 0.1)
                for name, (_, expected) in rules.REDUCTIONS.items():
                    what = f"{name} with {value} at {position}"
                    assert_equal(runner.values[name], np.full(20_000, expected(g)), 1e-6, what)

    def test_numbers_are_computed_in_float64(self, lower):
        # 2^24 + 1 is no float32.
        runner = lower(OTHERS["step"], np.zeros(3), {"offset": 2.0**24})
        runner.step(np.zeros(3), 2**24 + 1, 0.1)
        np.testing.assert_array_equal(runner.values["w"], np.ones(3))
        runner = lower(OTHERS["step"], np.zeros(3), {"offset": 2.0**24 - 3})
        runner.step(np.zeros(3), 2**24, 0.1)
        np.testing.assert_array_equal(runner.values["w"], np.full(3, 3.0))

    def test_so_are_the_functions_of_numbers(self, lower):
        # In float32, the power would be 1 or 1 - 1.19e-7, and 1e-60 would be 0.
        runner = lower(OTHERS["correction"], np.zeros(3), {"beta": 1 - 1e-9, "tiny": 1e-60})
        runner.step(np.zeros(3), 3, 0.1)
        np.testing.assert_allclose(runner.values["w"], np.full(3, 3e-9), rtol=3e-7)

    def test_weight_of_an_average_is_formed_in_float64(self, lower):
        # In float32, 1 - (1 - 1e-7) is 1.19e-7.
        runner = lower(OTHERS["average"], np.zeros(3), {"beta": 1 - 1e-7})
        runner.step(np.ones(3), 1, 0.1)
        np.testing.assert_allclose(runner.values["w"], np.full(3, 1e-7), rtol=2e-7)

    def test_ends_of_an_average(self, lower):
        w, g = np.array([1.0, 1e-20, 3e38]), np.array([1e30, -1.0, 3e-30])
        w, g = np.float64(np.float32(w)), np.float64(np.float32(g))
        for beta, expected in ((0.0, g), (1.0, w)):
            runner = lower(OTHERS["average"], w, {"beta": beta})
            runner.step(g, 1, 0.1)
            np.testing.assert_array_equal(runner.values["w"], expected)

    def test_an_average_keeps_the_digits_of_both(self, lower):
        # As x + beta (y - x) it would be 0 in the first element.
        w, g = np.array([1e-9, 1.0]), np.array([1.0, 1e-9])
        runner = lower(OTHERS["average"], w, {"beta": 1.0 - 1e-12})
        runner.step(g, 1, 0.1)
        expected = np.array([1e-9 + 1e-12, 1.0])
        np.testing.assert_allclose(runner.values["w"], expected, rtol=2e-7)

    def test_clip(self, lower):
        g = np.array([NAN, INF, -INF, 3.0, -3.0, 0.5, -0.0])
        runner = lower(OTHERS["clipped"], np.ones(7), {"limit": 2.0})
        runner.step(g, 1, 0.1)
        np.testing.assert_array_equal(runner.values["w"], [NAN, 2, -2, 2, -2, 0.5, 0])
        runner = lower(OTHERS["clipped"], np.ones(7), {"limit": INF})
        runner.step(g, 1, 0.1)
        np.testing.assert_array_equal(runner.values["w"], g)


class TestNumPyBackend:
    def test_computes_in_float64_and_leaves_its_arguments_alone(self):
        program = OTHERS["average"]
        w, g = np.ones(3, np.float32), np.full(3, 1 / 3, np.float32)
        h = {"step": 1, "learning_rate": 0.1, "gradient_scale": 1.0, "beta": 0.1}
        new = numpy_lowering.run(program, {"w": w, "g": g}, h)
        assert new["w"].dtype == np.float64
        np.testing.assert_allclose(new["w"], 0.1 + 0.9 * np.float64(g), rtol=1e-15)
        np.testing.assert_array_equal(w, np.ones(3))

    def test_what_is_not_written_is_returned_as_it_was(self):
        program = CASES["swap"]
        arrays = {name: np.full(2, float(i)) for i, name in enumerate(("w", "g", "a", "b", "c"))}
        h = {"step": 1, "learning_rate": 0.1, "gradient_scale": 1.0}
        new = numpy_lowering.run(program, arrays, h)
        assert {name: value[0] for name, value in new.items()} == {"w": 1, "a": 3, "b": 2, "c": 4}


class TestByRow:
    """Every row is a variable of its own."""

    @lowerings_and("shape", [(5,), (1, 1), (7, 3), (3, 2, 5), (4, 20_000), (5000, 2)], [(3, 2, 5)])
    def test_equals_plain_numpy(self, lower, shape):
        case = rules.BY_ROW
        if shape[0] > 100 and isinstance(lower(BY_ROW, np.ones(3), case.hyperparameters), NumPy):
            shape = (200, 2)  # it takes them one by one
        rng = np.random.default_rng(5)
        # A row of zeros, and rows of different magnitude.
        magnitude = np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1)) % 5
        # Not by calls of the types: NumPy before 2.2 makes numbers of arrays of one element.
        w = (rng.normal(size=shape) * magnitude).astype("float32").astype("float64")
        runner = lower(BY_ROW, w, case.hyperparameters)
        state = {"m": np.zeros(shape), **{n: np.zeros(shape[:1]) for n in rules.NUMBERS_BY_ROW}}
        actual, expected = [runner.values], [{"w": w, **state}]
        for step in range(1, 7):
            g = (rng.normal(size=shape) * magnitude).astype("float32").astype("float64")
            runner.step(g, step, 0.3)
            h = {**case.hyperparameters, "step": step, "learning_rate": 0.3}
            w, state = case.reference(w, g, state, h)
            actual.append(runner.values)
            expected.append({"w": w, **state})
        assert actual[-1].keys() == expected[-1].keys()
        for key in expected[0]:
            assert actual[-1][key].shape == expected[-1][key].shape
            worst = precision.roundings(
                [a[key] for a in actual], [e[key] for e in expected], floor=0.01
            )
            limit = 1e-4 if runner.precise else case.roundings
            assert worst <= limit, f"{key} of shape {shape}: {worst} roundings"

    @EXCEPT_XLA
    def test_a_row_depends_on_no_other(self, lower):
        rng = np.random.default_rng(6)
        w, g = (np.float64(np.float32(rng.normal(size=(6, 40)))) for _ in range(2))
        whole = lower(BY_ROW, w, rules.BY_ROW.hyperparameters)
        whole.step(g, 1, 0.3)
        for row in range(6):
            alone = lower(BY_ROW, w[row : row + 1], rules.BY_ROW.hyperparameters)
            alone.step(g[row : row + 1], 1, 0.3)
            for key, value in alone.values.items():
                # XLA may add up what has another shape in another order.
                np.testing.assert_allclose(value[0], whole.values[key][row], rtol=1e-6, atol=1e-7)

    def test_rows_of_nothing(self, lower):
        runner = lower(BY_ROW, np.ones((0, 2)), rules.BY_ROW.hyperparameters)
        runner.step(np.ones((0, 2)), 1, 0.3)
        assert runner.values["w"].shape == (0, 2)
        assert runner.values["v"].shape == (0,)

    def test_program(self):
        assert BY_ROW.by_row
        assert BY_ROW.passes == rules.BY_ROW.passes
        assert BY_ROW.variable_scalars == rules.NUMBERS_BY_ROW
        assert BY_ROW.uses_size
        assert BY_ROW.treats_rows_alone
        assert not BY_ROW.is_joint
        assert "true, 2, passes, finish" in cpp.emit_program(BY_ROW, "by row")

    def test_it_is_another_program(self):
        arguments = (rules.BY_ROW.rule, rules.BY_ROW.slots, tuple(rules.BY_ROW.hyperparameters))
        whole = trace(*arguments, variable_scalars=rules.NUMBERS_BY_ROW)
        assert not whole.by_row
        assert not whole.treats_rows_alone
        assert whole.fingerprint != BY_ROW.fingerprint
        assert dataclasses.replace(BY_ROW, by_row=False) == whole
        again = trace(*arguments, variable_scalars=rules.NUMBERS_BY_ROW, by_row=True)
        assert again.fingerprint == BY_ROW.fingerprint
        elementwise = trace(_average, (), ("beta",))
        assert elementwise.treats_rows_alone
        assert trace(_average, (), ("beta",), by_row=True).fingerprint != elementwise.fingerprint

    def test_sums_over_all_variables_are_refused(self):
        def of_all(w, g, s, h):
            s.n = s.n + global_sum(g)
            return w - s.n * g

        with pytest.raises(TypeError, match="by row cannot sum over all variables"):
            trace(lambda w, g, s, h: w - global_sum(g), by_row=True)
        with pytest.raises(TypeError, match="by row cannot sum over all variables"):
            trace(of_all, optimizer_scalars=("n",), by_row=True)
        # A number that each variable has of its own does not help: it would be that of the row.
        with pytest.raises(TypeError, match="by row cannot sum over all variables"):
            trace(of_all, variable_scalars=("n",), by_row=True)


class TestRulesOfTheLiterature:
    """They need what the language is made for; each runs as it stands in every lowering."""

    STEPS = 12

    @pytest.mark.parametrize("name", CASES)
    def test_passes(self, name):
        assert CASES[name].passes == rules.CASES[name].passes

    @EXCEPT_XLA
    @pytest.mark.parametrize("name", CASES)
    def test_equals_plain_numpy(self, lower, name):
        case, program = rules.CASES[name], CASES[name]
        for shape in ((), (20_000,)):
            rng = np.random.default_rng(7)
            w = np.float64(np.float32(rng.normal(size=shape)))
            runner = lower(program, w, case.hyperparameters)
            slots = {slot: np.zeros(shape) for slot in case.slots}
            actual, expected = [runner.values], [{"w": w, **slots}]
            for step in range(1, self.STEPS + 1):
                g = rng.normal(size=shape) * (rng.random(shape) > 0.2)
                g = np.float64(np.float32(g))
                h = {**case.hyperparameters, "step": step, "learning_rate": 0.3}
                runner.step(g, step, 0.3)
                w, slots = case.reference(w, g, slots, h)
                actual.append(runner.values)
                expected.append({"w": w, **slots})
            for key in expected[0]:
                worst = precision.roundings(
                    [a[key] for a in actual], [e[key] for e in expected], floor=0.01
                )
                limit = 1e-4 if runner.precise else case.roundings
                assert worst <= limit, f"{key} of shape {shape}: {worst} roundings"
