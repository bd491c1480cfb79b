"""Sparse gradients, `tf.IndexedSlices`: checked, with every index once, and made dense.

Prepared gradients come in two forms. Usually their indices are unique. Inside XLA, where shapes are
fixed, they have a row for each of the variable, and the index of those without gradient is -1.
"""

import tensorflow as tf

from tf_optim_ext import checks, compat, native, route, targets


def prepared(gradient, variable):
    """The gradient with repeated indices summed; they are checked before it can be used.

    Raises:
        ValueError: an index is no row of the variable (when executing eagerly).
    """
    if compat.inside_xla():
        return _masked(gradient, variable.shape[0])
    if not route.why_not_native() and not targets.obstacle(compat.tensorflow_variable(variable)):
        try:
            return native.sum_rows(gradient, variable.shape[0], checks.name_of(variable))
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(error.message) from None
    with tf.control_dependencies([checks.sparse_indices(gradient, variable)]):
        indices, positions = tf.unique(tf.cast(gradient.indices, tf.int64))
    values = _sums(gradient.values, positions, tf.size(indices))
    return tf.IndexedSlices(values, indices, gradient.dense_shape)


def dense(gradient, variable):
    """A prepared gradient as a tensor of the variable's shape."""
    values = gradient.values
    if not compat.inside_xla():
        values = _sums(values, gradient.indices, variable.shape[0])
    return tf.ensure_shape(values, variable.shape)


def summed_over_replicas(context, gradient, variable):
    """The sum of the prepared gradients of all replicas, prepared."""
    add = tf.distribute.ReduceOp.SUM
    if not compat.inside_xla():
        return prepared(context.all_reduce(add, gradient), variable)
    present = tf.cast(gradient.indices >= 0, tf.float32)
    values, count = context.all_reduce(add, [gradient.values, present])
    return _where(count, values)


def set_flags(flags, gradient):
    """Sets those elements of a `tf.Variable` to 1 whose row a prepared gradient has."""
    if compat.inside_xla():
        flags.assign(tf.where(gradient.indices >= 0, 1.0, flags))
    else:
        tf.raw_ops.ResourceScatterUpdate(
            resource=flags.handle,
            indices=gradient.indices,
            updates=tf.ones(tf.shape(gradient.indices), flags.dtype),
        )


def flagged(flags, variable):
    """Those rows of a `tf.Variable` whose flag is set, as a prepared gradient."""
    if compat.inside_xla():
        return _where(flags, tf.convert_to_tensor(variable))
    return rows_of(variable, tf.IndexedSlices(flags, tf.where(flags > 0)[:, 0]))


def rows_of(variable, gradient):
    """Those rows of a `tf.Variable` that a prepared gradient has, in the same form."""
    if compat.inside_xla():
        return tf.IndexedSlices(tf.convert_to_tensor(variable), gradient.indices)
    rows = tf.raw_ops.ResourceGather(
        resource=variable.handle, indices=gradient.indices, dtype=variable.dtype
    )
    return tf.IndexedSlices(rows, gradient.indices)


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
