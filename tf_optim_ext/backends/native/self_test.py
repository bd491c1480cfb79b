"""Steps inside of XLA that are compared with those outside, before others rely on them.

The library for XLA uses parts of TensorFlow that are not meant for others. What goes wrong there
must not become wrong weights.
"""

import functools
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from tf_optim_ext.backends.native.loader import loaded_for_xla
from tf_optim_ext.backends.native.operations import Group, step
from tf_optim_ext.backends.scalars import Scalars
from tf_optim_ext.rule import lerp, sqrt, square, trace


def _descend(w, g, s, h):
    return w - h.learning_rate * g


def _descend_with_slots(w, g, s, h):
    s.m = lerp(g, s.m, h.beta_1)
    s.v = lerp(square(g), s.v, h.beta_2)
    return w - h.learning_rate * s.m / (sqrt(s.v) + h.epsilon)


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


def problem():
    """Why steps inside of XLA cannot be relied on, or None if they can."""
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


class _Steps:
    def __init__(self, program):
        self._program = program
        self.weights = [tf.Variable(w, dtype=dtype) for w, dtype in zip(WEIGHTS, FORMATS)]
        self.slots = [
            tf.Variable(tf.fill(v.shape, 0.25)) for _ in program.slots for v in self.weights
        ]

    def step(self, gradients):
        """Takes a step; returns the weights before it."""
        before = [tf.identity(v) for v in self.weights]
        group = Group(
            "CPU:0",
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
    """Why steps inside of XLA on a CPU are not native, or None if they are.

    The first call takes a step inside of XLA to see whether it is right.
    """
    library, reason = loaded_for_xla()
    if library is None:
        return reason
    reason = problem()
    if reason:  # then functions that were traced outside of XLA must not rely on it either
        library.tf_optim_ext_use_inside_xla(False)
    return reason
