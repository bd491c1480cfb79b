"""The op of the native library, from several threads at one time."""

import contextlib
import functools
import itertools
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from native_steps import make_copy_on_read, numbers, step

import tf_optim_ext
from tf_optim_ext.backends import native
from tf_optim_ext.backends.scalars import Scalars
from tf_optim_ext.engine import targets
from tf_optim_ext.rule import auxiliary


def in_threads(functions, timeout=120):
    """Runs functions at the same time; fails if they do not end, or raise."""
    errors = []
    start = threading.Barrier(len(functions))

    def guarded(function):
        try:
            start.wait(timeout)
            function()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "they wait for each other"
    if errors:
        raise errors[0]


def add_ones(variables, times):
    """Adds one to variables again and again; exact, as long as nothing is lost."""
    program = auxiliary.accumulate()
    ones = [tf.ones(v.shape) for v in variables]
    handles = [v.handle for v in variables]
    for _ in range(times):
        step(program, handles, ones, [], Scalars(0, 0.0, 1.0, {}))


@pytest.mark.usefixtures("native_only")
class TestConcurrency:
    TIMES = 150

    def variables(self):
        return [tf.Variable(tf.zeros(n)) for n in (3, 100_000, 17_000)]

    def test_steps_over_the_same_variables_in_any_order(self):
        variables = self.variables()
        orders = list(itertools.permutations(variables))[:5]
        in_threads([functools.partial(add_ones, order, self.TIMES) for order in orders])
        for variable in variables:
            np.testing.assert_array_equal(variable, np.full(variable.shape, 5.0 * self.TIMES))

    def test_steps_over_overlapping_variables(self):
        a, b, c = self.variables()
        groups = [[a, b], [b, c], [c, a], [c, b, a]]
        in_threads([functools.partial(add_ones, group, self.TIMES) for group in groups])
        for variable in (a, b, c):
            np.testing.assert_array_equal(variable, np.full(variable.shape, 3.0 * self.TIMES))

    def test_steps_over_different_variables(self):
        groups = [self.variables() for _ in range(4)]
        in_threads([functools.partial(add_ones, group, self.TIMES) for group in groups])
        for variable in itertools.chain(*groups):
            np.testing.assert_array_equal(variable, np.full(variable.shape, 1.0 * self.TIMES))

    def test_variables_that_are_slots_of_each_other(self):
        program = tf_optim_ext.SGD.program(nesterov=False, has_momentum=True)
        a, b = tf.Variable(tf.ones(50_000)), tf.Variable(tf.ones(50_000))
        gradient = tf.zeros(50_000)

        def steps(weights, slot):
            for _ in range(self.TIMES):
                step(program, [weights.handle], [gradient], [slot.handle], numbers(program))

        in_threads([functools.partial(steps, a, b), functools.partial(steps, b, a)])
        # Whatever their order was, each acts on all elements.
        assert len(np.unique(a)) == len(np.unique(b)) == 1

    @pytest.mark.parametrize("copy_on_read", [False, True])
    def test_reading_meanwhile(self, copy_on_read):
        variable = tf.Variable(tf.zeros(100_000))
        if copy_on_read:
            make_copy_on_read(variable)
        seen = []

        def read():
            for _ in range(self.TIMES):
                value = variable.read_value()
                seen.append((value, float(value[0])))

        in_threads([functools.partial(add_ones, [variable], self.TIMES), read])
        for value, first in seen[:: self.TIMES // 20]:
            np.testing.assert_array_equal(value, np.full(100_000, first))

    @pytest.mark.parametrize("lazy", [False, True])
    def test_steps_over_some_rows(self, lazy):
        table = tf.Variable(tf.zeros([3000, 32]))
        group = targets.Group("", [0], [table.handle], [], [])
        parts = [np.arange(0, 3000, 2), np.arange(1500, 3000), np.arange(2999, 3000), np.arange(0)]

        def add(rows):
            rows = tf.constant(rows, tf.int64)
            ones = tf.IndexedSlices(tf.ones([len(rows), 32]), rows)
            for _ in range(self.TIMES):
                native.step(auxiliary.accumulate(), group, [ones], Scalars(0, 0.0, 1.0, {}), lazy)

        in_threads([functools.partial(add, rows) for rows in parts])
        expected = np.zeros(3000)
        for rows in parts:
            expected[rows] += self.TIMES
        np.testing.assert_array_equal(table, np.repeat(expected[:, None], 32, axis=1))

    def test_sums_of_rows(self):
        rng = np.random.default_rng(0)
        indices = tf.constant(rng.integers(0, 500, 5000))
        values = tf.constant(rng.normal(size=(5000, 16)).astype(np.float32))
        results = [[] for _ in range(4)]

        def add(found):
            for _ in range(20):
                found.append(native.sum_rows(tf.IndexedSlices(values, indices), 500, "x", True))

        in_threads([functools.partial(add, found) for found in results])
        first = results[0][0]
        for result in itertools.chain(*results):
            np.testing.assert_array_equal(result.indices, first.indices)
            np.testing.assert_array_equal(result.values, first.values)

    def test_bad_steps_meanwhile(self):
        variable = tf.Variable(tf.zeros(20_000))

        def bad():
            for _ in range(self.TIMES):
                with contextlib.suppress(tf.errors.InvalidArgumentError):
                    handles = [variable.handle] * 2
                    ones = [tf.ones(20_000)] * 2
                    step(auxiliary.accumulate(), handles, ones, [], Scalars(0, 0.0, 1.0, {}))
                    raise AssertionError

        in_threads([functools.partial(add_ones, [variable], self.TIMES), bad])
        np.testing.assert_array_equal(variable, np.full(20_000, 1.0 * self.TIMES))

    def test_optimizers_in_threads(self):
        def train(variable):
            optimizer = tf_optim_ext.Adam(0.1)
            for _ in range(20):
                optimizer.apply([tf.ones(1000)], [variable])

        variables = [tf.Variable(tf.ones(1000)) for _ in range(4)]
        in_threads([functools.partial(train, v) for v in variables])
        for variable in variables[1:]:
            np.testing.assert_array_equal(variable, variables[0])

    def test_parallel_steps_of_one_function(self):
        a, b = tf.Variable(tf.zeros(50_000)), tf.Variable(tf.zeros(50_000))

        @tf.function
        def both():
            # Without a dependency between them, the executor runs them at the same time.
            with tf.control_dependencies(None):
                add_ones([a, b], 5)
            with tf.control_dependencies(None):
                add_ones([b, a], 5)

        for _ in range(20):
            both()
        np.testing.assert_array_equal(a, np.full(50_000, 200.0))
        np.testing.assert_array_equal(b, np.full(50_000, 200.0))
