"""The optimizer contract: what each call does.

What calls answer to bad input is in `test_bad_input.py`, construction and configuration are in
`test_configuration.py`, clipping, averages and the like in `test_transforms.py`.
"""

import concurrent.futures
import functools
import re

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    KINDS,
    SHAPES,
    arrays,
    assert_close,
    both_kinds,
    has_twin,
    keras_twin,
    make_gradients,
    make_variable,
    make_variables,
    same,
    train,
    unchanged,
)
from generation import FIRST_SLOT, IS_KERAS_2, KerasVariable, keras, only_keras_3, path_of
from legacy import legacy

import tf_optim_ext
from tf_optim_ext import _keras
from tf_optim_ext.base.schedule_free import ScheduleFreeOptimizer

ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]


class TestSlots:
    @both_kinds
    def test_every_variable_has_each_declared_slot(self, entry, kind):
        optimizer, variables = entry.make(), make_variables(kind)
        assert optimizer.get_slot_names() == []
        train(optimizer, variables)
        assert optimizer.get_slot_names() == list(entry.slots)
        for variable in variables:
            for name in entry.slots:
                slot = optimizer.get_slot(variable, name)
                single = name in entry.cls.declaration().variable_scalars
                assert slot.shape == (() if single else variable.shape)
                assert slot.dtype == ("float64" if single else "float32")
                assert any(slot is v for v in optimizer.variables)
                # The first is set by `update_hessian`, the second by a reward of these data.
                resting = (entry.name, name) in (("Sophia", "hessian"), ("COCOB", "reward"))
                assert resting or np.any(np.asarray(slot) != 0)

    @only_keras_3("there is no variable inside")
    def test_keras_variable_and_the_variable_inside_are_the_same_key(self):
        optimizer, variables = ADAM.make(), make_variables("keras")
        optimizer.build(variables)
        inside = optimizer.get_slot(variables[1].value, "velocity")
        assert inside is optimizer.get_slot(variables[1], "velocity")

    @pytest.mark.skipif(not IS_KERAS_2, reason="Keras 3: see below")
    def test_name_names_variable_and_slot(self):
        optimizer = tf_optim_ext.Adam(0.1)
        optimizer.build([tf.Variable([1.0], name="scope/plain"), tf.Variable(1.0)])
        assert [v.name for v in optimizer.variables[1:]] == [
            "momentum/scope/plain:0",
            "velocity/scope/plain:0",
            "momentum/Variable:0",
            "velocity/Variable:0",
        ]

    @only_keras_3("has no paths")
    def test_path_names_variable_and_slot(self):
        with keras.name_scope("block"):
            variable = KerasVariable(np.ones(2, "float32"), name="kernel")
        optimizer = tf_optim_ext.Adam(0.1, name="mine")
        optimizer.build([variable, tf.Variable([1.0], name="scope/plain")])
        assert [path_of(v) for v in optimizer.variables[2:]] == [
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

    def test_add_slot_returns_the_existing_one(self, entry):
        optimizer, variables = entry.make(), make_variables()
        optimizer.add_slot(variables[0], "extra")
        optimizer.build(variables)
        names = optimizer.get_slot_names()
        with unchanged(optimizer, variables):
            for name in names:
                slot = optimizer.add_slot(variables[0], name, "ones")
                assert slot is optimizer.get_slot(variables[0], name)

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
        assert _keras.tensorflow_variable(slot).device == variable.device

    def test_unknown_initializer(self):
        optimizer, variables = SGD.make(), make_variables()
        with unchanged(optimizer, variables), pytest.raises(ValueError, match="no_such_thing"):
            optimizer.add_slot(variables[0], "extra", "no_such_thing")

    @pytest.mark.parametrize(
        ("initializer", "shape"),
        [
            (np.ones((2, 3)), (2, 3)),
            (lambda shape, dtype: tf.ones((4,)), (4,)),
            (1.0, ()),
        ],
    )
    def test_initial_value_of_another_shape(self, initializer, shape):
        optimizer, variables = SGD.make(), make_variables()
        message = rf"'extra'.*kernel.*{re.escape(str(shape))}.*\(3, 2\)"
        with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
            optimizer.add_slot(variables[0], "extra", initializer)

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
        assert optimizer.add_weight("scalar", ()).dtype == keras.backend.floatx()
        three = optimizer.add_weight("three", 2, tf.float64, keras.initializers.Constant(3))
        assert same(arrays([three]), [np.full(2, 3.0)])
        names = [v.name.partition(":")[0] for v in optimizer.variables[-3:]]
        assert names == ["counter", "scalar", "three"]

    @pytest.mark.parametrize("aggregation", list(tf.VariableAggregation))
    def test_add_weight_aggregation(self, aggregation):
        weight = SGD.make().add_weight("w", (), aggregation=aggregation)
        assert weight.aggregation == (aggregation if IS_KERAS_2 else aggregation.name.lower())

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

    def test_both_spellings(self, entry):
        optimizer, variables = entry.make(), make_variables()
        optimizer.build(variables)
        expected = FIRST_SLOT + len(entry.slots) * len(SHAPES) + len(optimizer.scalars)
        expected += isinstance(optimizer, ScheduleFreeOptimizer)  # which point the weights are
        for spelling in (optimizer.variables, optimizer.variables(), optimizer.weights):
            assert len(spelling) == expected
            assert all(a is b for a, b in zip(spelling, optimizer.variables))
        assert optimizer.variables[0] is optimizer.iterations

    def test_changing_the_list_does_not_change_the_optimizer(self):
        optimizer = SGD.make()
        optimizer.variables.clear()
        assert len(optimizer.variables) == FIRST_SLOT

    @only_keras_3("has other names")
    @has_twin
    def test_order_and_paths_are_those_of_keras(self, entry):
        # What is saved by position, and `get_weights`, may come from one and go to the other.
        for options in ({}, {"use_ema": True}, {"gradient_accumulation_steps": 2}):
            ours, theirs = entry.make(**options, name="o"), keras_twin(entry, **options, name="o")
            variables = make_variables()
            for optimizer in (ours, theirs):
                optimizer.build(variables)
            paths = [path_of(v) for v in ours.variables], [path_of(v) for v in theirs.variables]
            assert len(paths[0]) == len(paths[1])
            for path, other in zip(*paths):
                # Keras leaves Nadam's product without a name.
                assert path == other or other.startswith("variable")

    @both_kinds
    def test_get_and_set(self, entry, kind):
        optimizer, variables = entry.make(), make_variables(kind)
        train(optimizer, variables)
        weights, values = optimizer.get_weights(), arrays(variables)
        assert all(isinstance(w, np.ndarray) for w in weights)
        assert weights[0] == 3
        copies = [w.copy() for w in weights]
        train(optimizer, variables, first=3)
        assert same(weights, copies), "what was got changes with the state"
        expected = arrays(variables)
        other, variables = entry.make(), make_variables(kind)
        other.build(variables)
        other.set_weights(weights)
        for variable, value in zip(variables, values):
            variable.assign(value)
        assert same(other.get_weights(), weights)
        train(other, variables, first=3)
        assert same(arrays(variables), expected)

    def test_set_weights_accepts_lists(self):
        optimizer = SGD.make()
        optimizer.build([tf.Variable([1.0, 2.0])])
        weights = [7, [3, 4]] if IS_KERAS_2 else [7, 0.5, [3, 4]]
        optimizer.set_weights(weights)
        assert [w.tolist() for w in optimizer.get_weights()] == weights

    def test_wrong_count(self, entry):
        optimizer, variables = entry.make(), make_variables()
        train(optimizer, variables)
        weights = [w + 1 for w in optimizer.get_weights()]
        for wrong in (weights[:-1], [*weights, weights[0]], []):
            message = rf"{len(weights)} variables.* {len(wrong)} arrays"
            with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
                optimizer.set_weights(wrong)

    def test_wrong_shape(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        weights = [w + 1 for w in optimizer.get_weights()]
        weights[-1] = np.ones((2, 3), np.float32)
        message = r"(scale_velocity|velocity/scale).*\(\).*\(2, 3\)"
        with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
            optimizer.set_weights(weights)

    def test_wrong_dtype(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        weights = [w + 1 for w in optimizer.get_weights()]
        weights[-1] = np.array("text")
        with unchanged(optimizer, variables), pytest.raises((TypeError, ValueError), match="text"):
            optimizer.set_weights(weights)

    def test_not_built(self):
        with pytest.raises(ValueError, match="not built"):
            ADAM.make().set_weights([0] * 10)


class TestApplyGradients:
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
    @both_kinds
    def test_any_iterable_of_pairs(self, iterable, kind):
        optimizer, variables = ADAM.make(), make_variables(kind)
        other, expected = ADAM.make(), make_variables(kind)
        for step in range(2):
            gradients = [tf.constant(g) for g in make_gradients(step)]
            optimizer.apply_gradients(iterable(list(zip(gradients, variables))))
            other.apply(gradients, expected)
        assert same(arrays(variables), arrays(expected))
        assert not same(arrays(variables), arrays(make_variables(kind)))

    def test_returns_iterations(self, entry):
        optimizer, variables = entry.make(), make_variables()
        for step in range(3):
            pairs = zip(make_gradients(step), variables)
            assert int(optimizer.apply_gradients(pairs, name="ignored")) == step + 1
        assert int(optimizer.iterations) == 3

    def test_steps_of_several_threads_are_all_counted(self):
        optimizer, variables = ADAM.make(), make_variables("tf")
        optimizer.build(variables)

        def work():
            for step in range(25):
                optimizer.apply_gradients(zip(make_gradients(step), variables))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(work) for _ in range(4)]:
                future.result()
        assert int(optimizer.iterations) == 100

    def test_keras_and_tensorflow_variables_together(self, entry):
        mixed = [make_variables("keras")[0], *make_variables("tf")[1:]]
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
            KerasVariable,
        ],
        ids=["array", "float64 array", "float64", "list", "tf variable", "keras variable"],
    )
    def test_kinds_of_gradients(self, convert):
        optimizer, variables = ADAM.make(), make_variables()
        other, expected = ADAM.make(), make_variables()
        for step in range(2):
            gradients = [convert(g) for g in make_gradients(step)]
            optimizer.apply_gradients(zip(gradients, variables))
        train(other, expected, 2)
        assert same(arrays(variables), arrays(expected))

    def test_float_gradients_are_cast(self, entry):
        for dtype in ("float16", "bfloat16", "float64"):
            optimizer, variables = entry.make(), make_variables()
            other, expected = entry.make(), make_variables()
            for step in range(2):
                cast = [tf.cast(g, dtype) for g in make_gradients(step)]
                optimizer.apply_gradients(zip(cast, variables))
                other.apply_gradients(zip([tf.cast(g, "float32") for g in cast], expected))
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
        # Variables that are not given keep their weights and slots.
        optimizer, variables = entry.make(), make_variables()
        optimizer.build(variables)
        first, second = make_gradients(0), make_gradients(1)
        optimizer.apply_gradients(zip(first, variables))
        before = arrays(variables[1:2])
        optimizer.apply_gradients([(second[2], variables[2]), (second[0], variables[0])])
        assert same(arrays(variables[1:2]), before)
        if entry.is_joint:  # then the other variables matter, in the first step
            other, expected = entry.make(), make_variables()
            other.apply_gradients(zip(first, expected))
            other.apply_gradients([(second[i], expected[i]) for i in (0, 2)])
            assert_close(variables, expected)
            return
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
        # What Keras calls for one variable; it counts no step.
        if entry.cls.declaration().optimizer_scalars:
            pytest.skip("scalar state of all variables advances with each of them")
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
        shapes = ((0,), (), (2, 0))
        optimizer, variables = entry.make(), make_variables(shapes=shapes)
        train(optimizer, variables)
        assert [v.shape for v in variables] == list(shapes)
        assert all(np.all(np.isfinite(v)) for v in variables)
        assert int(optimizer.iterations) == 3

    def test_dtypes_together(self, entry):
        dtypes = ("float32", "float64", "bfloat16", "float16")
        values = [1.0, -2.0, 0.5]
        variables = [tf.Variable(values, dtype=d) for d in dtypes]
        # In 16 bits: a step in float32 from rounded weights with rounded gradients, rounded.
        wide = [
            tf.Variable(values, dtype="float64" if d == "float64" else "float32") for d in dtypes
        ]
        optimizer, expected = entry.make(), entry.make()
        for step in range(3):
            gradient = make_gradients(step, [(3,)])[0]
            gradients = [tf.cast(gradient, dtype) for dtype in dtypes]
            optimizer.apply_gradients(zip(gradients, variables))
            expected.apply_gradients([(tf.cast(g, v.dtype), v) for g, v in zip(gradients, wide)])
            for variable, dtype in zip(wide, dtypes):
                variable.assign(tf.cast(tf.cast(variable, dtype), variable.dtype))
        actual, wanted = ([w.astype("float64") for w in arrays(v)] for v in (variables, wide))
        assert same(actual, wanted)
        assert_close(variables[:1], variables[1:2])
        for dtype, variable in zip(dtypes, variables):
            assert variable.dtype == dtype
            for name in entry.slots:
                slot = optimizer.get_slot(variable, name)
                precise = dtype == "float64" or name in entry.cls.declaration().variable_scalars
                assert slot.dtype == ("float64" if precise else "float32")

    def test_plain_variables_need_no_path(self, entry):
        plain = tf.Variable(np.ones((2, 2), np.float32))
        if not IS_KERAS_2:
            with pytest.raises(AttributeError, match="path"):
                keras.optimizers.Muon(0.1).build([plain])
        optimizer = entry.make()
        train(optimizer, [plain])
        assert not np.any(np.asarray(plain) == 1)

    @only_keras_3("has no such layers")
    def test_overwrite_with_gradient(self, entry):
        if entry.is_joint:
            pytest.skip("the other variables would take other steps with it")
        # Such variables hold scales of 8-bit layers; their "gradient" is their new value.
        optimizer, variables = entry.make(use_ema=True), make_variables()
        variables[2].overwrite_with_gradient = True
        train(optimizer, variables, 2)
        assert np.asarray(variables[2]) == make_gradients(1)[2]
        other, expected = entry.make(use_ema=True), make_variables()
        train(other, expected, 2)
        assert same(arrays(variables[:2]), arrays(expected[:2]))

    @only_keras_3("has no such layers")
    def test_overwrite_with_gradient_and_accumulation_equal_keras(self):
        results = []
        for make in (ADAM.make, functools.partial(keras_twin, ADAM)):
            variables = make_variables()
            variables[2].overwrite_with_gradient = True
            train(make(gradient_accumulation_steps=2), variables, 3)
            results.append(arrays(variables))
        assert_close(*results)


class TestMinimize:
    @staticmethod
    def loss(variables):
        return sum(tf.reduce_sum((i + 1.0) * tf.square(v - 1.0)) for i, v in enumerate(variables))

    def with_apply(self, optimizer, v):
        with tf.GradientTape() as tape:
            loss = self.loss(v)
        return optimizer.apply_gradients(zip(tape.gradient(loss, v), v))

    def with_callable(self, optimizer, v):
        return optimizer.minimize(lambda: self.loss(v), v)

    def with_tuple(self, optimizer, v):
        return optimizer.minimize(lambda: self.loss(v), tuple(v), name="ignored")

    def with_tape(self, optimizer, v):
        with tf.GradientTape() as tape:
            loss = self.loss(v)
        return optimizer.minimize(loss, v, tape=tape)

    def with_callable_and_tape(self, optimizer, v):
        return optimizer.minimize(lambda: self.loss(v), v, tape=tf.GradientTape())

    def with_callable_list(self, optimizer, v):
        return optimizer.minimize(lambda: self.loss(v), lambda: tuple(v))

    FORMS = ["callable", "tuple", "tape", "callable_and_tape", "callable_list"]

    @pytest.mark.parametrize(
        ("kind", "in_function"),
        [
            pytest.param(kind, in_function, id=f"{kind}-{mode}", marks=marks)
            for kind in KINDS
            for in_function, mode, marks in (
                (False, "eager", ()),
                (True, "function", pytest.mark.long if kind != KINDS[0] else ()),
            )
        ],
    )
    @pytest.mark.parametrize("form", FORMS)
    def test_all_forms_agree(self, form, kind, in_function):
        results = []
        for name in ("apply", form):
            optimizer, variables = ADAM.make(), make_variables(kind)
            step = functools.partial(getattr(self, f"with_{name}"), optimizer, variables)
            step = tf.function(step) if in_function else step
            for i in range(3):
                assert int(step()) == i + 1
            results.append(arrays(variables))
        assert_close(*results)

    def test_every_optimizer_descends(self, entry):
        optimizer, variables = entry.make(weight_decay=0.0), make_variables()
        before = self.loss(variables)
        for _ in range(5):
            optimizer.minimize(lambda: self.loss(variables), variables)
        assert self.loss(variables) < before

    def test_single_variable(self):
        variable = tf.Variable([1.0])
        tf_optim_ext.SGD(0.5).minimize(lambda: variable * 1.0, variable)
        assert float(variable[0]) == 0.5

    def test_variables_that_are_not_trainable_are_watched(self):
        for variable in (
            KerasVariable([1.0], trainable=False),
            tf.Variable([1.0], trainable=False),
        ):
            tf_optim_ext.SGD(0.5).minimize(lambda v=variable: 1.0 * v, [variable])
            assert np.asarray(variable)[0] == 0.5

    def test_list_is_evaluated_after_the_loss(self):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
        assert not model.built
        optimizer = tf_optim_ext.Adam(0.1)
        losses = []

        def loss():
            losses.append(tf.reduce_mean(tf.square(model(tf.ones((4, 3))) - 1.0)))
            return losses[-1]

        for _ in range(20):
            optimizer.minimize(loss, lambda: model.trainable_variables)
        assert losses[-1] < losses[0]
        assert len(optimizer.variables) == FIRST_SLOT + 2 * 4

    @both_kinds
    def test_grad_loss_weights_the_loss(self, kind):
        variable = make_variable(kind, np.float32([1, 2]))
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
                optimizer.minimize(lambda v=variables: self.loss(v), variables)
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

    def test_loss_that_raises(self):
        optimizer, variables = ADAM.make(), make_variables()

        def loss():
            raise RuntimeError("in the loss")

        with unchanged(optimizer, variables), pytest.raises(RuntimeError, match="in the loss"):
            optimizer.minimize(loss, variables)


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
        results = []
        for library in (tf_optim_ext, legacy):
            optimizer, variables = getattr(library, name)(**arguments), make_variables("tf")
            train(optimizer, variables, 10)
            assert int(optimizer.iterations) == 10
            results.append(arrays(variables))
        assert_close(*results, atol=1e-5)

    @pytest.mark.parametrize(("name", "arguments"), PAIRS)
    @pytest.mark.parametrize("library", [tf_optim_ext, legacy], ids=["ours", "legacy"])
    def test_same_answers(self, library, name, arguments):
        cls = getattr(library, name)
        optimizer, variable = cls(**arguments), tf.Variable([1.0, 2.0])
        assert int(optimizer.apply_gradients([(tf.ones(2), variable)])) == 1
        slots = list(optimizer.get_slot_names())
        for slot in slots:
            assert tuple(optimizer.get_slot(variable, slot).shape) == (2,)
        added = optimizer.add_slot(variable, "own", "ones")
        assert optimizer.get_slot(variable, "own") is added
        assert list(optimizer.get_slot_names()) == [*slots, "own"]
        weights = optimizer.get_weights()
        assert len(optimizer.variables()) == len(optimizer.weights) == len(weights)
        assert int(weights[0]) == 1
        optimizer.set_weights(weights)
        with pytest.raises(ValueError, match=str(len(weights) - 1)):
            optimizer.set_weights(weights[:-1])
        with pytest.raises(KeyError):
            optimizer.get_slot(variable, "nothing")
        optimizer.lr = 0.5
        assert float(optimizer.learning_rate) == 0.5
        clone = cls.from_config({**arguments, "learning_rate": 1.0, "lr": 0.25})
        assert float(clone.lr) == 0.25
        assert optimizer.add_weight("mine", (2,), tf.float32, "ones").shape == (2,)
        # A callable list, evaluated after the loss, and a weight of the loss.
        variable.assign([1.0, 2.0])
        plain = library.SGD(1.0)
        plain.minimize(
            lambda: 3.0 * variable, lambda: [variable], grad_loss=tf.constant([1.0, 2.0])
        )
        assert variable.numpy().tolist() == [-2.0, -4.0]
