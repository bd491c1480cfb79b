"""Sparse gradients, `tf.IndexedSlices`: checked, with every index once, and made dense.

Prepared gradients come in two forms. Usually their indices are unique. Inside XLA, where shapes are
fixed, they have a row for each of the variable, and the index of those without gradient is -1.
"""

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.backends import native, replica
from tf_optim_ext.engine import route, targets


def prepared(gradient, variable, increasing):
    """The gradient with repeated indices summed; they are checked before it can be used.

    Args:
        gradient: a `tf.IndexedSlices` that fits the variable.
        variable: the variable.
        increasing: whether the indices must come in that order natively, as for an update of all
            rows.

    Raises:
        ValueError: an index is no row of the variable (when executing eagerly).
    """
    gradient = _of_known_shape(gradient, variable)
    if _keras.inside_xla():
        return _masked(gradient, variable.shape[0])
    if not route.why_not_native() and not targets.obstacle(_keras.tensorflow_variable(variable)):
        try:
            name = checks.name_of(variable)
            return native.sum_rows(gradient, variable.shape[0], name, increasing)
        except tf.errors.InvalidArgumentError as error:
            # Without the name of the op, which TensorFlow puts around it.
            text = error.message.split("}} ")[-1].split(" [Op:")[0]
            raise ValueError(text) from None
    with tf.control_dependencies([checks.sparse_indices(gradient, variable)]):
        indices, positions = tf.unique(tf.cast(gradient.indices, tf.int64))
    values = _sums(gradient.values, positions, tf.size(indices))
    return tf.IndexedSlices(values, indices, gradient.dense_shape)


def all_prepared(gradients, variables, increasing):
    """Gradients with the sparse ones prepared, and the others of a known shape."""
    return [
        prepared(g, v, increasing) if isinstance(g, tf.IndexedSlices) else _of_shape(g, v)
        for g, v in zip(gradients, variables)
    ]


def _of_shape(gradient, variable):
    is_known = gradient.shape.is_fully_defined()
    return gradient if is_known else tf.ensure_shape(gradient, variable.shape)


def all_dense(gradients, variables):
    """Gradients of which some are prepared ones, all as tensors of their variables' shapes."""
    return [
        _dense(g, v) if isinstance(g, tf.IndexedSlices) else g for g, v in zip(gradients, variables)
    ]


def _dense(gradient, variable):
    values = gradient.values
    if not _keras.inside_xla():
        values = _sums(values, gradient.indices, variable.shape[0])
    return tf.ensure_shape(values, variable.shape)


def summed_over_replicas(context, gradient, variable, increasing):
    """The sum of the prepared gradients of all replicas, prepared."""
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
    return prepared(summed, variable, increasing)


def set_flags(flags, gradient):
    """Sets those elements of a variable to 1 whose row a prepared gradient has."""
    indices = gradient.indices
    if _keras.inside_xla():
        replica.assign(flags, tf.where(indices >= 0, 1.0, replica.read(flags)))
    else:
        replica.assign_rows(flags, indices, tf.ones(tf.shape(indices)))


def flagged(flags, variable):
    """Those rows of a variable whose flag is set, as a prepared gradient."""
    flags = replica.read(flags)
    if _keras.inside_xla():
        return _where(flags, replica.read(variable))
    indices = tf.where(flags > 0)[:, 0]
    return tf.IndexedSlices(replica.read_rows(variable, indices), indices)


def rows_of(variable, gradient):
    """Those rows of a variable that a prepared gradient has, in the same form."""
    indices = gradient.indices
    if _keras.inside_xla():
        return tf.IndexedSlices(replica.read(variable), indices)
    return tf.IndexedSlices(replica.read_rows(variable, indices), indices)


def _of_known_shape(gradient, variable):
    expected = tf.TensorShape([None, *variable.shape[1:]])
    if gradient.values.shape[1:] == expected[1:]:
        return gradient
    values = tf.ensure_shape(gradient.values, expected)
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def _where(flags, values):
    indices = tf.range(values.shape[0], dtype=tf.int64)
    return tf.IndexedSlices(values, tf.where(flags > 0, indices, tf.constant(-1, tf.int64)))


def _masked(gradient, rows):
    ones = tf.ones_like(gradient.indices)
    count = tf.math.unsorted_segment_sum(ones, gradient.indices, rows)
    return _where(count, _sums(gradient.values, gradient.indices, rows))


def _sums(values, indices, count):
    if values.dtype in (tf.float16, tf.bfloat16):
        values = tf.cast(values, tf.float32)
    return tf.math.unsorted_segment_sum(values, indices, count)
