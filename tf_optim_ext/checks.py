"""Checks of input: clear errors, raised before anything changes."""

import math
import numbers
import re
import warnings

import numpy as np
import tensorflow as tf

from tf_optim_ext import _keras


class Range:
    """An interval of allowed values, written as in mathematics: `"[0, 1)"`."""

    def __init__(self, text):
        low, high = text[1:-1].split(",")
        if text[0] not in "[(" or text[-1] not in "])":
            raise ValueError(f"Not an interval: {text!r}")
        self._text = text
        self._low, self._high = float(low), float(high)

    def __contains__(self, value):
        above = value > self._low or (value == self._low and self._text[0] == "[")
        below = value < self._high or (value == self._high and self._text[-1] == "]")
        return above and below

    def __str__(self):
        return self._text


def number(owner, name, value, interval):
    """Returns a hyperparameter as a Python float.

    Raises:
        ValueError: it is not a number, or outside `interval`.
    """
    allowed = Range(interval)
    try:
        if isinstance(value, (str, bytes, bool)):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{owner}: `{name}` must be a number in {allowed}. Received: {name}={value!r}"
        ) from None
    if math.isnan(result) or result not in allowed:
        raise ValueError(f"{owner}: `{name}` must be in {allowed}. Received: {name}={value!r}")
    return result


def whole_number(owner, name, value, lowest):
    """Returns an argument that counts something as a Python int, or raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < lowest:
        raise ValueError(
            f"{owner}: `{name}` must be an integer >= {lowest}. Received: {name}={value!r}"
        )
    return int(value)


def boolean(owner, name, value):
    """Returns a flag as a Python bool, or raises `ValueError`."""
    if not isinstance(value, (bool, np.bool_)) and value not in (0, 1):
        raise ValueError(f"{owner}: `{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


def choice(owner, name, value, allowed):
    """Returns `value` if it is one of `allowed`, or raises `ValueError`."""
    if value not in allowed:
        raise ValueError(
            f"{owner}: `{name}` must be one of {', '.join(map(repr, allowed))}. "
            f"Received: {name}={value!r}"
        )
    return value


def is_trainable(variable):
    """Whether an optimizer can update a variable: it is of a floating-point dtype, and its shape is
    fixed."""
    return tf.as_dtype(variable.dtype).is_floating and is_fixed(variable)


def is_fixed(variable):
    """Whether the shape of a variable cannot change."""
    shape = _keras.tensorflow_variable(variable).shape
    return shape.is_fully_defined()


def is_variable(x):
    return isinstance(x, _keras.VARIABLES) or (
        tf.is_tensor(x) and hasattr(x, "handle") and hasattr(x, "assign")
    )


def name_of(variable):
    """What a message calls a variable: its path, or its name."""
    name = getattr(variable, "path", None) or getattr(variable, "name", None)
    return name or repr(variable)  # which reads all of it


def matches(pattern, variable):
    """Whether a regular expression occurs in the path or name of a variable.

    Names of `tf.Variable`s end in ":0"; an expression may leave that out.
    """
    names = {name_of(variable), variable.name, variable.name.removesuffix(":0")}
    return any(re.search(pattern, name) for name in names)


def pairs(grads_and_vars):
    """Splits `grads_and_vars` into gradients and variables.

    Raises:
        TypeError: it is not an iterable of pairs.
    """
    expected = "an iterable of (gradient, variable) pairs, such as zip(gradients, variables)"
    try:
        elements = list(grads_and_vars)
    except TypeError:
        raise TypeError(
            f"`grads_and_vars` must be {expected}. Received: {_short(grads_and_vars)}"
        ) from None
    for element in elements:
        if not isinstance(element, (tuple, list)) or len(element) != 2:
            raise TypeError(
                f"`grads_and_vars` must be {expected}. Received the element {_short(element)}"
            )
    return [g for g, _ in elements], [v for _, v in elements]


def must_be_variable(value):
    """Raises a `TypeError` for anything but a variable."""
    if not is_variable(value):
        raise TypeError(
            "A `keras.Variable` or `tf.Variable` is needed. "
            f"Received: {_short(value)} of type {type(value).__name__}"
        )


def _short(value):
    try:
        text = repr(value)
    except NotImplementedError:
        # Keras 3.12 would read the variables in it, which it cannot in a graph.
        text = f"a {type(value).__name__}"
    return text if len(text) <= 200 else text[:200] + "..."


def variables(values, key):
    """Checks that all are variables and none occurs twice.

    Args:
        values: list of what should be variables.
        key: function that identifies a variable.
    """
    seen = set()
    for value in values:
        if not is_variable(value):
            raise TypeError(
                "The second element of each pair must be a `keras.Variable` or `tf.Variable`. "
                f"Received: {_short(value)} of type {type(value).__name__}"
            )
        if key(value) in seen:
            raise ValueError(
                f"The variable {name_of(value)!r} was given twice. Add its gradients and give it "
                "once."
            )
        seen.add(key(value))


def trainable(variable):
    """Checks that a variable with a gradient is one that an optimizer can update.

    Raises:
        TypeError: it is not of a floating-point dtype.
        ValueError: its shape is open.
    """
    dtype = tf.as_dtype(variable.dtype)
    if not dtype.is_floating:
        kind = " Optimize its real and imaginary part." if dtype.is_complex else ""
        raise TypeError(
            f"Only variables of a floating-point dtype can be optimized. {name_of(variable)!r} "
            f"has dtype {dtype.name}, and a gradient.{kind}"
        )
    if not is_fixed(variable):
        raise ValueError(
            f"Only variables of a fixed shape can be optimized, as their slots have that shape. "
            f"{name_of(variable)!r} has shape {variable.shape}, and a gradient. Create it without "
            "`shape`, or leave it out."
        )


def present_gradients(gradients, variables):
    """Leaves out the variables whose gradient is None.

    Raises:
        ValueError: all are None.
    """
    missing = [name_of(v) for g, v in zip(gradients, variables) if g is None]
    if len(missing) == len(gradients):
        raise ValueError(
            f"No gradients provided for any variable: {missing}. Does the loss depend on them, and "
            "was it computed under the `tf.GradientTape`?"
        )
    if missing:
        warnings.warn(
            f"Gradients do not exist for variables {missing}; the others are updated. If you use "
            "`model.compile()`, did you forget the `loss` argument?",
            stacklevel=4,
        )
    kept = [(g, v) for g, v in zip(gradients, variables) if g is not None]
    return [g for g, _ in kept], [v for _, v in kept]


def gradient(value, variable):
    """Returns a gradient as a tensor or `tf.IndexedSlices` that fits its variable.

    Raises:
        TypeError: its dtype is not floating-point.
        ValueError: its shape is not the variable's.
    """
    sparse = isinstance(value, tf.IndexedSlices)
    fits = isinstance(value, tf.Tensor) and value.shape == variable.shape
    if fits and value.dtype.is_floating:
        return value
    try:
        value = (
            _of_tensors(value)
            if sparse
            else tf.convert_to_tensor(_keras.tensorflow_variable(value))
        )
    except (TypeError, ValueError):
        raise TypeError(
            f"The gradient of {name_of(variable)!r} must be a tensor, `tf.IndexedSlices`, "
            f"array or None. Received: {_short(value)} of type {type(value).__name__}"
        ) from None
    if not value.dtype.is_floating:
        raise TypeError(
            f"The gradient of {name_of(variable)!r} must have a floating-point dtype. "
            f"Received: {value.dtype.name}"
        )
    shape = value.values.shape[1:] if sparse else value.shape
    expected = variable.shape[1:] if sparse else variable.shape
    if not shape.is_compatible_with(expected) or (sparse and not variable.shape.rank):
        what = "Each row of the sparse gradient" if sparse else "The gradient"
        raise ValueError(
            f"{what} of {name_of(variable)!r} has shape {tuple(shape)}, but the variable has shape "
            f"{tuple(variable.shape)}."
        )
    return value


def _of_tensors(slices):
    indices = tf.convert_to_tensor(slices.indices)
    if indices.dtype not in (tf.int32, tf.int64):
        if not indices.dtype.is_integer:
            raise TypeError
        indices = tf.cast(indices, tf.int64)
    return tf.IndexedSlices(tf.convert_to_tensor(slices.values), indices, slices.dense_shape)


def sparse_indices(slices, variable):
    """An assertion that all indices of a sparse gradient are rows of its variable.

    Inside XLA there are no assertions; nothing is written for indices out of range there.
    """
    rows = variable.shape[0]
    indices = slices.indices
    message = (
        f"The sparse gradient of {name_of(variable)!r} has indices outside of its {rows} rows, "
        f"[0, {rows})."
    )
    inside = tf.reduce_all((indices >= 0) & (indices < rows))
    if tf.executing_eagerly():
        if not inside:
            bad = tf.boolean_mask(indices, (indices < 0) | (indices >= rows))
            raise ValueError(f"{message} Received: {bad.numpy()[:10].tolist()}")
        return tf.no_op()
    return tf.debugging.Assert(inside, [message, indices], summarize=10)
