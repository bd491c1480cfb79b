"""Kernels for GPUs: whether there can be any, and those that steps need.

Kernels are emitted from a program and compiled when a step needs them first; files keep them for
later processes. `TF_OPTIM_EXT_CUDA=off` turns that off.
"""

import ctypes
import functools
import os

import tensorflow as tf

from tf_optim_ext.backends.native import loader, nvrtc
from tf_optim_ext.codegen import cuda

VARIABLE = "TF_OPTIM_EXT_CUDA"
DRIVER = "libcuda.so.1"
OLDEST_ARCHITECTURE = 70
# The driver that takes large arguments, and the compiler that knows that.
LARGE_TABLES_DRIVER, LARGE_TABLES_COMPILER = 12010, (12, 1)


def why_unavailable(device):
    """Why there can be no kernels for a GPU, given its name, or None if there can."""
    if reason := _why_unavailable():
        return reason
    architecture, reason = _architecture(device)
    if reason:
        return reason
    if architecture < OLDEST_ARCHITECTURE:
        return f"a GPU of compute capability {architecture / 10}"
    return None


@functools.cache
def _why_unavailable():
    """Why there are no steps on GPUs in this process, or None."""
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if wanted in loader.OFF:
        return f"{VARIABLE}={os.environ[VARIABLE]}"
    if wanted not in ("", "on"):
        return f"{VARIABLE}={wanted} is unknown; allowed are off, on"
    return loader.why_not() or (None if _driver_version() else "no CUDA driver") or nvrtc.find()[1]


@functools.cache
def _driver_version():
    """For example 12010; 0 without a driver."""
    version = ctypes.c_int()
    try:
        code = ctypes.CDLL(DRIVER).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return 0 if code else version.value


@functools.cache
def _architecture(device):
    """For example 90, of the GPU of a name; or why that is not known."""
    physical = tf.config.get_visible_devices("GPU")
    logical = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    details = [tf.config.experimental.get_device_details(gpu) for gpu in physical]
    found = [d.get("compute_capability") for d in details]
    index = tf.DeviceSpec.from_string(device).device_index or 0
    if len(found) == len(logical) and index < len(found):
        found = [found[index]]
    # Of virtual GPUs only that they are of one kind.
    if len(set(found)) != 1 or found[0] is None:
        return None, f"unknown compute capability of {device}"
    major, minor = found[0]
    return 10 * major + minor, None


_results: dict[tuple[str, int, cuda.Form], str | None] = {}
"""Of what was compiled: None, or why it failed."""


def prepare(program, device, converts, count):
    """Compiles what a step needs, unless it was before; returns why that failed, or None.

    Args:
        program: a `rule.Program`.
        device: name of a GPU for which `why_unavailable` returns None.
        converts: whether some weights, gradients or slots are not float32.
        count: number of variables.
    """

    def make(form):
        return cuda.emit(program, form), cuda.shape_of(program, form)

    arrays = 2 + len(program.slots)
    return _prepare(f"rule_{program.fingerprint}", arrays, device, converts, count, make)


def prepare_norms(device, converts, count):
    """The same for `native.squared_norms`."""

    def make(form):
        return cuda.emit_norms(form), cuda.shape_of_norms(form)

    return _prepare("squared_norms", 1, device, converts, count, make)


def _prepare(name, arrays, device, converts, count, make):
    architecture, _ = _architecture(device)
    form = cuda.Form(converts)
    large = cuda.Form(converts, cuda.LARGE_TABLES)
    # What has room for many is there for few, too: the library keeps one of both.
    if (name, architecture, large) in _results or (
        count > form.pass_variables(arrays) and _takes_large_tables()
    ):
        form = large
    key = name, architecture, form
    if key not in _results:
        _results[key] = _compile(name, architecture, form, *make(form))
    return _results[key]


def _compile(name, architecture, form, source, shape):
    try:
        image = nvrtc.compiled(source, architecture, cuda.OPTIONS)
    except nvrtc.CompileError as error:
        return f"the rule does not compile: {error}"
    loader.library().keep_cuda_program(name, form.converts, architecture, image, shape.numbers())
    return None


@functools.cache
def _takes_large_tables():
    compiler, _ = nvrtc.find()
    return (
        _driver_version() >= LARGE_TABLES_DRIVER
        and compiler is not None
        and compiler.version >= LARGE_TABLES_COMPILER
    )
