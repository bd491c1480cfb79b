"""The op of the native library, misused."""

import numpy as np
import pytest
import tensorflow as tf
from native_steps import SGD

import tf_optim_ext
from tf_optim_ext.backends import native
from tf_optim_ext.rule import auxiliary


def handle_of(value):
    return tf.Variable(value).handle


class Op:
    """Arguments of the op, to be spoilt; `kept` are the variables that must not change."""

    PROGRAM = tf_optim_ext.Adam.program(amsgrad=False)
    SHAPES = ((3,), (2, 2))

    def __init__(self):
        shapes = self.SHAPES
        self.weights = [tf.Variable(tf.fill(s, 1.5)) for s in shapes]
        self.slots = [tf.Variable(tf.fill(s, 0.25)) for _ in self.PROGRAM.slots for s in shapes]
        own = [s[:1] if self.PROGRAM.by_row else () for s in shapes]
        numbers = own * len(self.PROGRAM.variable_scalars)
        numbers += [()] * len(self.PROGRAM.optimizer_scalars)
        self.scalars = [tf.Variable(np.full(shape, 0.5)) for shape in numbers]
        # Ops whose handles have gone would be a test of something else.
        self.kept = [*self.weights, *self.slots, *self.scalars]
        self.arguments = {
            "weights": [v.handle for v in self.weights],
            "slots": [v.handle for v in self.slots],
            "scalars": [v.handle for v in self.scalars],
            "gradients": [tf.ones(s) for s in shapes],
            "indices": [],
            "finished": 0,
            "learning_rate": 0.1,
            "gradient_scale": 1.0,
            "hyperparameters": np.full((1, len(self.PROGRAM.hyperparameters)), 0.75),
            "rule": f"rule_{self.PROGRAM.fingerprint}",
        }

    def run(self):
        native.library().ops.tf_optim_ext_step(**self.arguments)

    def values(self):
        return [np.array(v) for v in self.kept]


class OpWithNumbers(Op):
    """Likewise, of a rule with three numbers for all variables."""

    PROGRAM = tf_optim_ext.DAdaptAdam.program()


def kept(value):
    """The handle of a variable that lives as long as the tests."""
    VARIABLES.append(tf.Variable(value))
    return VARIABLES[-1].handle


def put(name, value, index=None):
    """A change of an argument, or of one element of it; `value` may be a function that makes it."""

    def change(op):
        new = value() if callable(value) else value
        if index is None:
            op.arguments[name] = new
        else:
            op.arguments[name][index] = new

    return change


def drop(name, count=1):
    return lambda op: op.arguments.update({name: op.arguments[name][:-count]})


def repeat(name, index=0):
    return lambda op: op.arguments[name].append(op.arguments[name][index])


def copy_to(name, index, other, other_index):
    return lambda op: op.arguments[name].__setitem__(index, op.arguments[other][other_index])


def _uninitialized():
    return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[3], shared_name="never_assigned")


def _destroyed():
    handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[3], shared_name="destroyed")
    tf.raw_ops.AssignVariableOp(resource=handle, value=tf.ones(3))
    tf.raw_ops.DestroyResourceOp(resource=handle)
    return handle


def _of_something_else():
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
    TABLES.append(table)
    return table.resource_handle


def _several():
    return tf.stack([handle_of(tf.ones(3)), handle_of(tf.ones(3))])


TABLES: list = []
VARIABLES: list = []
WIDTH = len(Op.PROGRAM.hyperparameters)
BAD = {
    "a gradient too few": drop("gradients"),
    "a gradient too many": repeat("gradients"),
    "no gradients": put("gradients", []),
    "no variables": put("weights", []),
    "a variable too few": drop("weights"),
    "a variable too many": put("weights", lambda: [handle_of(tf.ones(3)) for _ in range(3)]),
    "nothing at all": lambda op: op.arguments.update(weights=[], slots=[], gradients=[]),
    "a slot too few": drop("slots"),
    "slots of one variable only": drop("slots", 2),
    "no slots": put("slots", []),
    "a slot too many": put("slots", lambda: [handle_of(tf.ones(3)) for _ in range(5)]),
    "another shape of a gradient": put("gradients", lambda: tf.ones(4), 0),
    "another rank of a gradient": put("gradients", lambda: tf.ones(4), 1),
    "a scalar gradient": put("gradients", lambda: tf.ones([]), 0),
    "an empty gradient": put("gradients", lambda: tf.ones([0]), 0),
    "a gradient that would broadcast": put("gradients", lambda: tf.ones([1, 2]), 1),
    "another shape of a slot": put("slots", lambda: handle_of(tf.ones(4)), 0),
    "another rank of a slot": put("slots", lambda: handle_of(tf.ones(4)), 3),
    "slots in another order": lambda op: op.arguments["slots"].reverse(),
    "a float64 gradient": put("gradients", lambda: tf.ones(3, tf.float64), 0),
    "an integer gradient": put("gradients", lambda: tf.ones(3, tf.int32), 0),
    "a complex gradient": put("gradients", lambda: tf.ones(3, tf.complex64), 0),
    "a gradient of text": put("gradients", lambda: tf.constant(["a", "b", "c"]), 0),
    "a gradient of booleans": put("gradients", lambda: tf.constant([True, False, True]), 0),
    "a resource for a gradient": copy_to("gradients", 0, "weights", 0),
    "None for a gradient": put("gradients", None, 0),
    "a tensor for a variable": put("weights", lambda: tf.ones(3), 0),
    "None for a variable": put("weights", None, 0),
    "a variable of float64": put("weights", lambda: handle_of(tf.ones(3, tf.float64)), 0),
    "a variable of integers": put("weights", lambda: handle_of(tf.ones(3, tf.int32)), 0),
    "a variable of text": put("weights", lambda: handle_of(tf.constant(["a", "b", "c"])), 0),
    "a slot of float64": put("slots", lambda: handle_of(tf.ones(3, tf.float64)), 0),
    "a variable twice": copy_to("weights", 1, "weights", 0),
    "a variable for its own slot": copy_to("slots", 0, "weights", 0),
    "a variable for another's slot": copy_to("slots", 0, "weights", 1),
    "a slot for a variable": copy_to("weights", 0, "slots", 0),
    "a slot twice": copy_to("slots", 2, "slots", 0),
    "a variable without a value": put("weights", _uninitialized, 0),
    "a slot without a value": put("slots", _uninitialized, 0),
    "a variable that is gone": put("weights", _destroyed, 0),
    "a slot that is gone": put("slots", _destroyed, 2),
    "a table for a variable": put("weights", _of_something_else, 0),
    "a table for a slot": put("slots", _of_something_else, 0),
    "two handles in one tensor": put("weights", _several, 0),
    "an unknown rule": put("rule", "rule_0123456789abcdef"),
    "no rule": put("rule", ""),
    "a number for a rule": put("rule", 3),
    "a rule with other slots": put("rule", f"rule_{SGD.fingerprint}"),
    "a hyperparameter too few": put("hyperparameters", np.ones((1, WIDTH - 1))),
    "a hyperparameter too many": put("hyperparameters", np.ones((1, WIDTH + 1))),
    "no hyperparameters": put("hyperparameters", np.ones((1, 0))),
    "no row of hyperparameters": put("hyperparameters", np.ones((0, WIDTH))),
    "three rows of hyperparameters": put("hyperparameters", np.ones((3, WIDTH))),
    "a vector of hyperparameters": put("hyperparameters", np.ones(WIDTH)),
    "a cube of hyperparameters": put("hyperparameters", np.ones((1, 1, WIDTH))),
    "float32 hyperparameters": put("hyperparameters", lambda: tf.ones([1, WIDTH])),
    "NaN for the step": put("finished", float("nan")),
    "half a step": put("finished", 1.5),
    "text for the step": put("finished", "one"),
    "None for the step": put("finished", None),
    "an int32 step": put("finished", lambda: tf.constant(1, tf.int32)),
    "two steps": put("finished", np.array([0, 1])),
    "no step": put("finished", np.array([], np.int64)),
    "a variable that is no step": put("finished", lambda: kept(3.0)),
    "a variable of two steps": put("finished", lambda: kept(np.array([1, 2]))),
    "two variables of steps": put("finished", lambda: tf.stack([kept(1), kept(2)])),
    "a step without a value": put("finished", _uninitialized),
    "a table as the step": put("finished", _of_something_else),
    "an integer variable as the rate": put("learning_rate", lambda: kept(1)),
    "a vector as the rate": put("learning_rate", lambda: kept(np.ones(2))),
    "three learning rates": put("learning_rate", np.array([0.1, 0.2, 0.3])),
    "no learning rate": put("learning_rate", np.array([])),
    "an integer learning rate": put("learning_rate", lambda: tf.constant(1)),
    "three scales": put("gradient_scale", np.ones(3)),
    "no scale": put("gradient_scale", np.ones(0)),
    "a float32 scale": put("gradient_scale", lambda: tf.ones([])),
}


BAD_NUMBERS = {
    "a number too few": drop("scalars"),
    "no numbers": put("scalars", []),
    "a number too many": put(
        "scalars", lambda: [handle_of(tf.ones([], tf.float64)) for _ in range(4)]
    ),
    "a number of float32": put("scalars", lambda: handle_of(tf.ones([])), 0),
    "a vector for a number": put("scalars", lambda: handle_of(tf.ones(2, tf.float64)), 1),
    "an empty number": put("scalars", lambda: handle_of(tf.ones(0, tf.float64)), 1),
    "a number without a value": put("scalars", _uninitialized, 0),
    "a number that is gone": put("scalars", _destroyed, 1),
    "a number twice": copy_to("scalars", 1, "scalars", 0),
    "a slot for a number": copy_to("scalars", 0, "slots", 0),
    "a number for a slot": copy_to("slots", 0, "scalars", 0),
    "a number for a variable": copy_to("weights", 0, "scalars", 0),
    "a table for a number": put("scalars", _of_something_else, 0),
    "a tensor for a number": put("scalars", lambda: tf.ones([], tf.float64), 0),
}


class OpByRows(Op):
    """Likewise, where the first of two variables has a gradient of rows 1 and 4 only."""

    SHAPES = ((5, 3), (2, 2))
    LAZY = False

    def __init__(self):
        super().__init__()
        self.arguments.update(
            gradients=[tf.ones([2, 3]), tf.ones([2, 2])],
            indices=[tf.constant([1, 4], tf.int64)],
            by_rows=[0],
            lazy=self.LAZY,
        )


class LazyOp(OpByRows):
    LAZY = True


class OpOfRows(LazyOp):
    """And of a rule that keeps a number for each row."""

    PROGRAM = tf_optim_ext.Adagrad.program(row_wise=True)


def indices(*values):
    return put("indices", lambda: tf.constant(values, tf.int64), 0)


def both(**changes):
    def spoil(op):
        op.arguments.update({name: change(op.arguments[name]) for name, change in changes.items()})

    return spoil


BAD_ROWS = {
    "a repeated index": indices(1, 1),
    "a negative index": indices(-1, 4),
    "an index one too large": indices(1, 5),
    "an index far too large": indices(1, 2**62),
    "an index far too small": indices(-(2**63), 1),
    "an index too few": indices(1),
    "an index too many": indices(0, 1, 4),
    "no index": indices(),
    "a matrix of indices": put("indices", lambda: tf.constant([[1, 4]], tf.int64), 0),
    "a number for indices": put("indices", lambda: tf.constant(1, tf.int64), 0),
    "int32 indices": put("indices", lambda: tf.constant([1, 4], tf.int32), 0),
    "float indices": put("indices", lambda: tf.constant([1.0, 4.0]), 0),
    "None for indices": put("indices", None, 0),
    "no indices": put("indices", []),
    "indices twice": repeat("indices"),
    "a row of values too few": put("gradients", lambda: tf.ones([1, 3]), 0),
    "a row of values too many": put("gradients", lambda: tf.ones([3, 3]), 0),
    "narrower values": put("gradients", lambda: tf.ones([2, 2]), 0),
    "wider values": put("gradients", lambda: tf.ones([2, 4]), 0),
    "a vector of values": put("gradients", lambda: tf.ones([6]), 0),
    "a cube of values": put("gradients", lambda: tf.ones([2, 3, 1]), 0),
    "values that would broadcast": put("gradients", lambda: tf.ones([2, 1]), 0),
    "a dense gradient with indices": put("gradients", lambda: tf.ones([5, 3]), 0),
    "a gradient too few, indices too many": both(
        gradients=lambda given: given[:1], indices=lambda given: 2 * given
    ),
    "a gradient too many, no indices": both(
        gradients=lambda given: [*given, given[1]], indices=lambda given: []
    ),
    "float64 values": put("gradients", lambda: tf.ones([2, 3], tf.float64), 0),
    "a position that is no variable": put("by_rows", [2]),
    "a negative position": put("by_rows", [-1]),
    "a huge position": put("by_rows", [2**31 - 1]),
    "a position of a dense gradient": put("by_rows", [1]),
    "no position": put("by_rows", []),
    "two positions": put("by_rows", [0, 1]),
    "repeated positions": lambda op: op.arguments.update(
        by_rows=[0, 0], indices=op.arguments["indices"] * 2
    ),
    "unsorted positions": lambda op: op.arguments.update(
        by_rows=[1, 0], indices=op.arguments["indices"] * 2
    ),
}
BAD_NUMBERS_OF_ROWS = {
    "a number too few": put("scalars", lambda: handle_of(tf.ones(4, tf.float64)), 0),
    "a number too many": put("scalars", lambda: handle_of(tf.ones(6, tf.float64)), 0),
    "one number for all rows": put("scalars", lambda: handle_of(tf.ones([], tf.float64)), 0),
    "no numbers": put("scalars", lambda: handle_of(tf.ones(0, tf.float64)), 0),
    "float32 numbers": put("scalars", lambda: handle_of(tf.ones(5)), 0),
    "numbers of another variable": lambda op: op.arguments["scalars"].reverse(),
    "numbers of one variable only": drop("scalars"),
    "numbers twice": copy_to("scalars", 1, "scalars", 0),
    "numbers without a value": put("scalars", _uninitialized, 0),
}


def assert_refused(op, graph):
    """The op raises, changes nothing, and leaves nothing locked."""
    before = op.values()
    # TensorFlow itself has an assertion for tensors of a wrong dtype in graphs.
    with pytest.raises((ValueError, TypeError, AssertionError, tf.errors.OpError)) as error:
        tf.function(op.run, autograph=False)() if graph else op.run()
    assert str(error.value)
    for old, new in zip(before, op.values(), strict=True):
        np.testing.assert_array_equal(old, new)
    for variable in op.kept:
        variable.assign_add(tf.ones_like(variable))


class FusedOp(Op):
    """The op with sums before the rule and averages after it."""

    def __init__(self):
        super().__init__()
        beside = [tf.Variable(tf.fill(s, 0.125)) for _ in range(2) for s in self.SHAPES]
        self.kept += beside
        kernels = {
            name: f"rule_{getattr(auxiliary, name)().fingerprint}"
            for name in ("accumulate", "average", "reset")
        }
        self.arguments["slots"] += [v.handle for v in beside]
        self.arguments.update(kernels, beside=[0.5, 0.75], count=2)

    def run(self):
        native.library().ops.tf_optim_ext_fused_step(**self.arguments)


def _alone(name):
    """Keeps one of the programs beside the rule and all that belongs to the others."""
    others = {"accumulate", "average", "reset"} - {name}
    return lambda op: op.arguments.update(dict.fromkeys(others, ""))


BAD_BESIDE = {
    "sums too few": drop("slots"),
    "no averages": drop("slots", 2),
    "no sums and averages": drop("slots", 4),
    "sums of another shape": put("slots", lambda: handle_of(tf.ones(4)), 4),
    "sums of float64": put("slots", lambda: handle_of(tf.ones(3, tf.float64)), 4),
    "averages without a value": put("slots", _uninitialized, 6),
    "a variable for its average": copy_to("slots", 6, "weights", 0),
    "a sum twice": copy_to("slots", 5, "slots", 4),
    "no numbers beside": put("beside", []),
    "a number beside too few": drop("beside"),
    "a number beside too many": put("beside", [0.5, 0.75, 1.0]),
    "a vector beside": put("beside", [np.ones(2), 0.5]),
    "nothing beside": put("beside", [np.ones(0), 0.5]),
    "a float32 number beside": put("beside", lambda: [tf.ones([]), tf.ones([])]),
    "text beside": put("beside", ["a", "b"]),
    "an unknown program": put("average", "rule_0123456789abcdef"),
    "a rule with slots": put("average", f"rule_{Op.PROGRAM.fingerprint}"),
    "an average as sum": put("accumulate", f"rule_{auxiliary.average().fingerprint}"),
    "a sum as average": put("average", f"rule_{auxiliary.accumulate().fingerprint}"),
    "an average as reset": put("reset", f"rule_{auxiliary.average().fingerprint}"),
    "sums that are not reset": put("reset", ""),
    "gradients of sums that are complete": put("accumulate", ""),
    "only sums": _alone("accumulate"),
    "only averages": _alone("average"),
    "only reset": _alone("reset"),
    "no count": put("count", 0),
    "another count": put("count", 3),
    "a count of text": put("count", "two"),
    "a gradient too few": drop("gradients"),
    "no gradients": put("gradients", []),
}

TWICE = {"a variable for its average", "a sum twice"}


@pytest.mark.usefixtures("native_only")
class TestFusedOp:
    def test_the_arguments_are_good_until_spoilt(self):
        op = FusedOp()
        before = op.values()
        op.run()
        for old, new in zip(before, op.values()):
            assert np.all(old != new)
        for sums in op.kept[-4:-2]:
            np.testing.assert_array_equal(sums, tf.zeros_like(sums))

    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    @pytest.mark.parametrize("name", BAD_BESIDE)
    def test_bad_arguments_change_nothing(self, name, graph):
        op = FusedOp()
        BAD_BESIDE[name](op)
        assert_refused(op, graph)

    # XLA works on values, so that a variable may be there twice.
    @pytest.mark.parametrize("name", sorted(BAD_BESIDE.keys() - TWICE))
    def test_inside_xla(self, name):
        if reason := native.why_not_inside_xla():
            pytest.skip(reason)
        op = FusedOp()
        BAD_BESIDE[name](op)
        before = op.values()
        with pytest.raises((ValueError, TypeError, AssertionError, tf.errors.OpError)):
            tf.function(op.run, jit_compile=True, autograph=False)()
        for old, new in zip(before, op.values(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_rows_beside_what_has_all(self):
        op = FusedOp()
        rows = tf.constant([0, 2], tf.int64)
        op.arguments.update(gradients=[tf.ones(2), tf.ones([2, 2])], indices=[rows], by_rows=[0])
        op.arguments.update(rule=f"rule_{SGD.fingerprint}")
        op.arguments.update(slots=op.arguments["slots"][-4:])
        op.arguments.update(hyperparameters=np.full((1, len(SGD.hyperparameters)), 0.75))
        before = op.values()
        with pytest.raises(tf.errors.InvalidArgumentError, match="have all rows"):
            native.library().ops.tf_optim_ext_fused_step(**op.arguments, lazy=True)
        for old, new in zip(before, op.values(), strict=True):
            np.testing.assert_array_equal(old, new)
        op.run()


@pytest.mark.usefixtures("native_only")
class TestOp:
    """The op refuses what would crash it; Python code that calls it checks some of this again."""

    @pytest.mark.parametrize("name", BAD_NUMBERS)
    def test_bad_numbers_change_nothing(self, name):
        op = OpWithNumbers()
        op.run()
        before = op.values()
        BAD_NUMBERS[name](op)
        with pytest.raises((tf.errors.OpError, TypeError, ValueError)):
            op.run()
        for a, b in zip(op.values(), before, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_the_arguments_are_good_until_spoilt(self):
        op = Op()
        before = op.values()
        op.run()
        for old, new in zip(before, op.values()):
            assert np.all(old != new)

    def test_handles_may_share_a_tensor(self):
        for kind in (Op, OpWithNumbers):
            expected, op = kind(), kind()
            expected.run()
            for name in ("weights", "slots", "scalars"):
                handles = op.arguments[name]
                op.arguments[name] = [tf.stack(h) for h in (handles[:1], handles[1:]) if h]
            op.run()
            for a, b in zip(op.values(), expected.values(), strict=True):
                np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("rate", [np.float32(0.3), np.float64(0.3)])
    def test_numbers_may_be_in_variables(self, rate):
        results = []
        for number in (tf.constant, kept):
            op = Op()
            op.arguments.update(finished=number(np.int64(4)), learning_rate=number(rate))
            op.run()
            results.append(op.values())
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize(("name", "value"), [("finished", np.int64(1)), ("learning_rate", 0.5)])
    def test_numbers_in_variables_inside_xla(self, name, value):
        if reason := native.why_not_inside_xla():
            pytest.skip(reason)
        op = Op()
        op.arguments[name] = kept(value)
        before = op.values()
        with pytest.raises(tf.errors.InvalidArgumentError, match="must not be a variable"):
            tf.function(op.run, jit_compile=True, autograph=False)()
        for old, new in zip(before, op.values(), strict=True):
            np.testing.assert_array_equal(old, new)

    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    @pytest.mark.parametrize("name", BAD)
    def test_bad_arguments_change_nothing(self, name, graph):
        op = Op()
        BAD[name](op)
        assert_refused(op, graph)
        Op().run()

    @pytest.mark.parametrize(
        ("name", "message"),
        {
            "a gradient too few": "needs 1 weights for 1 gradients. Received 2",
            "no slots": r"The rule needs 4 slots for 2 gradients. Received 0",
            "another shape of a gradient": r"gradient of shape \[4\] was given for variable number",
            "another shape of a slot": r"slot of shape \[4\] belongs to a variable of shape \[3\]",
            "a variable of float64": "A variable has dtype double; allowed are float, bfloat16",
            "a slot of float64": "A slot has dtype double",
            "a variable twice": "same variable was given twice",
            "an unknown rule": "no kernel rule_0123456789abcdef",
            "a hyperparameter too few": r"shape \[1 or 2, 6\]. Received \[1,5\]",
            "three scales": "1 or 2 elements. Received 3",
            "two steps": r"`finished` must be one int64. Received int64 of shape \[2\]",
            "a variable that is no step": r"`finished` must be one int64. Received float of",
            "a vector as the rate": r"`learning_rate` must be one float or double. .* shape \[2\]",
            "two handles in one tensor": "The rule needs 2 weights for 2 gradients. Received 3",
        }.items(),
    )
    def test_messages(self, name, message):
        op = Op()
        BAD[name](op)
        with pytest.raises(tf.errors.OpError, match=message):
            op.run()

    @pytest.mark.parametrize("shape", [(4,), (), (0,), (1, 3), (3, 1)], ids=str)
    def test_a_shape_that_is_known_when_it_runs(self, shape):
        op = Op()

        @tf.function(input_signature=[tf.TensorSpec(None)])
        def step(gradient):
            op.arguments["gradients"][0] = gradient
            op.run()

        before = op.values()
        with pytest.raises(tf.errors.InvalidArgumentError, match="A gradient of shape"):
            step(tf.ones(shape))
        for old, new in zip(before, op.values()):
            np.testing.assert_array_equal(old, new)
        step(tf.ones(3))
        assert np.all(op.values()[0] != before[0])

    def test_a_variable_that_changed_its_shape(self):
        op = Op()
        variable = tf.Variable(tf.ones(3), shape=tf.TensorShape(None))
        op.arguments["weights"][0] = variable.handle
        op.run()
        variable.assign(tf.ones([5]))
        with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
            op.run()
        np.testing.assert_array_equal(variable, np.ones(5))

    def test_numbers_for_each_variable(self):
        # One row and one scale for both, or one for each.
        results = []
        for rows in ((1, 1), (2, 1), (1, 2), (2, 2)):
            op = Op()
            op.arguments["hyperparameters"] = np.full((rows[0], WIDTH), 0.75)
            op.arguments["gradient_scale"] = np.full(rows[1], 0.25)
            op.run()
            results.append(op.values())
        for other in results[1:]:
            for old, new in zip(results[0], other):
                np.testing.assert_array_equal(old, new)
        op = Op()
        op.arguments["learning_rate"] = np.array([0.1, 0.1])
        op.arguments["gradient_scale"] = np.full(1, 0.25)
        op.run()
        for old, new in zip(results[0], op.values()):
            np.testing.assert_array_equal(old, new)
        op = Op()
        op.arguments["learning_rate"] = np.array([0.1, 0.2])
        op.arguments["gradient_scale"] = np.full(1, 0.25)
        op.run()
        np.testing.assert_array_equal(op.values()[0], results[0][0])
        assert np.all(op.values()[1] != results[0][1])
        op = Op()
        op.arguments["gradient_scale"] = np.array([0.25, 0.5])
        op.run()
        np.testing.assert_array_equal(op.values()[0], results[0][0])
        assert np.all(op.values()[1] != results[0][1])

    @pytest.mark.parametrize(
        "gradients",
        [
            lambda: [],
            lambda: [tf.ones(3, tf.int32)],
            lambda: [tf.ones(3), tf.ones(3, tf.complex64)],
            lambda: [tf.ones(3), None],
            lambda: [handle_of(tf.ones(3))],
        ],
    )
    def test_squared_norms_of_what_they_cannot_be_of(self, gradients):
        with pytest.raises((ValueError, TypeError, tf.errors.OpError)):
            native.library().ops.tf_optim_ext_squared_norms(gradients=gradients())

    def test_shape_of_squared_norms(self):
        @tf.function
        def norms(a, b):
            result = native.squared_norms([a, b])
            assert result.shape == [2]
            return result

        np.testing.assert_array_equal(norms(tf.ones(3), tf.ones([2, 2])), [3, 4])


@pytest.mark.usefixtures("native_only")
class TestOpByRows:
    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    @pytest.mark.parametrize("kind", [OpByRows, LazyOp, OpOfRows])
    def test_the_arguments_are_good_until_spoilt(self, kind, graph):
        op = kind()
        before = op.values()
        tf.function(op.run, autograph=False)() if graph else op.run()
        for old, new in zip(before, op.values(), strict=True):
            changed = np.any((old != new).reshape(len(old), -1), axis=1)
            # Rows without gradient are left alone, or what their slots hold moves them.
            rows = [False, True, False, False, True] if kind.LAZY and len(old) == 5 else True
            np.testing.assert_array_equal(changed, np.broadcast_to(rows, changed.shape))

    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    @pytest.mark.parametrize("kind", [OpByRows, LazyOp, OpOfRows])
    @pytest.mark.parametrize("name", BAD_ROWS)
    def test_bad_rows_change_nothing(self, name, kind, graph):
        op = kind()
        BAD_ROWS[name](op)
        assert_refused(op, graph)

    def test_unsorted_rows(self):
        # An update of all rows walks through them in order.
        op = OpByRows()
        indices(4, 1)(op)
        assert_refused(op, False)
        with pytest.raises(tf.errors.InvalidArgumentError, match="number 0 must be increasing"):
            op.run()
        sorted_, unsorted = LazyOp(), LazyOp()
        indices(1, 4)(sorted_)
        indices(4, 1)(unsorted)
        rows = unsorted.arguments["gradients"][0]
        unsorted.arguments["gradients"][0] = tf.reverse(rows, [0])
        sorted_.run()
        unsorted.run()
        for expected, actual in zip(sorted_.kept, unsorted.kept):
            np.testing.assert_array_equal(actual, expected)

    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    @pytest.mark.parametrize("name", BAD_NUMBERS_OF_ROWS)
    def test_bad_numbers_of_rows_change_nothing(self, name, graph):
        op = OpOfRows()
        BAD_NUMBERS_OF_ROWS[name](op)
        assert_refused(op, graph)

    @pytest.mark.parametrize(
        ("name", "message"),
        {
            "a repeated index": "variable number 0 must be increasing",
            "a negative index": r"must be in \[0, 5\)\. Received -1",
            "an index one too large": "Received 5",
            "an index too few": r"gradient of shape \[2,3\] was given for variable number 0",
            "a matrix of indices": "variable number 0 needs a vector of indices",
            "no indices": "1 gradients need indices",
            "a negative position": "`by_rows` must be increasing positions of variables",
            "repeated positions": "`by_rows` must be increasing positions of variables",
        }.items(),
    )
    def test_messages(self, name, message):
        op = OpByRows()
        BAD_ROWS[name](op)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            op.run()

    def test_rows_of_a_scalar(self):
        op = OpByRows()
        scalar = tf.Variable(1.0)
        slots = [tf.Variable(0.0) for _ in op.PROGRAM.slots]
        op.arguments.update(
            weights=[scalar.handle],
            slots=[slot.handle for slot in slots],
            gradients=[tf.ones([1])],
            indices=[tf.constant([0], tf.int64)],
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="and the variable rows"):
            op.run()
        assert float(scalar) == 1.0

    @pytest.mark.parametrize(
        "program",
        [
            tf_optim_ext.Lamb.program(),
            tf_optim_ext.Nadam.program(),
            tf_optim_ext.Adam.program(amsgrad=False, cautious=True),
        ],
        ids=["two passes", "a number for all", "a mean over the variable"],
    )
    def test_lazy_steps_of_a_rule_over_whole_variables(self, program):
        class OfAll(OpByRows):
            PROGRAM = program

        op = OfAll()
        op.arguments["lazy"] = True
        before = op.values()
        with pytest.raises(tf.errors.InvalidArgumentError, match="some rows without the others"):
            op.run()
        for old, new in zip(before, op.values(), strict=True):
            np.testing.assert_array_equal(old, new)
        op.arguments["lazy"] = False
        op.run()
        assert np.all(op.values()[0] != before[0])

    def test_a_gradient_of_no_rows(self):
        for kind in (OpByRows, LazyOp, OpOfRows):
            op = kind()
            op.arguments.update(gradients=[tf.ones([0, 3]), tf.ones([2, 2])])
            indices()(op)
            before = op.values()
            op.run()
            assert np.all((op.values()[0] == before[0]) == kind.LAZY)
            assert np.all(op.values()[1] != before[1])


SUM_OF_WHAT_IT_CANNOT_BE = {
    "an index one too large": ([0, 7], (2, 3), r"'x' has index 7, but the variable has 7 rows"),
    "a negative index": ([-1, 0], (2, 3), r"'x' has index -1, but the variable has 7 rows, \[0, 7"),
    "the last of many": ([*range(7)] * 60 + [2**31 - 1], (421, 3), "has index 2147483647"),
    "a matrix of indices": ([[0, 1]], (1, 3), "indices of shape|must be rank 1"),
    "a number for indices": (0, (1, 3), "indices of shape|must be rank 1"),
    "a number for values": ([0], (), "values of shape|must be at least rank 1"),
    "a row of values too few": (
        [0, 1],
        (1, 3),
        r"shape \[2\] and values of shape \[1,3",
    ),
    "a row of values too many": ([0, 1], (3, 3), r"\[3,3\]; there must be one row of values for"),
    "no values": ([0, 1], (0, 3), "one row of values for each index"),
    "no indices": (np.zeros(0, np.int64), (1, 3), "one row of values for each index"),
}


@pytest.mark.usefixtures("native_only")
class TestSumRows:
    def sum(self, indices, values, rows=7, graph=False):
        def run(indices, values):
            result = native.sum_rows(tf.IndexedSlices(values, indices), rows, "x", True)
            return result.indices, result.values

        run = tf.function(run) if graph else run
        return run(tf.constant(indices), tf.constant(values))

    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    @pytest.mark.parametrize("dtype", [np.int32, np.int64])
    @pytest.mark.parametrize("name", SUM_OF_WHAT_IT_CANNOT_BE)
    def test_what_it_cannot_be_of(self, name, dtype, graph):
        indices, shape, message = SUM_OF_WHAT_IT_CANNOT_BE[name]
        # Where shapes are known, a graph is not even built.
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
            self.sum(np.array(indices, dtype), np.ones(shape, np.float32), graph=graph)

    @pytest.mark.parametrize("name", SUM_OF_WHAT_IT_CANNOT_BE)
    def test_shapes_that_are_known_when_it_runs(self, name):
        @tf.function(input_signature=[tf.TensorSpec(None, tf.int64), tf.TensorSpec(None)])
        def run(indices, values):
            return native.sum_rows(tf.IndexedSlices(values, indices), 7, "x", True).values

        indices, shape, message = SUM_OF_WHAT_IT_CANNOT_BE[name]
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run(tf.constant(indices, tf.int64), tf.ones(shape))
        np.testing.assert_array_equal(run(tf.constant([3, 3], tf.int64), tf.ones([2, 1])), [[2.0]])

    @pytest.mark.parametrize("indices", [[0.0, 1.0], ["0", "1"], [True, False]], ids=str)
    def test_indices_that_are_no_integers(self, indices):
        with pytest.raises((TypeError, ValueError, tf.errors.OpError)):
            self.sum(indices, np.ones((2, 3), np.float32))

    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    @pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
    @pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16, tf.float64])
    def test_sums(self, dtype, index_dtype, graph):
        values = tf.cast(tf.constant([[1.5, 2], [3, 4], [5, 6], [-7, 8]]), dtype)
        found, sums = self.sum(np.array([6, 0, 6, 6], index_dtype), values, graph=graph)
        assert found.dtype == tf.int64
        assert sums.dtype == tf.float32
        np.testing.assert_array_equal(found, [0, 6])
        np.testing.assert_array_equal(sums, [[3, 4], [-0.5, 16]])

    @pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
    def test_ranks_and_nothing(self, shape):
        values = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
        found, sums = self.sum([5, 2, 5, 0], values)
        np.testing.assert_array_equal(found, [0, 2, 5])
        np.testing.assert_array_equal(sums, [values[3], values[1], values[0] + values[2]])
        found, sums = self.sum(np.zeros(0, np.int64), values[:0], rows=0)
        assert found.shape == (0,)
        assert sums.shape == (0, *shape)

    @pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
    @pytest.mark.parametrize("increasing", [False, True])
    def test_different_indices_are_not_sorted_without_need(self, increasing, dtype):
        values = tf.cast(tf.reshape(tf.range(500.0), [250, 2]), dtype)
        order = np.random.default_rng(0).permutation(1000)[:250]
        found = native.sum_rows(tf.IndexedSlices(values, tf.constant(order)), 1000, "x", increasing)
        handed_on = not increasing and dtype == tf.float32
        expected = np.arange(250) if handed_on else np.argsort(order)
        np.testing.assert_array_equal(found.indices, order[expected])
        np.testing.assert_array_equal(found.values, tf.cast(values, tf.float32).numpy()[expected])

    @pytest.mark.parametrize("increasing", [False, True])
    def test_one_repeated_index_among_many(self, increasing):
        order = np.random.default_rng(0).permutation(1000)[:250]
        order[-1] = order[17]
        values = np.ones((250, 2), np.float32)
        found = native.sum_rows(
            tf.IndexedSlices(tf.constant(values), tf.constant(order)), 1000, "x", increasing
        )
        np.testing.assert_array_equal(found.indices, np.unique(order))
        assert float(tf.reduce_sum(found.values)) == 500.0

    def test_known_shapes(self):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 3])])
        def run(indices, values):
            result = native.sum_rows(tf.IndexedSlices(values, indices), 7, "x", True)
            assert result.indices.shape.as_list() == [None]
            assert result.values.shape.as_list() == [None, 3]
            return result.values

        assert run(tf.constant([1, 1]), tf.ones([2, 3])).shape == (1, 3)
