"""What starts with the first update of a variable, whenever that comes.

Gradients may be missing: in parts of a model that are trained by turns, in heads that a batch has
no use for, in layers that are frozen at first, in rows of embeddings. What a paper does in the
first step an optimizer must do in the first one of each variable.
"""

import math

import conftest
import numpy as np
import precision
import pytest
import registry
import tensorflow as tf
from common import arrays, same, train
from generation import keras

import tf_optim_ext
from tf_optim_ext import Slot
from tf_optim_ext.rule import unless_set

STEPS, FIRST = 9, 4
SHAPES = ((3, 2), (4,))
# As in `test_lowerings`, whose tests say why.
WEIGHTS, SLOTS = 32, 12


def unset_slots(entry):
    """Names of the state that is NaN before the first update."""
    initial = entry.cls.declaration().initial
    return [
        n for n, v in initial.items() if isinstance(v, float) and math.isnan(v) and n in entry.slots
    ]


UNSET = [e for e in registry.ENTRIES if unset_slots(e)]
unset = pytest.mark.parametrize("entry", UNSET, ids=lambda e: e.name)
# Scalar state of all variables would depend on the gradients of the others.
alone = pytest.mark.parametrize("entry", [e for e in UNSET if not e.is_joint], ids=lambda e: e.name)


def inputs(shape, seed):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(STEPS, *shape)).astype(np.float32)
    return rng.normal(size=shape).astype(np.float32), gradients


def test_the_registry_has_such_optimizers():
    names = {e.cls.__name__ for e in UNSET}
    assert {"Adan", "ADOPT", "COCOB", "DoG", "MADGRAD", "NovoGrad", "ScheduleFreeAdamW"} <= names


@pytest.mark.family("tensorflow")
@pytest.mark.parametrize(
    "missing",
    conftest.shortened([range(FIRST - 1), (0, 1, 2, 5, 6), (4,)], [(0, 1, 2, 5, 6)]),
    ids=str,
)
@pytest.mark.parametrize(
    "route",
    conftest.shortened(conftest.ROUTES, [r for r in conftest.ROUTES if r != "xla"]),
    indirect=True,
)
@alone
def test_missing_gradients_as_in_the_reference(entry, missing, route):
    """The first variable has all gradients, the second some; each is as its reference alone."""
    pairs = [inputs(shape, seed) for seed, shape in enumerate(SHAPES)]
    variables, optimizer = [tf.Variable(np.zeros_like(w)) for w, _ in pairs], entry.make()
    optimizer.build(variables)
    # Weights that are loaded after that are where they start.
    for variable, (weights, _) in zip(variables, pairs, strict=True):
        variable.assign(weights)
    both = route.wrap(lambda g, h: optimizer.apply([g, h], variables))
    one = route.wrap(lambda g: optimizer.apply([g], variables[:1]))
    found = [{n: [] for n in ("w", *entry.slots)} for _ in variables]
    for step in range(STEPS):
        before = arrays(variables)
        g, h = (tf.constant(gradients[step]) for _, gradients in pairs)
        one(g) if step in missing else both(g, h)
        assert step not in missing or same(arrays(variables[1:]), before[1:])
        for values, variable in zip(found, variables, strict=True):
            values["w"].append(variable.numpy())
            for name in entry.slots:
                values[name].append(np.array(optimizer.get_slot(variable, name)))
    assert str(optimizer.route) == route.expected

    without = [None if i in missing else g for i, g in enumerate(pairs[1][1])]
    for values, (weights, _), gradients in zip(found, pairs, [pairs[0][1], without], strict=True):
        (steps,) = entry.expected([weights], [gradients])
        begun = next(i for i, g in enumerate(gradients) if g is not None)
        for name, actual in values.items():
            wanted = [w if name == "w" else s[name] for w, s in steps]
            if name in unset_slots(entry):
                assert np.isnan(actual[:begun]).all()
            off = precision.roundings(actual[begun:], wanted[begun:])
            limit = (WEIGHTS if name == "w" else SLOTS) * entry.looseness.get(name, 1)
            assert off <= limit, f"{name}: off by {off:.1f} roundings, allowed {limit}"


@pytest.mark.family
@unset
def test_weights_loaded_after_build_are_where_they_start(entry):
    check_loaded_weights(entry, lambda step: step)


@pytest.mark.few("NovoGrad", "Prodigy")
@unset
def test_weights_loaded_after_build_are_where_they_start_inside_xla(entry):
    check_loaded_weights(entry, tf.function(jit_compile=True))


def check_loaded_weights(entry, wrap):
    short = {"reps_rel": 1e-3} if "reps_rel" in entry.arguments else {}
    optimizer = entry.make(weight_decay=None, **short)
    variables = [tf.Variable(np.zeros(shape, np.float32)) for shape in SHAPES]
    optimizer.build(variables)
    values = [np.full(shape, 100.0 + i, np.float32) for i, shape in enumerate(SHAPES)]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)

    def first_alone():
        optimizer.apply([tf.ones(SHAPES[0])], variables[:1])

    def both():
        optimizer.apply([tf.ones(shape) for shape in SHAPES], variables)

    first_alone, both = wrap(first_alone), wrap(both)
    for _ in range(FIRST - 1):
        first_alone()
    assert same(arrays(variables[1:]), values[1:])
    for name in unset_slots(entry):
        assert np.isnan(optimizer.get_slot(variables[1], name)).all()
    for _ in range(2):
        both()
    for variable, value in zip(variables, values, strict=True):
        # Those that were pulled back moved by a part of the way to zero.
        np.testing.assert_allclose(variable, value, atol=3.0)
        if "initial_weights" in entry.slots:
            np.testing.assert_array_equal(optimizer.get_slot(variable, "initial_weights"), value)


def test_novograd_by_hand():
    # v = |g|^2 at first, so that the first update is as long as the rate, whenever it comes.
    variables = [tf.Variable([1.0, 1.0]), tf.Variable([1.0, 1.0])]
    optimizer = registry.BY_NAME["NovoGrad"].cls(0.1)
    optimizer.build(variables)
    for _ in range(3):
        optimizer.apply([tf.constant([3.0, 4.0])], variables[:1])
    optimizer.apply([tf.constant([3.0, 4.0])] * 2, variables)
    np.testing.assert_allclose(variables[1], [0.94, 0.92], rtol=1e-6)


@pytest.mark.parametrize("name", ["ScheduleFreeAdamW", "ScheduleFreeSGD", "ScheduleFreeRAdam"])
def test_schedule_free_variables_without_an_update_are_their_average(name):
    variables, optimizer = (
        [tf.Variable([1.0, 2.0]), tf.Variable([3.0])],
        registry.BY_NAME[name].make(),
    )
    optimizer.build(variables)
    variables[1].assign([5.0])
    for _ in range(3):
        optimizer.apply([tf.constant([1.0, -1.0])], variables[:1])
    y = variables[0].numpy()
    optimizer.use_averaged_weights()
    assert not np.array_equal(variables[0], y)
    np.testing.assert_array_equal(variables[1], [5.0])
    optimizer.use_training_weights()
    np.testing.assert_array_equal(variables[1], [5.0])


@pytest.mark.parametrize("name", ["Adan", "ADOPT", "MADGRAD", "COCOB"])
def test_lazy_rows_start_by_themselves(name):
    entry = registry.BY_NAME[name]
    weights, gradients = inputs((3,), 0)
    table, optimizer = tf.Variable(np.zeros((2, 3), np.float32)), entry.make(sparse="lazy")
    optimizer.build([table])
    table.assign(np.stack([weights, weights]))
    found = []
    for step, gradient in enumerate(gradients):
        row = tf.constant([int(step >= FIRST - 1)])
        slices = tf.IndexedSlices(tf.constant(gradient)[None], row, table.shape)
        optimizer.apply([slices], [table])
        found.append(table.numpy()[1])
    steps = entry.reference(
        weights,
        [None] * (FIRST - 1) + list(gradients[FIRST - 1 :]),
        **entry.arguments,
    )
    assert precision.roundings(found, [w for w, _ in steps]) <= WEIGHTS


@pytest.mark.family
@unset
def test_state_from_before_goes_on(entry, tmp_path):
    """Files in which such slots have numbers at once, as they had."""
    variables, optimizer = [tf.Variable([1.0, 2.0]), tf.Variable(3.0)], entry.make()
    expected, other = [tf.Variable([1.0, 2.0]), tf.Variable(3.0)], entry.make()
    optimizer.build(variables)
    other.build(expected)
    for variable in variables:
        for name in unset_slots(entry):
            slot = optimizer.get_slot(variable, name)
            slot.assign(np.zeros(slot.shape))
    train(optimizer, variables)
    train(other, expected)
    assert same(arrays(variables), arrays(expected))
    assert same(arrays(optimizer.variables), arrays(other.variables))


@unset
def test_unfrozen(entry):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    variables, optimizer = model.trainable_variables, entry.make()
    optimizer.build(variables)
    x = np.ones((4, 2), np.float32)

    def step(count):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - 1.0))
        gradients = tape.gradient(loss, variables[:count])
        optimizer.apply(gradients, variables[:count])

    before = arrays(variables)
    for _ in range(3):
        step(2)
    assert same(arrays(variables[2:]), before[2:])
    for _ in range(3):
        step(4)
    assert all(np.isfinite(v).all() for v in arrays([*variables, *optimizer.variables]))
    if entry.cls.__name__ != "Prodigy":
        assert not np.array_equal(variables[2], before[2])


class TestAverage:
    """The average of `use_ema` starts with the first update of all."""

    def test_before_that_it_is_the_weights(self):
        optimizer, variable = registry.BY_NAME["AdamW"].make(use_ema=True), tf.Variable([1.0, 2.0])
        optimizer.build([variable])
        optimizer.finalize_variable_values([variable])
        np.testing.assert_array_equal(variable, [1.0, 2.0])

    def test_of_state_without_averages(self):
        optimizer, variable = (
            registry.BY_NAME["SGD-nesterov"].make(use_ema=True),
            tf.Variable([1.0]),
        )
        optimizer.build([variable])
        optimizer.iterations.assign(1000)
        optimizer.apply([tf.constant([1.0])], [variable])
        np.testing.assert_array_equal(optimizer.get_slot(variable, "average"), variable)


class FromTheWeights(tf_optim_ext.Optimizer):
    """A rule of a user, which pulls the weights back to where they started."""

    state = [Slot("start", math.nan)]

    @staticmethod
    def rule(w, g, s, h):
        s.start = unless_set(s.start, w, h)
        return w - h.learning_rate * (g + w - s.start)


def test_rule_of_a_user(route):
    variables, optimizer = [tf.Variable([1.0, 2.0]), tf.Variable([3.0])], FromTheWeights(0.5)
    optimizer.build(variables)
    first_alone = route.wrap(lambda: optimizer.apply([tf.ones(2)], variables[:1]))
    both = route.wrap(lambda: optimizer.apply([tf.ones(2), tf.ones(1)], variables))
    first_alone()
    variables[1].assign([5.0])
    both()
    np.testing.assert_array_equal(optimizer.get_slot(variables[0], "start"), [1.0, 2.0])
    np.testing.assert_array_equal(optimizer.get_slot(variables[1], "start"), [5.0])
    np.testing.assert_array_equal(variables[1], [4.5])


def test_slots_that_copy_the_weights_are_refused():
    class Copies(FromTheWeights):
        state = [Slot("start", "weights")]

    optimizer = Copies(0.5)
    with pytest.raises(ValueError, match=r"unless_set\(s\.start, w, h\)"):
        optimizer.build([tf.Variable([1.0])])
