"""The rule language: tracing, its errors, and the limits of native kernels."""

import numpy as np
import pytest
import rules

import tf_optim_ext
from tf_optim_ext import catalogue
from tf_optim_ext.backends import numpy as numpy_lowering
from tf_optim_ext.backends import tensorflow as tensorflow_lowering
from tf_optim_ext.codegen import cpp, expressions
from tf_optim_ext.rule import (
    absolute,
    global_sum,
    lerp,
    minimum,
    norm,
    reduce_max,
    reduce_mean,
    reduce_sum,
    sqrt,
    trace,
    where,
)
from tf_optim_ext.rule.operations import COMPARISONS
from tf_optim_ext.rule.program import RESERVED

pytestmark = pytest.mark.once


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
        assert traced == set(expressions.FLOAT_OPERATIONS) | set(cpp.REDUCTIONS)
        assert traced == set(expressions.DOUBLE_OPERATIONS) | set(cpp.COMBINE)

    def test_arguments_are_numbered_before_their_uses(self):
        for _, program in catalogue.all_programs():
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

    def test_no_two_programs_of_the_package_share_a_name_by_accident(self):
        found = {}
        for _, program in catalogue.all_programs():
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

        with pytest.raises(
            TypeError, match=f"All variables share the scalar 'n'.*{what}.*global_sum"
        ):
            trace(rule, (), ("weight_decay",), None, ("own",), ("n",))
        # Each variable may have such a number of its own, and a sum over all is common.
        assert trace(rule, (), ("weight_decay",), None, ("own", "n")).passes >= 1
        trace(lambda w, g, s, h: w * global_sum(g * h.weight_decay), (), ("weight_decay",))

    @pytest.mark.parametrize("scope", ["variable_scalars", "optimizer_scalars"])
    def test_a_tensor_for_a_number(self, scope):
        def rule(w, g, s, h):
            s.n = s.n + g
            return w

        with pytest.raises(TypeError, match="'n' must be a scalar"):
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

    def test_sources_say_what_they_are(self):
        text = cpp.emit(catalogue.all_programs())
        assert "AdamW(amsgrad=True, cautious=False" in text
        for _, program in catalogue.all_programs():
            assert f"namespace {cpp.kernel_name(program)} {{" in text


# ------------------------------------------------------------------------ what lowerings compute
