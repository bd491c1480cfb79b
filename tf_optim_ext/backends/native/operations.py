"""The ops of the native library."""

import contextlib
import dataclasses

import numpy as np
import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import replica
from tf_optim_ext.backends.beside import NOTHING
from tf_optim_ext.backends.native.loader import library
from tf_optim_ext.rule import auxiliary

FORMATS = (tf.float32, tf.bfloat16, tf.float16)
_FORMATS = frozenset(dtype.as_datatype_enum for dtype in FORMATS)
_FORMATS_OF_NORMS = _FORMATS | {tf.float64.as_datatype_enum}


@dataclasses.dataclass(frozen=True)
class Group:
    """Variables of one device, and handles.

    Attributes:
        device: name of the device.
        members: positions in the list of all variables.
        weights: handles of the variables.
        slots: handles of their slots, those of one name together; those of `Beside` come last.
        scalars: handles of the state that is numbers: those of the variables, those of one name
            together, then those of the optimizer.

    A tensor may hold several handles.
    """

    device: str
    members: list
    weights: list
    slots: list
    scalars: list

    def packed(self, is_on_gpu):
        """The same with one tensor for all handles of a kind.

        TensorFlow takes 2 to 3 microseconds for each input of an eager op. In a graph, the order of
        ops that use the same variable would be lost with the handles, and so would saving it.
        """
        pack = _packed_on_gpu if is_on_gpu else _packed
        with tf.device(self.device):
            weights, slots, scalars = (
                [pack(handles)] if handles else []
                for handles in (self.weights, self.slots, self.scalars)
            )
        return Group(self.device, self.members, weights, slots, scalars)


def _packed(handles):
    return tf.raw_ops.Pack(values=handles)


def _packed_on_gpu(handles):
    return library().ops.tf_optim_ext_handles(handles=handles)


def step(program, group, gradients, scalars, lazy=False, beside=NOTHING):
    """Runs a program on all variables in one op.

    Args:
        program: a `rule.Program` for which `has` holds.
        group: a `Group`, whose slots include those of `beside`.
        gradients: dense tensors, or `tf.IndexedSlices` as `sum_rows` makes them.
        scalars: a `lowering.Scalars`.
        lazy: whether rows without gradient are left alone; otherwise their gradient is zero, and
            the indices must be increasing.
        beside: a `Beside`: what runs before and after the program.
    """
    if not beside.takes_gradients:
        gradients = []
    by_rows = [i for i, g in enumerate(gradients) if type(g) is tf.IndexedSlices]
    values = [g.values if type(g) is tf.IndexedSlices else g for g in gradients]
    arguments = {
        "weights": group.weights,
        "slots": group.slots,
        "scalars": group.scalars,
        "gradients": _readable(values),
        "indices": [gradients[i].indices for i in by_rows],
        "finished": scalars.finished,
        "learning_rate": scalars.rates,
        "gradient_scale": scalars.scale,
        "hyperparameters": scalars.rows(program),
        "rule": _kernel(program),
        "by_rows": by_rows,
        "lazy": lazy,
        "rounding": scalars.rounding or [],
    }
    with _outside_of_clusters():
        if beside is NOTHING:
            library().ops.tf_optim_ext_step(**arguments)
        else:
            more = _arguments_beside(beside)
            library().ops.tf_optim_ext_fused_step(**arguments, **more, count=len(group.members))


def _kernel(program):
    return f"rule_{program.fingerprint}"


def _arguments_beside(beside):
    adds, averages = beside.scale is not None, beside.momentum is not None
    numbers = [x for x in (beside.scale, beside.momentum) if x is not None]
    return {
        "beside": [_float64(x) for x in numbers],
        "accumulate": _kernel(auxiliary.accumulate()) if adds else "",
        "average": _kernel(auxiliary.average()) if averages else "",
        "reset": _kernel(auxiliary.reset()) if beside.has_sums else "",
    }


def _float64(number):
    if tf.is_tensor(number):
        return tf.cast(number, tf.float64)
    if tf.executing_eagerly():
        return replica.eager_constant(float(number), tf.float64)
    return tf.constant(number, tf.float64)


def _outside_of_clusters():
    """Keeps ops out of what XLA compiles by itself (`TF_XLA_FLAGS=--tf_xla_auto_jit=2`).

    XLA has kernels for them, which explain that there are none.
    """
    if tf.executing_eagerly():
        return contextlib.nullcontext()
    return tf.xla.experimental.jit_scope(compile_ops=False)


def _readable(gradients, formats=_FORMATS):
    return [g if _keras.has_dtype(g, formats) else tf.cast(g, tf.float32) for g in gradients]


def sum_rows(gradient, rows, name, increasing):
    """Sums the rows of a sparse gradient that have the same index.

    Args:
        gradient: a `tf.IndexedSlices`.
        rows: number of rows of its variable.
        name: name of its variable.
        increasing: whether the indices shall be in that order; otherwise they are if one of them
            occurs twice.

    Returns:
        A `tf.IndexedSlices` with different int64 indices and float32 values.

    Raises:
        tf.errors.InvalidArgumentError: an index is no row.
    """
    (values,) = _readable([gradient.values])
    with _outside_of_clusters():
        indices, sums = library().ops.tf_optim_ext_sum_rows(
            indices=gradient.indices,
            values=values,
            rows=rows,
            increasing=increasing,
            variable=name,
        )
    return tf.IndexedSlices(sums, indices, gradient.dense_shape)


def squared_norms(gradients):
    """Sums of squares of dense tensors: a float64 tensor with one element for each.

    They are squared and added in float64, also inside XLA, so that none of float32 overflows.
    """
    readable = _readable(gradients, _FORMATS_OF_NORMS)
    with _outside_of_clusters():
        return library().ops.tf_optim_ext_squared_norms(gradients=readable)


def stream(arrays_in_out, reads, threads=1):
    """Times a plain loop over memory, the limit that a step can be compared with.

    Args:
        arrays_in_out: 1 to 4 float32 arrays of one size; what the loop reads and writes.
        reads: list of one float32 array of that size; the loop adds it to the others.
        threads: how many threads share the work.

    Returns:
        Seconds.

    Raises:
        ValueError: the arrays do not fit this description.
        RuntimeError: there is no native library.
    """
    arrays = [*arrays_in_out, *reads]
    fits = len(reads) == 1 and 1 <= len(arrays_in_out) <= 4 and threads >= 1
    for array in arrays:
        fits = fits and isinstance(array, np.ndarray) and array.dtype == np.float32
        fits = fits and array.flags.c_contiguous and array.size == arrays[0].size
    if not fits or not all(a.flags.writeable for a in arrays_in_out):
        raise ValueError(
            "`stream` needs 1 to 4 writable float32 arrays, a list with one more of the same size, "
            "and at least one thread."
        )
    pointers = [array.ctypes.data for array in arrays]
    return library().stream(pointers[:-1], pointers[-1], arrays[0].size, threads)
