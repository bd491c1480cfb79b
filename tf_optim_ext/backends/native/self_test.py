"""Steps that are compared with plain ones on the CPU, before others rely on their kind.

The library for XLA uses parts of TensorFlow that are not meant for others, and kernels for GPUs are
compiled at run time. What goes wrong there must not become wrong weights.
"""

import functools
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from tf_optim_ext.backends.native import cuda
from tf_optim_ext.backends.native.loader import (
    loaded_for_xla,
    use_inside_xla_on_gpus,
    why_no_library_for_xla,
)
from tf_optim_ext.backends.native.operations import Group, step
from tf_optim_ext.backends.scalars import Scalars
from tf_optim_ext.rule import lerp, sqrt, square, trace


def _descend(w, g, s, h):
    return w - h.learning_rate * g


def _descend_with_slots(w, g, s, h):
    s.m = lerp(g, s.m, h.beta_1)
    s.v = lerp(square(g), s.v, h.beta_2)
    rate = h.learning_rate / (1 - h.beta_1**h.step)
    return w - rate * s.m / (sqrt(s.v) + h.epsilon)


PROBES = (
    trace(_descend),
    trace(_descend_with_slots, ("m", "v"), ("beta_1", "beta_2", "epsilon")),
)
SECONDS = 120
STEPS = 2
NUMBERS: dict[str, Any] = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7}
RATE = 0.5
# Steps of the first probe with these are exact in each of the formats.
WEIGHTS: tuple[Any, ...] = ([1.0, -2.0, 3.0], [[4.0, 0.5]], -1.5)
GRADIENTS: tuple[Any, ...] = ([0.5, 0.25, -2.0], [[1.0, -4.0]], 2.0)
FORMATS = (tf.float32, tf.bfloat16, tf.float32)


# Powers are computed differently.
TOLERANCE = 1e-6


def problem():
    """Why steps under XLA cannot be relied on, or None if they can."""
    return _problem_of(check)


def problem_on_gpu(device):
    """Why steps on a GPU, given its name, cannot be relied on, or None if they can."""
    return _problem_of(lambda program: check_on_gpu(program, device))


def problem_inside_xla_on_gpu(device):
    """The same under XLA."""
    return _problem_of(lambda program: check_inside_xla_on_gpu(program, device))


def _problem_of(check):
    found: list[str | None] = [f"the self-test did not end within {SECONDS} seconds"]

    def run():
        try:
            for program in PROBES:
                check(program)
            found.append(None)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            found.append(f"the self-test failed: {text.splitlines()[0]}")

    # In a thread of its own, as the caller may be tracing, under a strategy or a tape.
    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        return f"the self-test failed: {error}"
    thread.join(SECONDS)
    return found[-1]


def check(program):
    """Compares steps of a program.

    Raises:
        ValueError: they differ.
    """
    with tf.device("CPU:0"):
        gradients = [tf.constant(g, dtype) for g, dtype in zip(GRADIENTS, FORMATS)]
        inside, outside = _Steps(program), _Steps(program)
        # As concrete function it is compiled also if TensorFlow is told to run functions eagerly.
        compiled = tf.function(inside.step, jit_compile=True, autograph=False)
        compiled = compiled.get_concrete_function(gradients)
        for i in range(STEPS):
            expected = _arrays(outside.weights)
            before = compiled(gradients)
            outside.step(gradients)
            # Read before the step, which must not write over what is still needed.
            _compare("weights before the step", before, expected)
            _compare("weights", inside.weights, _arrays(outside.weights))
            _compare("slots", inside.slots, _arrays(outside.slots))
            if not program.slots:
                known = (
                    np.subtract(w, np.multiply((i + 1) * RATE, g))
                    for w, g in zip(WEIGHTS, GRADIENTS)
                )
                _compare("weights of a known step", inside.weights, known)


def check_on_gpu(program, device):
    """Compares steps of a program on a GPU with those on the CPU.

    Raises:
        ValueError: they differ, or the program cannot run there.
    """
    formats = _prepared(program, device)
    expected = _two_steps(program, "CPU:0", formats)
    for found, wanted in zip(_two_steps(program, device, formats), expected):
        if not np.allclose(found, wanted, rtol=TOLERANCE, atol=0):
            raise ValueError(f"found {found.tolist()}, which should be {wanted.tolist()}")


def check_inside_xla_on_gpu(program, device):
    """Compares steps of a program under XLA with those outside, on a GPU.

    Raises:
        ValueError: they differ.
    """
    formats = _prepared(program, device)
    expected = _two_steps(program, device, formats)
    for found, wanted in zip(_two_steps(program, device, formats, jit_compile=True), expected):
        if found.tobytes() != wanted.tobytes():
            raise ValueError(f"found {found.tolist()}, which should be {wanted.tolist()}")


def _prepared(program, device):
    """Compiles a program; returns the formats of weights: each form of kernels is tested once."""
    converts = not program.slots
    if reason := cuda.prepare(program, device, converts, len(WEIGHTS)):
        raise ValueError(reason)
    return FORMATS if converts else (tf.float32,) * len(WEIGHTS)


def _two_steps(program, device, formats, jit_compile=False):
    with tf.device(device):
        gradients = [tf.constant(g, dtype) for g, dtype in zip(GRADIENTS, formats)]
        steps = _Steps(program, device, formats)
        step = steps.step
        if jit_compile:  # as concrete function: see `check`
            function = tf.function(steps.step, jit_compile=True, autograph=False)
            step = function.get_concrete_function(gradients)
        read = [step(gradients) for _ in range(STEPS)]
        found = [*steps.weights, *steps.slots, *(w for weights in read for w in weights)]
        # Of float32, as some NumPy functions do not know bfloat16.
        return [v.numpy().astype(np.float32) for v in found]


class _Steps:
    def __init__(self, program, device="CPU:0", formats=FORMATS):
        self._program = program
        self._device = device
        self.weights = [tf.Variable(w, dtype=dtype) for w, dtype in zip(WEIGHTS, formats)]
        self.slots = [
            tf.Variable(tf.fill(v.shape, 0.25)) for _ in program.slots for v in self.weights
        ]

    def step(self, gradients):
        """Takes a step; returns the weights before it."""
        before = [tf.identity(v) for v in self.weights]
        group = Group(
            self._device,
            list(range(len(self.weights))),
            [v.handle for v in self.weights],
            [v.handle for v in self.slots],
            [],
        )
        step(self._program, group, gradients, Scalars(0, RATE, 1.0, NUMBERS))
        return before


def _arrays(variables):
    return [v.numpy() for v in variables]


def _compare(what, found, expected):
    for actual, wanted in zip(_arrays(found), expected):
        if actual.tobytes() != wanted.astype(actual.dtype).tobytes():
            raise ValueError(f"{what} are {actual.tolist()} and should be {wanted.tolist()}")


@functools.cache
def why_not_inside_xla():
    """Why steps under XLA on a CPU are not native, or None if they are.

    The first call takes a step under XLA to see whether it is right.
    """
    library, reason = loaded_for_xla()
    if library is None:
        return reason
    reason = problem()
    if reason:  # then functions that were traced outside of XLA must not rely on it either
        library.tf_optim_ext_use_inside_xla(False)
    return reason


@functools.cache
def why_not_on_gpu(device):
    """Why steps on a GPU are not native, given its name, or None if they are.

    The first call takes steps there to see whether they are right.
    """
    return cuda.why_unavailable(device) or problem_on_gpu(device)


@functools.cache
def why_not_inside_xla_on_gpu(device):
    """The same under XLA; also compiles a step there in its first call."""
    if reason := why_not_on_gpu(device) or why_no_library_for_xla():
        return reason
    reason = problem_inside_xla_on_gpu(device)
    if reason:  # then functions that were traced outside of XLA must not rely on it either
        use_inside_xla_on_gpus(False)
    return reason
