"""Small problems and snapshots that the tests of the contract, of state and of Keras share."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import traceback

import numpy as np
import pytest
import registry
import tensorflow as tf
from generation import IS_KERAS_2, KerasVariable, keras
from hypothesis import strategies as st

import tf_optim_ext
from tf_optim_ext.checks import Range

TESTS = pathlib.Path(__file__).parent
# Where the package is that is tested, installed or not: `sys.path` may have got another one.
PACKAGE = pathlib.Path(tf_optim_ext.__file__).parents[1]

SHAPES = ((3, 2), (4,), ())
NAMES = ("kernel", "bias", "scale")
KINDS = ("tf",) if IS_KERAS_2 else ("keras", "tf")
CLIPPING = [{"clipnorm": 0.5}, {"clipvalue": 0.5}, {"global_clipnorm": 0.5}]

both_kinds = pytest.mark.parametrize("kind", KINDS)


has_multi_optimizer = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has it since 3.15"
)


def make_variable(kind, value, name=None):
    """A variable of `kind` "keras" or "tf"; both have the same dtype as `value`.

    Keras 2 has only the latter.
    """
    value = np.asarray(value)
    if kind == "keras" and not IS_KERAS_2:
        return KerasVariable(value, dtype=value.dtype.name, name=name)
    return tf.Variable(value, name=name)


def make_variables(kind="keras", shapes=SHAPES, seed=0, dtype="float32"):
    """Variables with values that depend on the seed alone."""
    rng = np.random.default_rng(seed)
    dtype = tf.as_dtype(dtype).as_numpy_dtype
    return [
        make_variable(kind, rng.normal(size=shape).astype(dtype), name)
        for shape, name in zip(shapes, NAMES, strict=False)
    ]


def make_gradients(step, shapes=SHAPES, dtype="float32"):
    """Gradients of a step, as arrays; those of another step are different."""
    rng = np.random.default_rng(1000 + step)
    dtype = tf.as_dtype(dtype).as_numpy_dtype
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def train(optimizer, variables, steps=3, first=0):
    """Takes steps whose gradients depend on the number of the step alone."""
    shapes = [tuple(v.shape) for v in variables]
    for step in range(first, first + steps):
        gradients = [tf.constant(g) for g in make_gradients(step, shapes)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))


def arrays(variables):
    """Copies of the values of variables."""
    return [np.array(v) for v in variables]


def same(actual, expected):
    """Whether two lists of arrays are equal to the last bit; NaN equals NaN."""
    return len(actual) == len(expected) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(actual, expected, strict=True)
    )


def route_of_dense(inside_xla=False):
    """What `route` must say of a step with dense gradients on a CPU."""
    if reason := tf_optim_ext.native.why_not():
        return f"tensorflow: {reason}"
    native = f"native ({tf_optim_ext.native.instruction_set()})"
    if not inside_xla:
        return native
    reason = tf_optim_ext.native.why_not_inside_xla()
    return f"tensorflow: inside XLA ({reason})" if reason else f"{native} inside XLA"


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    actual, expected = arrays(actual), arrays(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=rtol, atol=atol)


@contextlib.contextmanager
def unchanged(optimizer, variables=()):
    """Asserts that the block changes no weight, no slot, no counter, and creates nothing."""

    def state():
        counts = (len(optimizer.variables), optimizer.get_slot_names(), optimizer.built)
        return counts, arrays(variables), arrays(optimizer.variables)

    before = state()
    yield
    after = state()
    assert after[0] == before[0]
    assert same(after[1], before[1]), "weights changed"
    assert same(after[2], before[2]), "optimizer variables changed"


def run_eagerly(step):
    return step()


def run_in_function(step):
    """Calls a step in a `tf.function`; for calls without result."""

    @tf.function
    def function():
        step()

    function()


def outcomes_of(script, *arguments, python=sys.executable, package=PACKAGE, **variables):
    """The JSON object that a script of `tests` prints as its last line, in a process of its own.

    Args:
        script: its path from `tests`.
        *arguments: texts.
        python: the interpreter.
        package: the folder that this package is imported from.
        **variables: more environment variables.
    """
    run = subprocess.run(
        [python, str(TESTS / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{TESTS}", **variables},
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


def print_outcomes(checks, *args):
    """What a script in a process of its own prints: a JSON object, name of a check -> "equal" or
    the traceback of its failure."""
    outcome = {}
    for name, check in checks.items():
        try:
            check(*args)
            outcome[name] = "equal"
        except Exception:
            outcome[name] = traceback.format_exc()
    print(json.dumps(outcome))


def keras_twin(entry, **overrides):
    """Keras' own optimizer with the arguments of an entry."""
    cls = getattr(keras.optimizers, entry.keras)
    return cls(**{**entry.arguments, **overrides})


has_twin = pytest.mark.parametrize(
    "entry", [e for e in registry.ENTRIES if e.keras], ids=lambda e: e.name
)


@st.composite
def arguments(draw, entry):
    """Strategy: valid constructor arguments of an entry's optimizer."""
    result = {**entry.arguments, "learning_rate": draw(st.floats(0, 1))}
    for name, interval in entry.cls.declaration().intervals.items():
        if interval == "boolean":
            result[name] = draw(st.booleans())
            continue
        low, high = (float(x) for x in interval[1:-1].split(","))
        allowed = Range(interval)
        result[name] = draw(st.floats(low, min(high, 10.0)).filter(allowed.__contains__))
    result["weight_decay"] = draw(st.floats(0, 1))
    clipping = draw(st.sampled_from(["", "clipnorm", "clipvalue", "global_clipnorm"]))
    if clipping:
        result[clipping] = draw(st.floats(0, 10))
    result["use_ema"] = draw(st.booleans())
    result["ema_momentum"] = draw(st.floats(0, 1))
    result["ema_overwrite_frequency"] = draw(st.none() | st.integers(1, 3))
    result["gradient_accumulation_steps"] = draw(st.none() | st.integers(2, 3))
    result["loss_scale_factor"] = draw(st.none() | st.floats(0.5, 100))
    return result
