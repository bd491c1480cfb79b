"""Sparse gradients: in every mode, with all that surrounds the rule, and bad ones."""

import conftest
import numpy as np
import pytest
import registry
import tensorflow as tf
from common import make_variable, unchanged

import tf_optim_ext

MODES = ("eager", "function", "xla", "portable")
KINDS = ("exact", "lazy", "catch_up")
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


def modes_and(argument, values, under_xla):
    """Parameters of all modes; of those under XLA, only some are not for the long tests."""
    return pytest.mark.parametrize(
        ("mode", argument),
        [
            pytest.param(
                mode,
                value,
                marks=pytest.mark.long if mode == "xla" and value not in under_xla else (),
            )
            for mode in MODES
            for value in values
        ],
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
    @modes_and("name", NAMES, ("SGD", "AdamW-amsgrad"))
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

    @modes_and("clipping", ("clipnorm", "global_clipnorm", "clipvalue"), ("global_clipnorm",))
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


class TestAround:
    """What surrounds the rule works with all kinds of sparse updates, in all modes."""

    @modes_and("sparse", KINDS, ("lazy",))
    def test_accumulation_equals_the_mean_gradient(self, sparse, mode):
        table = np.random.default_rng(1).normal(size=(ROWS, 3)).astype(np.float32)
        steps = some_steps((3,), count=6)
        results = []
        for count in (2, None):
            arguments = {"weight_decay": 0.1, "global_clipnorm": 0.5, "sparse": sparse}
            optimizer = tf_optim_ext.Adam(0.1, gradient_accumulation_steps=count, **arguments)
            variables = [tf.Variable(table), tf.Variable(tf.ones([2]))]
            optimizer.build(variables)

            def update(i, v, g, optimizer=optimizer, variables=variables):
                optimizer.apply([slices(i, v), g], variables)

            step = run_in(mode, update)
            for first, second in zip(steps[::2], steps[1::2]):
                if count:
                    for number, (indices, values) in enumerate((first, second)):
                        step(tf.constant(indices), tf.constant(values), tf.fill([2], 2.0 * number))
                else:
                    indices = np.concatenate([first[0], second[0]])
                    values = np.concatenate([first[1], second[1]]) / 2
                    step(tf.constant(indices), tf.constant(values), tf.ones([2]))
            slots = [optimizer.get_slot(variables[0], n) for n in ("momentum", "velocity")]
            results.append([v.numpy() for v in (*variables, *slots)])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("mode", ["eager", "function", "xla"])
    def test_accumulated_rows_alone_change(self, mode):
        optimizer = tf_optim_ext.LazyAdam(
            0.1, weight_decay=0.1, gradient_accumulation_steps=2, use_ema=True
        )
        variable = tf.Variable(tf.ones([ROWS, 2]))
        optimizer.build([variable])
        step = run_in(mode, lambda i, v: optimizer.apply([slices(i, v)], [variable]))
        for row, changed in ((1, []), (2, [1, 2]), (4, [1, 2]), (4, [1, 2, 4])):
            step(tf.constant([row, row]), tf.ones([2, 2]))
            found = np.flatnonzero(np.any(variable.numpy() != 1, axis=1))
            np.testing.assert_array_equal(found, changed)
        np.testing.assert_array_equal(optimizer.get_slot(variable, "gradient_accumulator"), 0)

    def test_accumulated_dense_gradients_count_as_all_rows(self):
        optimizer = tf_optim_ext.LazyAdam(0.1, gradient_accumulation_steps=2)
        variable = tf.Variable(tf.ones([ROWS, 2]))
        optimizer.apply([tf.ones([ROWS, 2])], [variable])
        optimizer.apply([slices(tf.constant([1]), tf.ones([1, 2]))], [variable])
        assert np.all(variable.numpy() != 1)

    @modes_and("sparse", KINDS, ("lazy",))
    def test_average_of_the_weights(self, sparse, mode):
        momentum = 0.75
        optimizer = tf_optim_ext.Adam(0.1, use_ema=True, ema_momentum=momentum, sparse=sparse)
        variable, other = tf.Variable(tf.ones([ROWS, 3])), tf.Variable(1.0)
        optimizer.build([variable, other])
        average, of_other = optimizer._model_variables_moving_average
        step = run_in(mode, lambda i, v, g: optimizer.apply([slices(i, v), g], [variable, other]))
        expected, expected_other = None, None
        for indices, values in some_steps((3,)):
            step(tf.constant(indices), tf.constant(values), tf.constant(0.5))
            new, new_other = variable.numpy(), other.numpy()
            if expected is None:
                expected, expected_other = new, new_other
            # Each row of its own updates; with the others, of all.
            rows = np.unique(indices) if sparse == "lazy" else slice(None)
            expected[rows] = momentum * expected[rows] + (1 - momentum) * new[rows]
            expected_other = momentum * expected_other + (1 - momentum) * new_other
            np.testing.assert_allclose(average, expected, rtol=1e-5)
            np.testing.assert_allclose(of_other, expected_other, rtol=1e-5)

    @modes_and("sparse", KINDS, ("catch_up",))
    def test_norms_are_of_summed_rows(self, sparse, mode):
        limit = 0.5
        optimizer = tf_optim_ext.SGD(1.0, clipnorm=limit, sparse=sparse)
        variable = tf.Variable(tf.zeros([ROWS, 3]))
        optimizer.build([variable])
        ((indices, values),) = some_steps((3,), count=1)
        run_in(mode, lambda i, v: optimizer.apply([slices(i, v)], [variable]))(
            tf.constant(indices), tf.constant(values)
        )
        dense = np.zeros((ROWS, 3), np.float32)
        np.add.at(dense, indices, values)
        np.testing.assert_allclose(variable, -dense * limit / np.linalg.norm(dense), rtol=1e-5)

    @pytest.mark.parametrize("kind", conftest.shortened(("keras", "tf"), ("keras",)))
    @modes_and("sparse", KINDS, ("exact",))
    def test_several_tables_between_dense_variables(self, sparse, mode, kind):
        # Each gets what it gets alone.
        rng = np.random.default_rng(5)
        shapes = [(2, 2), (ROWS, 3), (4,), (ROWS,), (5, 2, 2)]
        tables = {1: [3, 1, 3], 3: [6, 0, 6, 1], 4: [4, 4]}
        initial = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

        def gradients(seed):
            own = np.random.default_rng(seed)
            return [
                own.normal(size=(len(tables[i]), *s[1:]) if i in tables else s).astype(np.float32)
                for i, s in enumerate(shapes)
            ]

        def run(members):
            optimizer = tf_optim_ext.AdamW(0.1, sparse=sparse)
            variables = [make_variable(kind, initial[i]) for i in members]
            optimizer.build(variables)

            def update(*values):
                optimizer.apply(
                    [
                        slices(tf.constant(tables[i]), v, shapes[i][0]) if i in tables else v
                        for i, v in zip(members, values)
                    ],
                    variables,
                )

            step = run_in(mode, update)
            for seed in range(3):
                found = gradients(seed)
                step(*(tf.constant(found[i]) for i in members))
            return [np.array(v) for v in variables]

        together = run(range(len(shapes)))
        for i, value in enumerate(together):
            np.testing.assert_allclose(value, run([i])[0], rtol=1e-6, atol=1e-7)


class TestErrors:
    def test_indices_must_be_whole_numbers(self):
        optimizer, variable = tf_optim_ext.Adam(0.1), tf.Variable(tf.ones([ROWS, 2]))
        optimizer.build([variable])
        gradient = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1.0]))
        with unchanged(optimizer, [variable]), pytest.raises(TypeError, match="IndexedSlices"):
            optimizer.apply([gradient], [variable])

    def test_arrays_and_small_integers_are_fine(self):
        optimizer, variable = tf_optim_ext.SGD(1.0), tf.Variable(tf.zeros([ROWS, 2]))
        gradient = tf.IndexedSlices(np.ones([2, 2], np.float32), np.array([1, 1], np.uint8))
        optimizer.apply([gradient], [variable])
        np.testing.assert_array_equal(variable[:, 0], [0, -2, 0, 0, 0, 0, 0])

    @pytest.mark.parametrize("native", [True, False], ids=["native", "portable"])
    @pytest.mark.parametrize("sparse", KINDS)
    @pytest.mark.parametrize("bad", [-1, ROWS, 2**31 - 1])
    def test_indices_out_of_range_name_themselves(self, bad, sparse, native):
        optimizer = tf_optim_ext.Adam(0.1, sparse=sparse)
        variables = [tf.Variable(tf.ones([ROWS, 2]), name="table"), tf.Variable(1.0)]
        optimizer.build(variables)
        gradients = [slices(tf.constant([1, bad]), tf.ones([2, 2])), tf.constant(1.0)]
        step = run_in(
            "eager" if native else "portable", lambda: optimizer.apply(gradients, variables)
        )
        with (
            unchanged(optimizer, variables),
            pytest.raises(ValueError, match=rf"'table.*{bad}.*\[0, 7\)|'table.*\[0, 7\).*{bad}"),
        ):
            step()

    @pytest.mark.parametrize("sparse", KINDS)
    def test_values_that_do_not_fit(self, sparse):
        optimizer = tf_optim_ext.Adam(0.1, sparse=sparse)
        variable = tf.Variable(tf.ones([ROWS, 2]))
        optimizer.build([variable])
        for values in (tf.ones([1, 3]), tf.ones([1]), tf.ones([1, 2, 1])):
            with unchanged(optimizer, [variable]), pytest.raises(ValueError, match="has shape"):
                optimizer.apply([tf.IndexedSlices(values, tf.constant([1]))], [variable])
        for count in (1, 3):
            gradient = tf.IndexedSlices(tf.ones([2, 2]), tf.range(count))
            with unchanged(optimizer, [variable]), pytest.raises((ValueError, tf.errors.OpError)):
                optimizer.apply([gradient], [variable])
        scalar, other = tf.Variable(1.0), tf_optim_ext.Adam(0.1, sparse=sparse)
        with pytest.raises(ValueError, match="has shape"):
            other.apply([tf.IndexedSlices(tf.ones([1]), tf.constant([0]))], [scalar])

    @pytest.mark.parametrize("mode", ["function", "portable"])
    def test_shapes_known_only_when_run(self, mode):
        optimizer, variable = tf_optim_ext.LazyAdam(0.1), tf.Variable(tf.ones([ROWS, 2]))
        optimizer.build([variable])

        @tf.function(input_signature=[tf.TensorSpec(None, tf.int64), tf.TensorSpec(None)])
        def step(indices, values):
            run_in(mode if mode == "portable" else "eager", optimizer.apply)(
                [tf.IndexedSlices(values, indices)], [variable]
            )

        step(tf.constant([1, 1], tf.int64), tf.ones([2, 2]))
        before = variable.numpy()
        for indices, values in (
            (tf.constant([1], tf.int64), tf.ones([1, 3])),
            (tf.constant([1, 2], tf.int64), tf.ones([1, 2])),
            (tf.constant([[1]], tf.int64), tf.ones([1, 2])),
        ):
            with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
                step(indices, values)
            np.testing.assert_array_equal(variable, before)
        assert int(optimizer.iterations) == 1
