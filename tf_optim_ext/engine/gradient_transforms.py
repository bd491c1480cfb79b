"""What gradients go through before a rule gets them: centralization, adaptive clipping.

Everything is computed in float64, so that neither sums nor squares nor small factors of gradients
of float32 leave its range.
"""

import math

import tensorflow as tf

from tf_optim_ext.backends import replica
from tf_optim_ext.engine import sparse

# The authors' constants: zero weights could never grow, and no norm divides by zero.
SMALLEST_NORM_OF_WEIGHTS = 1e-3
SMALLEST_NORM_OF_GRADIENT = 1e-6


def transformed(gradients, variables, scale, centralize, limits, were_rows=None):
    """Gradients that are scaled, then centralized, then clipped adaptively.

    Args:
        gradients: list of tensors, or of `tf.IndexedSlices` as `sparse` prepares them.
        variables: list of as many variables.
        scale: number or scalar tensor that gradients are multiplied by.
        centralize: whether to subtract means.
        limits: for each gradient the largest ratio of its norms to those of the weights: a number
            or scalar tensor; 0: there is none.
        were_rows: for each gradient whether it stands for a `tf.IndexedSlices`; default: none does.

    Returns:
        List of gradients of the same kinds, in float32, or float64 for variables of that.
    """
    were_rows = were_rows or [False] * len(gradients)
    return [
        _transformed(gradient, variable, scale, centralize, limit, by_row)
        for gradient, variable, limit, by_row in zip(gradients, variables, limits, were_rows)
    ]


def _transformed(gradient, variable, scale, centralize, limit, by_row):
    is_sparse = isinstance(gradient, tf.IndexedSlices)
    by_row = by_row or is_sparse
    values = tf.cast(gradient.values if is_sparse else gradient, tf.float64)
    if tf.is_tensor(scale) or scale != 1.0:
        values = values * tf.cast(scale, tf.float64)
    shape = tuple(variable.shape)
    if centralize and len(shape) > 1:
        values = values - _mean(values, shape, by_row)
    if tf.is_tensor(limit) or limit:
        weights = sparse.rows_of(variable, gradient).values if is_sparse else replica.read(variable)
        values = _clipped(values, weights, limit, _axes_of_unit(shape, by_row))
    is_wide = tf.as_dtype(variable.dtype) == tf.float64
    values = tf.cast(values, tf.float64 if is_wide else tf.float32)
    if is_sparse:
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return values


def _mean(values, shape, by_row):
    axes = range(1, len(shape)) if by_row else range(len(shape) - 1)
    count = math.prod(shape[axis] for axis in axes)
    return tf.reduce_sum(values, list(axes), keepdims=True) / max(count, 1)


def _axes_of_unit(shape, by_row):
    """The axes within which one unit lies: the last axis of a kernel counts its output units."""
    if by_row:
        return range(1, len(shape))
    if sum(size != 1 for size in shape) < 2:
        return range(len(shape))
    return range(len(shape) - 1)


def _clipped(values, weights, limit, axes):
    limit = tf.cast(limit, tf.float64) if tf.is_tensor(limit) else tf.constant(limit, tf.float64)
    most = limit * tf.maximum(_norms(weights, axes), SMALLEST_NORM_OF_WEIGHTS)
    norms = _norms(values, axes)
    factors = most / tf.maximum(norms, SMALLEST_NORM_OF_GRADIENT)
    return tf.where((norms > most) & (limit > 0), values * factors, values)


def _norms(values, axes):
    axes = tf.constant(list(axes), tf.int32)
    squares = tf.square(tf.cast(values, tf.float64))
    return tf.sqrt(tf.reduce_sum(squares, axes, keepdims=True))
