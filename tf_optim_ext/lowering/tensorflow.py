"""TensorFlow's own ops: inside XLA, on accelerators, in exported graphs, without the library.

Arithmetic is in float32 (float64 for float64 weights), whatever the dtype of weights and gradients.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_optim_ext import compat
from tf_optim_ext.lowering import interpreter


def _is_number(x):
    return isinstance(x, (int, float, bool))


def _multiply(x, y):
    if _is_number(y) and y == 1.0:
        return x
    return tf.multiply(x, y)


def _minimum(x, y):
    return x if _is_number(y) and y == math.inf else _keep_nan(y, tf.minimum(x, y))


def _maximum(x, y):
    return x if _is_number(y) and y == -math.inf else _keep_nan(y, tf.maximum(x, y))


def _reduce_max(x):
    highest = tf.maximum(tf.reduce_max(x), 0.0)
    if not compat.inside_xla():
        return highest
    return tf.where(tf.reduce_any(tf.math.is_nan(x)), tf.constant(math.nan, x.dtype), highest)


def _keep_nan(y, result):
    # On CPUs, XLA's minimum and maximum lose a NaN in their second argument.
    if _is_number(y) or not compat.inside_xla():
        return result
    return tf.where(tf.math.is_nan(y), y, result)


def _where(condition, x, y):
    if _is_number(condition):
        return x if condition else y
    return tf.where(condition, x, y)


# Steps without scaling, clipping or decay must not pay for them: factors and bounds that are known
# to do nothing are left out.
OPERATIONS = {
    "add": tf.add,
    "subtract": tf.subtract,
    "multiply": _multiply,
    "divide": tf.divide,
    "power": tf.pow,
    "negative": tf.negative,
    "sqrt": tf.sqrt,
    "absolute": tf.abs,
    "sign": tf.sign,
    "exp": tf.exp,
    "log": tf.math.log,
    "minimum": _minimum,
    "maximum": _maximum,
    "less": tf.less,
    "less_equal": tf.less_equal,
    "greater": tf.greater,
    "greater_equal": tf.greater_equal,
    "equal": tf.equal,
    "not_equal": tf.not_equal,
    "where": _where,
    "reduce_sum": tf.reduce_sum,
    "reduce_max": _reduce_max,
}
_PYTHON: dict[str, Callable] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "power": math.pow,
    "negative": lambda x: -x,
    "sqrt": math.sqrt,
    "absolute": abs,
    "exp": math.exp,
    "log": math.log,
    "minimum": lambda x, y: float(np.minimum(x, y)),  # NaN if either is
    "maximum": lambda x, y: float(np.maximum(x, y)),
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "equal": lambda x, y: x == y,
    "not_equal": lambda x, y: x != y,
    "where": lambda c, x, y: x if c else y,
}


def _to_float64(x):
    if _is_number(x):
        # `tf.cast` would go by way of float32.
        return x if isinstance(x, bool) else tf.constant(x, tf.float64)
    return x if x.dtype == tf.bool else tf.cast(x, tf.float64)


def _scalar_operation(name):
    def run(*args):
        if name in _PYTHON and all(map(_is_number, args)):
            try:
                return _PYTHON[name](*args)
            except (ArithmeticError, ValueError):
                pass  # infinities and NaN are TensorFlow's to make
        return OPERATIONS[name](*map(_to_float64, args))

    return run


SCALAR_OPERATIONS = {name: _scalar_operation(name) for name in OPERATIONS}


def step(program, weights, gradients, slots, scalars):
    """Runs a program on all variables, one after the other.

    Args:
        program: a `rule.Program`.
        weights: local `tf.Variable`s.
        gradients: dense tensors of floating-point dtype.
        slots: for each slot of the program, in order, its variables.
        scalars: a `lowering.scalars.Scalars`.
    """
    known = {}
    for i, (weight, gradient) in enumerate(zip(weights, gradients)):
        h = scalars.of_variable(program, i)
        h["size"] = float(weight.shape.num_elements())
        key = tuple(id(v) if tf.is_tensor(v) else v for v in h.values())
        if key not in known:
            known[key] = interpreter.scalars_before_reductions(program, h, SCALAR_OPERATIONS)
        own_slots = {name: slots[s][i] for s, name in enumerate(program.slots)}
        _update(program, weight, gradient, own_slots, known[key])


def _update(program, weight, gradient, slots, known):
    dtype = tf.float64 if weight.dtype == tf.float64 else tf.float32
    variables = {"w": weight, **slots}
    arrays = {name: tf.cast(_read(v), dtype) for name, v in variables.items()}
    arrays["g"] = tf.cast(tf.ensure_shape(gradient, weight.shape), dtype)

    def to_element(value):
        if _is_number(value) or value.dtype == tf.bool:
            return value
        return tf.cast(value, dtype)

    def in_float64(name):
        return lambda x: tf.cast(OPERATIONS[name](x), tf.float64)

    def typed(operation):
        # TensorFlow makes a number that comes first a float32.
        def run(x, *others):
            return operation(tf.constant(x, dtype) if _is_number(x) else x, *others)

        return run

    def where(condition, x, y):
        # A rule may choose between numbers, which have neither dtype nor shape.
        x, y = (tf.constant(v, dtype) if _is_number(v) else v for v in (x, y))
        chosen = _where(condition, x, y)
        same = chosen.shape == weight.shape
        return chosen if same else tf.broadcast_to(chosen, weight.shape)

    operations = {
        **{name: typed(operation) for name, operation in OPERATIONS.items()},
        "where": where,
        "reduce_sum": in_float64("reduce_sum"),
        "reduce_max": in_float64("reduce_max"),
    }
    new = interpreter.evaluate(program, arrays, known, operations, SCALAR_OPERATIONS, to_element)
    for name, value in new.items():
        _assign(variables[name], tf.cast(value, variables[name].dtype))


# The variable of this replica is read and written through its handle: under a distribution strategy
# the methods of a mirrored variable would ask for a merge of the replicas.
def _read(variable):
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def _assign(variable, value):
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


def squared_norms(gradients):
    """Sums of squares of dense tensors: a float64 tensor with one element for each."""
    sums = [tf.reduce_sum(tf.square(tf.cast(g, _accumulator(g)))) for g in gradients]
    return tf.stack([tf.cast(s, tf.float64) for s in sums])


def _accumulator(gradient):
    return tf.float64 if gradient.dtype == tf.float64 else tf.float32
