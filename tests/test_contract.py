"""The optimizer contract: what each call does, and what it answers to bad input."""

import copy
import functools
import inspect
import json
import pickle
import re
import warnings

import keras
import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    SHAPES,
    arrays,
    assert_close,
    keras_twin,
    make_gradients,
    make_variable,
    make_variables,
    same,
    train,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_optim_ext
from tf_optim_ext.checks import Range
from tf_optim_ext.rule import lerp, sign

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tf_keras.optimizers import legacy

KINDS = ("keras", "tf")
ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]

has_twin = pytest.mark.parametrize(
    "entry", [e for e in registry.ENTRIES if e.keras], ids=lambda e: e.name
)
both_kinds = pytest.mark.parametrize("kind", KINDS)


def as_schedule():
    return keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=2, decay_rate=0.5)


@keras.saving.register_keras_serializable("test_contract")
def constant_rate():
    return 0.25


class TestSlots:
    @both_kinds
    def test_names_are_those_declared_in_order(self, entry, kind):
        optimizer = entry.make()
        assert optimizer.get_slot_names() == []
        optimizer.build(make_variables(kind))
        assert optimizer.get_slot_names() == list(entry.slots)

    @both_kinds
    def test_every_variable_has_each_slot(self, entry, kind):
        optimizer, variables = entry.make(), make_variables(kind)
        train(optimizer, variables)
        for variable in variables:
            for name in entry.slots:
                slot = optimizer.get_slot(variable, name)
                assert slot.shape == variable.shape
                assert slot.dtype == "float32"
                assert any(slot is v for v in optimizer.variables)
                assert np.any(np.asarray(slot) != 0)

    def test_keras_variable_and_the_variable_inside_are_the_same_key(self):
        optimizer, variables = ADAM.make(), make_variables("keras")
        optimizer.build(variables)
        inside = optimizer.get_slot(variables[1].value, "velocity")
        assert inside is optimizer.get_slot(variables[1], "velocity")

    def test_path_names_variable_and_slot(self):
        with keras.name_scope("block"):
            variable = keras.Variable(np.ones(2, "float32"), name="kernel")
        optimizer = tf_optim_ext.Adam(0.1, name="mine")
        optimizer.build([variable, tf.Variable([1.0], name="scope/plain")])
        assert [v.path for v in optimizer.variables[2:]] == [
            "mine/block_kernel_momentum",
            "mine/block_kernel_velocity",
            "mine/scope_plain_0_momentum",
            "mine/scope_plain_0_velocity",
        ]

    @pytest.mark.parametrize(
        "initializer",
        [
            "ones",
            keras.initializers.Ones(),
            keras.initializers.Ones,
            lambda shape, dtype: tf.ones(shape, dtype),
            tf.ones((3, 2)),
            np.ones((3, 2)),
            [[1, 1]] * 3,
        ],
        ids=["name", "object", "class", "function", "tensor", "array", "list"],
    )
    @both_kinds
    def test_add_slot_initializers(self, initializer, kind):
        optimizer, variables = SGD.make(), make_variables(kind)
        slot = optimizer.add_slot(variables[0], "extra", initializer)
        assert same(arrays([slot]), [np.ones((3, 2), np.float32)])
        assert any(slot is v for v in optimizer.variables)
        assert optimizer.get_slot(variables[0], "extra") is slot

    def test_add_slot_returns_the_existing_one(self):
        optimizer, variables = SGD.make(), make_variables()
        optimizer.build(variables)
        count = len(optimizer.variables)
        assert optimizer.add_slot(variables[0], "momentum", "ones") is optimizer.get_slot(
            variables[0], "momentum"
        )
        assert len(optimizer.variables) == count
        assert optimizer.get_slot_names() == ["momentum"]

    def test_add_slot_of_another_shape(self):
        optimizer, variables = SGD.make(), make_variables()
        assert optimizer.add_slot(variables[0], "norm", shape=()).shape == ()
        assert optimizer.add_slot(variables[0], "rows", shape=tf.TensorShape([3])).shape == (3,)

    def test_names_are_in_order_of_creation_without_duplicates(self):
        optimizer, variables = ADAM.make(), make_variables()
        optimizer.add_slot(variables[1], "first")
        optimizer.build(variables)
        for variable in variables:
            optimizer.add_slot(variable, "last")
        assert optimizer.get_slot_names() == ["first", "momentum", "velocity", "last"]

    def test_add_slot_in_a_function(self):
        optimizer, variable = SGD.make(), tf.Variable([3.0, 4.0])

        @tf.function
        def step():
            slot = optimizer.add_slot(variable, "calls", "zeros")
            slot.assign_add([1.0, 2.0])

        step()
        step()
        assert same(arrays([optimizer.get_slot(variable, "calls")]), [np.float32([2, 4])])

    def test_add_slot_on_the_device_of_the_variable(self):
        variable = tf.Variable([1.0])
        slot = SGD.make().add_slot(variable, "extra")
        assert slot.value.device == variable.device

    def test_unknown_initializer(self):
        optimizer, variables = SGD.make(), make_variables()
        with unchanged(optimizer, variables), pytest.raises(ValueError, match="no_such_thing"):
            optimizer.add_slot(variables[0], "extra", "no_such_thing")

    @pytest.mark.parametrize(
        "initializer", [np.ones((2, 3)), lambda shape, dtype: tf.ones((2, 3)), 1.0]
    )
    def test_initial_value_of_another_shape(self, initializer):
        optimizer, variables = SGD.make(), make_variables()
        got = re.escape(str(np.shape(initializer) if not callable(initializer) else (2, 3)))
        with unchanged(optimizer, variables), pytest.raises(ValueError) as error:
            optimizer.add_slot(variables[0], "extra", initializer)
        assert re.search(rf"'extra'.*kernel.*{got}.*\(3, 2\)", str(error.value))

    def test_missing_slot(self):
        optimizer, variables = ADAM.make(), make_variables()
        optimizer.build(variables)
        with pytest.raises(KeyError, match=r"'nothing'.*\['momentum', 'velocity'\]"):
            optimizer.get_slot(variables[0], "nothing")
        with pytest.raises(KeyError, match="stranger"):
            optimizer.get_slot(tf.Variable(1.0, name="stranger"), "momentum")
        with pytest.raises(KeyError, match="momentum"):
            optimizer.get_slot("kernel", "momentum")


class TestWeights:
    def test_add_weight(self):
        optimizer = SGD.make()
        counter = optimizer.add_weight("counter", (2,), "int64", "ones")
        assert (counter.dtype, counter.shape, counter.trainable) == ("int64", (2,), False)
        assert same(arrays([counter]), [np.ones(2, np.int64)])
        assert optimizer.add_weight("scalar", ()).dtype == keras.config.floatx()
        value = optimizer.add_weight(
            "value", 2, tf.float64, lambda shape, dtype: tf.fill(shape, tf.cast(3, dtype))
        )
        assert same(arrays([value]), [np.full(2, 3.0)])
        assert [v.name for v in optimizer.variables[-3:]] == ["counter", "scalar", "value"]

    @pytest.mark.parametrize("aggregation", list(tf.VariableAggregation))
    def test_add_weight_aggregation(self, aggregation):
        weight = SGD.make().add_weight("w", (), aggregation=aggregation)
        assert weight.aggregation == aggregation.name.lower()

    @pytest.mark.parametrize(
        ("shape", "dtype", "message"),
        [
            ((None, 2), None, r"\(None, 2\)"),
            ((-1,), None, r"\(-1,\)"),
            ("x", None, "'x'"),
            ((2,), "float99", "'float99'"),
            ((2,), object(), "dtype"),
        ],
    )
    def test_add_weight_errors(self, shape, dtype, message):
        optimizer = SGD.make()
        with unchanged(optimizer), pytest.raises(ValueError, match=message):
            optimizer.add_weight("w", shape, dtype)

    @both_kinds
    def test_both_spellings(self, entry, kind):
        optimizer, variables = entry.make(), make_variables(kind)
        optimizer.build(variables)
        expected = 2 + len(entry.slots) * len(SHAPES)
        for spelling in (optimizer.variables, optimizer.variables(), optimizer.weights):
            assert len(spelling) == expected
            assert all(a is b for a, b in zip(spelling, optimizer.variables))
        assert optimizer.variables[0] is optimizer.iterations

    def test_changing_the_list_does_not_change_the_optimizer(self):
        optimizer = SGD.make()
        optimizer.variables.clear()
        assert len(optimizer.variables) == 2

    @has_twin
    @pytest.mark.parametrize("frame", [{}, {"use_ema": True, "gradient_accumulation_steps": 2}])
    def test_order_is_that_of_keras(self, entry, frame):
        ours, theirs = entry.make(**frame, name="o"), keras_twin(entry, **frame, name="o")
        variables = make_variables()
        for optimizer in (ours, theirs):
            optimizer.build(variables)
        if "use_ema" in frame:
            # Keras interleaves nothing here either, but creates accumulators first to last.
            assert len(ours.variables) == len(theirs.variables)
        assert [v.path for v in ours.variables] == [v.path for v in theirs.variables]

    @both_kinds
    def test_get_and_set(self, entry, kind):
        optimizer, variables = entry.make(), make_variables(kind)
        train(optimizer, variables)
        weights, values = optimizer.get_weights(), arrays(variables)
        assert all(isinstance(w, np.ndarray) for w in weights)
        assert weights[0] == 3
        train(optimizer, variables, first=3)
        expected = arrays(variables)
        assert not same(optimizer.get_weights(), weights)
        other, variables = entry.make(), make_variables(kind)
        other.build(variables)
        other.set_weights(weights)
        for variable, value in zip(variables, values):
            variable.assign(value)
        assert same(other.get_weights(), weights)
        train(other, variables, first=3)
        assert same(arrays(variables), expected)

    def test_get_weights_are_copies(self):
        optimizer, variables = SGD.make(), make_variables()
        train(optimizer, variables)
        weights = optimizer.get_weights()
        before = [w.copy() for w in weights]
        train(optimizer, variables)
        assert same(weights, before)

    def test_set_weights_accepts_lists(self):
        optimizer = SGD.make()
        optimizer.build([tf.Variable([1.0, 2.0])])
        optimizer.set_weights([7, 0.5, [3, 4]])
        assert [w.tolist() for w in optimizer.get_weights()] == [7, 0.5, [3, 4]]

    def test_wrong_count(self, entry):
        optimizer, variables = entry.make(), make_variables()
        train(optimizer, variables)
        weights = [w + 1 for w in optimizer.get_weights()]
        for wrong in (weights[:-1], [*weights, weights[0]], []):
            with unchanged(optimizer, variables), pytest.raises(ValueError) as error:
                optimizer.set_weights(wrong)
            assert str(len(weights)) in str(error.value)
            assert str(len(wrong)) in str(error.value)

    def test_wrong_shape(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        weights = [w + 1 for w in optimizer.get_weights()]
        weights[-1] = np.ones((2, 3), np.float32)
        message = r"second_kernel_velocity.*\(3, 2\).*\(2, 3\)"
        with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
            optimizer.set_weights(weights)

    def test_wrong_dtype(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        weights = [w + 1 for w in optimizer.get_weights()]
        weights[-1] = np.full((3, 2), "text")
        with unchanged(optimizer, variables), pytest.raises((TypeError, ValueError)):
            optimizer.set_weights(weights)

    def test_not_built(self):
        optimizer = ADAM.make()
        with pytest.raises(ValueError, match="not built"):
            optimizer.set_weights([0] * 10)


class TestApplyGradients:
    @both_kinds
    @pytest.mark.parametrize(
        "iterable",
        [
            list,
            tuple,
            iter,
            lambda pairs: (pair for pair in pairs),
            lambda pairs: zip(*zip(*pairs)),
            lambda pairs: [list(pair) for pair in pairs],
        ],
        ids=["list", "tuple", "iterator", "generator", "zip", "lists"],
    )
    def test_any_iterable_of_pairs(self, entry, iterable, kind):
        optimizer, variables = entry.make(), make_variables(kind)
        expected_optimizer, expected = entry.make(), make_variables(kind)
        for step in range(2):
            gradients = [tf.constant(g) for g in make_gradients(step)]
            optimizer.apply_gradients(iterable(list(zip(gradients, variables))))
            expected_optimizer.apply(gradients, expected)
        assert same(arrays(variables), arrays(expected))
        assert not same(arrays(variables), arrays(make_variables(kind)))

    def test_returns_iterations(self, entry):
        optimizer, variables = entry.make(), make_variables()
        for step in range(3):
            pairs = list(zip(make_gradients(step), variables))
            assert int(optimizer.apply_gradients(pairs, name="ignored")) == step + 1
        assert int(optimizer.iterations) == 3

    def test_keras_and_tensorflow_variables_together(self, entry):
        kinds = ["keras", "tf", "keras", "tf"]
        mixed = [make_variables(kind)[i] for i, kind in enumerate(kinds)]
        optimizer, other, expected = entry.make(), entry.make(), make_variables("tf")
        train(optimizer, mixed)
        train(other, expected)
        assert same(arrays(mixed), arrays(expected))

    @pytest.mark.parametrize(
        "convert",
        [
            np.asarray,
            lambda g: np.asarray(g, np.float64),
            lambda g: tf.constant(g, tf.float64),
            lambda g: g.tolist(),
            tf.Variable,
            keras.Variable,
            keras.ops.convert_to_tensor,
        ],
        ids=["array", "float64 array", "float64", "list", "tf variable", "keras variable", "ops"],
    )
    def test_kinds_of_gradients(self, entry, convert):
        optimizer, variables = entry.make(), make_variables()
        other, expected = entry.make(), make_variables()
        for step in range(2):
            gradients = [convert(g) for g in make_gradients(step)]
            optimizer.apply_gradients(zip(gradients, variables))
        train(other, expected, 2)
        assert same(arrays(variables), arrays(expected))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_16_bit_gradients_are_cast_up(self, entry, dtype):
        optimizer, variables = entry.make(), make_variables()
        other, expected = entry.make(), make_variables()
        for step in range(3):
            narrow = [tf.cast(g, dtype) for g in make_gradients(step)]
            optimizer.apply_gradients(zip(narrow, variables))
            other.apply_gradients(zip([tf.cast(g, "float32") for g in narrow], expected))
        assert same(arrays(variables), arrays(expected))

    def test_gradients_and_tensors_read_before_stay_as_they_are(self, entry):
        optimizer, variables = entry.make(), make_variables("tf")
        gradients = [tf.constant(g) for g in make_gradients(0)]
        read = [v.read_value() for v in variables]
        before = arrays([*gradients, *read])
        optimizer.apply_gradients(zip(gradients, variables))
        optimizer.apply_gradients(zip(gradients, variables))
        assert same(arrays([*gradients, *read]), before)

    def test_the_weight_as_its_own_gradient(self, entry):
        optimizer, variables = entry.make(), make_variables("tf")
        other, expected = entry.make(), make_variables("tf")
        for _ in range(3):
            other.apply_gradients([(tf.constant(np.array(v)), v) for v in expected])
            optimizer.apply_gradients([(v, v) for v in variables])
        assert same(arrays(variables), arrays(expected))

    def test_some_variables_in_any_order(self, entry):
        # Variables that are not given keep their slots.
        optimizer, variables = entry.make(), make_variables()
        optimizer.build(variables)
        first, second = make_gradients(0), make_gradients(1)
        optimizer.apply_gradients(zip(first, variables))
        before = arrays([variables[i] for i in (1, 3)])
        optimizer.apply_gradients([(second[2], variables[2]), (second[0], variables[0])])
        assert same(arrays([variables[i] for i in (1, 3)]), before)
        other, expected = entry.make(), [make_variables()[i] for i in (0, 2)]
        other.apply_gradients(zip([first[0], first[2]], expected))
        other.apply_gradients(zip([second[0], second[2]], expected))
        assert same(arrays([variables[0], variables[2]]), arrays(expected))

    def test_apply_with_and_without_variables(self, entry):
        optimizer, variables = entry.make(), make_variables()
        optimizer.build(variables)
        optimizer.apply(iter(make_gradients(0)))
        optimizer.apply(make_gradients(1), iter(variables))
        other, expected = entry.make(), make_variables()
        train(other, expected, 2)
        assert same(arrays(variables), arrays(expected))

    def test_update_step(self, entry):
        # What Keras calls for one variable; it has no frame, so no step is counted.
        optimizer, variables = entry.make(), make_variables("tf")
        other, expected = entry.make(), make_variables("tf")
        optimizer.build(variables)
        for gradient, variable in zip(make_gradients(0), variables):
            optimizer.update_step(gradient, variable, entry.arguments["learning_rate"])
        assert int(optimizer.iterations) == 0
        train(other, expected, 1)
        assert_close(variables, expected)
        with unchanged(optimizer, variables), pytest.raises(ValueError, match="stranger"):
            optimizer.update_step(1.0, tf.Variable(1.0, name="stranger"), 0.1)

    def test_empty_and_scalar_variables(self, entry):
        shapes = ((0,), (), (2, 0, 3), (1,))
        optimizer, variables = entry.make(), make_variables(shapes=shapes)
        train(optimizer, variables)
        assert [v.shape for v in variables] == list(shapes)
        assert all(np.all(np.isfinite(v)) for v in variables)
        assert int(optimizer.iterations) == 3

    @both_kinds
    def test_dtypes_together(self, entry, kind):
        dtypes = ("float32", "float64", "bfloat16", "float16")
        variables = [make_variables(kind, dtype=d)[0] for d in dtypes]
        shapes = [v.shape for v in variables]
        optimizer = entry.make()
        train(optimizer, variables)
        for dtype, variable in zip(dtypes, variables):
            assert tf.as_dtype(variable.dtype) == dtype
            for name in entry.slots:
                slot = optimizer.get_slot(variable, name)
                assert slot.dtype == ("float64" if dtype == "float64" else "float32")
        other, expected = (
            entry.make(),
            [tf.Variable(np.asarray(make_variables()[0], np.float64))] * 1,
        )
        for step in range(3):
            other.apply_gradients([(make_gradients(step, shapes)[1], expected[0])])
        tolerance = {"float64": 1e-6, "float16": 5e-3, "bfloat16": 5e-2, "float32": 1e-5}
        assert_close([variables[1]], expected, rtol=tolerance["float64"])

    def test_keras_muon_needs_keras_variables_and_ours_do_not(self, entry):
        plain = tf.Variable(np.ones((2, 2), np.float32))
        with pytest.raises(AttributeError, match="path"):
            keras.optimizers.Muon(0.1).build([plain])
        optimizer = entry.make()
        train(optimizer, [plain])
        assert not np.any(np.asarray(plain) == 1)

    def test_overwrite_with_gradient(self, entry):
        # Such variables hold scales of 8-bit layers; their "gradient" is their new value.
        optimizer, variables = entry.make(use_ema=True), make_variables()
        variables[2].overwrite_with_gradient = True
        train(optimizer, variables, 2)
        assert np.asarray(variables[2]) == make_gradients(1)[2]
        other, expected = entry.make(use_ema=True), make_variables()
        train(other, expected, 2)
        assert same(arrays(variables[:2]), arrays(expected[:2]))

    @has_twin
    def test_overwrite_with_gradient_and_accumulation_equal_keras(self, entry):
        results = []
        for make in (entry.make, functools.partial(keras_twin, entry)):
            variables = make_variables()
            variables[2].overwrite_with_gradient = True
            train(make(gradient_accumulation_steps=2), variables, 3)
            results.append(arrays(variables))
        assert_close(*results)


class TestSparse:
    ROWS = ((5, 3),)

    def slices(self, indices, width=3, seed=0, rows=5, dtype="float32"):
        rng = np.random.default_rng(seed)
        values = tf.constant(rng.normal(size=(len(indices), width)).astype(dtype))
        return tf.IndexedSlices(values, tf.constant(indices, tf.int64), tf.constant([rows, width]))

    def dense(self, slices):
        result = np.zeros((5, 3), np.float64)
        np.add.at(result, np.array(slices.indices), np.array(slices.values, np.float64))
        return result.astype(np.float32)

    @both_kinds
    @pytest.mark.parametrize("in_function", [False, True])
    @pytest.mark.parametrize("indices", [[1, 4, 1, 1], [2], [], [0, 1, 2, 3, 4]])
    def test_equals_the_dense_update(self, entry, kind, in_function, indices):
        optimizer, variables = entry.make(), make_variables(kind, self.ROWS)
        other, expected = entry.make(), make_variables(kind, self.ROWS)

        def apply(values, positions):
            slices = tf.IndexedSlices(values, positions, tf.constant([5, 3]))
            optimizer.apply_gradients([(slices, variables[0])])

        step = tf.function(apply, reduce_retracing=True) if in_function else apply
        for seed in range(3):
            slices = self.slices(indices, seed=seed)
            step(slices.values, slices.indices)
            other.apply_gradients([(self.dense(slices), expected[0])])
        assert_close(variables, expected)

    @pytest.mark.parametrize("name", ["Adam", "AdamW", "AdamW-amsgrad"])
    def test_keras_squares_repeated_rows_one_by_one(self, name):
        # Keras: two updates of one row for the second moment; ours: one, of the sum.
        entry = registry.BY_NAME[name]
        slices = self.slices([1, 4, 1])
        results = {}
        for title, optimizer in (("ours", entry.make()), ("keras", keras_twin(entry))):
            for gradient in (slices, self.dense(slices)):
                variables = make_variables("keras", self.ROWS)
                clone = type(optimizer).from_config(optimizer.get_config())
                clone.apply_gradients([(gradient, variables[0])])
                results.setdefault(title, []).append(np.array(variables[0]))
        np.testing.assert_allclose(*results["ours"], rtol=1e-6)
        np.testing.assert_allclose(results["ours"][1], results["keras"][1], rtol=1e-5)
        off = np.max(np.abs(results["keras"][0] - results["keras"][1]), axis=1)
        assert off[1] > 1e-3
        assert off[4] < 1e-6

    def test_legacy_agrees_on_repeated_rows(self):
        for ours, was in (
            (tf_optim_ext.SGD(0.1, momentum=0.9), legacy.SGD(0.1, momentum=0.9)),
            (tf_optim_ext.Adam(0.1), legacy.Adam(0.1)),
        ):
            results = []
            for optimizer in (ours, was):
                variables = make_variables("tf", self.ROWS)
                for seed in range(3):
                    optimizer.apply_gradients([(self.slices([1, 4, 1], seed=seed), variables[0])])
                results.append(arrays(variables))
            assert_close(*results)

    def test_embedding_in_fit(self):
        # The same model with a dense layer on one-hot input has dense gradients.
        ids = np.array([[0, 1, 1], [1, 1, 2]] * 4)
        targets = np.linspace(-1, 1, 8).reshape(8, 1).astype("float32")
        start = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
        results = []
        for sparse in (True, False):
            embedding = (
                keras.layers.Embedding(4, 2) if sparse else keras.layers.Dense(2, use_bias=False)
            )
            shape = (3,) if sparse else (3, 4)
            model = keras.Sequential(
                [
                    keras.Input(shape),
                    embedding,
                    keras.layers.Lambda(lambda x: keras.ops.mean(x, (1, 2))[:, None]),
                ]
            )
            embedding.set_weights([start])
            model.compile(tf_optim_ext.Adam(0.05), "mse")
            inputs = ids if sparse else np.eye(4, dtype="float32")[ids]
            model.fit(inputs, targets, batch_size=4, epochs=3, shuffle=False, verbose=0)
            results.append(embedding.get_weights())
        assert_close(*results)
        assert not np.allclose(results[0][0], start)

    @both_kinds
    @pytest.mark.parametrize("bad", [5, -1, 1000])
    @pytest.mark.parametrize("built", [False, True])
    @pytest.mark.parametrize("width", [1, 2])
    def test_index_out_of_range(self, entry, kind, bad, built, width):
        # Not even variables that come before the bad one change.
        optimizer, variables = entry.make(), make_variables(kind, self.ROWS * 2)
        if built:
            train(optimizer, variables, 1)
        pairs = [
            (self.slices([1, 2]), variables[0]),
            (self.slices([0, bad][-width:]), variables[1]),
        ]
        message = rf"second|bias.*5 rows.*\[0, 5\).*\[{bad}\]"
        with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
            optimizer.apply_gradients(pairs)
        assert optimizer.built == built
        train(optimizer, variables)

    @pytest.mark.parametrize("portable", [False, True])
    @pytest.mark.parametrize("bad", [5, -1])
    @pytest.mark.parametrize("frame", [{}, {"gradient_accumulation_steps": 2, "use_ema": True}])
    def test_index_out_of_range_in_a_function(self, entry, bad, portable, frame):
        optimizer, variables = entry.make(**frame), make_variables("tf", self.ROWS * 2)
        train(optimizer, variables, 1)

        @tf.function
        def step(values, indices, dense):
            slices = tf.IndexedSlices(values, indices, tf.constant([5, 3]))
            optimizer.apply_gradients([(dense, variables[0]), (slices, variables[1])])

        slices, dense = self.slices([1, bad]), tf.ones((5, 3))
        if portable:
            with tf_optim_ext.portable():
                step = step.get_concrete_function(slices.values, slices.indices, dense)
        message = r"5 rows, \[0, 5\)"
        with (
            unchanged(optimizer, variables),
            pytest.raises(tf.errors.InvalidArgumentError, match=message),
        ):
            step(slices.values, slices.indices, dense)
        good = self.slices([1, 2])
        step(good.values, good.indices, dense)
        assert int(optimizer._iterations) == 2

    def test_index_out_of_range_in_xla_writes_nothing_out_of_range(self, entry):
        optimizer, variables = entry.make(), make_variables("tf", self.ROWS)
        other, expected = entry.make(), make_variables("tf", self.ROWS)

        @tf.function(jit_compile=True)
        def step(values, indices):
            slices = tf.IndexedSlices(values, indices, tf.constant([5, 3]))
            optimizer.apply_gradients([(slices, variables[0])])

        values = self.slices([1, 2]).values
        step(values, tf.constant([1, 7]))
        kept = tf.IndexedSlices(values[:1], tf.constant([1]), tf.constant([5, 3]))
        other.apply_gradients([(kept, expected[0])])
        assert_close(variables, expected)

    @pytest.mark.parametrize("built", [False, True])
    def test_row_of_another_shape(self, entry, built):
        optimizer, variables = entry.make(), make_variables("keras", self.ROWS)
        if built:
            train(optimizer, variables, 1)
        message = r"[Rr]ow.*kernel.*\(2,\).*\(5, 3\)"
        with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
            optimizer.apply_gradients([(self.slices([1], width=2), variables[0])])

    def test_sparse_gradient_of_a_scalar(self):
        optimizer, variable = SGD.make(), tf.Variable(1.0, name="scalar")
        with unchanged(optimizer, [variable]), pytest.raises(ValueError, match="scalar"):
            optimizer.apply_gradients([(tf.IndexedSlices(tf.ones(1), tf.constant([0])), variable)])

    def test_integer_values(self):
        optimizer, variables = SGD.make(), make_variables("keras", self.ROWS)
        slices = tf.IndexedSlices(tf.ones((1, 3), tf.int32), tf.constant([0]))
        with unchanged(optimizer, variables), pytest.raises(TypeError, match="int32"):
            optimizer.apply_gradients([(slices, variables[0])])

    def test_more_values_than_indices(self):
        optimizer, variables = SGD.make(), make_variables("keras", self.ROWS)
        slices = tf.IndexedSlices(tf.ones((2, 3)), tf.constant([0]))
        with (
            unchanged(optimizer, variables),
            pytest.raises((ValueError, tf.errors.InvalidArgumentError)),
        ):
            optimizer.apply_gradients([(slices, variables[0])])

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    def test_repeated_rows_are_summed_in_float32(self, dtype):
        # 2048 + 1 + 1 is 2048 in float16, 2 * 256 + 1 is 512 in bfloat16.
        values = tf.constant([[2048.0], [1.0], [1.0]])
        slices = tf.IndexedSlices(tf.cast(values, dtype), tf.constant([0, 0, 0]))
        variable = tf.Variable([[0.0]])
        tf_optim_ext.SGD(1.0).apply_gradients([(slices, variable)])
        assert float(variable[0, 0]) == -2050.0


def in_eager(step):
    return step()


def in_function(step):
    return tf.function(step)()


class TestBadInput:
    """Each row of the table, for every optimizer, before and after its first step."""

    @pytest.fixture(params=[False, True], ids=["unbuilt", "built"])
    def built(self, request):
        return request.param

    @pytest.fixture(params=KINDS)
    def variables(self, request):
        return make_variables(request.param)

    @pytest.fixture(params=[in_eager, in_function], ids=["eager", "function"])
    def refuses(self, request, entry, variables, built):
        """`refuses(pairs, error, message)`: a call raises; later steps are as if it had not been."""

        def check(pairs, error, message):
            optimizer = entry.make()
            if built:
                train(optimizer, variables)
            with unchanged(optimizer, variables), pytest.raises(error) as raised:
                request.param(lambda: optimizer.apply_gradients(pairs))
            assert re.search(message, str(raised.value), re.DOTALL), str(raised.value)
            train(optimizer, variables, first=3)
            other, expected = entry.make(), make_variables()
            if built:
                train(other, expected)
            train(other, expected, first=3)
            assert same(arrays(variables), arrays(expected))
            assert same(arrays(optimizer.variables), arrays(other.variables))

        return check

    def good(self, variables):
        return list(zip([tf.constant(g) for g in make_gradients(7)], variables))

    @pytest.mark.parametrize(
        "make",
        [
            lambda v: 5,
            lambda v: None,
            lambda v: v,
            lambda v: [v[0]],
            lambda v: [(tf.ones(()),)],
            lambda v: [(tf.ones(()), v[2], 3)],
            lambda v: "ab",
            lambda v: [None],
        ],
        ids=["number", "None", "variables", "no pair", "single", "triple", "text", "None in list"],
    )
    def test_not_pairs(self, refuses, variables, make):
        refuses(make(variables), TypeError, r"\(gradient, variable\) pairs")

    def test_all_none(self, refuses, variables):
        refuses([(None, v) for v in variables], ValueError, "kernel.*bias.*scale.*second_kernel")

    def test_shape(self, refuses, variables):
        pairs = self.good(variables)
        pairs[1] = (tf.ones((5,)), variables[1])
        refuses(pairs, ValueError, r"bias.*\(5,\).*\(4,\)")

    @pytest.mark.parametrize("shape", [(1,), (4, 1), (1, 4), ()])
    def test_shape_that_would_broadcast(self, refuses, variables, shape):
        pairs = self.good(variables)
        pairs[1] = (tf.ones(shape), variables[1])
        refuses(pairs, ValueError, r"bias.*\(4,\)")

    @pytest.mark.parametrize(
        "gradient",
        [
            tf.ones((4,), tf.int32),
            tf.ones((4,), tf.bool),
            tf.ones((4,), tf.complex64),
            np.ones(4, np.int64),
            tf.constant(["a"] * 4),
            [1, 2, 3, 4],
        ],
        ids=["int32", "bool", "complex64", "int64 array", "string", "list of int"],
    )
    def test_dtype(self, refuses, variables, gradient):
        pairs = self.good(variables)
        pairs[1] = (gradient, variables[1])
        refuses(pairs, TypeError, "bias.*dtype")

    @pytest.mark.parametrize(
        "gradient",
        [
            object(),
            {"a": 1.0},
            tf.sparse.from_dense([1.0, 2.0, 0.0, 0.0]),
            tf.ragged.constant([[1.0], [2.0]]),
        ],
        ids=["object", "dict", "sparse tensor", "ragged tensor"],
    )
    def test_no_gradient(self, refuses, variables, gradient):
        pairs = self.good(variables)
        pairs[1] = (gradient, variables[1])
        refuses(pairs, TypeError, "bias")

    @pytest.mark.parametrize(
        "second",
        [tf.ones(4), np.ones(4), "bias", None, 3.0, [tf.Variable(1.0)]],
        ids=["tensor", "array", "text", "None", "number", "list"],
    )
    def test_no_variable(self, refuses, variables, second):
        pairs = self.good(variables)
        pairs[1] = (tf.ones((4,)), second)
        refuses(pairs, TypeError, "second element.*keras.Variable.*tf.Variable")

    def test_integer_variable(self, refuses, variables):
        pairs = [*self.good(variables), (tf.ones(2), tf.Variable([1, 2], name="counts"))]
        refuses(pairs, TypeError, "counts.*int32")

    def test_twice(self, refuses, variables):
        pairs = self.good(variables)
        refuses([*pairs, pairs[1]], ValueError, "bias.*twice")

    def test_lengths_of_apply(self, entry, variables, built):
        optimizer = entry.make()
        if built:
            train(optimizer, variables)
        for gradients in (make_gradients(0)[:-1], [*make_gradients(0), 1.0], []):
            message = f"{len(gradients)} gradients for 4 variables"
            with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
                optimizer.apply(gradients, variables)

    def test_apply_without_variables(self, entry):
        optimizer, variables = entry.make(), make_variables()
        with unchanged(optimizer), pytest.raises(ValueError, match="built"):
            optimizer.apply(make_gradients(0))
        train(optimizer, variables)
        with (
            unchanged(optimizer, variables),
            pytest.raises(ValueError, match="1 gradients.* 4 variables"),
        ):
            optimizer.apply(make_gradients(0)[:1])

    @pytest.mark.parametrize("run", [in_eager, in_function])
    def test_stranger(self, entry, variables, run):
        optimizer = entry.make()
        train(optimizer, variables)
        stranger = tf.Variable(1.0, name="stranger")
        with (
            unchanged(optimizer, [*variables, stranger]),
            pytest.raises(ValueError, match="stranger"),
        ):
            run(lambda: optimizer.apply_gradients([*self.good(variables), (tf.ones(()), stranger)]))

    @pytest.mark.parametrize("run", [in_eager, in_function])
    def test_some_none(self, entry, variables, built, run):
        optimizer, other, expected = entry.make(), entry.make(), make_variables()
        if built:
            train(optimizer, variables)
            train(other, expected)
        pairs = self.good(variables)
        pairs[1], pairs[2] = (None, variables[1]), (None, variables[2])
        before = arrays(variables)
        with pytest.warns(UserWarning, match="bias.*scale") as caught:
            run(lambda: [optimizer.apply_gradients(pairs)] and None)
        assert "kernel" not in str(caught[0].message)
        assert len(caught) == (1 if run is in_eager else 2)  # tf.function traces the first call twice
        assert same(arrays(variables[1:3]), before[1:3])
        other.build(expected)
        gradients = make_gradients(7)
        other.apply_gradients([(gradients[0], expected[0]), (gradients[3], expected[3])])
        assert same(arrays(variables), arrays(expected))
        assert int(optimizer.iterations) == int(other.iterations)

    @pytest.mark.parametrize("run", [in_eager, in_function])
    def test_empty(self, entry, variables, built, run):
        optimizer = entry.make()
        if built:
            train(optimizer, variables)
        steps = 3 if built else 0
        for nothing in ([], (), iter([]), zip([], [])):
            with unchanged(optimizer, variables):
                result = run(lambda nothing=nothing: optimizer.apply_gradients(nothing) + 0)
                assert int(result) == steps
        with unchanged(optimizer, variables):
            assert optimizer.apply([]) is None
            assert optimizer.apply([], []) is None

    @pytest.mark.parametrize("portable", [False, True])
    @pytest.mark.parametrize("frame", [{}, {"gradient_accumulation_steps": 2}, {"clipnorm": 1.0}])
    def test_shape_known_only_when_the_graph_runs(self, entry, portable, frame):
        optimizer, variables = entry.make(**frame), make_variables("tf")
        train(optimizer, variables, 1)
        signature = [tf.TensorSpec(None, tf.float32)] * len(variables)

        @tf.function(input_signature=signature)
        def step(*gradients):
            optimizer.apply_gradients(zip(gradients, variables))

        if portable:
            with tf_optim_ext.portable():
                step = step.get_concrete_function()
        gradients = [tf.constant(g) for g in make_gradients(1)]
        wrong = [*gradients[:3], tf.ones((2, 3))]
        message = r"\[2,3\].*\[3,2\]"
        with (
            unchanged(optimizer, variables),
            pytest.raises(tf.errors.InvalidArgumentError, match=message),
        ):
            step(*wrong)
        step(*gradients)
        other, expected = entry.make(**frame), make_variables("tf")
        train(other, expected, 2)
        assert_close(variables, expected)

    def test_build(self, entry):
        variables = make_variables()
        for bad, error, message in (
            ([*variables, variables[0]], ValueError, "kernel.*twice"),
            ([*variables, 3], TypeError, "3"),
            ([*variables, tf.Variable([1])], TypeError, "int32"),
        ):
            optimizer = entry.make()
            with unchanged(optimizer, variables), pytest.raises(error, match=message):
                optimizer.build(bad)
            train(optimizer, variables)

    @pytest.mark.parametrize("name", ["SGD", "Adam"])
    def test_what_legacy_did_instead(self, name):
        # The column "was" of the contract: the same errors, or silence where we refuse.
        def make():
            return getattr(legacy, name)(0.1), tf.Variable([1.0, 2.0])

        gradient = tf.ones(2)
        was, v = make()
        with pytest.raises(TypeError):
            was.apply_gradients(5)
        with pytest.raises((TypeError, AttributeError, ValueError)):
            was.apply_gradients([v])
        with pytest.raises(ValueError, match="No gradients"):
            was.apply_gradients([(None, v)])
        was.apply_gradients([])
        assert int(was.iterations) == 0
        other = tf.Variable([1.0, 2.0])
        with pytest.raises(tf.errors.InvalidArgumentError):
            was.apply_gradients([(gradient, other), (tf.ones(3), v)])
        assert not np.array_equal(other, [1, 2]), "the earlier variable was updated"
        was, v = make()
        was.apply_gradients([(gradient, v), (gradient, v)])
        assert float(v[0]) < 0.85, "applied twice"
        with pytest.raises(AttributeError):
            was.apply_gradients([(gradient, gradient)])


class TestHyperparameters:
    def test_out_of_range(self, entry):
        for name, value in entry.bad.items():
            with pytest.raises(ValueError) as error:
                entry.make(**{name: value})
            message = str(error.value)
            assert entry.cls.__name__ in message
            assert f"`{name}`" in message
            assert repr(value) in message
            interval = {**entry.cls.hyperparameters, "learning_rate": "[0, inf)"}.get(name)
            if interval:
                assert interval in message

    def test_each_hyperparameter_at_its_bounds(self, entry):
        for name, interval in {**entry.cls.hyperparameters, "learning_rate": "[0, inf)"}.items():
            allowed = Range(interval)
            low, high = (float(x) for x in interval[1:-1].split(","))
            for value in (low, high, np.nextafter(low, -np.inf), np.nextafter(high, np.inf)):
                if value in allowed:
                    assert getattr(entry.make(**{name: value}), name) == pytest.approx(value)
                else:
                    with pytest.raises(ValueError, match=name):
                        entry.make(**{name: value})
            for value in (
                float("nan"),
                float("inf"),
                -float("inf"),
                "0.5",
                None,
                True,
                1j,
                [0.5, 0.6],
            ):
                with pytest.raises(ValueError, match=name):
                    entry.make(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("weight_decay", -0.1),
            ("clipnorm", -1.0),
            ("clipvalue", float("nan")),
            ("global_clipnorm", "big"),
            ("ema_momentum", 1.1),
            ("ema_momentum", -0.1),
            ("loss_scale_factor", 0.0),
            ("gradient_accumulation_steps", 1),
            ("gradient_accumulation_steps", 2.5),
            ("gradient_accumulation_steps", True),
            ("ema_overwrite_frequency", 0),
            ("ema_overwrite_frequency", 1.5),
            ("use_ema", "no"),
            ("use_ema", 2),
        ],
    )
    def test_base_arguments(self, entry, name, value):
        with pytest.raises(ValueError, match=f"`{name}`.*{re.escape(repr(value))}"):
            entry.make(**{name: value})

    def test_one_kind_of_clipping(self, entry):
        with pytest.raises(ValueError, match="clip"):
            entry.make(clipnorm=1.0, clipvalue=1.0)

    @pytest.mark.parametrize(
        "value", [np.float32(0.5), np.float64(0.5), tf.constant(0.5), np.array(0.5)]
    )
    def test_numbers_of_any_kind(self, entry, value):
        optimizer = entry.make(learning_rate=value, weight_decay=value, clipnorm=value)
        config = optimizer.get_config()
        assert json.loads(json.dumps(config)) == config
        assert config["learning_rate"] == config["weight_decay"] == config["clipnorm"] == 0.5

    def test_whole_numbers_of_any_kind(self, entry):
        optimizer = entry.make(
            use_ema=np.bool_(True),
            ema_overwrite_frequency=np.int64(3),
            gradient_accumulation_steps=np.int32(2),
        )
        config = optimizer.get_config()
        assert json.loads(json.dumps(config)) == config

    def test_unknown_argument(self, entry):
        with pytest.raises(TypeError, match=r"'momentun'.*'learning_rate'.*'clipnorm'"):
            entry.make(momentun=0.9)

    @both_kinds
    def test_changed_after_construction(self, kind):
        optimizer, variables = tf_optim_ext.Adam(0.1), make_variables(kind)
        train(optimizer, variables, 1)
        optimizer.beta_1, optimizer.weight_decay = 0.5, 0.1
        train(optimizer, variables, 1, first=1)
        theirs, expected = keras.optimizers.Adam(0.1), make_variables(kind)
        train(theirs, expected, 1)
        theirs.beta_1, theirs.weight_decay = 0.5, 0.1
        train(theirs, expected, 1, first=1)
        # The powers of beta_1 are those of the value now, in both.
        assert_close(variables, expected)

    def test_legacy_accepted_what_is_out_of_range(self):
        assert legacy.Adam(beta_1=1.5).get_config()["beta_1"] == 1.5


class TestLearningRate:
    @both_kinds
    @pytest.mark.parametrize("in_function", [False, True])
    def test_schedule(self, entry, kind, in_function):
        optimizer, variables = entry.make(learning_rate=as_schedule()), make_variables(kind)
        other, expected = entry.make(), make_variables(kind)

        def apply(*gradients):
            optimizer.apply_gradients(zip(gradients, variables))

        step = tf.function(apply) if in_function else apply
        for i in range(4):
            assert float(optimizer.learning_rate) == pytest.approx(0.1 * 0.5 ** (i / 2))
            other.learning_rate = 0.1 * 0.5 ** (i / 2)
            gradients = [tf.constant(g) for g in make_gradients(i)]
            step(*gradients)
            other.apply_gradients(zip(gradients, expected))
        assert_close(variables, expected)

    @pytest.mark.parametrize(
        "value",
        [
            0.05,
            np.float32(0.05),
            tf.constant(0.05),
            tf.constant(0.05, tf.float64),
            tf.Variable(0.05),
        ],
        ids=["float", "numpy", "float32", "float64", "variable"],
    )
    def test_callable(self, entry, value):
        optimizer, variables = entry.make(learning_rate=lambda: value), make_variables()
        other, expected = entry.make(learning_rate=0.05), make_variables()
        train(optimizer, variables)
        train(other, expected)
        assert_close(variables, expected)

    @pytest.mark.parametrize("value", [1, np.int64(1), tf.constant(1)])
    def test_callable_that_returns_an_integer(self, value):
        optimizer, variable = tf_optim_ext.SGD(lambda: value), tf.Variable([3.0])
        optimizer.apply_gradients([(tf.ones(1), variable)])
        assert float(variable[0]) == 2.0

    def test_callable_is_called_once_a_step(self, entry):
        calls = []

        def rate():
            calls.append(0)
            return 0.01

        frame = {"use_ema": True, "weight_decay": 0.1, "clipnorm": 1.0}
        optimizer, variables = entry.make(learning_rate=rate, **frame), make_variables()
        train(optimizer, variables, 5)
        assert len(calls) == 5

    def test_callable_reads_a_variable_in_a_function(self):
        rate, variable = tf.Variable(1.0), tf.Variable([10.0])
        optimizer = tf_optim_ext.SGD(lambda: rate)
        step = tf.function(lambda: optimizer.apply_gradients([(tf.ones(1), variable)]) and None)
        step = tf.function(lambda: [optimizer.apply_gradients([(tf.ones(1), variable)])] and None)
        step()
        rate.assign(2.0)
        step()
        assert float(variable[0]) == 7.0

    def test_integer(self, entry):
        with pytest.raises(ValueError, match="float"):
            keras.optimizers.SGD(1)
        optimizer = entry.make(learning_rate=1)
        assert float(optimizer.learning_rate) == 1.0
        optimizer.learning_rate = 2
        assert float(optimizer.lr) == 2.0

    def test_set_and_get_by_both_names(self, entry):
        optimizer, variables = entry.make(), make_variables()
        train(optimizer, variables)
        optimizer.lr = 0.5
        assert float(optimizer.learning_rate) == 0.5
        optimizer.learning_rate = tf.constant(0.25)
        assert float(optimizer.lr) == 0.25
        optimizer.lr.assign(0.125)
        other, expected = entry.make(), make_variables()
        train(other, expected)
        other.learning_rate.assign(0.125)
        train(optimizer, variables)
        train(other, expected)
        assert same(arrays(variables), arrays(expected))

    def test_change_reaches_a_traced_function(self):
        optimizer, variable = tf_optim_ext.SGD(1.0), tf.Variable([10.0])
        step = tf.function(lambda: [optimizer.apply_gradients([(tf.ones(1), variable)])] and None)
        step()
        optimizer.lr = 3.0
        step()
        assert float(variable[0]) == 6.0

    @pytest.mark.parametrize("name", ["learning_rate", "lr"])
    @pytest.mark.parametrize("value", [-1.0, "fast", None, float("nan")])
    def test_bad_value(self, name, value):
        optimizer = SGD.make()
        with unchanged(optimizer), pytest.raises(ValueError, match="learning_rate"):
            setattr(optimizer, name, value)

    @pytest.mark.parametrize("name", ["learning_rate", "lr"])
    def test_schedule_cannot_be_overwritten_by_a_number(self, entry, name):
        optimizer = entry.make(learning_rate=as_schedule())
        with pytest.raises(TypeError, match="LearningRateSchedule"):
            setattr(optimizer, name, 0.1)
        assert float(optimizer.learning_rate) == pytest.approx(0.1)
        setattr(optimizer, name, as_schedule())

    def test_number_replaced_by_a_schedule(self, entry):
        optimizer, variables = entry.make(), make_variables()
        train(optimizer, variables)
        count = len(optimizer.variables)
        optimizer.learning_rate = as_schedule()
        assert len(optimizer.variables) == count - 1
        train(optimizer, variables, first=3)
        assert float(optimizer.learning_rate) == pytest.approx(0.1 * 0.5**3)
        assert len(optimizer.get_weights()) == count - 1


class TestMinimize:
    @both_kinds
    @pytest.mark.parametrize("in_function", [False, True])
    def test_all_forms_agree(self, entry, kind, in_function):
        def loss_of(v):
            values = [getattr(x, "value", x) if kind == "keras" else x for x in v]
            return sum(tf.reduce_sum((i + 1.0) * tf.square(x - 1.0)) for i, x in enumerate(values))

        def with_apply(optimizer, v):
            with tf.GradientTape() as tape:
                loss = loss_of(v)
            optimizer.apply_gradients(zip(tape.gradient(loss, v), v))

        def with_callable(optimizer, v):
            optimizer.minimize(lambda: loss_of(v), v)

        def with_tuple(optimizer, v):
            optimizer.minimize(lambda: loss_of(v), tuple(v), name="ignored")

        def with_tape(optimizer, v):
            with tf.GradientTape() as tape:
                loss = loss_of(v)
            optimizer.minimize(loss, v, tape=tape)

        def with_callable_and_tape(optimizer, v):
            optimizer.minimize(lambda: loss_of(v), v, tape=tf.GradientTape())

        def with_callable_list(optimizer, v):
            optimizer.minimize(lambda: loss_of(v), lambda: tuple(v))

        results = []
        for form in (
            with_apply,
            with_callable,
            with_tuple,
            with_tape,
            with_callable_and_tape,
            with_callable_list,
        ):
            optimizer, variables = entry.make(), make_variables(kind)
            step = functools.partial(form, optimizer, variables)
            step = tf.function(step) if in_function else step
            for _ in range(3):
                step()
            results.append(arrays(variables))
            assert int(optimizer.iterations) == 3
        for result in results[1:]:
            assert_close(result, results[0])
        assert not np.allclose(results[0][0], arrays(make_variables(kind))[0])

    def test_returns_iterations(self):
        variable = tf.Variable([1.0])
        assert int(SGD.make().minimize(lambda: variable * variable, [variable])) == 1

    def test_single_variable(self):
        variable = tf.Variable([1.0])
        tf_optim_ext.SGD(0.5).minimize(lambda: variable * 1.0, variable)
        assert float(variable[0]) == 0.5

    @both_kinds
    def test_variables_that_are_not_trainable_are_watched(self, kind):
        variable = (
            keras.Variable([1.0], trainable=False)
            if kind == "keras"
            else tf.Variable([1.0], trainable=False)
        )
        tf_optim_ext.SGD(0.5).minimize(lambda: tf.reduce_sum(1.0 * variable), [variable])
        assert float(np.asarray(variable)[0]) == 0.5

    def test_list_is_evaluated_after_the_loss(self):
        model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
        assert not model.built
        optimizer = tf_optim_ext.Adam(0.1)
        losses = []

        def loss():
            losses.append(tf.reduce_mean(tf.square(model(tf.ones((4, 3))) - 1.0)))
            return losses[-1]

        for _ in range(5):
            optimizer.minimize(loss, lambda: model.trainable_variables)
        assert losses[-1] < losses[0]
        assert len(optimizer.variables) == 2 + 2 * 4

    @both_kinds
    def test_grad_loss_weights_the_loss(self, kind):
        start = [1.0, 2.0]
        variable = make_variable(kind, np.float32(start))
        tf_optim_ext.SGD(1.0).minimize(
            lambda: tf.constant([3.0, 5.0]) * variable, [variable], grad_loss=[2, 0.5]
        )
        assert np.asarray(variable).tolist() == [1 - 6.0, 2 - 2.5]

    def test_vector_loss_is_summed(self):
        variable = tf.Variable([1.0, 2.0])
        tf_optim_ext.SGD(1.0).minimize(lambda: 3.0 * variable, [variable])
        assert variable.numpy().tolist() == [-2.0, -1.0]

    def test_loss_scale_factor_leaves_the_result(self, entry):
        results = []
        for factor in (None, 1024.0):
            optimizer, variables = entry.make(loss_scale_factor=factor), make_variables("tf")
            for _ in range(3):
                optimizer.minimize(
                    lambda v=variables: sum(tf.reduce_sum(tf.square(x) * x) for x in v), variables
                )
            results.append(arrays(variables))
        assert_close(*results)

    @pytest.mark.parametrize(
        "entries", [["kernel"], [tf.ones(2)], [None], [3], "kernel", [[tf.Variable(1.0)]]]
    )
    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: lambda: x], ids=["list", "callable"])
    def test_not_a_variable(self, entries, wrap):
        optimizer, variable = SGD.make(), tf.Variable([1.0])
        with unchanged(optimizer, [variable]), pytest.raises(ValueError, match="var_list"):
            optimizer.minimize(lambda: variable * 1.0, wrap(entries))

    def test_tensor_without_tape(self):
        optimizer, variable = SGD.make(), tf.Variable([1.0])
        with unchanged(optimizer, [variable]), pytest.raises(ValueError, match="tape"):
            optimizer.minimize(variable * 1.0, [variable])

    def test_loss_that_depends_on_nothing(self):
        optimizer, variable = SGD.make(), tf.Variable([1.0], name="lonely")
        with unchanged(optimizer, [variable]), pytest.raises(ValueError, match="lonely"):
            optimizer.minimize(lambda: tf.constant(1.0), [variable])

    def test_loss_that_raises(self, entry):
        optimizer, variables = entry.make(), make_variables()

        def loss():
            raise RuntimeError("in the loss")

        with unchanged(optimizer, variables), pytest.raises(RuntimeError, match="in the loss"):
            optimizer.minimize(loss, variables)

    @pytest.mark.parametrize("name", ["SGD", "Adam"])
    def test_equals_legacy(self, name):
        results = []
        for library in (tf_optim_ext, legacy):
            optimizer, variables = getattr(library, name)(0.1), make_variables("tf")
            for i in range(3):
                weights = tf.constant(1.5 + i)
                optimizer.minimize(
                    lambda v=variables: sum(tf.reduce_sum(tf.square(x)) for x in v),
                    lambda v=variables: v,
                    grad_loss=weights,
                )
            results.append(arrays(variables))
        assert_close(*results)


CLIPPING = [{}, {"clipnorm": 0.5}, {"clipvalue": 0.5}, {"global_clipnorm": 0.5}]


class TestSymbolicGradients:
    @both_kinds
    @pytest.mark.parametrize("clipping", CLIPPING)
    def test_get_gradients(self, entry, kind, clipping):
        optimizer, variables = entry.make(**clipping), make_variables(kind)

        @tf.function
        def gradients():
            loss = sum(tf.reduce_sum(tf.square(1.0 * v)) for v in variables)
            return optimizer.get_gradients(loss, variables)

        expected = keras.optimizers.SGD(**clipping)._clip_gradients(
            [tf.constant(2 * np.asarray(v)) for v in variables]
        )
        assert_close(gradients(), expected)
        assert len(optimizer.variables) == 2

    @pytest.mark.parametrize("clipping", CLIPPING)
    def test_repeated_rows_are_summed_before_they_are_clipped(self, clipping):
        optimizer = tf_optim_ext.SGD(1.0, **clipping)
        variable = tf.Variable([[0.3, 0.4], [0.1, 0.1]])
        start = variable.numpy()

        @tf.function
        def gradients():
            loss = tf.reduce_sum(tf.gather(variable, [0, 0, 1]))
            return [tf.convert_to_tensor(g) for g in optimizer.get_gradients(loss, [variable])]

        expected = gradients()[0]
        optimizer.minimize(lambda: tf.reduce_sum(tf.gather(variable, [0, 0, 1])), [variable])
        assert_close([start - variable.numpy()], [expected])

    @both_kinds
    def test_get_updates(self, entry, kind):
        optimizer, variables = entry.make(clipnorm=0.5), make_variables(kind)
        other, expected = entry.make(clipnorm=0.5), make_variables(kind)

        @tf.function
        def step():
            loss = sum(tf.reduce_sum(tf.square(1.0 * v)) for v in variables)
            updates = optimizer.get_updates(loss, variables)
            assert len(updates) == 1
            assert isinstance(updates[0], tf.Operation)
            with tf.control_dependencies(updates):
                return [tf.identity(v) for v in variables], tf.identity(optimizer.iterations)

        for i in range(3):
            inside, iterations = step()
            assert same(arrays(inside), arrays(variables))
            assert int(iterations) == i + 1
            other.minimize(
                lambda: sum(tf.reduce_sum(tf.square(1.0 * v)) for v in expected), expected
            )
        assert_close(variables, expected)

    @pytest.mark.parametrize("call", ["get_gradients", "get_updates"])
    def test_missing_gradient(self, call):
        optimizer = SGD.make()
        used, lonely = tf.Variable([1.0], name="used"), tf.Variable([1.0], name="lonely")

        @tf.function
        def step():
            getattr(optimizer, call)(used * 2.0, [used, lonely])

        with (
            unchanged(optimizer, [used, lonely]),
            pytest.raises(ValueError, match="lonely") as error,
        ):
            step()
        assert "'used" not in str(error.value)

    @pytest.mark.parametrize("call", ["get_gradients", "get_updates"])
    def test_eager(self, call):
        optimizer, variable = SGD.make(), tf.Variable([1.0])
        with (
            unchanged(optimizer, [variable]),
            pytest.raises(RuntimeError, match="GradientTape|minimize"),
        ):
            getattr(optimizer, call)(variable * 2.0, [variable])

    @pytest.mark.parametrize("call", ["get_gradients", "get_updates"])
    def test_not_a_variable(self, call):
        optimizer = SGD.make()
        step = tf.function(lambda: getattr(optimizer, call)(tf.ones(()), ["kernel"]))
        with pytest.raises(ValueError, match="kernel"):
            step()

    def test_equals_legacy(self):
        results = []
        for optimizer in (tf_optim_ext.Adam(0.1), legacy.Adam(0.1)):
            variables = make_variables("tf")

            @tf.function
            def step(optimizer=optimizer, variables=variables):
                loss = sum(tf.reduce_sum(tf.square(v)) for v in variables)
                with tf.control_dependencies(optimizer.get_updates(loss, variables)):
                    return tf.constant(0)

            for _ in range(3):
                step()
            results.append(arrays(variables))
        assert_close(*results)


class TestFrame:
    """Clipping, averages, accumulation and loss scale: as in Keras, unless Keras is wrong."""

    def compare(
        self, entry, frame, steps=5, wrap=lambda f: f, gradients=make_gradients, kind="keras"
    ):
        results = []
        for optimizer in (entry.make(**frame), keras_twin(entry, **frame)):
            variables = make_variables(kind)

            def apply(*given, optimizer=optimizer, variables=variables):
                optimizer.apply_gradients(zip(given, variables))

            step = wrap(apply)
            for i in range(steps):
                step(*[tf.constant(g) for g in gradients(i)])
            results.append((optimizer, variables))
        (ours, our_variables), (theirs, their_variables) = results
        assert_close(our_variables, their_variables)
        return ours, theirs

    @has_twin
    @pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])
    @pytest.mark.parametrize("scale", [1.0, 1e-3])
    @pytest.mark.parametrize("clipping", CLIPPING[1:])
    def test_clipping(self, entry, clipping, scale, wrap):
        # At the larger scale, gradients are clipped; at the smaller one, they are not.
        def scaled(i):
            return [np.float32(scale) * g for g in make_gradients(i)]

        ours, theirs = self.compare(entry, clipping, wrap=wrap, gradients=scaled)
        assert_close(ours.variables, theirs.variables)

    @has_twin
    @pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
    @pytest.mark.parametrize("clipping", CLIPPING[1:])
    def test_clipping_of_what_is_not_finite(self, entry, clipping, value):
        def bad(i):
            gradients = make_gradients(i)
            gradients[0][1, 1] = value
            return gradients

        ours, _ = self.compare(entry, clipping, gradients=bad, steps=1)
        # Keras' clip_by_global_norm makes all gradients NaN then, the others nothing else.
        assert int(ours.iterations) == 1

    def test_clipping_changes_something(self, entry):
        results = []
        for clipping in CLIPPING:
            optimizer, variables = entry.make(**clipping, weight_decay=0.0), make_variables()
            for i in range(3):
                gradients = [g * 10.0 ** (i - 1) for g in make_gradients(i)]
                optimizer.apply_gradients(zip(gradients, variables))
            results.append(arrays(variables))
        for i, a in enumerate(results):
            for b in results[:i]:
                assert not np.allclose(a[0], b[0], rtol=1e-6)

    def test_clipping_uses_the_unscaled_gradient(self, entry):
        results = []
        for factor in (None, 64.0):
            for clipping in CLIPPING[1:]:
                optimizer = entry.make(loss_scale_factor=factor, **clipping)
                variables = make_variables()
                for i in range(3):
                    gradients = [g * np.float32(factor or 1.0) for g in make_gradients(i)]
                    optimizer.apply_gradients(zip(gradients, variables))
                results.append(arrays(variables))
        for plain, scaled in zip(results[:3], results[3:]):
            assert_close(scaled, plain)

    def test_scale_loss(self, entry):
        assert float(entry.make(loss_scale_factor=8.0).scale_loss(tf.constant(3.0))) == 24.0
        assert float(entry.make().scale_loss(tf.constant(3.0))) == 3.0

    @has_twin
    def test_loss_scale_factor(self, entry):
        self.compare(entry, {"loss_scale_factor": 16.0})

    @has_twin
    @pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])
    @pytest.mark.parametrize("frequency", [None, 1, 2])
    def test_average(self, entry, wrap, frequency):
        frame = {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": frequency}
        ours, theirs = self.compare(entry, frame, wrap=wrap)
        averages = [ours.get_slot(v, "average") for v in ours._trainable_variables]
        assert_close(averages, theirs._model_variables_moving_average)
        assert "average" in ours.get_slot_names()
        if frequency != 1:
            assert not np.allclose(averages[0], ours._trainable_variables[0])
        ours.finalize_variable_values(ours._trainable_variables)
        assert same(arrays(ours._trainable_variables), arrays(averages))

    def test_finalize_without_average_changes_nothing(self, entry):
        optimizer, variables = entry.make(), make_variables()
        train(optimizer, variables)
        with unchanged(optimizer, variables):
            optimizer.finalize_variable_values(variables)

    def test_finalize_for_other_variables(self, entry):
        optimizer, variables = entry.make(use_ema=True), make_variables()
        train(optimizer, variables)
        with unchanged(optimizer, variables), pytest.raises(ValueError, match="3 .*4"):
            optimizer.finalize_variable_values(variables[:3])

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
    def test_average_of_other_dtypes(self, entry, dtype):
        frame = {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2}
        optimizer, variables = entry.make(**frame), make_variables(dtype=dtype)
        train(optimizer, variables, 4)
        average = optimizer.get_slot(variables[0], "average")
        assert same(arrays(variables[:1]), [np.array(tf.cast(average.value, dtype))])

    @has_twin
    @pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])
    @pytest.mark.parametrize(
        "clipping", [{}, {"clipnorm": 0.3}, {"global_clipnorm": 0.3}, {"clipvalue": 0.2}]
    )
    def test_accumulation(self, entry, wrap, clipping):
        ours, theirs = self.compare(
            entry, {"gradient_accumulation_steps": 3, **clipping}, steps=8, wrap=wrap
        )
        assert int(ours.iterations) == int(theirs.iterations) == 2
        assert int(ours._iterations) == 8
        # The two calls since the latest update.
        expected = [a + b for a, b in zip(make_gradients(6), make_gradients(7))]
        assert_close(ours._accumulated_gradients, expected)

    def test_accumulated_steps_equal_one_step_on_the_mean(self, entry):
        optimizer, variables = entry.make(gradient_accumulation_steps=2), make_variables()
        other, expected = entry.make(), make_variables()
        for i in range(3):
            first, second = make_gradients(2 * i), make_gradients(2 * i + 1)
            with_update = arrays(variables)
            optimizer.apply_gradients(zip(first, variables))
            assert same(arrays(variables), with_update), "nothing moves between updates"
            optimizer.apply_gradients(zip(second, variables))
            other.apply_gradients(zip([(a + b) / 2 for a, b in zip(first, second)], expected))
        assert_close(variables, expected)
        assert all(not np.any(a) for a in arrays(optimizer._accumulated_gradients))

    @has_twin
    def test_average_advances_with_updates_only(self, entry):
        frame = {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.5}
        ours, theirs = self.compare(entry, frame, steps=6)
        other, expected = entry.make(use_ema=True, ema_momentum=0.5), make_variables()
        for i in range(3):
            pairs = zip(make_gradients(2 * i), make_gradients(2 * i + 1))
            other.apply_gradients(zip([(a + b) / 2 for a, b in pairs], expected))
        right = [other.get_slot(v, "average") for v in expected]
        averages = [ours.get_slot(v, "average") for v in ours._trainable_variables]
        assert_close(averages, right)
        # Keras moves the average at every call.
        wrong = theirs._model_variables_moving_average
        assert np.max(np.abs(np.asarray(wrong[0]) - np.asarray(right[0]))) > 1e-3

    @pytest.mark.parametrize("kind", KINDS)
    def test_everything_at_once(self, entry, kind):
        # In a function and eagerly, the same numbers.
        frame = {
            "gradient_accumulation_steps": 2,
            "use_ema": True,
            "ema_momentum": 0.5,
            "ema_overwrite_frequency": 2,
            "clipnorm": 0.5,
            "loss_scale_factor": 4.0,
            "weight_decay": 0.1,
        }
        results = []
        for wrap in (lambda f: f, tf.function):
            optimizer, variables = entry.make(**frame), make_variables(kind)

            def apply(*gradients, optimizer=optimizer, variables=variables):
                optimizer.apply_gradients(zip(gradients, variables))

            step = wrap(apply)
            for i in range(8):
                step(*[tf.constant(g) for g in make_gradients(i)])
            results.append(arrays([*variables, *optimizer.variables]))
        assert_close(*results)


class TestDecayExemptions:
    def decayed(self, optimizer, variables):
        """Which variables a step without gradient moves."""
        before = arrays(variables)
        zeros = [np.zeros(v.shape, np.float32) for v in variables]
        optimizer.apply_gradients(zip(zeros, variables))
        return [not np.array_equal(a, b) for a, b in zip(before, arrays(variables))]

    @both_kinds
    @pytest.mark.parametrize(
        ("select", "expected"),
        [
            (lambda v: {}, [True] * 4),
            (lambda v: {"var_list": [v[0], v[2]]}, [False, True, False, True]),
            (lambda v: {"var_names": ["bias"]}, [True, False, True, True]),
            (lambda v: {"var_names": ["kernel"]}, [False, True, True, False]),
            (lambda v: {"var_names": ["^kernel", "sc.le"]}, [False, True, False, True]),
            (lambda v: {"var_list": [v[3]], "var_names": ["bias"]}, [True, False, True, False]),
            (lambda v: {"var_list": [], "var_names": []}, [True] * 4),
            (lambda v: {"var_list": v}, [False] * 4),
        ],
        ids=["none", "list", "name", "part", "regex", "both", "empty", "all"],
    )
    def test_selection(self, entry, kind, select, expected):
        optimizer, variables = entry.make(weight_decay=0.5), make_variables(kind)
        optimizer.exclude_from_weight_decay(**select(variables))
        # Twice: the second time the caches are filled.
        assert self.decayed(optimizer, variables) == expected
        assert self.decayed(optimizer, variables) == expected

    @has_twin
    def test_equals_keras(self, entry):
        results = []
        for optimizer in (entry.make(weight_decay=0.2), keras_twin(entry, weight_decay=0.2)):
            if isinstance(optimizer, keras.optimizers.Lamb) or entry.keras == "Lamb":
                pytest.skip("Keras' Lamb decays outside of the trust ratio")
            variables = make_variables()
            optimizer.exclude_from_weight_decay(var_list=variables[:1], var_names=["bias"])
            train(optimizer, variables)
            results.append(arrays(variables))
        assert_close(*results)

    def test_anchors_apply_to_the_name_and_to_the_path(self):
        with keras.name_scope("dense"):
            variable = keras.Variable(np.ones(2, "float32"), name="bias")
        for pattern, exempt in (
            ("^bias$", True),
            ("^dense/bias$", True),
            ("^dense$", False),
            ("bias dense", False),
            ("bias bias", False),
        ):
            optimizer = tf_optim_ext.SGD(0.1, weight_decay=0.5)
            optimizer.exclude_from_weight_decay(var_names=[pattern])
            optimizer.build([variable])
            assert optimizer._use_weight_decay(variable) != exempt, pattern

    def test_a_later_call_replaces_an_earlier_one(self):
        optimizer, variables = tf_optim_ext.SGD(0.1, weight_decay=0.5), make_variables()
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        optimizer.exclude_from_weight_decay(var_list=variables[2:3])
        assert self.decayed(optimizer, variables) == [True, True, False, True]

    def test_a_single_string(self):
        optimizer, variables = tf_optim_ext.SGD(0.1, weight_decay=0.5), make_variables()
        optimizer.exclude_from_weight_decay(var_names="bias")
        assert self.decayed(optimizer, variables) == [True, False, True, True]

    def test_late_call(self, entry):
        optimizer, variables = entry.make(weight_decay=0.5), make_variables()
        train(optimizer, variables)
        with unchanged(optimizer, variables), pytest.raises(ValueError, match="before"):
            optimizer.exclude_from_weight_decay(var_list=variables)
        assert self.decayed(optimizer, variables)[0] or not entry.slots
        # Keras checks an attribute that nobody sets.
        late = keras.optimizers.SGD(0.1, weight_decay=0.5)
        late.build(make_variables())
        late.exclude_from_weight_decay(var_names=["bias"])

    def test_bad_pattern(self):
        optimizer = SGD.make()
        with pytest.raises(re.error):
            optimizer.exclude_from_weight_decay(var_names=["("])
        assert "weight_decay_exemptions" not in optimizer.get_config()

    @both_kinds
    @pytest.mark.parametrize("built", [False, True])
    def test_survives_from_config(self, entry, kind, built):
        optimizer, variables = entry.make(weight_decay=0.5), make_variables(kind)
        optimizer.exclude_from_weight_decay(var_list=variables[:1], var_names=["bias"])
        if built:
            train(optimizer, variables)
        config = json.loads(json.dumps(optimizer.get_config()))
        assert config == optimizer.get_config()
        clone = entry.cls.from_config(config)
        assert self.decayed(clone, make_variables(kind)) == [False, False, True, True]
        again = entry.cls.from_config(clone.get_config())
        assert self.decayed(again, make_variables(kind)) == [False, False, True, True]

    def test_survives_under_other_paths_once_built(self):
        optimizer, variables = tf_optim_ext.SGD(0.1, weight_decay=0.5), make_variables("tf")
        optimizer.exclude_from_weight_decay(var_list=variables[1:2])
        train(optimizer, variables)
        others = [tf.Variable(v, name=f"other_{i}") for i, v in enumerate(variables)]
        clone = tf_optim_ext.SGD.from_config(optimizer.get_config())
        assert self.decayed(clone, others) == [True, False, True, True]

    def test_keras_forgets_the_exemptions(self):
        optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        clone = keras.optimizers.SGD.from_config(optimizer.get_config())
        assert self.decayed(clone, make_variables()) == [True] * 4


class TestPrecision:
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    @both_kinds
    def test_slots_of_16_bit_weights(self, entry, kind, dtype):
        optimizer, variables = entry.make(), make_variables(kind, dtype=dtype)
        twin_optimizer, twins = (
            entry.make(),
            [tf.Variable(tf.cast(np.asarray(v), tf.float32)) for v in variables],
        )
        train(optimizer, variables)
        train(twin_optimizer, twins)
        if entry.cls is tf_optim_ext.Lamb or entry.make().weight_decay:
            pass  # slots do not depend on the weights in any of these optimizers
        for name in entry.slots:
            slots = [optimizer.get_slot(v, name) for v in variables]
            assert all(s.dtype == "float32" for s in slots)
            assert_close(slots, [twin_optimizer.get_slot(v, name) for v in twins])

    def test_beta_of_0999_is_not_1_in_bfloat16(self):
        variable = tf.Variable(tf.zeros(2, tf.bfloat16))
        ours = tf_optim_ext.Adam(0.01, beta_2=0.999)
        for _ in range(4):
            ours.apply_gradients([(tf.ones(2, tf.bfloat16), variable)])
        velocity = np.asarray(ours.get_slot(variable, "velocity"))
        np.testing.assert_allclose(velocity, 1 - 0.999**4, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(variable, np.float32), -0.04, rtol=0.02)
        # Keras casts 0.999 to 1: the bias correction is sqrt(0) and nothing moves.
        theirs, other = (
            keras.optimizers.Adam(0.01, beta_2=0.999),
            tf.Variable(tf.zeros(2, tf.bfloat16)),
        )
        theirs.apply_gradients([(tf.ones(2, tf.bfloat16), other)])
        assert theirs.variables[2].dtype == "bfloat16"
        assert not np.any(np.isclose(np.asarray(other, np.float32), -0.01, rtol=0.1))


class TestConstruction:
    @has_twin
    def test_signature_is_that_of_keras(self, entry):
        ours = inspect.signature(entry.cls).parameters
        theirs = inspect.signature(getattr(keras.optimizers, entry.keras)).parameters
        theirs = {n: p for n, p in theirs.items() if p.kind != p.VAR_KEYWORD}
        assert set(ours) == set(theirs)
        positional = [n for n, p in ours.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
        assert positional == [n for n in theirs if n in positional]
        for name, parameter in ours.items():
            assert parameter.default == theirs[name].default, name

    def test_hyperparameters_are_positional_in_the_order_of_keras(self):
        ours = tf_optim_ext.Adam(0.1, 0.8, 0.9, 1e-3, True).get_config()
        theirs = keras.optimizers.Adam(0.1, 0.8, 0.9, 1e-3, True).get_config()
        assert ours == theirs

    def test_signatures_of_subclasses(self):
        class Narrow(tf_optim_ext.Adam):
            def __init__(self, rate):
                super().__init__(rate)

        class Same(tf_optim_ext.Adam):
            pass

        class Wide(tf_optim_ext.Adam):
            def __init__(self, rate=0.5, *, clipnorm=3.0, **kwargs):
                super().__init__(rate, clipnorm=clipnorm, **kwargs)

        assert list(inspect.signature(Narrow).parameters) == ["rate"]
        assert inspect.signature(Same) == inspect.signature(tf_optim_ext.Adam)
        wide = inspect.signature(Wide).parameters
        assert list(wide)[:2] == ["rate", "clipnorm"]
        assert wide["clipnorm"].default == 3.0
        assert "use_ema" in wide
        assert "kwargs" not in wide

    @pytest.mark.parametrize("clipping", CLIPPING[1:])
    @pytest.mark.parametrize("rate", ["number", "schedule", "callable"])
    def test_config_round_trip_with_nothing_at_its_default(self, entry, clipping, rate):
        given = {
            **entry.arguments,
            "learning_rate": {"number": 0.75, "schedule": as_schedule(), "callable": constant_rate}[
                rate
            ],
            "weight_decay": 0.25,
            "use_ema": True,
            "ema_momentum": 0.5,
            "ema_overwrite_frequency": 3,
            "loss_scale_factor": 4.0,
            "gradient_accumulation_steps": 5,
            "name": "own_name",
            **clipping,
        }
        defaults = {n: p.default for n, p in inspect.signature(entry.cls).parameters.items()}
        # The flags are covered by entries of their own.
        at_default = {n for n in given if given[n] == defaults[n]}
        assert at_default <= {*entry.cls.flags, "momentum"}
        optimizer = entry.cls(**given)
        config = optimizer.get_config()
        assert set(config) == set(defaults)
        text = json.dumps(config)
        clone = entry.cls.from_config(json.loads(text))
        assert json.dumps(clone.get_config()) == text
        for name, value in given.items():
            if name != "learning_rate":
                assert config[name] == value
                assert getattr(clone, name) == value
        assert float(clone.learning_rate) == float(optimizer.learning_rate)
        results = []
        for each in (optimizer, clone):
            variables = make_variables()
            train(each, variables, 10)
            results.append(arrays(variables))
        assert same(*results)

    def test_from_config_leaves_the_config_alone(self, entry):
        config = entry.make(learning_rate=as_schedule(), weight_decay=0.1).get_config()
        before = json.dumps(config)
        entry.cls.from_config(config)
        assert json.dumps(config) == before

    def test_old_key_of_the_learning_rate(self, entry):
        config = entry.make().get_config()
        config["lr"] = config.pop("learning_rate") * 2
        clone = entry.cls.from_config(config)
        assert float(clone.lr) == pytest.approx(2 * entry.arguments["learning_rate"])
        assert "lr" in config

    def test_unknown_key(self, entry):
        config = {**entry.make().get_config(), "momentun": 1.0}
        with pytest.raises((TypeError, ValueError)) as error:
            entry.cls.from_config(config)
        for word in ("momentun", "learning_rate", "clipnorm", *entry.cls.hyperparameters):
            assert word in str(error.value)

    @has_twin
    def test_reads_what_keras_writes(self, entry):
        theirs = keras_twin(entry, clipnorm=0.5, name="theirs")
        config = theirs.get_config()
        ours = entry.cls.from_config(config)
        assert ours.get_config() == config

    def test_serialize_and_deserialize(self, entry):
        optimizer = entry.make(weight_decay=0.1)
        data = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
        for clone in (
            keras.optimizers.deserialize(copy.deepcopy(data)),
            keras.optimizers.get(copy.deepcopy(data)),
            tf.keras.optimizers.deserialize(copy.deepcopy(data)),
        ):
            assert type(clone) is entry.cls
            assert clone.get_config() == optimizer.get_config()
        assert keras.optimizers.get(optimizer) is optimizer
        assert isinstance(optimizer, keras.optimizers.Optimizer)

    def test_registered_under_the_name_of_the_package(self, entry):
        name = keras.saving.get_registered_name(entry.cls)
        assert name == f"tf_optim_ext>{entry.cls.__name__}"

    @pytest.mark.parametrize(
        "copied",
        [
            lambda o: pickle.loads(pickle.dumps(o)),
            copy.deepcopy,
            lambda o: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(o)))),
        ],
        ids=["pickle", "deepcopy", "twice"],
    )
    @pytest.mark.parametrize("frame", [{}, {"use_ema": True, "gradient_accumulation_steps": 2}])
    def test_copies_continue(self, entry, copied, frame):
        optimizer, variables = entry.make(weight_decay=0.3, **frame), make_variables()
        optimizer.exclude_from_weight_decay(var_list=variables[1:2])
        train(optimizer, variables)
        clone, others = copied(optimizer), make_variables()
        assert int(clone._iterations) == 3
        for other, variable in zip(others, variables):
            other.assign(variable)
        state = optimizer.get_weights()
        train(clone, others, first=3)
        assert same(optimizer.get_weights(), state), "the original is not touched"
        train(optimizer, variables, first=3)
        assert same(arrays(others), arrays(variables))
        assert same(clone.get_weights(), optimizer.get_weights())

    def test_copy_before_the_first_step(self, entry):
        clone = copy.deepcopy(entry.make())
        variables, expected = make_variables(), make_variables()
        train(clone, variables)
        train(entry.make(), expected)
        assert same(arrays(variables), arrays(expected))

    def test_route_before_the_first_step(self, entry):
        assert entry.make().route.startswith("none")


@keras.saving.register_keras_serializable("test_contract")
class Signed(tf_optim_ext.Optimizer):
    """Descends along the sign of a mean of gradients, if `biased` less than a constant."""

    slots = ("mean", "unused")
    slot_initializers = {"mean": "ones"}
    hyperparameters = {"rho": "(0, 1)"}
    flags = ("biased",)

    def __init__(self, learning_rate=0.5, rho=0.5, biased=False, **kwargs):
        super().__init__(learning_rate, rho=rho, biased=biased, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        s.mean = lerp(g, s.mean, h.rho)
        return w - h.learning_rate * sign(s.mean - (0.25 if h.biased else 0.0))


class TestSubclass:
    def test_own_rule(self):
        variable = tf.Variable([1.0, 1.0])
        optimizer = Signed(0.5, rho=0.75)
        optimizer.apply_gradients([(tf.constant([-1.0, -9.0]), variable)])
        # Means 0.75 - 0.25 and 0.75 - 2.25.
        assert variable.numpy().tolist() == [0.5, 1.5]
        assert np.asarray(optimizer.get_slot(variable, "mean")).tolist() == [0.5, -1.5]
        assert optimizer.get_slot_names() == ["mean"], "only slots that the rule touches"
        assert optimizer.route == "tensorflow: the rule is not in the native library" or (
            tf_optim_ext.native.why_not() in optimizer.route
        )
        optimizer.biased = True

    def test_frame_comes_with_it(self):
        frame = {
            "weight_decay": 0.5,
            "use_ema": True,
            "ema_momentum": 0.5,
            "clipvalue": 1.0,
            "gradient_accumulation_steps": 2,
        }
        variable = tf.Variable([8.0])
        optimizer = Signed(0.5, rho=0.25, biased=True, **frame)
        for gradient in (40.0, 20.0):
            optimizer.apply_gradients([(tf.constant([gradient]), variable)])
        # 8 - 0.5 * 0.5 * 8 - 0.5; the mean is 0.25 + 0.75 * clip(30).
        assert float(variable[0]) == 5.5
        assert float(np.asarray(optimizer.get_slot(variable, "mean"))[0]) == 1.0
        assert float(np.asarray(optimizer.get_slot(variable, "average"))[0]) == 5.5

    @pytest.mark.parametrize("registered", [True, False])
    def test_train_save_and_load(self, tmp_path, registered):
        class Unregistered(Signed):
            pass

        cls = Signed if registered else Unregistered
        x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(cls(0.01, rho=0.75, biased=True), "mse")
        model.fit(x, x[:, :1], verbose=0)
        model.save(tmp_path / "model.keras")
        custom = {} if registered else {"Unregistered": Unregistered}
        loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects=custom)
        assert type(loaded.optimizer) is cls
        assert loaded.optimizer.biased
        assert same(loaded.optimizer.get_weights(), model.optimizer.get_weights())
        for m in (model, loaded):
            m.fit(x, x[:, :1], verbose=0, shuffle=False)
        assert same(loaded.get_weights(), model.get_weights())

    def test_without_rule(self):
        class Ruleless(tf_optim_ext.Optimizer):
            pass

        class Old(tf_optim_ext.Optimizer):
            def update_step(self, gradient, variable, learning_rate):
                variable.assign_sub(learning_rate * gradient)

        for cls in (Ruleless, Old, tf_optim_ext.Optimizer):
            with pytest.raises(TypeError, match=rf"{cls.__name__}.*rule\(w, g, s, h\)"):
                cls(0.1)

    def test_arguments_must_be_declared(self):
        with pytest.raises(TypeError, match=r"Signed.*'momentum'.*'rho', 'biased'"):
            Signed(momentum=0.5)

        class Forgetful(Signed):
            def __init__(self, **kwargs):
                tf_optim_ext.Optimizer.__init__(self, 0.1, **kwargs)

        with pytest.raises(TypeError, match=r"lacks \['rho', 'biased'\]"):
            Forgetful()

    @pytest.mark.parametrize(
        ("rule", "error", "message"),
        [
            (lambda w, g, s, h: w - s.velocity, AttributeError, r"velocity.*\['mean', 'unused'\]"),
            (lambda w, g, s, h: w - h.beta * g, AttributeError, "beta.*rho"),
            (lambda w, g, s, h: w if g > 0 else g, TypeError, "where"),
            (lambda w, g, s, h: None, TypeError, "must return the new weight"),
        ],
    )
    def test_rule_that_cannot_be_traced(self, rule, error, message):
        broken = type("Broken", (Signed,), {"rule": staticmethod(rule)})
        optimizer, variables = broken(), make_variables()
        with unchanged(optimizer, variables), pytest.raises(error, match=message):
            optimizer.apply_gradients(zip(make_gradients(0), variables))

    def test_own_decay(self):
        class Undecayed(tf_optim_ext.SGD):
            @staticmethod
            def decay(w, h):
                return w

        variable = tf.Variable([1.0])
        Undecayed(0.1, weight_decay=0.5).apply_gradients([(tf.zeros(1), variable)])
        assert float(variable[0]) == 1.0

    def test_subclass_of_an_optimizer_keeps_its_kernel(self, native_only):
        class Renamed(tf_optim_ext.Adam):
            pass

        optimizer, variables = Renamed(0.1), make_variables()
        train(optimizer, variables)
        assert optimizer.route.startswith("native")


class TestLegacy:
    """The interface of TensorFlow 2.0 as `tf_keras.optimizers.legacy` has it, side by side."""

    PAIRS = [
        ("SGD", {"learning_rate": 0.1}),
        ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
        ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
        ("Adam", {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
        ("Adam", {"learning_rate": 0.1, "amsgrad": True}),
    ]

    @pytest.mark.parametrize(("name", "arguments"), PAIRS)
    def test_same_numbers(self, name, arguments):
        ours, was = getattr(tf_optim_ext, name)(**arguments), getattr(legacy, name)(**arguments)
        results = []
        for optimizer in (ours, was):
            variables = make_variables("tf")
            train(optimizer, variables, 10)
            results.append(arrays(variables))
        assert_close(*results, atol=1e-5)
        assert int(ours.iterations) == int(was.iterations)

    @pytest.mark.parametrize(("name", "arguments"), PAIRS)
    def test_same_answers(self, name, arguments):
        for cls in (getattr(tf_optim_ext, name), getattr(legacy, name)):
            optimizer, variable = cls(**arguments), tf.Variable([1.0, 2.0])
            train(optimizer, [variable])
            slots = optimizer.get_slot_names()
            assert isinstance(slots, list)
            for slot in slots:
                assert tuple(optimizer.get_slot(variable, slot).shape) == (2,)
            added = optimizer.add_slot(variable, "own", "ones")
            assert optimizer.get_slot(variable, "own") is added
            assert optimizer.get_slot_names() == [*slots, "own"]
            assert (
                len(optimizer.variables()) == len(optimizer.weights) == len(optimizer.get_weights())
            )
            assert int(optimizer.get_weights()[0]) == 3
            weights = optimizer.get_weights()
            optimizer.set_weights(weights)
            optimizer.lr = 0.5
            assert float(optimizer.learning_rate) == 0.5
            with pytest.raises(ValueError):
                optimizer.set_weights(weights[:-1])
            with pytest.raises(KeyError):
                optimizer.get_slot(variable, "nothing")
            clone = cls.from_config(
                {"lr": 0.25, **{k: v for k, v in arguments.items() if k != "learning_rate"}}
            )
            assert float(clone.lr) == 0.25
            assert optimizer.add_weight("mine", (2,), "float32", "ones").shape == (2,)

    def test_returns_of_apply_gradients(self):
        variable = tf.Variable([1.0])
        assert int(legacy.SGD(0.1).apply_gradients([(tf.ones(1), variable)])) == 1
        assert int(tf_optim_ext.SGD(0.1).apply_gradients([(tf.ones(1), variable)])) == 1


shapes = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=4)


@st.composite
def hyperparameters(draw, entry):
    """Valid arguments."""
    given = dict(entry.arguments)
    given["learning_rate"] = draw(st.floats(0, 1))
    for name, interval in entry.cls.hyperparameters.items():
        low, high = (float(x) for x in interval[1:-1].split(","))
        values = st.floats(low, min(high, 10.0), exclude_max=interval.endswith(")"))
        given[name] = draw(values.filter(lambda x, i=Range(interval): x in i))
    if draw(st.booleans()):
        given["weight_decay"] = draw(st.floats(0, 1))
    clipping = draw(st.sampled_from(["", "clipnorm", "clipvalue", "global_clipnorm"]))
    if clipping:
        given[clipping] = draw(st.floats(0, 10))
    given["use_ema"] = draw(st.booleans())
    given["ema_momentum"] = draw(st.floats(0, 1))
    given["ema_overwrite_frequency"] = draw(st.none() | st.integers(1, 3))
    given["gradient_accumulation_steps"] = draw(st.none() | st.integers(2, 3))
    given["loss_scale_factor"] = draw(st.none() | st.floats(0.5, 100))
    return given


def mistakes(pairs):
    """Erroneous arguments of `apply_gradients` made of good ones."""
    gradient, variable = pairs[-1]
    wrong_shape = np.zeros((*gradient.shape, 2), np.float32)
    rest = pairs[:-1]
    yield [*rest, (wrong_shape, variable)], ValueError
    yield [*rest, (gradient.astype(np.int32), variable)], TypeError
    yield [*rest, (gradient, gradient)], TypeError
    yield [*rest, (gradient,)], TypeError
    yield [*pairs, pairs[0]], ValueError
    yield [(None, v) for _, v in pairs], ValueError
    rows = gradient.shape[0] if gradient.ndim else 0
    bad_row = tf.IndexedSlices(tf.zeros((1, *gradient.shape[1:])), tf.constant([rows]))
    yield [*rest, (bad_row, variable)], ValueError


class TestProperties:
    @settings(max_examples=6, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_an_erroneous_call_changes_nothing(self, entry, data):
        given_shapes = data.draw(shapes)
        arguments = data.draw(hyperparameters(entry))
        kind = data.draw(st.sampled_from(KINDS))
        steps = data.draw(st.integers(0, 2))
        names = [f"v{i}" for i in range(len(given_shapes))]
        rng = np.random.default_rng(0)
        values = [rng.normal(size=s).astype(np.float32) for s in given_shapes]
        gradients = [
            [rng.normal(size=s).astype(np.float32) for s in given_shapes] for _ in range(steps + 1)
        ]
        tested, spared = entry.cls(**arguments), entry.cls(**arguments)
        variables = [make_variable(kind, v, n) for v, n in zip(values, names)]
        expected = [make_variable(kind, v, n) for v, n in zip(values, names)]
        for step in range(steps):
            tested.apply_gradients(zip(gradients[step], variables))
            spared.apply_gradients(zip(gradients[step], expected))
        for pairs, error in mistakes(list(zip(gradients[-1], variables))):
            with unchanged(tested, variables), pytest.raises(error):
                tested.apply_gradients(pairs)
        tested.apply_gradients(zip(gradients[-1], variables))
        spared.apply_gradients(zip(gradients[-1], expected))
        assert same(arrays(variables), arrays(expected))
        assert same(tested.get_weights(), spared.get_weights())

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_config_round_trip(self, entry, data):
        optimizer = entry.cls(**data.draw(hyperparameters(entry)))
        config = optimizer.get_config()
        assert entry.cls.from_config(json.loads(json.dumps(config))).get_config() == config
