"""Variables of the replica that a step runs in, through their handles.

The methods of a mirrored variable would ask for a merge of the replicas, which a branch of
`tf.cond` does not allow; and those of any variable take a few times as long as the op alone. All
functions take a `keras.Variable` or `tf.Variable`.
"""

import functools

import tensorflow as tf

from tf_optim_ext import _keras


def read(variable):
    variable = _keras.tensorflow_variable(variable)
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def readable_by_op(variable, device):
    """The handle of a variable, for an op that can read it; what `read` returns, if it cannot.

    Args:
        device: name of the device of the op; None: it cannot.
    """
    handle = _keras.tensorflow_variable(variable).handle
    return handle if handle.device == device else read(variable)


def assign(variable, value):
    variable = _keras.tensorflow_variable(variable)
    value = tf.ensure_shape(tf.cast(value, variable.dtype), variable.shape)
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


def add(variable, number):
    variable = _keras.tensorflow_variable(variable)
    constant = eager_constant if tf.executing_eagerly() else tf.constant
    value = constant(number, variable.dtype)
    tf.raw_ops.AssignAddVariableOp(resource=variable.handle, value=value)


@functools.lru_cache(maxsize=256)
def eager_constant(value, dtype):
    """A number or a tuple as an eager tensor, which takes a while to make."""
    with tf.device("CPU:0"):
        return tf.constant(value, dtype)


def read_rows(variable, indices):
    variable = _keras.tensorflow_variable(variable)
    return tf.raw_ops.ResourceGather(
        resource=variable.handle, indices=indices, dtype=variable.dtype
    )


def assign_rows(variable, indices, values):
    variable = _keras.tensorflow_variable(variable)
    values = tf.cast(values, variable.dtype)
    tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=indices, updates=values)
