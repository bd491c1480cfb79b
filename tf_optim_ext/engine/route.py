"""Which backend runs a step, and why."""

import contextlib
import dataclasses

import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import native


@dataclasses.dataclass(frozen=True)
class Route:
    """Which backend ran a step.

    Attributes:
        kind: "native", "tensorflow"; "none" before the first step.
        reason: the instruction set of the kernels if the step is native; why it is not, otherwise.
        inside_xla: whether a native step is part of an XLA program.
        compiled: whether a step of TensorFlow's ops is a function that XLA compiles.
    """

    kind: str
    reason: str
    inside_xla: bool = False
    compiled: bool = False

    @property
    def is_native(self):
        return self.kind == "native"

    def __str__(self):
        if not self.is_native:
            return f"{self.kind}: {self.reason}{', compiled by XLA' if self.compiled else ''}"
        return f"native ({self.reason}){' inside XLA' if self.inside_xla else ''}"


NO_STEP = Route("none", "no step was run or traced yet")

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
        >>> print(optimizer.route)
        tensorflow: inside portable()
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


def choose(program, targets, is_sparse, lazy):
    """The route of a step that is being traced or run now.

    Args:
        program: a `Program`.
        targets: the `Targets`.
        is_sparse: whether some gradients are `tf.IndexedSlices`.
        lazy: whether rows without gradient are left alone then.

    Returns:
        A `Route`.
    """
    route = choose_for(program, targets.obstacle, is_sparse)
    if route.is_native or not targets.are_on_gpus or (lazy and is_sparse):
        return route
    # Eagerly under a strategy, nothing remembers a compiled function.
    forgotten = tf.executing_eagerly() and tf.distribute.has_strategy()
    compiled = not (forgotten or _portable or _keras.inside_xla())
    return dataclasses.replace(route, compiled=compiled)


def choose_for(program, obstacle, is_sparse):
    """The route for variables that the native library cannot update for a reason, or None."""
    if reason := _why_no_native_step() or _why_not(program, obstacle, is_sparse):
        return Route("tensorflow", reason)
    return Route("native", native.instruction_set(), _keras.inside_xla())


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
