"""`sparse="lazy"`: only the rows with a gradient are read and written."""

import numpy as np
import pytest
import registry
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_optim_ext

MODES = ("eager", "function", "xla", "portable")
ROWS = 7
# Elementwise rules with different numbers of slots; the first moves no row without a gradient.
NAMES = (
    "SGD",
    "SGD-nesterov",
    "AdamW-amsgrad",
    "Lion",
    "Adagrad",
    "RectifiedAdam",
    "Adan",
    "COCOB",
)


def run_in(mode, step):
    if mode == "portable":

        def portable(*args):
            with tf_optim_ext.portable():
                step(*args)

        return portable
    if mode == "eager":
        return step
    return tf.function(step, jit_compile=mode == "xla", reduce_retracing=True)


def slices(indices, values, rows=ROWS):
    return tf.IndexedSlices(values, indices, (rows, *values.shape[1:]))


def row_by_row(entry, table, steps, **overrides):
    """What lazy updates must do: an optimizer steps over the present rows of copies, and these are
    put back; slots of the others stay."""
    slots = dict.fromkeys(entry.slots)
    table = table.copy()
    optimizer = entry.make(**overrides)
    for number, (indices, values) in enumerate(steps):
        present = np.unique(indices)
        summed = np.stack([values[indices == i].sum(axis=0) for i in present])
        optimizer = entry.make(**overrides)
        variable = tf.Variable(table[present])
        optimizer.build([variable])
        optimizer.iterations.assign(number)
        for name in slots:
            slot = optimizer.get_slot(variable, name)
            if slots[name] is None:
                whole = entry.make(**overrides)
                initial = tf.Variable(table)
                whole.build([initial])
                slots[name] = whole.get_slot(initial, name).numpy()
            slot.assign(slots[name][present])
        optimizer.apply([tf.constant(summed)], [variable])
        table[present] = variable.numpy()
        for name in slots:
            slots[name][present] = optimizer.get_slot(variable, name).numpy()
    return table, slots


def some_steps(shape, count=4, seed=0, index_dtype=np.int64):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        indices = rng.integers(0, ROWS, size=5).astype(index_dtype)  # repeated and unsorted
        found.append((indices, rng.normal(size=(5, *shape)).astype(np.float32)))
    return found


class TestLazy:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("name", NAMES)
    def test_equals_updates_of_the_rows_alone(self, name, mode):
        entry = registry.BY_NAME[name]
        table = np.random.default_rng(1).normal(size=(ROWS, 3)).astype(np.float32)
        steps = some_steps((3,))
        optimizer, variable = entry.make(sparse="lazy"), tf.Variable(table)
        optimizer.build([variable])
        step = run_in(mode, lambda i, v: optimizer.apply([slices(i, v)], [variable]))
        for indices, values in steps:
            step(tf.constant(indices), tf.constant(values))
        expected, slots = row_by_row(entry, table, steps)
        np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-6)
        for slot, value in slots.items():
            np.testing.assert_allclose(
                optimizer.get_slot(variable, slot), value, rtol=1e-5, atol=1e-6
            )

    @pytest.mark.parametrize("mode", MODES)
    def test_other_rows_keep_every_bit(self, mode):
        optimizer = tf_optim_ext.LazyAdam(0.1, weight_decay=0.1)
        variable = tf.Variable(np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32))
        optimizer.build([variable])
        step = run_in(mode, lambda i, v: optimizer.apply([slices(i, v)], [variable]))
        step(tf.range(ROWS), tf.ones([ROWS, 2]))
        before = [v.numpy() for v in (variable, *optimizer.variables[2:])]
        step(tf.constant([5, 1, 5]), tf.ones([3, 2]))
        others = [0, 2, 3, 4, 6]
        for new, old in zip((variable, *optimizer.variables[2:]), before, strict=True):
            np.testing.assert_array_equal(new.numpy()[others], old[others])
            assert np.all(new.numpy()[[1, 5]] != old[[1, 5]])

    @pytest.mark.parametrize("mode", ["eager", "function", "portable"])
    @pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
    @pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
    def test_ranks_and_indices(self, mode, index_dtype, shape):
        entry = registry.BY_NAME["AdamW"]
        table = np.random.default_rng(2).normal(size=(ROWS, *shape)).astype(np.float32)
        steps = some_steps(shape, index_dtype=index_dtype)
        optimizer, variable = entry.make(sparse="lazy"), tf.Variable(table)
        optimizer.build([variable])
        step = run_in(mode, lambda i, v: optimizer.apply([slices(i, v)], [variable]))
        for indices, values in steps:
            step(tf.constant(indices), tf.constant(values))
        np.testing.assert_allclose(variable, row_by_row(entry, table, steps)[0], rtol=1e-5)

    @pytest.mark.parametrize("mode", ["eager", "function", "portable"])
    def test_no_row_at_all(self, mode):
        optimizer, variable = tf_optim_ext.LazyAdam(0.1), tf.Variable(tf.ones([ROWS, 2]))
        optimizer.build([variable])
        step = run_in(mode, lambda i, v: optimizer.apply([slices(i, v)], [variable]))
        step(tf.zeros([0], tf.int64), tf.zeros([0, 2]))
        np.testing.assert_array_equal(variable, np.ones((ROWS, 2)))
        assert int(optimizer.iterations) == 1

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm", "clipvalue"])
    def test_beside_dense_gradients_and_clipped(self, mode, clipping):
        (indices, values), *_ = some_steps((3,))
        present = np.unique(indices)
        summed = np.stack([values[indices == i].sum(axis=0) for i in present])
        table, kernel = np.ones((ROWS, 3), np.float32), np.ones((2, 2), np.float32)
        results = []
        for indices_, values_ in (
            (indices, values),
            # The same gradient, already summed: norms are of that.
            (present, summed),
        ):
            optimizer = tf_optim_ext.SGD(0.5, sparse="lazy", **{clipping: 0.7})
            variables = [tf.Variable(kernel), tf.Variable(table), tf.Variable(table)]
            optimizer.build(variables)

            def update(i, v, optimizer=optimizer, variables=variables):
                optimizer.apply([tf.ones([2, 2]), slices(i, v), slices(i, 2 * v)], variables)

            run_in(mode, update)(tf.constant(indices_), tf.constant(values_))
            results.append([v.numpy() for v in variables])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        assert np.all(results[0][0] != 1)

    def test_16_bit_tables(self):
        for dtype in (tf.bfloat16, tf.float16):
            optimizer, variable = tf_optim_ext.LazyAdam(0.5), tf.Variable(tf.ones([ROWS, 2], dtype))
            gradient = slices(tf.constant([1, 1]), tf.ones([2, 2], dtype))
            optimizer.apply([gradient], [variable])
            np.testing.assert_array_equal(
                tf.cast(variable, tf.float32),
                np.where(np.arange(ROWS) == 1, 0.5, 1.0)[:, None] + [0, 0],
            )

    @pytest.mark.parametrize("mode", ["eager", "function"])
    @pytest.mark.parametrize("bad", [-1, ROWS])
    def test_bad_indices_change_nothing(self, mode, bad):
        optimizer, variable = tf_optim_ext.LazyAdam(0.1), tf.Variable(tf.ones([ROWS, 2]))
        other = tf.Variable(1.0)
        optimizer.build([variable, other])

        def update(i):
            optimizer.apply([slices(i, tf.ones([2, 2])), tf.constant(1.0)], [variable, other])

        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"\[0, 7\)"):
            run_in(mode, update)(tf.constant([1, bad]))
        np.testing.assert_array_equal(variable, np.ones((ROWS, 2)))
        assert float(other) == 1.0
        assert int(optimizer.iterations) == 0

    def test_an_embedding_in_fit(self):
        model = tf.keras.Sequential([tf.keras.layers.Embedding(50, 4), tf.keras.layers.Dense(1)])
        model.compile(tf_optim_ext.LazyAdam(0.01), "mse")
        model.build((None, 3))
        table = model.layers[0].embeddings
        before = table.numpy()
        model.fit(np.array([[1, 2, 2], [3, 1, 4]]), np.ones((2, 3, 1)), epochs=2, verbose=0)
        changed = np.flatnonzero(np.any(table.numpy() != before, axis=1))
        np.testing.assert_array_equal(changed, [1, 2, 3, 4])

    def test_accumulation_is_exact(self):
        results = []
        for mode in ("lazy", "exact"):
            optimizer = tf_optim_ext.Adam(0.1, sparse=mode, gradient_accumulation_steps=2)
            variable = tf.Variable(tf.ones([ROWS, 2]))
            for _ in range(4):
                optimizer.apply([slices(tf.constant([1, 1]), tf.ones([2, 2]))], [variable])
            results.append(variable.numpy())
        np.testing.assert_array_equal(*results)

    @pytest.mark.parametrize("name", ["Lamb", "NovoGrad", "Prodigy", "Nadam", "AdamW-cautious"])
    def test_refused(self, name):
        with pytest.raises(ValueError, match='`sparse="lazy"` is not possible'):
            registry.BY_NAME[name].make(sparse="lazy")

    def test_config(self):
        assert tf_optim_ext.Adam().get_config().get("sparse", "exact") == "exact"
        for optimizer in (
            tf_optim_ext.Adam(sparse="lazy"),
            tf_optim_ext.LazyAdam(),
            tf_optim_ext.LazyAdam(sparse="exact"),
        ):
            clone = type(optimizer).from_config(optimizer.get_config())
            assert clone.sparse == optimizer.sparse


class TestExact:
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, ROWS - 1), max_size=10), st.integers(0, 1000))
    def test_equals_the_dense_gradient(self, indices, seed):
        values = np.random.default_rng(seed).integers(-4, 5, size=(len(indices), 2))
        dense = np.zeros((ROWS, 2), np.float32)
        np.add.at(dense, indices, values)
        results = []
        for gradient in (
            slices(tf.constant(indices, tf.int64), tf.constant(values, tf.float32)),
            tf.constant(dense),
        ):
            optimizer, variable = tf_optim_ext.AdamW(0.1), tf.Variable(tf.ones([ROWS, 2]))
            for _ in range(2):
                optimizer.apply([gradient], [variable])
            results.append([variable.numpy(), *(v.numpy() for v in optimizer.variables)])
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)
