"""Which lowering a step takes, and why."""

import contextlib
import contextvars

import tensorflow as tf

from tf_optim_ext import compat, native

_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable():
    """While active, steps are traced to TensorFlow's own ops only.

    A SavedModel with a training step that was traced under `portable()` can be loaded and run
    where this package is not installed. Functions that were traced before are not affected: call
    `tf.function(...)` anew.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.SGD(0.5)
        >>> weights = tf.Variable([1.0, 2.0])
        >>> with tf_optim_ext.portable():
        ...     _ = optimizer.apply_gradients([(tf.constant([1.0, 1.0]), weights)])
        >>> optimizer.route
        'tensorflow: inside portable()'
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def choose(program, variables):
    """The route of a step that is being traced or run now.

    Args:
        program: a `rule.Program`.
        variables: the `tf.Variable`s it will update.

    Returns:
        A text that begins with "native" or with "tensorflow:" and a reason.
    """
    if compat.inside_xla():
        return "tensorflow: inside XLA"
    if _portable.get():
        return "tensorflow: inside portable()"
    if native.why_not():
        return f"tensorflow: {native.why_not()}"
    if not native.has(program):
        return "tensorflow: the rule is not in the native library"
    for variable in variables:
        if variable.dtype not in native.FORMATS:
            return f"tensorflow: weights of dtype {variable.dtype.name}"
        if tf.DeviceSpec.from_string(variable.device).device_type not in (None, "CPU"):
            return f"tensorflow: weights on {variable.device}"
    return f"native ({native.instruction_set()})"
