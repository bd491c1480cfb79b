"""The optimizer contract: gradients of some rows, and gradients that are symbols.

What other calls do is in `test_contract.py`.
"""

import functools

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    CLIPPING,
    KINDS,
    arrays,
    assert_close,
    both_kinds,
    keras_twin,
    make_variable,
    make_variables,
    same,
    train,
    unchanged,
)
from generation import keras, only_keras_3
from legacy import legacy

import tf_optim_ext

ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]


class TestSparse:
    SHAPES = ((5, 3),)

    def slices(self, indices, width=3, seed=0):
        rng = np.random.default_rng(seed)
        values = tf.constant(rng.normal(size=(len(indices), width)).astype("float32"))
        return tf.IndexedSlices(values, tf.constant(indices, tf.int64), tf.constant([5, width]))

    def dense(self, slices):
        result = np.zeros((5, 3), np.float64)
        np.add.at(result, np.array(slices.indices), np.array(slices.values, np.float64))
        return result.astype(np.float32)

    @pytest.mark.parametrize("in_function", [False, True], ids=["eager", "function"])
    def test_equals_the_dense_update(self, entry, in_function):
        optimizer, variables = entry.make(sparse="exact"), make_variables("keras", self.SHAPES)
        other, expected = entry.make(), make_variables("keras", self.SHAPES)

        def step(values, positions):
            slices = tf.IndexedSlices(values, positions, tf.constant([5, 3]))
            optimizer.apply_gradients([(slices, variables[0])])

        if in_function:
            signature = [tf.TensorSpec([None, 3]), tf.TensorSpec([None], tf.int64)]
            step = tf.function(step, input_signature=signature)
        for seed, indices in enumerate([[1, 4, 1, 1], [2], [], [4, 3, 2, 1, 0]]):
            slices = self.slices(indices, seed=seed)
            step(slices.values, slices.indices)
            other.apply_gradients([(self.dense(slices), expected[0])])
        assert_close(variables, expected)

    @only_keras_3("sums the rows first")
    @pytest.mark.parametrize("name", ["Adam", "AdamW", "AdamW-amsgrad"])
    def test_keras_squares_repeated_rows_one_by_one(self, name):
        # Keras sums the squares of one row; ours squares the sum, as a dense gradient does.
        entry = registry.BY_NAME[name]
        slices = self.slices([1, 4, 1])
        results = {}
        for title, make in (("ours", entry.make), ("keras", lambda: keras_twin(entry))):
            for gradient in (slices, self.dense(slices)):
                variables = make_variables("keras", self.SHAPES)
                make().apply_gradients([(gradient, variables[0])])
                results.setdefault(title, []).append(np.array(variables[0]))
        np.testing.assert_allclose(*results["ours"], rtol=1e-6)
        np.testing.assert_allclose(results["ours"][1], results["keras"][1], rtol=1e-5)
        off = np.max(np.abs(results["keras"][0] - results["keras"][1]), axis=1)
        assert off[1] > 1e-3
        assert off[4] < 1e-6

    def test_legacy_agrees_on_repeated_rows(self):
        for name, arguments in (("SGD", {"momentum": 0.9}), ("Adam", {})):
            results = []
            for library in (tf_optim_ext, legacy):
                optimizer = getattr(library, name)(0.1, **arguments)
                variables = make_variables("tf", self.SHAPES)
                for seed in range(3):
                    optimizer.apply_gradients([(self.slices([1, 4, 1], seed=seed), variables[0])])
                results.append(arrays(variables))
            assert_close(*results)

    def test_embedding_in_fit(self):
        # The same model with a dense layer on one-hot input has dense gradients.
        ids = np.array([[0, 1, 1], [1, 1, 2]] * 4)
        targets = np.linspace(-1, 1, 8).reshape(8, 1).astype("float32")
        start = np.random.default_rng(0).normal(size=(4, 1)).astype("float32")
        results = []
        for layer, inputs in (
            (keras.layers.Embedding(4, 1), ids),
            (keras.layers.Dense(1, use_bias=False), np.eye(4, dtype="float32")[ids]),
        ):
            model = keras.Sequential(
                [keras.Input(inputs.shape[1:]), layer, keras.layers.GlobalAveragePooling1D()]
            )
            layer.set_weights([start])
            model.compile(tf_optim_ext.Adam(0.05), "mse")
            model.fit(inputs, targets, batch_size=4, epochs=3, shuffle=False, verbose=0)
            results.append(layer.get_weights())
        assert_close(*results)
        assert not np.allclose(results[0][0], start)

    @pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
    @both_kinds
    def test_index_out_of_range(self, entry, kind, built):
        # Not even variables that come before the bad one change.
        shapes = (*self.SHAPES, *self.SHAPES)
        optimizer = entry.make()
        first, second = (make_variable(kind, np.ones(s, np.float32), "v") for s in shapes)
        if built:
            train(optimizer, [first, second], 1)
        for indices in ([5], [-1], [1000], [0, 5]):
            bad = [i for i in indices if not 0 <= i < 5]
            pairs = [(self.slices([1, 2]), first), (self.slices(indices), second)]
            message = rf"'v.*index {bad[0]}, .*5 rows, \[0, 5\)|'v.*5 rows, \[0, 5\).*\[{bad[0]}\]"
            with (
                unchanged(optimizer, [first, second]),
                pytest.raises(ValueError, match=message),
            ):
                optimizer.apply_gradients(pairs)
        train(optimizer, [first, second])

    @pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "use_ema": True}])
    @pytest.mark.parametrize("portable", [False, True])
    def test_index_out_of_range_in_a_function(self, portable, options):
        self.check_late_index(ADAM, portable, options)

    @pytest.mark.few
    def test_index_out_of_range_in_a_function_for_every_optimizer(self, entry):
        self.check_late_index(entry, portable=True, options={})

    def check_late_index(self, entry, portable, options):
        optimizer = entry.make(**options)
        first, second = (tf.Variable(np.ones((5, 3), np.float32)) for _ in range(2))
        train(optimizer, [first, second], 1)

        @tf.function
        def step(values, indices, dense):
            slices = tf.IndexedSlices(values, indices, tf.constant([5, 3]))
            optimizer.apply_gradients([(dense, first), (slices, second)])

        good, dense = self.slices([1, 2]), tf.ones((5, 3))
        if portable:
            with tf_optim_ext.portable():
                step = step.get_concrete_function(good.values, good.indices, dense)
        for bad in (5, -1):
            slices = self.slices([1, bad])
            with (
                unchanged(optimizer, [first, second]),
                pytest.raises(tf.errors.InvalidArgumentError, match=r"5 rows, \[0, 5\)"),
            ):
                step(slices.values, slices.indices, dense)
        step(good.values, good.indices, dense)
        assert int(optimizer._iterations) == 2

    def test_xla_writes_nothing_for_an_index_out_of_range(self):
        optimizer, variables = ADAM.make(), make_variables("tf", self.SHAPES)
        other, expected = ADAM.make(), make_variables("tf", self.SHAPES)

        @tf.function(jit_compile=True)
        def step(values, indices):
            slices = tf.IndexedSlices(values, indices, tf.constant([5, 3]))
            optimizer.apply_gradients([(slices, variables[0])])

        values = self.slices([1, 2, 3]).values
        step(values, tf.constant([1, 7, -1]))
        kept = tf.IndexedSlices(values[:1], tf.constant([1]), tf.constant([5, 3]))
        other.apply_gradients([(kept, expected[0])])
        assert_close(variables, expected)

    @pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
    def test_row_of_another_shape(self, entry, built):
        optimizer, variables = entry.make(), make_variables("keras", self.SHAPES)
        if built:
            train(optimizer, variables, 1)
        message = r"row.*kernel.*\(2,\).*\(5, 3\)"
        with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
            optimizer.apply_gradients([(self.slices([1], width=2), variables[0])])

    def test_sparse_gradient_of_a_scalar(self):
        optimizer, variable = SGD.make(), tf.Variable(1.0, name="scalar")
        slices = tf.IndexedSlices(tf.ones(1), tf.constant([0]))
        with unchanged(optimizer, [variable]), pytest.raises(ValueError, match="scalar"):
            optimizer.apply_gradients([(slices, variable)])

    def test_integer_values(self):
        optimizer, variables = SGD.make(), make_variables("keras", self.SHAPES)
        slices = tf.IndexedSlices(tf.ones((1, 3), tf.int32), tf.constant([0]))
        with unchanged(optimizer, variables), pytest.raises(TypeError, match="int32"):
            optimizer.apply_gradients([(slices, variables[0])])

    def test_more_values_than_indices(self):
        optimizer, variables = SGD.make(), make_variables("keras", self.SHAPES)
        slices = tf.IndexedSlices(tf.ones((2, 3)), tf.constant([0]))
        error = (ValueError, tf.errors.InvalidArgumentError)
        with unchanged(optimizer, variables), pytest.raises(error, match="shape"):
            optimizer.apply_gradients([(slices, variables[0])])

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_repeated_rows_are_summed_in_float32(self, dtype):
        # 2048 + 1 is 2048 in float16 and in bfloat16.
        values = tf.cast(tf.constant([[2048.0], [1.0], [1.0]]), dtype)
        slices = tf.IndexedSlices(values, tf.constant([0, 0, 0]))
        variable = tf.Variable([[0.0]])
        tf_optim_ext.SGD(1.0).apply_gradients([(slices, variable)])
        assert float(variable[0, 0]) == -2050.0


class TestSymbolicGradients:
    @staticmethod
    def loss(variables):
        return sum(tf.reduce_sum(tf.square(1.0 * v)) for v in variables)

    @pytest.mark.parametrize(
        ("kind", "clipping"),
        [
            pytest.param(kind, c, marks=pytest.mark.long if c and kind != "tf" else ())
            for kind in KINDS
            for c in ({}, *CLIPPING)
        ],
    )
    def test_get_gradients(self, kind, clipping):
        optimizer, variables = ADAM.make(**clipping), make_variables(kind)

        @tf.function
        def gradients():
            return optimizer.get_gradients(self.loss(variables), variables)

        expected = keras.optimizers.SGD(**clipping)._clip_gradients(
            [tf.constant(2 * np.asarray(v)) for v in variables]
        )
        with unchanged(optimizer, variables):
            assert_close(gradients(), expected)

    @pytest.mark.parametrize("clipping", [{}, *CLIPPING])
    def test_repeated_rows_are_summed_before_they_are_clipped(self, clipping):
        optimizer = tf_optim_ext.SGD(1.0, **clipping)
        variable = tf.Variable([[0.3, 0.4], [0.1, 0.1]])
        start = variable.numpy()

        def loss():
            return tf.reduce_sum(tf.gather(variable, [0, 0, 1]))

        @tf.function
        def gradients():
            return [tf.convert_to_tensor(g) for g in optimizer.get_gradients(loss(), [variable])]

        expected = gradients()
        optimizer.minimize(loss, [variable])
        assert_close([start - variable.numpy()], expected)

    @pytest.mark.few
    def test_get_updates(self, entry):
        self.check_updates(entry, "tf")

    def test_get_updates_of_keras_variables(self):
        self.check_updates(ADAM, "keras")

    def check_updates(self, entry, kind):
        optimizer, variables = entry.make(clipnorm=0.5), make_variables(kind)
        other, expected = entry.make(clipnorm=0.5), make_variables(kind)

        @tf.function
        def step():
            updates = optimizer.get_updates(self.loss(variables), variables)
            assert len(updates) == 1
            assert isinstance(updates[0], tf.Operation)
            with tf.control_dependencies(updates):
                return [tf.identity(v) for v in variables], tf.identity(optimizer.iterations)

        for i in range(2):
            inside, iterations = step()
            assert same(arrays(inside), arrays(variables)), "the operation comes too early"
            assert int(iterations) == i + 1
            other.minimize(lambda: self.loss(expected), expected)
        assert_close(variables, expected)

    @pytest.mark.parametrize("call", ["get_gradients", "get_updates"])
    def test_missing_gradient(self, call):
        optimizer = SGD.make()
        used, lonely = tf.Variable([1.0], name="used"), tf.Variable([1.0], name="lonely")

        @tf.function
        def step():
            getattr(optimizer, call)(used * 2.0, [used, lonely])

        with unchanged(optimizer, [used]), pytest.raises(ValueError, match="lonely") as error:
            step()
        assert "'used" not in str(error.value)

    @pytest.mark.parametrize("call", ["get_gradients", "get_updates"])
    def test_eager(self, call):
        optimizer, variable = SGD.make(), tf.Variable([1.0])
        with unchanged(optimizer, [variable]), pytest.raises(RuntimeError, match="works in graphs"):
            getattr(optimizer, call)(variable * 2.0, [variable])

    @pytest.mark.parametrize("call", ["get_gradients", "get_updates"])
    def test_not_a_variable(self, call):
        step = tf.function(lambda: getattr(SGD.make(), call)(tf.ones(()), ["kernel"]))
        with pytest.raises(ValueError, match="kernel"):
            step()

    def test_equals_legacy(self):
        results = []
        for library in (tf_optim_ext, legacy):
            optimizer, variables = library.Adam(0.1), make_variables("tf")

            def update(optimizer, variables):
                with tf.control_dependencies(
                    optimizer.get_updates(self.loss(variables), variables)
                ):
                    return tf.constant(0)

            step = tf.function(functools.partial(update, optimizer, variables))
            for _ in range(3):
                step()
            results.append(arrays(variables))
        assert_close(*results)
