"""Which lowering a step takes, and why."""

import contextlib

import tensorflow as tf

from tf_optim_ext import compat, native, targets
from tf_optim_ext.lowering import cuda as cuda_lowering
from tf_optim_ext.native import cuda

ON_GPUS = "native (cuda)"
_OF_16_BITS = frozenset(dtype.as_datatype_enum for dtype in (tf.bfloat16, tf.float16))
_FLOAT64 = frozenset([tf.float64.as_datatype_enum])

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
    return "inside XLA" if compat.inside_xla() else _why_no_native_step()


def _why_no_native_step():
    return "inside portable()" if _portable else native.why_not()


def compiles(on, chosen, gradients, lazy):
    """Whether a step of which `of_step` chose the route is one function that XLA compiles.

    Not eagerly under a strategy, where nothing remembers the function.
    """
    if chosen.startswith("native"):
        return False
    if lazy and any(type(g) is tf.IndexedSlices for g in gradients):
        return False
    forgotten = tf.executing_eagerly() and tf.distribute.has_strategy()
    return on.are_on_gpus and not (forgotten or _portable or compat.inside_xla())


def of_step(program, on, gradients, lazy=False):
    """The route of a step over `targets.Targets` that is being traced or run now.

    Args:
        program: a `rule.Program`.
        on: a `targets.Targets`.
        gradients: list of gradients.
        lazy: whether rows without gradient are left alone.

    Returns:
        See `choose`.
    """
    # Not `isinstance`, which takes half a microsecond for this class.
    is_sparse = any(type(g) is tf.IndexedSlices for g in gradients)
    if not on.are_on_gpus:
        return choose(program, on.obstacle, is_sparse)
    if reason := _why_no_native_step():
        return f"tensorflow: {reason}"
    if reason := _why_not_on_gpus(program, on, gradients, lazy and is_sparse):
        return f"tensorflow: {on.obstacle} ({reason})"
    return f"{ON_GPUS} inside XLA" if compat.inside_xla() else ON_GPUS


def _why_not_on_gpus(program, on, gradients, by_rows):
    if by_rows:
        return "only some rows are updated"
    if reason := on.obstacle_on_gpus or cuda_lowering.why_not(program):
        return reason
    converts = on.have_16_bits or any(
        compat.has_dtype(getattr(g, "values", g), _OF_16_BITS) for g in gradients
    )
    for device in on.devices:
        reason = cuda.why_not(device) or cuda.prepare(program, device, converts, len(gradients))
        if compat.inside_xla() and not reason:
            reason = cuda.why_not_inside_xla(device)
        if reason:
            return reason
    return None


def has_norms_on_gpu(device, gradients):
    """Whether native kernels compute norms on a device, given its name."""
    if not targets.is_gpu(device) or cuda.why_not(device):
        return False
    if any(compat.has_dtype(g, _FLOAT64) for g in gradients):
        return False
    converts = any(compat.has_dtype(g, _OF_16_BITS) for g in gradients)
    return cuda.prepare_norms(device, converts, len(gradients)) is None


def choose(program, obstacle, is_sparse=False):
    """The route of a step that is not on GPUs, and is being traced or run now.

    Args:
        program: a `rule.Program`.
        obstacle: why the native library cannot update the variables, or None.
        is_sparse: whether some gradients are `tf.IndexedSlices`.

    Returns:
        A text that begins with "native" or with "tensorflow:" and a reason.
    """
    if reason := _why_no_native_step() or _why_not(program, obstacle, is_sparse):
        return f"tensorflow: {reason}"
    where = " inside XLA" if compat.inside_xla() else ""
    return f"native ({native.instruction_set()}){where}"


def _why_not(program, obstacle, is_sparse):
    if not native.has(program):
        return "the rule is not in the native library"
    if obstacle or not compat.inside_xla():
        return obstacle
    if is_sparse:
        return "sparse gradients inside XLA"
    # Last, as the first time it takes a step.
    reason = native.why_not_inside_xla()
    return reason and f"inside XLA ({reason})"
