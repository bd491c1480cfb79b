"""Which lowering a step takes, and why."""

import contextlib

import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import native

# One element for each `portable()` that is active; for all threads, because strategies run replicas
# in threads of their own.
_portable: list[None] = []


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
    _portable.append(None)
    try:
        yield
    finally:
        _portable.pop()


def why_not_native():
    """Why native ops beside the step cannot be used in what is being traced or run now; or None."""
    return "inside XLA" if _keras.inside_xla() else _why_no_native_step()


def _why_no_native_step():
    return "inside portable()" if _portable else native.why_not()


def compiles(on):
    """Whether a step over `targets.Targets` is one function that XLA compiles.

    Not eagerly under a strategy, where nothing remembers the function.
    """
    forgotten = tf.executing_eagerly() and tf.distribute.has_strategy()
    return on.are_on_gpus and not (forgotten or _portable or _keras.inside_xla())


def choose(program, obstacle, is_sparse=False):
    """The route of a step that is being traced or run now.

    Args:
        program: a `rule.Program`.
        obstacle: why the native library cannot update the variables, or None.
        is_sparse: whether some gradients are `tf.IndexedSlices`.

    Returns:
        A text that begins with "native" or with "tensorflow:" and a reason.
    """
    if reason := _why_no_native_step() or _why_not(program, obstacle, is_sparse):
        return f"tensorflow: {reason}"
    where = " inside XLA" if _keras.inside_xla() else ""
    return f"native ({native.instruction_set()}){where}"


def _why_not(program, obstacle, is_sparse):
    if not native.has(program):
        return "the rule is not in the native library"
    if obstacle or not _keras.inside_xla():
        return obstacle
    if is_sparse:
        return "sparse gradients inside XLA"
    # Last, as the first time it takes a step.
    reason = native.why_not_inside_xla()
    return reason and f"inside XLA ({reason})"
