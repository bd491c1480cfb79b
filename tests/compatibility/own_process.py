"""Checks of what changes the whole process: forks, and TensorFlow's debuggers.

Runs in a process of its own, from `test_compatibility.py`: `python own_process.py NAME...` prints a
JSON object with the outcome of each check of these optimizers of the registry. Forking comes first,
as it must happen before TensorFlow starts its threads.
"""

import contextlib
import json
import os
import pathlib
import select
import signal
import sys
import tempfile

import common
import pytest
import registry
import tensorflow as tf

import tf_optim_ext

SECONDS = 120
ADAMW = registry.BY_NAME["AdamW"]


def trained(entry, wrap=lambda step: step, **overrides):
    """Weights and state after two steps, with sparse and dense gradients."""
    variables, optimizer = common.make_variables("tf"), entry.make(**overrides)
    optimizer.build(variables)

    def step(rows, *dense):
        sparse = tf.IndexedSlices(rows, tf.constant([2, 0, 2]), tf.constant([3, 2]))
        optimizer.apply_gradients(zip([sparse, *dense], variables))

    step = wrap(step)
    for i in range(2):
        step(*[tf.constant(g) for g in common.make_gradients(i)])
    return common.arrays([*variables, *optimizer.variables])


def state_after_fork():
    child_reads, child_writes = os.pipe()
    child = os.fork()
    if child == 0:
        # Without the cleanup of the interpreter, which is the parent's.
        try:
            values = [value.tolist() for value in trained(ADAMW)]
            os.write(child_writes, json.dumps(values).encode())
        finally:
            os._exit(0)
    os.close(child_writes)
    ready, _, _ = select.select([child_reads], [], [], SECONDS)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert ready, f"the child took no step within {SECONDS} s"
    assert status == 0, f"the child died: {status}"
    with os.fdopen(child_reads) as pipe:
        return json.loads(pipe.read())


def fork(_entries):
    in_child = state_after_fork()
    assert in_child == [value.tolist() for value in trained(ADAMW)]


@contextlib.contextmanager
def checked_numerics():
    tf.debugging.enable_check_numerics()
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()


def check_numerics(entries):
    expected = {entry.name: trained(entry) for entry in entries}
    with checked_numerics():
        for entry in entries:
            assert common.same(trained(entry), expected[entry.name]), entry.name
        nan_in_the_gradient()


def nan_in_the_gradient():
    # Eagerly; in a function, TensorFlow does not wait for its check before it runs a step.
    variable, optimizer = tf.Variable([0.0, 0.0]), ADAMW.make()
    optimizer.build([variable])

    with tf.GradientTape() as tape:
        norm = tf.norm(variable)
    with (
        common.unchanged(optimizer, [variable]),
        pytest.raises(tf.errors.InvalidArgumentError, match="NaN"),
    ):
        optimizer.apply_gradients([(tape.gradient(norm, variable), variable)])


def check_numerics_native_function(entries):
    expected = {entry.name: trained(entry) for entry in entries}
    with checked_numerics():
        for entry in entries:
            assert common.same(trained(entry, tf.function), expected[entry.name]), entry.name


def check_numerics_portable_function(entries):
    with tf_optim_ext.portable():
        expected = {entry.name: trained(entry) for entry in entries}
        with checked_numerics():
            for entry in entries:
                common.assert_close(trained(entry, tf.function), expected[entry.name])


def dump_debug_info(entries):
    expected = {entry.name: trained(entry) for entry in entries}
    with tempfile.TemporaryDirectory() as folder:
        writer = tf.debugging.experimental.enable_dump_debug_info(
            folder, tensor_debug_mode="FULL_HEALTH", circular_buffer_size=-1
        )
        try:
            for entry in entries:
                for wrap in (lambda step: step, tf.function):
                    assert common.same(trained(entry, wrap), expected[entry.name]), entry.name
            writer.FlushNonExecutionFiles()
            writer.FlushExecutionFiles()
        finally:
            tf.debugging.experimental.disable_dump_debug_info()
        graphs = b"".join(path.read_bytes() for path in pathlib.Path(folder).glob("*.graphs"))
        assert tf_optim_ext.native.why_not() or b"TfOptimExtStep" in graphs


CHECKS = {
    "fork": fork,
    "check_numerics": check_numerics,
    "check_numerics_native_function": check_numerics_native_function,
    "check_numerics_portable_function": check_numerics_portable_function,
    "dump_debug_info": dump_debug_info,
}


if __name__ == "__main__":
    common.print_outcomes(CHECKS, [registry.BY_NAME[name] for name in sys.argv[1:]])
