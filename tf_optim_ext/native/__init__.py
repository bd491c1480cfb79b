"""The native library: loading it, and calling its ops.

The environment variable `TF_OPTIM_EXT_NATIVE` chooses the instruction set (`baseline`, `avx2`,
`avx512`) or none (`off`). By default the best one that the processor has is used.
Steps inside of XLA on a CPU are native by a second library, unless `TF_OPTIM_EXT_XLA=off`; those on
GPUs by kernels that are compiled at run time (`cuda.py`), unless `TF_OPTIM_EXT_CUDA=off`.
"""

import contextlib
import ctypes
import functools
import json
import os
import pathlib

import numpy as np
import tensorflow as tf

from tf_optim_ext import compat
from tf_optim_ext.native.build import LIBRARY, REPORT, XLA_LIBRARY

HERE = pathlib.Path(__file__).parent
VARIABLE = "TF_OPTIM_EXT_NATIVE"
XLA_VARIABLE = "TF_OPTIM_EXT_XLA"
OFF = ("off", "0", "none")
BEST_FIRST = ("avx512", "avx2", "baseline")
FORMATS = (tf.float32, tf.bfloat16, tf.float16)
_FORMATS = frozenset(dtype.as_datatype_enum for dtype in FORMATS)
_FORMATS_OF_NORMS = _FORMATS | {tf.float64.as_datatype_enum}


class _Library:
    """The loaded library."""

    def __init__(self, path):
        self.ops = tf.load_op_library(str(path))
        self._functions = ctypes.CDLL(str(path))
        self._functions.tf_optim_ext_kernel.restype = ctypes.c_char_p
        self._functions.tf_optim_ext_stream.restype = ctypes.c_double
        count = self._functions.tf_optim_ext_kernels()
        self.kernels = frozenset(
            self._functions.tf_optim_ext_kernel(i).decode() for i in range(count)
        )
        self.instruction_set = None

    def keep_cuda_program(self, name, converts, architecture, image, numbers):
        array = (ctypes.c_int64 * len(numbers))(*numbers)
        self._functions.tf_optim_ext_keep_cuda_program(
            name.encode(),
            int(converts),
            architecture,
            image,
            ctypes.c_int64(len(image)),
            array,
            len(numbers),
        )

    def use(self, instruction_set):
        """Switches to an instruction set; returns whether that was possible."""
        if not self._functions.tf_optim_ext_use(instruction_set.encode()):
            return False
        self.instruction_set = instruction_set
        return True

    def stream(self, pointers, read, size, threads):
        array = (ctypes.c_void_p * len(pointers))(*pointers)
        return self._functions.tf_optim_ext_stream(
            len(pointers), array, ctypes.c_void_p(read), ctypes.c_int64(size), threads
        )


def _load():
    """Returns the library or None, and why it is None."""
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if wanted in OFF:
        return None, f"{VARIABLE}={os.environ[VARIABLE]}"
    if wanted and wanted not in BEST_FIRST:
        return None, f"{VARIABLE}={wanted} is unknown; allowed are off, {', '.join(BEST_FIRST)}"
    try:
        report = json.loads((HERE / REPORT).read_text())
        problem, version = report["error"], report.get("tensorflow", "?")
    except FileNotFoundError:
        return None, "library not built: run `python -m tf_optim_ext.native`"
    except (OSError, ValueError, TypeError, KeyError):
        return None, f"{REPORT} is damaged; reinstall tf_optim_ext"
    if problem:
        return None, f"library not built: {problem}"
    if version.split(".")[:2] != tf.__version__.split(".")[:2]:
        return None, (
            f"library built for TensorFlow {version}, this is {tf.__version__}; "
            "reinstall tf_optim_ext"
        )
    path = HERE / LIBRARY
    if path.exists() and path.stat().st_size != report.get("bytes"):
        return None, f"{LIBRARY} is damaged; reinstall tf_optim_ext"
    try:
        library = _Library(path)
    except (tf.errors.OpError, OSError, AttributeError) as error:
        return None, f"library does not load: {str(error).splitlines()[0]}"
    for instruction_set in [wanted] if wanted else BEST_FIRST:
        if library.use(instruction_set):
            return library, None
    return None, f"{VARIABLE}={wanted}: this processor lacks it or it was not built"


def _load_for_xla():
    """Returns the library for steps inside of XLA or None, and why it is None."""
    if reason := why_not():
        return None, reason
    wanted = os.environ.get(XLA_VARIABLE, "").strip().lower()
    if wanted in OFF:
        return None, f"{XLA_VARIABLE}={os.environ[XLA_VARIABLE]}"
    if wanted not in ("", "on"):
        return None, f"{XLA_VARIABLE}={wanted} is unknown; allowed are off, on"
    report = json.loads((HERE / REPORT).read_text())
    if problem := report.get("xla_error", "there was none when it was built"):
        return None, f"library for XLA not built: {problem}"
    path = HERE / XLA_LIBRARY
    if not path.exists() or path.stat().st_size != report.get("xla_bytes"):
        return None, f"{XLA_LIBRARY} is damaged; reinstall tf_optim_ext"
    try:
        tf.load_op_library(str(path))
        return ctypes.CDLL(str(path)), None
    except (tf.errors.OpError, OSError) as error:
        return None, f"library for XLA does not load: {str(error).splitlines()[0]}"


@functools.cache
def _loaded():
    return _load()


@functools.cache
def _loaded_for_xla():
    return _load_for_xla()


def load():
    """Loads both libraries, so that TensorFlow finds the ops of files and of functions in them."""
    _loaded()
    _loaded_for_xla()


def why_not():
    """Why the native library is not in use, or None if it is."""
    return _loaded()[1]


@functools.cache
def why_not_inside_xla():
    """Why steps inside of XLA on a CPU are not native, or None if they are.

    The first call takes a step inside of XLA to see whether it is right.
    """
    library, reason = _loaded_for_xla()
    if library is None:
        return reason
    # Imported late, as it needs the optimizers.
    from tf_optim_ext.native import self_test

    reason = self_test.problem()
    if reason:  # then functions that were traced outside of XLA must not rely on it either
        library.tf_optim_ext_use_inside_xla(False)
    return reason


def why_no_library_for_xla():
    """Why the library for steps inside of XLA is not in use, or None if it is."""
    return _loaded_for_xla()[1]


def use_inside_xla_on_gpus(use):
    """Whether functions with steps on GPUs that were traced outside of XLA may run inside."""
    _loaded_for_xla()[0].tf_optim_ext_use_inside_xla_on_gpus(use)


def instruction_set():
    """`"baseline"`, `"avx2"` or `"avx512"`; None without the native library."""
    library = _loaded()[0]
    return library.instruction_set if library else None


def _library():
    library, reason = _loaded()
    if library is None:
        raise RuntimeError(f"The native library is not in use: {reason}")
    return library


def use(instruction_set):
    """Switches to another instruction set, for all optimizers of the process.

    Args:
        instruction_set: `"baseline"`, `"avx2"` or `"avx512"`.

    Raises:
        ValueError: this processor lacks it or it was not built.
        RuntimeError: there is no native library.
    """
    if not _library().use(instruction_set):
        raise ValueError(
            f"This processor or this library lacks {instruction_set!r}. "
            f"In use: {_library().instruction_set!r}"
        )


def keep_cuda_program(name, converts, architecture, image, numbers):
    """Hands compiled kernels for GPUs to the library; see `cuda.prepare`."""
    _library().keep_cuda_program(name, converts, architecture, image, numbers)


def packed(handles):
    """One tensor with the handles of several variables on a device, which is the current one."""
    return _library().ops.tf_optim_ext_handles(handles=handles)


def has(program):
    """Whether the library holds a kernel for a `rule.Program`."""
    library = _loaded()[0]
    return library is not None and f"rule_{program.fingerprint}" in library.kernels


def step(program, group, gradients, scalars, lazy=False):
    """Runs a program on all variables in one op.

    Args:
        program: a `rule.Program` for which `has` holds.
        group: a `targets.Group`.
        gradients: dense tensors, or `tf.IndexedSlices` as `sum_rows` makes them.
        scalars: a `lowering.Scalars`.
        lazy: whether rows without gradient are left alone; otherwise their gradient is zero, and
            the indices must be increasing.
    """
    by_rows = [i for i, g in enumerate(gradients) if type(g) is tf.IndexedSlices]
    values = [g.values if type(g) is tf.IndexedSlices else g for g in gradients]
    arguments = {
        "weights": group.weights,
        "slots": group.slots,
        "scalars": group.scalars,
        "gradients": _readable(values),
        "indices": [gradients[i].indices for i in by_rows],
        "finished": scalars.finished,
        "learning_rate": scalars.learning_rate,
        "gradient_scale": scalars.scale,
        "hyperparameters": scalars.rows(program),
    }
    with _outside_of_clusters():
        _library().ops.tf_optim_ext_step(
            **arguments,
            rule=f"rule_{program.fingerprint}",
            by_rows=by_rows,
            lazy=lazy,
            rounding=scalars.rounding or [],
        )


def _outside_of_clusters():
    """Keeps ops out of what XLA compiles by itself (`TF_XLA_FLAGS=--tf_xla_auto_jit=2`).

    XLA has kernels for them, which explain that there are none.
    """
    if tf.executing_eagerly():
        return contextlib.nullcontext()
    return tf.xla.experimental.jit_scope(compile_ops=False)


def _readable(gradients, formats=_FORMATS):
    return [g if compat.has_dtype(g, formats) else tf.cast(g, tf.float32) for g in gradients]


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
        indices, sums = _library().ops.tf_optim_ext_sum_rows(
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
        return _library().ops.tf_optim_ext_squared_norms(gradients=readable)


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
    return _library().stream(pointers[:-1], pointers[-1], arrays[0].size, threads)
