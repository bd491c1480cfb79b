"""Weights that are moved for another gradient, and moved back to the last bit."""

import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import replica
from tf_optim_ext.backends.beside import NOTHING
from tf_optim_ext.backends.scalars import Scalars
from tf_optim_ext.engine import clipping, execution, sparse
from tf_optim_ext.engine.route import choose
from tf_optim_ext.engine.targets import make_targets

_LARGEST = tf.float32.max


def norm(gradients, variables):
    """The common norm of gradients, as `engine.sparse` prepares them: a float64 scalar."""
    squares = clipping.squared_norms([getattr(g, "values", g) for g in gradients], variables)
    return tf.sqrt(tf.reduce_sum(squares))


def per_norm(length, of_gradients):
    """`length` divided by a norm: a float64 scalar.

    0 where the norm is, as a zero gradient has no direction; NaN where it is not finite, so that
    the second gradient is not either, and whoever looks for that skips the step. At most what
    float32 can hold.
    """
    ratio = tf.math.divide_no_nan(tf.cast(length, tf.float64), of_gradients)
    ratio = tf.minimum(ratio, tf.constant(_LARGEST, tf.float64))
    return tf.where(tf.math.is_finite(of_gradients), ratio, tf.constant(float("nan"), tf.float64))


def kept(variables, gradients):
    """What `restore` needs of weights that will be moved along gradients.

    That takes no time where the gradient is dense: the tensor has the buffer of the variable, which
    gets a new one when it is written to. Of others it has the rows that will be moved.
    """
    return [
        sparse.rows_of(v, g) if _is_by_rows(g) else replica.read(v)
        for v, g in zip(variables, gradients)
    ]


def restore(variables, before):
    """Gives variables the values that `kept` returned."""
    for variable, values in zip(variables, before):
        if isinstance(values, tf.IndexedSlices):
            replica.assign_rows(variable, values.indices, values.values)
        else:
            replica.assign(variable, values)


def _is_by_rows(gradient):
    # Inside XLA they have all rows.
    return isinstance(gradient, tf.IndexedSlices) and not _keras.inside_xla()


def move(program, cache, variables, gradients, scale, hyperparameters):
    """Runs a program without slots over variables, in one operation where the route is native.

    Args:
        program: a `rule.Program` that leaves rows without a gradient alone.
        cache: a `TargetsCache`.
        variables: list of variables.
        gradients: list of gradients, as `engine.sparse` prepares them.
        scale: float64 scalar that gradients are multiplied by.
        hyperparameters: dict from name to a number or scalar tensor, or to a list with one for each
            variable.
    """
    targets = cache.get(
        program,
        variables,
        NOTHING,
        lambda: make_targets(program, variables, lambda v, name: None, {}, NOTHING),
    )
    route = choose(program, targets, gradients, lazy=True)
    execution.run(program, targets, gradients, Scalars(0, 0.0, scale, hyperparameters), route, True)


def magnitudes(variables, gradients, smallest):
    """`|w| + smallest` of the weights that have a gradient, in the form of the gradient.

    Args:
        variables: list of variables.
        gradients: list of gradients, as `engine.sparse` prepares them.
        smallest: number or float64 scalar.
    """
    found = []
    for variable, gradient in zip(variables, gradients):
        if isinstance(gradient, tf.IndexedSlices):
            weights = sparse.rows_of(variable, gradient).values
        else:
            weights = replica.read(variable)
        weights = tf.cast(weights, _computed_in(variable))
        found.append(tf.abs(weights) + tf.cast(smallest, weights.dtype))
    return found


def times(factors, gradients):
    """Products of tensors and gradients of the same form."""
    return [_with_values(g, f * tf.cast(_values(g), f.dtype)) for f, g in zip(factors, gradients)]


def _computed_in(variable):
    return tf.float64 if tf.as_dtype(variable.dtype) == tf.float64 else tf.float32


def _values(gradient):
    return getattr(gradient, "values", gradient)


def _with_values(gradient, values):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return values


def without_orthogonal_part(first, second, variables, alpha):
    """`second - alpha * o`, where `o` is the part of `first` that is orthogonal to `second`.

    All gradients together are one vector.

    Args:
        first, second: lists of gradients, as `engine.sparse` prepares them.
        variables: list of as many variables.
        alpha: number or float64 scalar.

    Returns:
        List of gradients; what occurs in `first` alone, such as rows, has a gradient, too.
    """
    pairs = [_alike(*pair) for pair in zip(first, second, variables)]
    norms = [norm(side, variables) for side in zip(*pairs)]
    units = [per_norm(1.0, n) for n in norms]
    cosines = [
        tf.reduce_sum(
            tf.cast(_values(a), d) * tf.cast(units[0], d) * _values(_unit(b, units[1], d))
        )
        for (a, b), d in ((pair, _computed_in(v)) for pair, v in zip(pairs, variables))
    ]
    cosine = tf.add_n([tf.cast(c, tf.float64) for c in cosines])
    return [
        _combined(a, b, _unit(b, units[1], d), cosine * norms[0], alpha, d)
        for (a, b), d in ((pair, _computed_in(v)) for pair, v in zip(pairs, variables))
    ]


def _alike(first, second, variable):
    """Two gradients of a variable as tensors, or with the same rows in the same order."""
    if not (isinstance(first, tf.IndexedSlices) and isinstance(second, tf.IndexedSlices)):
        return sparse.all_dense([first, second], [variable, variable])
    if _keras.inside_xla():  # they have all rows
        return first.values, second.values
    indices, positions = tf.unique(tf.concat([first.indices, second.indices], 0))
    of_first, of_second = tf.split(positions, [tf.size(first.indices), tf.size(second.indices)])
    count = tf.size(indices)
    return tuple(
        tf.IndexedSlices(
            tf.math.unsorted_segment_sum(tf.cast(g.values, _computed_in(variable)), at, count),
            indices,
            second.dense_shape,
        )
        for g, at in ((first, of_first), (second, of_second))
    )


def _unit(gradient, unit, dtype):
    values = _values(gradient)
    return _with_values(gradient, tf.cast(values, dtype) * tf.cast(unit, dtype))


def _combined(first, second, direction, length, alpha, dtype):
    # `length * direction` is the parallel part; a quotient of both norms might overflow.
    parallel = _values(direction) * tf.cast(length, dtype)
    orthogonal = tf.cast(_values(first), dtype) - parallel
    values = tf.cast(_values(second), dtype) - tf.cast(alpha, dtype) * orthogonal
    return _with_values(second, tf.cast(values, _values(second).dtype))
