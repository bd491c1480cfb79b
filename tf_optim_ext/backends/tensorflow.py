"""TensorFlow's own ops: inside XLA, on accelerators, in exported graphs, without the library.

Arithmetic is in float32 (float64 for float64 weights), whatever the dtype of weights and gradients.
"""

import contextlib
import dataclasses
import math

import numpy as np
import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import interpreter, replica, rounding
from tf_optim_ext.backends.scalars import Scalars
from tf_optim_ext.rule import operations

_SMALLEST = float(np.finfo(np.float32).tiny)


def _is_number(x):
    return isinstance(x, (int, float, bool))


def _multiply(x, y):
    if _is_number(y) and y == 1.0:
        return x
    return tf.multiply(x, y)


def _minimum(x, y):
    return x if _is_number(y) and y == math.inf else _keep_nan(x, y, tf.minimum(x, y))


def _maximum(x, y):
    return x if _is_number(y) and y == -math.inf else _keep_nan(x, y, tf.maximum(x, y))


def _cbrt(x):
    return tf.sign(x) * tf.pow(tf.abs(x), tf.constant(1.0 / 3.0, x.dtype))


def _reduce_sum(x, **axes):
    # On CPUs, XLA adds one by one, which takes more digits.
    return tf.reduce_sum(tf.cast(x, tf.float64) if _keras.inside_xla() else x, **axes)


def _reduce_max(x, **axes):
    highest = tf.maximum(tf.reduce_max(x, **axes), 0.0)
    if not _keras.inside_xla():
        return highest
    has_nan = tf.reduce_any(tf.math.is_nan(x), **axes)
    return tf.where(has_nan, tf.constant(math.nan, x.dtype), highest)


def _keep_nan(x, y, result):
    # On CPUs, XLA's minimum and maximum lose a NaN in their second argument, and before TensorFlow
    # 2.21 a minimum of a maximum also one in the first.
    if _keras.inside_xla():
        for value in (x, y):
            if not _is_number(value):
                result = tf.where(tf.math.is_nan(value), value, result)
    return result


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
    "cbrt": _cbrt,
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
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "global_sum": _reduce_sum,
}
_PYTHON = {name: each.python for name, each in operations.OPERATIONS.items() if each.python}


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


def step(program, on, gradients, scalars):
    """Runs a program on all variables, one after the other.

    Args:
        program: a `rule.Program`.
        on: a `targets.Targets`.
        gradients: tensors of floating-point dtype; or `tf.IndexedSlices` as `engine.sparse`
            prepares them, which leave rows without gradient alone.
        scalars: a `Scalars`.
    """
    first_factor, scalars = _in_range_of_float32(scalars)
    common = {
        name: replica.read(v) for name, v in zip(program.optimizer_scalars, on.optimizer_scalars)
    }
    updates = [
        _kind_of_update(gradient)(program, on, i, gradient, common)
        for i, gradient in enumerate(gradients)
    ]
    if scalars.rounding:
        for update, key in zip(updates, scalars.rounding):
            update.round_weights_at_random(key, scalars.step)
    if first_factor is not None:
        for i, update in enumerate(updates):
            update.first_factor = first_factor[i] if first_factor.shape.rank else first_factor
    known = _known(program, updates, scalars)
    interpreter.add_global_sums(program, known, lambda i, roots: updates[i].sums(roots, known[i]))
    for i, update in enumerate(updates):
        new = update.run(known[i])
    for name, variable in zip(program.optimizer_scalars, on.optimizer_scalars):
        if name in new:
            replica.assign(variable, _to_float64(new[name]))


def compiled_step(program, on, gradients, scalars):
    """`step` as one function that XLA compiles: for GPUs, where every operation by itself would be
    a launch and a pass over memory of its own. Gradients are dense.
    """
    key = (program.fingerprint, *(scalars.rounding or ()))
    if key not in on.compiled:
        on.compiled[key] = _compiled(program, on, scalars.rounding)
    # As tensors, so that other numbers are not another function.
    on.compiled[key](
        gradients,
        tf.convert_to_tensor(scalars.finished, tf.int64),
        _to_float64(scalars.rates),
        _to_float64(scalars.gradient_scale),
        tf.convert_to_tensor(scalars.rows(program), tf.float64),
    )


def _compiled(program, on, keys):
    @tf.function(jit_compile=True, autograph=False)
    def run(gradients, finished, learning_rate, gradient_scale, rows):
        columns = tf.unstack(rows, axis=1)
        hyperparameters = {
            name: tf.unstack(column) if rows.shape[0] > 1 else column[0]
            for name, column in zip(program.hyperparameters, columns)
        }
        if learning_rate.shape.rank:
            learning_rate = tf.unstack(learning_rate)
        numbers = Scalars(finished, learning_rate, gradient_scale, hyperparameters, keys)
        step(program, on, gradients, numbers)

    return run


def _in_range_of_float32(scalars):
    """Splits a factor of gradients that float32 has no normal number for, as the driver does.

    Returns:
        The factor that gradients get before everything else, a tensor like `gradient_scale`, or
        None; and the `Scalars` with the other one.
    """
    scale = scalars.gradient_scale
    if not tf.is_tensor(scale):
        return None, scalars
    scale = tf.cast(scale, tf.float64)
    is_tiny = tf.abs(scale) < _SMALLEST
    scalars = dataclasses.replace(
        scalars, gradient_scale=tf.where(is_tiny, scale / _SMALLEST, scale)
    )
    one, smallest = (tf.constant(x, tf.float64) for x in (1.0, _SMALLEST))
    return tf.where(is_tiny, smallest, one), scalars


def _known(program, updates, scalars):
    """For each variable, the scalars that need no array; computed once if they are the same."""
    found, cache = [], {}
    for i, update in enumerate(updates):
        h = {**scalars.of_variable(program, i), **update.state}
        if program.uses_size:
            h["size"] = float(update.size)
        key = tuple(id(v) if tf.is_tensor(v) else v for v in h.values())
        if key not in cache:
            # `h` as well: while it lives, no other tensor has the same `id`.
            cache[key] = h, interpreter.scalars_before_reductions(program, h, SCALAR_OPERATIONS)
        found.append(dict(cache[key][1]))
    return found


def _kind_of_update(gradient):
    if not isinstance(gradient, tf.IndexedSlices):
        return _Update
    return _MaskedUpdate if _keras.inside_xla() else _RowsUpdate


class _Update:
    """The update of one variable.

    Attributes:
        weight: the variable.
        size: number of its elements, or those of a row.
        state: dict of the values of the state that is numbers.
        first_factor: what the gradient is multiplied by before anything else, or None.
    """

    def __init__(self, program, on, i, gradient, common):
        self._program = program
        self.weight = on.weights[i]
        self._gradient = gradient
        self._tensors = {"w": self.weight}
        self._tensors.update({n: slot[i] for n, slot in zip(program.slots, on.slots)})
        shape = self.weight.shape
        self.size = (shape[1:] if program.by_row else shape).num_elements()
        names = program.variable_scalars
        self._numbers = {n: scalar[i] for n, scalar in zip(names, on.variable_scalars)}
        numbers = {n: self._hiding_unset(self._read_number, n, v) for n, v in self._numbers.items()}
        self.state = {**numbers, **common}
        self._rounded = None
        self.first_factor = None

    def round_weights_at_random(self, key, step):
        """Asks for stochastic rounding, if the variable has 16 bits."""
        dtype = self.weight.dtype
        if dtype in (tf.bfloat16, tf.float16):
            self._rounded = lambda x: rounding.rounded(x, dtype, key, step, self._positions())

    def sums(self, roots, known):
        """Sums over the elements of some nodes, as float64."""
        return [tf.cast(_reduce_sum(x), tf.float64) for x in self._evaluate(roots, known)]

    def run(self, known):
        """Assigns new values to the variable and its slots; returns those of all numbers."""
        program = self._program
        outputs = {**program.outputs, **program.scalar_outputs}
        new = dict(zip(outputs, self._evaluate(list(outputs.values()), known)))
        if self._rounded and "w" in program.outputs:
            new["w"] = self._rounded(new["w"])
        for name in program.outputs:
            self._assign(self._tensors[name], new[name])
        for name, variable in self._numbers.items():
            if name in new:
                self._assign_number(variable, _to_float64(new[name]))
        return new

    def _evaluate(self, roots, known):
        weight = self.weight
        dtype = tf.float64 if weight.dtype == tf.float64 else tf.float32
        arrays = {
            name: tf.cast(self._hiding_unset(self._read, name, v), dtype)
            for name, v in self._tensors.items()
        }
        gradient = tf.cast(self._values(), dtype)
        if self.first_factor is not None:
            gradient *= tf.cast(self.first_factor, dtype)
        arrays["g"] = gradient

        def to_element(value):
            if _is_number(value) or value.dtype == tf.bool:
                return value
            return tf.cast(value, dtype)

        return interpreter.evaluate(
            self._program,
            roots,
            arrays,
            known,
            _tensor_operations(dtype, gradient, self._program.by_row),
            SCALAR_OPERATIONS,
            to_element,
        )

    def _hiding_unset(self, read, name, variable):
        """What `read` gives for a variable; unseen by debuggers if it may be unset."""
        hiding = name in self._program.may_be_unset
        with _keras.hidden_from_debuggers() if hiding else contextlib.nullcontext():
            return read(variable)

    def _values(self):
        return tf.ensure_shape(self._gradient, self.weight.shape)

    def _positions(self):
        shape = self.weight.shape
        return tf.reshape(tf.range(shape.num_elements()), shape)

    def _read(self, variable):
        return replica.read(variable)

    def _assign(self, variable, value):
        replica.assign(variable, value)

    def _read_number(self, variable):
        number = self._read(variable)
        if not self._program.by_row:
            return number
        # One for each row, so that it combines with rows.
        rank = self.weight.shape.rank
        return tf.reshape(number, [-1] + [1] * (rank - 1) if rank else [])

    def _assign_number(self, variable, value):
        if self._program.by_row:
            count = tf.shape(self._values())[:1] if self.weight.shape.rank else [1]
            value = tf.broadcast_to(tf.reshape(value, [-1]), count)
        self._assign(variable, value)


class _RowsUpdate(_Update):
    """The update of the rows that have a gradient, and of no others."""

    def _values(self):
        return self._gradient.values

    def _positions(self):
        shape = self.weight.shape[1:]
        width = shape.num_elements()
        first = self._gradient.indices[:, tf.newaxis] * width
        return tf.reshape(first + tf.range(width, dtype=tf.int64), [-1, *shape])

    def _read(self, variable):
        return replica.read_rows(variable, self._gradient.indices)

    def _assign(self, variable, value):
        replica.assign_rows(variable, self._gradient.indices, value)


class _MaskedUpdate(_Update):
    """The same where shapes are fixed: an update of all rows, of which only these are kept."""

    def _values(self):
        return tf.ensure_shape(self._gradient.values, self.weight.shape)

    def _assign(self, variable, value):
        value = tf.cast(value, variable.dtype)
        present = tf.reshape(self._gradient.indices >= 0, [-1] + [1] * (value.shape.rank - 1))
        with _keras.hidden_from_debuggers():  # rows without gradient may be unset
            value = tf.where(present, value, replica.read(variable))
        replica.assign(variable, value)


def _tensor_operations(dtype, like, by_row):
    """Operations on arrays of one dtype and the shape of `like`; reductions are in float64."""
    axes = {"axis": list(range(1, like.shape.rank)), "keepdims": True} if by_row else {}

    def reduction(name):
        return lambda x: tf.cast(OPERATIONS[name](x, **axes), tf.float64)

    def typed(operation):
        # TensorFlow makes a number that comes first a float32.
        def run(x, *others):
            return operation(tf.constant(x, dtype) if _is_number(x) else x, *others)

        return run

    def where(condition, x, y):
        # A rule may choose between numbers, which have neither dtype nor shape.
        x, y = (tf.constant(v, dtype) if _is_number(v) else v for v in (x, y))
        chosen = _where(condition, x, y)
        same = chosen.shape.rank == like.shape.rank
        return chosen if same else tf.broadcast_to(chosen, tf.shape(like))

    return {
        **{name: typed(operation) for name, operation in OPERATIONS.items()},
        "where": where,
        "reduce_sum": reduction("reduce_sum"),
        "reduce_max": reduction("reduce_max"),
    }


def squared_norms(gradients):
    """Sums of squares of dense tensors: a float64 tensor with one element for each.

    They are squared and added in float64, as natively, so that none of float32 overflows.
    """
    return tf.stack([tf.reduce_sum(tf.square(tf.cast(g, tf.float64))) for g in gradients])
