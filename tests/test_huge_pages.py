"""Steps ask the system for huge pages, a few at a time: see `csrc/huge_pages.h`.

Most of these tests watch what is asked for, so that they do not depend on what the system grants.
"""

import concurrent.futures
import ctypes

import numpy as np
import pytest
import tensorflow as tf
from common import outcomes_of

import tf_optim_ext
from tf_optim_ext import _keras
from tf_optim_ext.backends import native

PAGE, MOST = 2**21, 4 * 2**21
ROWS, WIDTH = 2**15, 256  # 32 MiB
PREFER, COLLAPSE = 0, 1


class Watch:
    """What was asked for: pairs of an address and a number of bytes."""

    def __init__(self):
        self.preferred, self.collapsed = [], []
        self.meanwhile = lambda: None

    def __call__(self, request, begin, size):
        (self.collapsed if request == COLLAPSE else self.preferred).append((begin, size))
        self.meanwhile()

    def in_step(self, step):
        """What one step asks for."""
        before = len(self.collapsed)
        step()
        return self.collapsed[before:]


@pytest.fixture
def watch(native_only):
    function = native.library()._functions.tf_optim_ext_watch_huge_pages
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    watch = Watch()
    called = kind(watch)
    function(called)
    yield watch
    function(kind())


def address(variable):
    """Where the values of a variable are."""
    return _keras.tensorflow_variable(variable).read_value()._numpy().ctypes.data


def pages_of(variable):
    """Addresses of the huge pages that are inside of the values of a variable."""
    begin = address(variable)
    end = begin + int(np.prod(variable.shape)) * variable.dtype.size
    return set(range(-(-begin // PAGE) * PAGE, end // PAGE * PAGE, PAGE))


def make(*others, **arguments):
    table = tf.Variable(tf.zeros([ROWS, WIDTH]))
    optimizer = tf_optim_ext.SGD(0.5, momentum=0.5, **arguments)
    optimizer.build([table, *others])
    slot = _keras.tensorflow_variable(optimizer.get_slot(table, "momentum"))
    return table, slot, optimizer


class TestDenseSteps:
    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "function"])
    def test_a_few_pages_in_each_step_until_all_are_done(self, watch, graph):
        small = tf.Variable(tf.zeros([1000]))
        table, slot, optimizer = make(small)
        gradients = [tf.ones(table.shape), tf.ones(small.shape)]
        take = tf.function(optimizer.apply) if graph else optimizer.apply
        asked = [watch.in_step(lambda: take(gradients, [table, small])) for _ in range(12)]
        assert asked[0] == []
        assert max(sum(size for _, size in step) for step in asked) <= MOST
        # 30 or 31 pages.
        assert all(asked[1:8])
        assert asked[9:] == [[]] * 3
        found = [begin for begin, _ in watch.collapsed]
        assert len(found) == len(set(found))
        assert set(found) == pages_of(table) | pages_of(slot)
        assert len(watch.preferred) == 2

    def test_no_lock_is_held(self, watch):
        table, slot, optimizer = make()
        gradient, read = tf.ones(table.shape), []

        def use():
            read.append(float(table[0, 0]))
            slot.assign_add(tf.zeros(slot.shape))

        def use_elsewhere():
            try:
                pool.submit(use).result(timeout=60)
            except TimeoutError:
                watch.meanwhile = lambda: None  # once is enough
                raise

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            watch.meanwhile = use_elsewhere
            for _ in range(2):
                optimizer.apply([gradient], [table])
        # What the step wrote is there already.
        assert read[-1] == float(table[0, 0])
        assert len(read) == len(watch.preferred) + len(watch.collapsed)

    def test_buffers_that_do_not_last(self, watch):
        table, _, optimizer = make()
        for _ in range(6):
            held = table.read_value()  # so that the step must copy
            optimizer.apply([tf.ones(table.shape)], [table])
        del held
        assert not {begin for begin, _ in watch.collapsed} & pages_of(table)

    def test_another_variable_in_the_same_place(self, watch):
        # As when one model after the other is tried.
        def train():
            table, _, optimizer = make()
            for _ in range(10):
                optimizer.apply([tf.ones(table.shape)], [table])

        assert min(len(watch.in_step(train)) for _ in range(3)) >= 30

    def test_two_optimizers_over_one_variable(self, watch):
        table, slot, optimizer = make()
        other = tf_optim_ext.SGD(0.5)
        other.build([table])
        for _ in range(10):
            optimizer.apply([tf.ones(table.shape)], [table])
            other.apply([tf.ones(table.shape)], [table])
        found = [begin for begin, _ in watch.collapsed]
        assert len(found) == len(set(found))
        assert set(found) == pages_of(table) | pages_of(slot)


class TestLazySteps:
    @pytest.mark.parametrize("sparse", ["lazy", "catch_up"])
    def test_only_pages_of_rows_that_are_updated(self, watch, sparse):
        table, slot, optimizer = make(sparse=sparse)
        rows = np.array([20_000, 9000, 9001, 9000])
        gradient = tf.IndexedSlices(tf.ones([4, WIDTH]), tf.constant(rows))
        for _ in range(6):
            optimizer.apply([gradient], [table])
        expected = set()
        for variable in (table, slot):
            for row in rows:
                begin = address(variable) + row * WIDTH * 4
                expected |= {begin // PAGE * PAGE, (begin + WIDTH * 4 - 1) // PAGE * PAGE}
        assert {begin for begin, _ in watch.collapsed} == expected

    def test_exact_steps_touch_all(self, watch):
        table, slot, optimizer = make(sparse="exact")
        gradient = tf.IndexedSlices(tf.ones([1, WIDTH]), tf.constant([9000]))
        for _ in range(10):
            optimizer.apply([gradient], [table])
        assert {begin for begin, _ in watch.collapsed} == pages_of(table) | pages_of(slot)

    def test_no_rows_at_all(self, watch):
        table, _, optimizer = make(sparse="lazy")
        gradient = tf.IndexedSlices(tf.ones([0, WIDTH]), tf.zeros([0], tf.int64))
        for _ in range(3):
            optimizer.apply([gradient], [table])
        assert watch.preferred == watch.collapsed == []

    def test_many_rows(self, watch):
        table, slot, optimizer = make(sparse="lazy")
        rng = np.random.default_rng(0)
        for _ in range(40):
            rows = tf.constant(rng.permutation(ROWS)[:2000])
            gradient = tf.IndexedSlices(tf.ones([2000, WIDTH]), rows)
            asked = watch.in_step(lambda: optimizer.apply([gradient], [table]))  # noqa: B023
            assert sum(size for _, size in asked) <= MOST
        assert {begin for begin, _ in watch.collapsed} == pages_of(table) | pages_of(slot)


class TestTheSystem:
    def outcome(self, **environment):
        outcome = outcomes_of("compatibility/huge_pages.py", **environment)
        if reason := outcome.get("skip"):
            pytest.skip(reason)
        assert outcome["route"].startswith("native")
        return outcome

    def test_large_variables_get_them(self, native_only):
        outcome = self.outcome()
        # 32 MiB each, of which both ends may be left out; there may be no free ones for all of it.
        assert min(outcome["after"]) > outcome["before"] >= 0

    @pytest.mark.long
    def test_not_if_told_so(self, native_only):
        outcome = self.outcome(TF_OPTIM_EXT_HUGE_PAGES="off")
        assert outcome["after"] == [outcome["before"]] * 2
        assert outcome["asked"] == 0
