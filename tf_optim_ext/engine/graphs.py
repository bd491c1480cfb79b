"""Steps in graphs of sessions, where operations run in no order but that of their inputs."""

import contextlib

import tensorflow as tf

from tf_optim_ext import _keras


@contextlib.contextmanager
def named(name, after):
    """Names the ops of a graph, and has them run after others."""
    if tf.executing_eagerly():
        yield
        return
    with tf.name_scope(name), tf.control_dependencies(after):
        yield


def check_runs_now(what, instead):
    """Raises an error where an assignment would only add an operation that nobody runs."""
    if not _keras.keeps_order():
        raise RuntimeError(f"{what} does nothing in a graph of a session: run {instead} there.")


def check_has_values(what, instead):
    """Raises an error where the values of variables are known to a session only."""
    if not _keras.keeps_order():
        raise RuntimeError(f"{what} cannot read variables in a graph of a session: {instead}.")


def rate(learning_rate):
    """A learning rate for Keras: a tensor of a graph as a callable, everything else as it is."""
    symbolic = tf.is_tensor(learning_rate) and not tf.executing_eagerly()
    return TensorRate(learning_rate) if symbolic else learning_rate


class TensorRate:
    """A tensor of a graph as a learning rate, for Keras, which takes callables."""

    def __init__(self, tensor):
        if not (tensor.dtype.is_floating or tensor.dtype.is_integer) or tensor.shape.rank != 0:
            raise ValueError(
                "`learning_rate` must be a scalar, if it is a tensor. Received: "
                f"{tensor.dtype.name} of shape {tensor.shape}"
            )
        self._tensor = tensor

    def __call__(self):
        return self._tensor

    def get_config(self):
        raise ValueError(
            "The learning rate is a tensor of a graph, which a configuration cannot hold. Use a "
            "number or a schedule where the optimizer must be saved."
        )


def one_operation(optimizer, step):
    """Adds a step to a graph as one operation, within which the order is kept.

    Whatever the step creates, such as slots, is created outside that operation.

    Args:
        optimizer: the optimizer that takes the step.
        step: function without arguments that returns a tensor.

    Returns:
        That operation, as optimizers of TensorFlow 1 and 2.0 return it.

    Raises:
        RuntimeError: the optimizer belongs to another graph.
    """
    with tf.init_scope():
        elsewhere = not tf.executing_eagerly() and not _is_here(optimizer)
    if elsewhere:
        raise RuntimeError(
            f"{optimizer.name!r} was created outside of this graph. Create it where the variables "
            "are created that it updates: within `with graph.as_default():`."
        )
    return tf.function(step, autograph=False)().op


def _is_here(optimizer):
    handle = _keras.tensorflow_variable(optimizer._counter).handle
    # Eager tensors have no graph.
    return getattr(handle, "graph", None) is tf.compat.v1.get_default_graph()
