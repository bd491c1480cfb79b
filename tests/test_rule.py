"""The rule language: tracing, and what the three lowerings make of a traced rule."""

import dataclasses
import subprocess
import sys

import compiled
import numpy as np
import precision
import pytest
import rules
import tensorflow as tf
from conftest import INSTRUCTION_SETS

import tf_optim_ext
from tf_optim_ext import programs, targets
from tf_optim_ext.lowering import cpp, scalars
from tf_optim_ext.lowering import numpy as numpy_lowering
from tf_optim_ext.lowering import tensorflow as tensorflow_lowering
from tf_optim_ext.native import build
from tf_optim_ext.rule import (
    COMPARISONS,
    RESERVED,
    absolute,
    clip,
    exp,
    global_sum,
    lerp,
    log,
    minimum,
    norm,
    reduce_max,
    reduce_mean,
    reduce_sum,
    sqrt,
    trace,
    where,
)


def operations(program):
    return [node.op for node in program.nodes]


def constants(program):
    return [node.data for node in program.nodes if node.op == "constant"]


class TestTracing:
    def test_leaves_and_outputs(self):
        def rule(w, g, s, h):
            s.m = s.m * h.mu + g
            return w - h.learning_rate * s.m

        program = trace(rule, ("m",), ("mu",))
        assert sorted(operations(program)) == sorted(
            ["input"] * 3 + ["scalar"] * 2 + ["multiply", "add", "multiply", "subtract"]
        )
        assert program.slots == ("m",)
        assert program.scalars == (*RESERVED, "mu")
        assert program.hyperparameters == ("mu",)
        assert set(program.outputs) == {"w", "m"}
        assert program.nodes[program.outputs["w"]].op == "subtract"
        assert program.nodes[program.outputs["m"]].op == "add"
        assert program.passes == 1
        assert not program.uses_size

    @pytest.mark.parametrize("name", rules.OPERATIONS)
    def test_every_operation(self, name):
        operation, _ = rules.OPERATIONS[name]
        program = trace(lambda w, g, s, h: operation(w, g))
        op = {
            "add_number": "add",
            "subtract_from_number": "subtract",
            "divide_number": "divide",
            "power_2": "multiply",
            "power_of_number": "power",
            "square": "multiply",
            "rsqrt": "divide",
        }.get(name, name)
        assert op in operations(program)
        node = next(n for n in program.nodes if n.op == op)
        assert node.tensor
        assert node.is_condition == (op in COMPARISONS)

    @pytest.mark.parametrize("name", rules.REDUCTIONS)
    def test_every_reduction(self, name):
        reduction, _ = rules.REDUCTIONS[name]
        program = trace(lambda w, g, s, h: w * reduction(g))
        (index,) = program.reductions(0)
        assert not program.nodes[index].tensor
        assert program.nodes[index].stage == 1
        assert program.passes == 2
        assert program.uses_size == (name == "mean")

    def test_every_operation_that_a_lowering_has_is_traced_by_some_rule_here(self):
        traced = set()
        for operation, _ in rules.OPERATIONS.values():
            traced.update(operations(trace(lambda w, g, s, h, f=operation: f(w, g))))
        for reduction, _ in rules.REDUCTIONS.values():
            traced.update(operations(trace(lambda w, g, s, h, f=reduction: w * f(g))))
        traced -= {"input", "constant", "scalar"}
        assert traced == set(numpy_lowering.OPERATIONS)
        assert traced == set(tensorflow_lowering.OPERATIONS)
        assert traced == set(cpp.FLOAT_OPERATIONS) | set(cpp.STRIP_REDUCTIONS)
        assert traced == set(cpp.DOUBLE_OPERATIONS) | set(cpp.COMBINE)

    def test_arguments_are_numbered_before_their_uses(self):
        for _, program in programs.all_programs():
            for i, node in enumerate(program.nodes):
                assert all(arg < i for arg in node.args)

    def test_equal_subexpressions_are_one_operation(self):
        def rule(w, g, s, h):
            return sqrt(g * g + h.a) * w + sqrt(g * g + h.a)

        program = trace(rule, (), ("a",))
        assert sorted(operations(program)) == sorted(
            ["input", "input", "scalar", "multiply", "add", "sqrt", "multiply", "add"]
        )

    def test_other_order_or_other_number_is_another_operation(self):
        program = trace(lambda w, g, s, h: (w - g) * (g - w) + 2 * w + 3 * w)
        assert operations(program).count("subtract") == 2
        assert constants(program) == [2.0, 3.0]

    def test_zero_and_minus_zero_are_two_numbers(self):
        program = trace(lambda w, g, s, h: where(g > 0, w * 0.0, w * -0.0))
        assert sorted(map(str, constants(program))) == ["-0.0", "0.0"]

    def test_integers_are_numbers(self):
        assert constants(trace(lambda w, g, s, h: w + 2)) == [2.0]
        assert constants(trace(lambda w, g, s, h: w * np.float64(0.25))) == [0.25]

    def test_numbers_work_on_either_side(self):
        program = trace(lambda w, g, s, h: 1 - (2 * (3 + (4 / w))))
        assert operations(program).count("constant") == 4
        assert program.nodes[program.outputs["w"]].op == "subtract"
        assert program.nodes[program.nodes[program.outputs["w"]].args[0]].data == 1.0

    def test_only_touched_slots_are_the_programs(self):
        def rule(w, g, s, h):
            s.second = s.second + g
            return w - s.fourth

        program = trace(rule, ("first", "second", "third", "fourth"))
        assert program.slots == ("second", "fourth")
        assert set(program.outputs) == {"w", "second"}
        assert program.accesses(0) == ({"w", "g", "second", "fourth"}, {"w", "second"})

    def test_what_is_assigned_unchanged_is_not_written(self):
        def rule(w, g, s, h):
            s.a = s.a
            s.b = s.b + g
            return w

        program = trace(rule, ("a", "b"))
        assert set(program.outputs) == {"b"}
        assert program.accesses(0) == ({"b", "g"}, {"b"})

    def test_reading_a_slot_gives_the_latest_value(self):
        def rule(w, g, s, h):
            s.m = s.m + g
            s.m = s.m * 2
            return w - s.m

        program = trace(rule, ("m",))
        assert operations(program).count("multiply") == 1
        assert program.nodes[program.outputs["w"]].args[1] == program.outputs["m"]

    def test_flags_are_python_values_and_leave_no_trace(self):
        def rule(w, g, s, h):
            if h.double:
                g = 2 * g
            return w - g

        assert operations(trace(rule, flags={"double": False})).count("multiply") == 0
        assert operations(trace(rule, flags={"double": True})).count("multiply") == 1
        assert trace(rule, flags={"double": True}).scalars == RESERVED

    def test_slots_depend_on_flags(self):
        program = tf_optim_ext.SGD.program
        assert program(nesterov=False, has_momentum=False).slots == ()
        assert program(nesterov=False, has_momentum=True).slots == ("momentum",)
        assert tf_optim_ext.Adam.program(amsgrad=True).slots[-1] == "velocity_hat"
        assert tf_optim_ext.Adam.program(amsgrad=False).slots == ("momentum", "velocity")

    def test_only_hyperparameters_in_use_are_handed_over(self):
        program = trace(lambda w, g, s, h: w * h.b + h.a, (), ("b", "unused", "a"))
        assert program.scalars == (*RESERVED, "a", "b")

    def test_text_of_an_expression(self):
        with pytest.raises(TypeError, match=r"greater\(multiply\(g, 2\.0\), w\)"):
            trace(lambda w, g, s, h: g * 2 > w)


class TestPasses:
    def test_a_reduction_splits_a_rule(self):
        lamb = tf_optim_ext.Lamb.program()
        assert lamb.passes == 2
        assert len(lamb.reductions(0)) == 2
        assert lamb.reductions(1) == []
        assert lamb.accesses(0) == ({"w", "g", "momentum", "velocity"}, set())
        written = {"w", "momentum", "velocity"}
        assert lamb.accesses(1) == (written | {"g"}, written)

    def test_adam_takes_one_pass(self):
        assert tf_optim_ext.Adam.program(amsgrad=True).passes == 1

    def test_reductions_of_one_level_share_a_pass(self):
        program = trace(lambda w, g, s, h: w * norm(w) / norm(g) + reduce_max(absolute(g)))
        assert program.passes == 2
        assert len(program.reductions(0)) == 3

    def test_a_reduction_of_a_reduction_is_a_pass_later(self):
        program = trace(lambda w, g, s, h: w - norm(g - reduce_mean(g)) * reduce_sum(w))
        assert program.passes == 3
        assert [len(program.reductions(stage)) for stage in range(3)] == [2, 1, 0]
        # What an early pass does not need it does not read.
        program = trace(lambda w, g, s, h: w - norm(g))
        assert program.accesses(0) == ({"g"}, set())
        # The slot is written in the last pass, although it needs no reduction.
        program = trace(rules.CASES["three passes"].rule, ("m",), ("beta_1",))
        assert program.passes == 4
        assert program.accesses(0) == ({"g", "w"}, set())
        assert program.accesses(2) == ({"g"}, set())
        assert program.accesses(3) == ({"w", "g", "m"}, {"w", "m"})

    def test_roots_are_what_a_pass_delivers(self):
        program = trace(lambda w, g, s, h: w - reduce_sum(g * g))
        (square_of_g,) = program.roots(0)
        assert program.nodes[square_of_g].op == "multiply"
        assert program.roots(1) == [program.outputs["w"]]
        assert program.needed(program.roots(0)) == sorted(
            [*program.roots(0), *inputs(program, "g")]
        )

    def test_equal_reductions_are_computed_once(self):
        program = trace(lambda w, g, s, h: w * norm(g) + norm(g) + reduce_sum(g * g))
        assert len(program.reductions(0)) == 1


def inputs(program, name):
    return [i for i, n in enumerate(program.nodes) if n.op == "input" and n.data == name]


class TestFingerprint:
    def test_equal_for_the_same_maths(self):
        def one(w, g, s, h):
            s.m = lerp(g, s.m, h.beta)
            return w - h.learning_rate * s.m

        def other(weights, gradient, slots, numbers):
            new = numbers.beta * slots.m + (1.0 - numbers.beta) * gradient
            slots.m = new
            if numbers.flag:
                return weights - numbers.learning_rate * new
            return weights

        first = trace(one, ("m",), ("beta",))
        second = trace(other, ("m", "unused"), ("unused", "beta"), {"flag": 1})
        assert first.fingerprint == second.fingerprint
        assert first == second

    def test_different_for_different_maths(self):
        different = [
            lambda w, g, s, h: w - g,
            lambda w, g, s, h: w - g * 1.0,
            lambda w, g, s, h: w - g * 2.0,
            lambda w, g, s, h: w - h.a * g,
            lambda w, g, s, h: w - h.b * g,
            lambda w, g, s, h: w - g * h.b,
            lambda w, g, s, h: w + g,
            lambda w, g, s, h: g - w,
            lambda w, g, s, h: w - s.m,
            lambda w, g, s, h: w - s.n,
            lambda w, g, s, h: w - reduce_sum(g),
            lambda w, g, s, h: w - reduce_max(g),
            lambda w, g, s, h: w - g * 0.0,
            lambda w, g, s, h: w - g * -0.0,
        ]
        fingerprints = {trace(r, ("m", "n"), ("a", "b")).fingerprint for r in different}
        assert len(fingerprints) == len(different)

    def test_what_is_written_where_counts(self):
        def one(w, g, s, h):
            s.a, s.b = g + w, g - w
            return w

        def other(w, g, s, h):
            s.b, s.a = g + w, g - w
            return w

        assert trace(one, ("a", "b")).fingerprint != trace(other, ("a", "b")).fingerprint
        assert trace(one, ("a", "b")).fingerprint != trace(one, ("b", "a")).fingerprint

    def test_flags_without_effect_share_a_kernel(self):
        program = tf_optim_ext.SGD.program
        plain = program(nesterov=False, has_momentum=False)
        assert program(nesterov=True, has_momentum=False).fingerprint == plain.fingerprint
        assert program(nesterov=True, has_momentum=True).fingerprint != plain.fingerprint

    def test_the_library_is_found_by_another_process(self):
        # Python's own hashes differ from one process to the next.
        code = (
            "import sys, types; sys.path.insert(0, sys.argv[1])\n"
            "package = types.ModuleType('p'); from importlib import util\n"
            "spec = util.spec_from_file_location('rule', sys.argv[2])\n"
            "rule = util.module_from_spec(spec); spec.loader.exec_module(rule)\n"
            "def maths(w, g, s, h):\n"
            "    s.m = rule.lerp(g, s.m, h.beta)\n"
            "    return w - h.learning_rate * s.m\n"
            "print(rule.trace(maths, ('m',), ('beta',)).fingerprint)\n"
        )

        def maths(w, g, s, h):
            s.m = lerp(g, s.m, h.beta)
            return w - h.learning_rate * s.m

        path = sys.modules["tf_optim_ext.rule"].__file__
        result = subprocess.run(
            [sys.executable, "-I", "-c", code, ".", path],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": "1"},
        )
        assert result.stdout.split() == [trace(maths, ("m",), ("beta",)).fingerprint]

    def test_no_two_programs_of_the_package_share_a_name_by_accident(self):
        found = {}
        for _, program in programs.all_programs():
            assert found.setdefault(program.fingerprint, program) == program


class TestErrors:
    def check(self, rule, error, match, **arguments):
        with pytest.raises(error, match=match):
            trace(rule, **{"slots": ("momentum",), "hyperparameters": ("beta",), **arguments})

    def test_branching_on_a_value(self):
        def branch(w, g, s, h):
            return w if g > 0 else -w

        self.check(branch, TypeError, "cannot branch on a value: use `where")
        self.check(lambda w, g, s, h: w if h.beta else g, TypeError, "cannot branch")
        self.check(lambda w, g, s, h: w and g, TypeError, "cannot branch")
        self.check(lambda w, g, s, h: where(0 < g < 1, w, g), TypeError, "cannot branch")
        self.check(lambda w, g, s, h: max(w, g), TypeError, "cannot branch")

    def test_undeclared_slot(self):
        def write(w, g, s, h):
            s.velocity = g
            return w

        self.check(write, AttributeError, r"slot 'velocity', which is not declared.*momentum")
        self.check(lambda w, g, s, h: w - s.m, AttributeError, r"slot 'm'.*\['momentum'\]")

    def test_undeclared_hyperparameter_or_flag(self):
        match = r"'gamma', which is not a declared .*\['beta', 'flag', 'gradient_scale'"
        self.check(lambda w, g, s, h: w * h.gamma, AttributeError, match, flags={"flag": True})

    @pytest.mark.parametrize(
        "result",
        [None, 1.0, (1, 2), "w", np.ones(3)],
        ids=["None", "number", "tuple", "str", "array"],
    )
    def test_no_tensor_returned(self, result):
        self.check(lambda w, g, s, h: result, TypeError, "must return the new weight. Received:")

    def test_scalar_returned(self):
        self.check(lambda w, g, s, h: h.learning_rate, TypeError, "must return the new weight")
        self.check(lambda w, g, s, h: reduce_sum(g), TypeError, "must return the new weight")

    def test_comparison_returned(self):
        self.check(lambda w, g, s, h: w > g, TypeError, "new value of 'w' must be a tensor")

    @pytest.mark.parametrize(
        "value", [lambda g, h: h.beta, lambda g, h: 0.0, lambda g, h: g > 0, lambda g, h: norm(g)]
    )
    def test_slot_that_is_no_tensor(self, value):
        def rule(w, g, s, h):
            s.momentum = value(g, h)
            return w

        self.check(rule, TypeError, "new value of 'momentum' must be a tensor")

    @pytest.mark.parametrize("name", ["w", "g", *RESERVED, "2nd", "a b", ""])
    @pytest.mark.parametrize("what", ["slots", "hyperparameters", "flags"])
    def test_names_that_mean_something_else(self, name, what):
        names = {name: True} if what == "flags" else (name,)
        with pytest.raises(
            ValueError, match="cannot be the name of a slot, hyperparameter or flag"
        ):
            trace(lambda w, g, s, h: w, **{what: names})

    def test_where_needs_a_comparison(self):
        self.check(lambda w, g, s, h: where(g, w, g), TypeError, "must be a comparison. Rec.*: g")
        self.check(lambda w, g, s, h: where(1.0, w, g), TypeError, "must be a comparison")
        self.check(lambda w, g, s, h: where(True, w, g), TypeError, "Received: True")

    @pytest.mark.parametrize(
        "rule",
        [
            lambda w, g, s, h: w * (g > 0),
            lambda w, g, s, h: w + reduce_sum(g > 0),
            lambda w, g, s, h: w + absolute(h.beta > 0),
            lambda w, g, s, h: where(g > 0, w > 0, g),
            lambda w, g, s, h: where((g > 0) == (w > 0), w, g),
        ],
    )
    def test_a_comparison_is_no_number(self, rule):
        self.check(rule, TypeError, "comparison")

    @pytest.mark.parametrize(
        "value", [np.ones(2), "1", None, True, np.float32(1), 1j, [1.0]], ids=repr
    )
    def test_what_a_rule_cannot_compute_with(self, value):
        self.check(lambda w, g, s, h: minimum(w, value), TypeError, "its arguments and with Python")

    def test_reductions_take_tensors(self):
        for reduction in (reduce_sum, reduce_max, reduce_mean, norm):
            self.check(lambda w, g, s, h, r=reduction: w * r(h.beta), TypeError, "take a tensor")
            self.check(lambda w, g, s, h, r=reduction: w * r(2.0), TypeError, "take a tensor")
            self.check(lambda w, g, s, h, r=reduction: w * r(norm(g)), TypeError, "take a tensor")

    @pytest.mark.parametrize(
        ("value", "what"),
        [
            (lambda g, s, h: reduce_sum(g), "reduce_sum"),
            (lambda g, s, h: s.n + h.weight_decay, "weight_decay"),
            (lambda g, s, h: s.n * h.gradient_scale, "gradient_scale"),
            (lambda g, s, h: s.n + global_sum(g) / reduce_mean(g), "size"),
            (lambda g, s, h: s.n + s.own, "own"),
        ],
    )
    def test_a_number_for_all_variables_that_depends_on_one_of_them(self, value, what):
        def rule(w, g, s, h):
            s.n = value(g, s, h)
            return w - s.n * g

        with pytest.raises(TypeError, match=f"'n' is one number for all.*{what}.*global_sum"):
            trace(rule, (), ("weight_decay",), None, ("own",), ("n",))
        # Each variable may have such a number of its own, and a sum over all is common.
        assert trace(rule, (), ("weight_decay",), None, ("own", "n")).passes >= 1
        trace(lambda w, g, s, h: w * global_sum(g * h.weight_decay), (), ("weight_decay",))

    @pytest.mark.parametrize("scope", ["variable_scalars", "optimizer_scalars"])
    def test_a_tensor_for_a_number(self, scope):
        def rule(w, g, s, h):
            s.n = s.n + g
            return w

        with pytest.raises(TypeError, match="'n' must be one number"):
            trace(rule, **{scope: ("n",)})

    @pytest.mark.parametrize("scope", ["slots", "hyperparameters", "variable_scalars"])
    def test_a_name_declared_twice(self, scope):
        declared = {"optimizer_scalars": ("n",), scope: ("n",)}
        with pytest.raises(ValueError, match="'n' is declared twice"):
            trace(lambda w, g, s, h: w, **declared)

    def test_errors_of_the_rule_itself_are_passed_on(self):
        self.check(lambda w, g, s, h: w / {}["x"], KeyError, "x")


class TestLimitsOfNativeKernels:
    def test_slots(self):
        def rule(w, g, s, h):
            for name in names:
                setattr(s, name, getattr(s, name) + g)
            return w

        names = [f"s{i}" for i in range(14)]
        cpp.emit_program(trace(rule, names), "fourteen")
        names.append("s14")
        with pytest.raises(ValueError, match=r"fifteen has 15 slots; .* at most 14"):
            cpp.emit_program(trace(rule, names), "fifteen")

    def test_reductions(self):
        def rule(w, g, s, h):
            for i in range(count):
                w = w + reduce_sum(g * float(i))
            return w + norm(g - reduce_sum(g))

        count = 6  # the first of them is that of g
        cpp.emit_program(trace(rule), "eight")
        count = 7
        with pytest.raises(ValueError, match=r"nine has 9 reductions; .* at most 8"):
            cpp.emit_program(trace(rule), "nine")

    def test_scalars(self):
        def rule(w, g, s, h):
            for name in names:
                w = w * getattr(h, name)
            return w

        names = [f"h{i}" for i in range(64)]
        cpp.emit_program(trace(rule, (), names), "sixty-four")
        names.append("h64")
        with pytest.raises(ValueError, match=r"has 65 scalars in one pass; .* at most 64"):
            cpp.emit_program(trace(rule, (), names), "sixty-five")

    def test_they_are_those_of_the_frame(self):
        header = (build.HERE / "kernel.h").read_text()
        assert f"kMaxArrays = {cpp.MAX_ARRAYS};" in header
        assert f"kMaxScalars = {cpp.MAX_SCALARS};" in header
        assert f"kMaxReductions = {cpp.MAX_REDUCTIONS};" in header

    def test_sources_say_what_they_are(self):
        text = cpp.emit(programs.all_programs())
        assert "AdamW(amsgrad=True, cautious=False" in text
        for _, program in programs.all_programs():
            assert f"namespace {cpp.kernel_name(program)} {{" in text


# ------------------------------------------------------------------------ what lowerings compute


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


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    try:
        build.find_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    every = [*ELEMENTWISE, *OF_SCALARS, *OF_REDUCTIONS, *OTHERS.values(), *CASES.values(), BY_ROW]
    return compiled.Library(tmp_path_factory.mktemp("rules"), every)


def _zeros(program, w):
    """The state that is numbers, before the first step."""
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
            numbers = scalars.Scalars(step, learning_rate, gradient_scale, hyperparameters)
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
    # powf, expf and logf of the C library and of Eigen are off by a few units in the last place,
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
    @pytest.mark.parametrize("pair", [(3.0, -2.5), (-1.0, 0.0)])
    def test_of_reductions(self, lower, half, pair):
        program = OF_REDUCTIONS[half]
        x, y = (np.array([value, 1.0, -1.0]) for value in pair)
        runner = lower(program, x)
        runner.step(y, 1, 0.1)
        for name in program.slots:
            with np.errstate(all="ignore"):
                expected = np.full(3, rules.OPERATIONS[name][1](*map(np.float64, pair)))
            assert_equal(runner.values[name], expected, self.TOLERANCE, name)

    @pytest.mark.parametrize(
        "shape", [(), (1,), (7,), (3, 5), (255,), (257,), (1024,), (40_000,)], ids=str
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


class TestNumPyLowering:
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

    @pytest.mark.parametrize("shape", [(5,), (1, 1), (7, 3), (3, 2, 5), (4, 20_000), (5000, 2)])
    def test_equals_plain_numpy(self, lower, shape):
        case = rules.BY_ROW
        if shape[0] > 100 and isinstance(lower(BY_ROW, np.ones(3), case.hyperparameters), NumPy):
            shape = (200, 2)  # it takes them one by one
        rng = np.random.default_rng(5)
        # A row of zeros, and rows of different magnitude.
        magnitude = np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1)) % 5
        w = np.float64(np.float32(rng.normal(size=shape) * magnitude))
        runner = lower(BY_ROW, w, case.hyperparameters)
        state = {"m": np.zeros(shape), **{n: np.zeros(shape[:1]) for n in rules.NUMBERS_BY_ROW}}
        actual, expected = [runner.values], [{"w": w, **state}]
        for step in range(1, 7):
            g = np.float64(np.float32(rng.normal(size=shape) * magnitude))
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

    @pytest.mark.parametrize(
        "lower",
        [
            # It takes seconds to compile.
            pytest.param(name, marks=pytest.mark.long) if name == "xla" else name
            for name in LOWERINGS
        ],
        indirect=True,
    )
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
