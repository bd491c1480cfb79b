"""Clipping by norms: the factors that gradients get."""

import contextlib

import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import native, replica
from tf_optim_ext.backends import tensorflow as tensorflow_backend
from tf_optim_ext.engine import route, targets

_NAN = float("nan")


def factors(gradients, variables, scale, limit, of_all, norms=None):
    """What gradients are multiplied by, so that they are scaled and their norms at most a limit.

    Args:
        gradients: list of tensors, or of `tf.IndexedSlices` as `sparse` prepares them.
        variables: list of as many variables.
        scale: a number: the factor of gradients that need no clipping.
        limit: what the norms are at most, after scaling; as in Keras, 0 means no clipping.
        of_all: whether that is the common norm of all gradients.
        norms: the `squared_norms` of the gradients, if they are known.

    Returns:
        A float64 tensor: with an element for each gradient, or for all a scalar.
    """
    if norms is None:
        norms = squared_norms([getattr(g, "values", g) for g in gradients], variables)
    if of_all:
        norms = tf.reduce_sum(norms)
    scale = _beside(norms, scale)
    norms = tf.sqrt(norms) * scale
    limit = tf.cast(_beside(norms, limit), tf.float64)
    factor = scale * limit / tf.maximum(norms, limit)
    if of_all:
        # As in Keras: one infinite gradient makes all of them NaN, and not all others zero.
        factor = tf.where(tf.math.is_finite(norms), factor, _beside(norms, _NAN))
    return tf.where(limit > 0, factor, scale)


def _beside(norms, value):
    """A tensor as it is, and a number where norms are: to copy it there would wait for a GPU."""
    if tf.is_tensor(value):
        return value
    if tf.executing_eagerly():
        return replica.eager_constant(float(value), tf.float64, norms.device)
    return tf.constant(value, tf.float64)


def clipped(gradients, variables, limit, of_all):
    """Dense gradients, scaled down so that their norms are at most a limit; see `factors`."""
    scales = factors(gradients, variables, 1.0, limit, of_all)
    scales = [scales] * len(gradients) if of_all else tf.unstack(scales)
    return [tf.cast(tf.cast(g, tf.float64) * f, g.dtype) for g, f in zip(gradients, scales)]


def squared_norms(gradients, variables):
    """Sums of squares of tensors, computed where the variables are.

    A gradient is where its variable is, and to copy it elsewhere takes longer than its norm.

    Returns:
        A float64 tensor with one element for each.
    """
    if route.why_not_native():
        return tensorflow_backend.squared_norms(gradients)
    devices = [_keras.tensorflow_variable(variable).device for variable in variables]
    elsewhere = {device for device in set(devices) if targets.elsewhere(device)}
    if not elsewhere:
        return _at(None, gradients)
    places: dict[str | None, list[int]] = {}
    for i, device in enumerate(devices):
        places.setdefault(device if device in elsewhere else None, []).append(i)
    parts = [_at(place, [gradients[i] for i in members]) for place, members in places.items()]
    if len(parts) == 1:
        return parts[0]
    order = [i for members in places.values() for i in members]
    return tf.gather(tf.concat(parts, 0), [order.index(i) for i in range(len(order))])


def _at(place, gradients):
    if place is None:
        # The op has a kernel for GPUs as well, where TensorFlow would rather run it.
        with tf.device("CPU:0") if _keras.has_gpus() else contextlib.nullcontext():
            return native.squared_norms(gradients)
    with tf.device(place):
        if route.has_norms_on_gpu(place, gradients):
            return native.squared_norms(gradients)
        return tensorflow_backend.squared_norms(gradients)
