"""Bad input gives a clear error and changes nothing: the model, the slots, the step counter."""

import re

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    KINDS,
    arguments,
    arrays,
    assert_close,
    make_gradients,
    make_variable,
    make_variables,
    run_eagerly,
    run_in_function,
    same,
    train,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from legacy import legacy

import tf_optim_ext

ADAM = registry.BY_NAME["Adam"]
PAIRS = r"\(gradient, variable\) pairs"
VARIABLE = r"second element.*keras\.Variable.*tf\.Variable"


def good_pairs(variables):
    return list(zip([tf.constant(g) for g in make_gradients(7)], variables))


def instead(gradient, variable=None):
    """Replaces the second pair, that of `bias`, by one that is wrong."""

    def make(variables):
        pairs = good_pairs(variables)
        pairs[1] = (gradient, variables[1] if variable is None else variable)
        return pairs

    return make


# Name: what is given in place of good pairs, the error, a pattern of its message.
CASES = {
    "a number": (lambda v: 5, TypeError, PAIRS),
    "None": (lambda v: None, TypeError, PAIRS),
    "variables": (lambda v: v, TypeError, PAIRS),
    "text": (lambda v: "ab", TypeError, PAIRS),
    "None in the list": (lambda v: [None], TypeError, PAIRS),
    "a single in a tuple": (lambda v: [(tf.ones(()),)], TypeError, PAIRS),
    "a triple": (lambda v: [(tf.ones(()), v[2], 3)], TypeError, PAIRS),
    "all gradients None": (lambda v: [(None, x) for x in v], ValueError, "kernel.*bias.*scale"),
    "longer": (instead(tf.ones(5)), ValueError, r"bias.*\(5,\).*\(4,\)"),
    "to be broadcast from 1": (instead(tf.ones(1)), ValueError, r"bias.*\(1,\).*\(4,\)"),
    "to be broadcast from ()": (instead(tf.ones(())), ValueError, r"bias.*\(\).*\(4,\)"),
    "of another rank": (instead(tf.ones((1, 4))), ValueError, r"bias.*\(1, 4\).*\(4,\)"),
    "an array of another shape": (instead(np.ones(5)), ValueError, r"bias.*\(5,\).*\(4,\)"),
    "int32": (instead(tf.ones(4, tf.int32)), TypeError, "bias.*dtype.*int32"),
    "bool": (instead(tf.ones(4, tf.bool)), TypeError, "bias.*dtype.*bool"),
    "complex": (instead(tf.ones(4, tf.complex64)), TypeError, "bias.*dtype.*complex64"),
    "an array of int64": (instead(np.ones(4, np.int64)), TypeError, "bias.*dtype.*int64"),
    "text gradients": (instead(tf.constant(["a"] * 4)), TypeError, "bias.*dtype.*string"),
    "a list of int": (instead([1, 2, 3, 4]), TypeError, "bias.*dtype.*int32"),
    "an object": (instead(object()), TypeError, "bias.*tensor"),
    "a dict": (instead({"a": 1.0}), TypeError, "bias.*tensor"),
    "a sparse tensor": (instead(tf.sparse.eye(4)), TypeError, "bias.*tensor"),
    "a ragged tensor": (instead(tf.ragged.constant([[1.0], []])), TypeError, "bias.*tensor"),
    "a tensor as variable": (instead(tf.ones(4), tf.ones(4)), TypeError, VARIABLE),
    "an array as variable": (instead(tf.ones(4), np.ones(4)), TypeError, VARIABLE),
    "text as variable": (instead(tf.ones(4), "bias"), TypeError, VARIABLE),
    "a list of variables": (instead(tf.ones(4), [tf.Variable(1.0)]), TypeError, VARIABLE),
    "an integer variable": (
        instead(tf.ones(2), tf.Variable([1, 2], name="counts")),
        TypeError,
        "counts.*int32",
    ),
    "a variable twice": (
        lambda v: [*good_pairs(v), (tf.ones(4), v[1])],
        ValueError,
        "bias.*twice",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize("run", [run_eagerly, run_in_function])
class TestApplyGradients:
    @pytest.mark.parametrize("case", CASES)
    def test_errors(self, case, run, built, kind):
        optimizer, variables = ADAM.make(), make_variables(kind)
        if built:
            train(optimizer, variables, 1)
        make, error, message = CASES[case]
        given = make(variables)
        with unchanged(optimizer, variables), pytest.raises(error) as raised:
            run(lambda: optimizer.apply_gradients(given))
        assert re.search(message, str(raised.value), re.DOTALL), str(raised.value)

    def test_some_gradients_none(self, run, built, kind):
        # A warning that names them; the others are applied.
        optimizer, variables = ADAM.make(), make_variables(kind)
        other, expected = ADAM.make(), make_variables(kind)
        if built:
            train(optimizer, variables)
            train(other, expected)
        other.build(expected)
        pairs = good_pairs(variables)
        pairs[1], pairs[2] = (None, variables[1]), (None, variables[2])
        before = arrays(variables)
        with pytest.warns(UserWarning, match=r"bias.*scale") as caught:
            run(lambda: optimizer.apply_gradients(pairs))
        assert all("kernel" not in str(w.message) for w in caught)
        assert same(arrays(variables[1:]), before[1:])
        other.apply_gradients(good_pairs(expected)[:1])
        assert_close(variables, expected)
        assert_close(optimizer.variables, other.variables)

    def test_empty(self, run, built, kind):
        optimizer, variables = ADAM.make(), make_variables(kind)
        if built:
            train(optimizer, variables)
        results = []

        def step():
            for nothing in ([], (), iter([]), zip([], []), {}):
                results.append(optimizer.apply_gradients(nothing))
            results.append(optimizer.apply([]))
            results.append(optimizer.apply([], []))

        with unchanged(optimizer, variables):
            run(step)
        assert results[5:7] == [None, None]
        if run is run_eagerly:
            assert [int(r) for r in results[:5]] == [3 if built else 0] * 5


@pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
def test_every_optimizer_goes_on_as_if_nothing_had_been(entry, built):
    optimizer, variables = entry.make(), make_variables()
    other, expected = entry.make(), make_variables()
    if built:
        train(optimizer, variables)
        train(other, expected)
    for case, (make, error, _) in CASES.items():
        with unchanged(optimizer, variables):
            try:
                optimizer.apply_gradients(make(variables))
            except error:
                continue
        pytest.fail(f"no {error.__name__} for {case}")
    train(optimizer, variables, first=3)
    train(other, expected, first=3)
    assert same(arrays(variables), arrays(expected))
    assert same(arrays(optimizer.variables), arrays(other.variables))


class TestOtherCalls:
    def test_stranger(self, entry):
        optimizer, variables = entry.make(), make_variables()
        train(optimizer, variables)
        stranger = tf.Variable(1.0, name="stranger")
        pairs = [*good_pairs(variables), (tf.ones(()), stranger)]
        for run in (run_eagerly, run_in_function):
            with (
                unchanged(optimizer, [*variables, stranger]),
                pytest.raises(ValueError, match="stranger"),
            ):
                run(lambda: optimizer.apply_gradients(pairs))

    @pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
    def test_lengths_of_apply(self, built):
        optimizer, variables = ADAM.make(), make_variables()
        if built:
            train(optimizer, variables)
        for gradients in (make_gradients(0)[:-1], [*make_gradients(0), 1.0], []):
            message = f"{len(gradients)} gradients for 3 variables"
            with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
                optimizer.apply(gradients, variables)

    def test_apply_without_variables(self):
        optimizer, variables = ADAM.make(), make_variables()
        with unchanged(optimizer), pytest.raises(ValueError, match=r"build\(variables\)"):
            optimizer.apply(make_gradients(0))
        train(optimizer, variables)
        message = r"1 gradients.* 3 variables"
        with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
            optimizer.apply(make_gradients(0)[:1])

    @pytest.mark.parametrize("portable", [False, True])
    @pytest.mark.parametrize("options", [{"gradient_accumulation_steps": 2}, {"clipnorm": 1.0}])
    def test_shape_known_only_when_the_graph_runs(self, portable, options):
        self.check_late_shape(ADAM, portable, options)

    @pytest.mark.few
    def test_shape_known_only_when_the_graph_runs_for_every_optimizer(self, entry):
        self.check_late_shape(entry, portable=True, options={})

    def check_late_shape(self, entry, portable, options):
        optimizer, variables = entry.make(**options), make_variables("tf")
        train(optimizer, variables, 1)

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)] * len(variables))
        def step(*gradients):
            optimizer.apply_gradients(zip(gradients, variables))

        if portable:
            with tf_optim_ext.portable():
                step = step.get_concrete_function()
        gradients = [tf.constant(g) for g in make_gradients(1)]
        # The last one, so that all others could have been updated before.
        wrong = [*gradients[:-1], tf.ones((2, 3))]
        with (
            unchanged(optimizer, variables),
            pytest.raises(tf.errors.InvalidArgumentError, match=r"\[2,3\].*\[\]"),
        ):
            step(*wrong)
        step(*gradients)
        other, expected = entry.make(**options), make_variables("tf")
        train(other, expected, 2)
        assert_close(variables, expected)

    def test_build(self, entry):
        variables = make_variables()
        for bad, error, message in (
            ([*variables, variables[0]], ValueError, "kernel.*twice"),
            ([*variables, 3], TypeError, "3"),
        ):
            optimizer = entry.make()
            with unchanged(optimizer, variables), pytest.raises(error, match=message):
                optimizer.build(bad)
        train(optimizer, variables)

    @pytest.mark.parametrize("name", ["SGD", "Adam"])
    def test_what_legacy_answered(self, name):
        # The same errors, or silence where we refuse.
        def make():
            return getattr(legacy, name)(0.1), tf.Variable([1.0, 2.0])

        gradient = tf.ones(2)
        was, v = make()
        with pytest.raises(TypeError):
            was.apply_gradients(5)
        with pytest.raises((AttributeError, NotImplementedError)):
            was.apply_gradients([(gradient, gradient)])
        with pytest.raises(ValueError, match="No gradients"):
            was.apply_gradients([(None, v)])
        was.apply_gradients([])
        assert int(was.iterations) == 0
        earlier = tf.Variable([1.0, 2.0])
        with pytest.raises(tf.errors.InvalidArgumentError):
            was.apply_gradients([(gradient, earlier), (tf.ones(3), v)])
        assert not np.array_equal(earlier, [1, 2]), "an earlier variable was updated"
        was, v = make()
        was.apply_gradients([(gradient, v), (gradient, v)])
        assert float(v[0]) < 0.85, "applied twice"
        stranger = tf.Variable([1.0, 2.0])
        was.apply_gradients([(gradient, stranger)])
        assert not np.array_equal(stranger, [1, 2]), "slots are created silently"


class TestNoVariable:
    def test_of_a_slot(self):
        optimizer = tf_optim_ext.Adam(0.1)
        with unchanged(optimizer), pytest.raises(TypeError, match=r"is needed\. Received: 'x'"):
            optimizer.add_slot("x", "mine")

    @pytest.mark.parametrize(
        "method", ["exclude_from_weight_decay", "exclude_from_layer_adaptation"]
    )
    def test_excluded(self, method):
        optimizer = tf_optim_ext.Lamb(0.1)
        with pytest.raises(TypeError, match=r"is needed\. Received: 'kernel'"):
            getattr(optimizer, method)(["kernel"])


shapes = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=3)


def mistakes(pairs):
    """Arguments of `apply_gradients` that are wrong at the end, made of good ones."""
    gradient, variable = pairs[-1]
    rest = pairs[:-1]
    yield [*rest, (np.zeros((*gradient.shape, 2), np.float32), variable)], ValueError
    yield [*rest, (gradient.astype(np.int32), variable)], TypeError
    yield [*rest, (gradient, gradient)], TypeError
    yield [*rest, (gradient,)], TypeError
    yield [*pairs, pairs[0]], ValueError
    yield [(None, v) for _, v in pairs], ValueError
    rows = gradient.shape[0] if gradient.ndim else 0
    bad_row = tf.IndexedSlices(tf.zeros((1, *gradient.shape[1:])), tf.constant([rows]))
    yield [*rest, (bad_row, variable)], ValueError


@pytest.mark.few("NovoGrad", "Prodigy")
@pytest.mark.parametrize("entry_name", registry.BY_NAME)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_an_erroneous_call_changes_nothing(entry_name, data):
    entry = registry.BY_NAME[entry_name]
    given_shapes = data.draw(shapes)
    chosen = data.draw(arguments(entry))
    kind = data.draw(st.sampled_from(KINDS))
    steps = data.draw(st.integers(0, 2))
    rng = np.random.default_rng(0)

    def draw_all():
        return [rng.normal(size=s).astype(np.float32) for s in given_shapes]

    values, gradients = draw_all(), [draw_all() for _ in range(steps + 1)]
    tested, spared = entry.cls(**chosen), entry.cls(**chosen)
    variables = [make_variable(kind, v) for v in values]
    expected = [make_variable(kind, v) for v in values]
    for step in range(steps):
        tested.apply_gradients(zip(gradients[step], variables))
        spared.apply_gradients(zip(gradients[step], expected))
    for pairs, error in mistakes(list(zip(gradients[-1], variables))):
        with unchanged(tested, variables), pytest.raises(error):
            tested.apply_gradients(pairs)
    tested.apply_gradients(zip(gradients[-1], variables))
    spared.apply_gradients(zip(gradients[-1], expected))
    assert same(arrays(variables), arrays(expected))
    assert same(tested.get_weights(), spared.get_weights())
