"""Loads the native library.

The environment variable `TF_OPTIM_EXT_NATIVE` chooses the instruction set (`baseline`, `avx2`,
`avx512`) or none (`off`). By default the best one that the processor has is used.
Steps under XLA on a CPU are native by a second library, unless `TF_OPTIM_EXT_XLA=off`; those on
GPUs by kernels that are compiled at run time (`cuda.py`), unless `TF_OPTIM_EXT_CUDA=off`.
"""

import ctypes
import functools
import json
import os
import pathlib

import tensorflow as tf

HERE = pathlib.Path(__file__).parent
LIBRARY = "libtf_optim_ext.so"
XLA_LIBRARY = "libtf_optim_ext_xla.so"
REPORT = "build.json"
VARIABLE = "TF_OPTIM_EXT_NATIVE"
XLA_VARIABLE = "TF_OPTIM_EXT_XLA"
OFF = ("off", "0", "none")
BEST_FIRST = ("avx512", "avx2", "baseline")


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
        """Hands compiled kernels for GPUs to the library; see `cuda.prepare`."""
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
        return None, "library not built: run `python -m tf_optim_ext.build`"
    except (OSError, ValueError, TypeError, KeyError):
        return None, f"{REPORT} is damaged; reinstall tf_optim_ext"
    if problem:
        return None, f"library not built: {problem}"
    if version.split(".")[:2] != tf.__version__.split(".")[:2]:
        return None, (
            f"library built for TensorFlow {version}, this is {tf.__version__}; reinstall "
            "tf_optim_ext (pip install --force-reinstall --no-deps --no-cache-dir)"
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
    """Returns the library for steps under XLA or None, and why it is None."""
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


def built_for():
    """The version of TensorFlow that the library was built for, or None if there is no library."""
    try:
        return json.loads((HERE / REPORT).read_text()).get("tensorflow")
    except (OSError, ValueError, AttributeError):
        return None


@functools.cache
def loaded_for_xla():
    """The library for steps under XLA, or None, and why it is None."""
    return _load_for_xla()


def why_no_library_for_xla():
    """Why the library for steps under XLA is not in use, or None if it is."""
    return loaded_for_xla()[1]


def use_inside_xla_on_gpus(use):
    """Whether functions with steps on GPUs that were traced outside of XLA may run inside."""
    loaded_for_xla()[0].tf_optim_ext_use_inside_xla_on_gpus(use)


def load():
    """Loads both libraries, so that TensorFlow finds the ops of files and of functions in them."""
    _loaded()
    loaded_for_xla()


def why_not():
    """Why the native library is not in use, or None if it is."""
    return _loaded()[1]


def instruction_set():
    """`"baseline"`, `"avx2"` or `"avx512"`; None without the native library."""
    library = _loaded()[0]
    return library.instruction_set if library else None


def library():
    """The loaded library; a `RuntimeError` if there is none."""
    loaded, reason = _loaded()
    if loaded is None:
        raise RuntimeError(f"The native library is not in use: {reason}")
    return loaded


def use(instruction_set):
    """Switches to another instruction set, for all optimizers of the process.

    Args:
        instruction_set: `"baseline"`, `"avx2"` or `"avx512"`.

    Raises:
        ValueError: this processor lacks it or it was not built.
        RuntimeError: there is no native library.
    """
    if not library().use(instruction_set):
        raise ValueError(
            f"This processor or this library lacks {instruction_set!r}. "
            f"In use: {library().instruction_set!r}"
        )


def has(program):
    """Whether the library holds a kernel for a `rule.Program`."""
    library = _loaded()[0]
    return library is not None and f"rule_{program.fingerprint}" in library.kernels
