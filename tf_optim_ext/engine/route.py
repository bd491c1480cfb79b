"""Which backend runs a step, and why."""

import contextlib
import dataclasses

import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import native
from tf_optim_ext.backends.native import cuda
from tf_optim_ext.codegen import cuda as codegen
from tf_optim_ext.engine.targets import is_gpu

CUDA = "cuda"
_OF_16_BITS = frozenset(dtype.as_datatype_enum for dtype in (tf.bfloat16, tf.float16))
_FLOAT64 = frozenset([tf.float64.as_datatype_enum])


@dataclasses.dataclass(frozen=True)
class Route:
    """Which backend ran a step.

    Attributes:
        kind: "native", "tensorflow"; "none" before the first step.
        reason: of a native step, the instruction set of its kernels, or "cuda"; otherwise why the
            step is not native.
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

    @property
    def is_on_gpus(self):
        return self.is_native and self.reason == CUDA

    @property
    def is_fused(self):
        """Whether what is beside a rule is part of the same pass over memory."""
        return self.is_native and not self.is_on_gpus

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


def choose(program, targets, gradients, lazy):
    """The route of a step that is being traced or run now.

    Args:
        program: a `Program`.
        targets: the `Targets`.
        gradients: list of gradients.
        lazy: whether rows without gradient are left alone.

    Returns:
        A `Route`.
    """
    # Not `isinstance`, which takes half a microsecond for this class.
    is_sparse = any(type(g) is tf.IndexedSlices for g in gradients)
    if not targets.are_on_gpus:
        return choose_for(program, targets.obstacle, is_sparse)
    by_rows = lazy and is_sparse
    if not (reason := _why_no_native_step()):
        if not (reason := _why_not_on_gpus(program, targets, gradients, by_rows)):
            return Route("native", CUDA, _keras.inside_xla())
        reason = f"{targets.obstacle} ({reason})"
    # Eagerly under a strategy, nothing remembers a compiled function.
    forgotten = tf.executing_eagerly() and tf.distribute.has_strategy()
    compiled = not (by_rows or forgotten or _portable or _keras.inside_xla())
    return Route("tensorflow", reason, compiled=compiled)


def _why_not_on_gpus(program, targets, gradients, by_rows):
    if by_rows:
        return "only some rows are updated"
    if reason := targets.obstacle_on_gpus or codegen.why_not(program):
        return reason
    converts = targets.have_16_bits or _any_has_dtype(gradients, _OF_16_BITS)
    for device in targets.devices:
        reason = native.why_not_on_gpu(device)
        reason = reason or cuda.prepare(program, device, converts, len(gradients))
        if _keras.inside_xla() and not reason:
            reason = native.why_not_inside_xla_on_gpu(device)
        if reason:
            return reason
    return None


def _any_has_dtype(gradients, dtypes):
    return any(_keras.has_dtype(getattr(g, "values", g), dtypes) for g in gradients)


def has_norms_on_gpu(device, gradients):
    """Whether native kernels compute norms on a device, given its name."""
    if not is_gpu(device) or native.why_not_on_gpu(device):
        return False
    if _any_has_dtype(gradients, _FLOAT64):
        return False
    converts = _any_has_dtype(gradients, _OF_16_BITS)
    return cuda.prepare_norms(device, converts, len(gradients)) is None


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
