"""`epsilon=0`: where the second moment is zero there is no update, and no NaN.

Optimizers whose formula has no answer then refuse it.
"""

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import arrays

import tf_optim_ext
from tf_optim_ext.checks import Range

WITH_EPSILON = [e for e in registry.ENTRIES if "epsilon" in e.cls.declaration().intervals]
# Whose weights move without a gradient, or are computed anew.
SHRINKING = (tf_optim_ext.ConditionalGradient,)
REFUSING = {"Adadelta", "DAdaptAdam", "DoG", "LDoG", "Prodigy", "Sophia"}

with_epsilon = pytest.mark.parametrize("entry", WITH_EPSILON, ids=lambda e: e.name)


def make(entry, **arguments):
    off = {n: 0.0 for n in entry.arguments if n.endswith("regularization_strength")}
    off.update({n: 0.0 for n in entry.arguments if n == "initial_accumulator_value"})
    return entry.make(epsilon=0.0, weight_decay=0.0, **{**off, **arguments})


def accepts(entry):
    return 0.0 in Range(entry.cls.declaration().intervals["epsilon"])


def test_which_refuse_it():
    assert {e.cls.__name__ for e in WITH_EPSILON if not accepts(e)} == REFUSING
    for entry in WITH_EPSILON:
        if not accepts(entry):
            with pytest.raises(ValueError, match="epsilon"):
                entry.make(epsilon=0.0)


@pytest.mark.family
@pytest.mark.parametrize("learning_rate", [0.0, 0.5])
@with_epsilon
def test_zero_gradients_change_nothing(entry, learning_rate):
    if not accepts(entry):
        pytest.skip("refuses it")
    optimizer = make(entry, learning_rate=learning_rate)
    values = np.array([[0.0, 1.0], [-2.0, 1e-30]], np.float32)
    variables = [tf.Variable(values), tf.Variable(tf.zeros([3])), tf.Variable(3.0)]
    before = arrays(variables)
    for step in range(8):
        # Later steps are not the first ones, and RAdam's are adaptive.
        optimizer.apply([tf.zeros_like(v) for v in variables], variables)
        assert all(np.isfinite(s).all() for s in arrays(optimizer.variables)), f"step {step}"
    if entry.cls in SHRINKING:
        before = [value * np.float32(learning_rate) ** 8 for value in before]
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-5)


@pytest.mark.family
@with_epsilon
def test_other_elements_are_updated(entry):
    """Zeros beside gradients that are not, among them the first one of an element."""
    if not accepts(entry):
        pytest.skip("refuses it")
    optimizer, variable = make(entry), tf.Variable([1.0, 1.0, 1.0])
    for gradient in ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0], *[[0.0, 1.0, 1.0]] * 5):
        optimizer.apply([tf.constant(gradient)], [variable])
    assert np.isfinite(variable).all()
    assert all(np.isfinite(s).all() for s in arrays(optimizer.variables))
    assert variable[1] != 1.0
    if entry.cls not in SHRINKING:
        assert variable[0] == 1.0


def test_nuclear_norm_of_a_vector():
    optimizer = tf_optim_ext.ConditionalGradient(0.5, 10.0, epsilon=0.0, ord="nuclear")
    vector = tf.Variable([1.0, 2.0])
    optimizer.apply([tf.zeros([2])], [vector])
    np.testing.assert_allclose(vector, [0.5, 1.0])


def test_the_formula_is_the_same_otherwise():
    """Sign of the gradient, as the first step of Adam has without an epsilon."""
    variable = tf.Variable([1.0, 1.0])
    tf_optim_ext.Adam(0.5, epsilon=0.0).apply([tf.constant([3.0, -1e-6])], [variable])
    np.testing.assert_allclose(variable, [0.5, 1.5], rtol=1e-6)
