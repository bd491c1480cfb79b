"""`build`: again, for nothing, and with variables that no optimizer can update."""

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import arrays, make_variables, same, train
from generation import KerasVariable, keras, path_of

import tf_optim_ext

ADAM = registry.BY_NAME["Adam"]
OPTIONS = {"use_ema": True, "gradient_accumulation_steps": 2}


def round_trip(optimizer, other, variables):
    """Saves the state, loads it in another optimizer over the variables, and compares."""
    store = {}
    optimizer.save_own_variables(store)
    other.build(variables)
    other.load_own_variables(store)
    assert same(other.get_weights(), optimizer.get_weights())


class TestAgain:
    """`optimizer.built = False; optimizer.build(variables)`, as the web advises."""

    def test_same_variables(self, entry):
        optimizer, variables = entry.make(), make_variables()
        train(optimizer, variables)
        before, names = optimizer.get_weights(), [path_of(v) for v in optimizer.variables]
        optimizer.built = False
        optimizer.build(variables)
        assert [path_of(v) for v in optimizer.variables] == names
        assert same(optimizer.get_weights(), before)
        round_trip(optimizer, entry.make(), variables)

    def test_other_variables(self, entry):
        """Those that stay keep their state, the others' is dropped."""
        optimizer, variables = entry.make(**OPTIONS), make_variables()
        train(optimizer, variables[:2])
        names = optimizer.get_slot_names()
        kept = [np.array(optimizer.get_slot(variables[1], name)) for name in names]
        optimizer.built = False
        others = [variables[2], variables[1]]
        optimizer.build(others)
        assert same([np.array(optimizer.get_slot(variables[1], name)) for name in names], kept)
        for name in names:
            with pytest.raises(KeyError):
                optimizer.get_slot(variables[0], name)
        assert len(optimizer.variables) == len({path_of(v) for v in optimizer.variables})
        fresh = entry.make(**OPTIONS)
        fresh.build(others)
        assert len(fresh.variables) == len(optimizer.variables)
        store = {}
        optimizer.save_own_variables(store)
        fresh.load_own_variables(store)
        for name in names:
            for variable in others:
                slots = [np.array(o.get_slot(variable, name)) for o in (optimizer, fresh)]
                assert same(slots[:1], slots[1:])
        train(optimizer, others, first=3)

    def test_slots_of_users_for_other_variables_stay(self):
        optimizer, variables = ADAM.make(), make_variables()
        slot = optimizer.add_slot(variables[2], "of_user", "ones")
        for given in (variables[:2], variables[1:2]):
            optimizer.built = False
            optimizer.build(given)
            assert optimizer.get_slot(variables[2], "of_user") is slot

    def test_in_a_function(self):
        optimizer, variables = ADAM.make(), make_variables()

        @tf.function
        def step():
            optimizer.apply_gradients([(tf.ones_like(v), v) for v in variables])

        step()
        optimizer.built = False
        optimizer.build(variables)
        step()
        assert int(optimizer.iterations) == 2


class TestForNothing:
    def test_no_variables(self, entry):
        optimizer, variables = entry.make(), make_variables()
        optimizer.build([])
        assert not optimizer.built
        train(optimizer, variables)
        expected, others = entry.make(), make_variables()
        train(expected, others)
        assert same(arrays(variables), arrays(others))
        assert same(optimizer.get_weights(), expected.get_weights())


def integers(kind):
    make = {"tf": tf.Variable, "keras": lambda x: KerasVariable(x, dtype="int32")}[kind]
    return make([1, 2])


class TestVariablesThatAreNotUpdated:
    """Skipped with the usual warning if their gradient is None; otherwise an error names them."""

    @pytest.mark.parametrize("kind", ["tf", "keras"])
    def test_integers_without_gradient(self, entry, kind):
        optimizer, variables = entry.make(**OPTIONS), make_variables(kind)
        expected, others = entry.make(**OPTIONS), make_variables(kind)
        all_variables = [variables[0], integers(kind), *variables[1:]]
        for step in range(4):
            gradients = [tf.constant(np.full(v.shape, step + 1.0, np.float32)) for v in variables]
            expected.apply_gradients(zip(gradients, others))
            with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
                optimizer.apply_gradients(zip([gradients[0], None, *gradients[1:]], all_variables))
        assert same(arrays(variables), arrays(others))
        assert same(optimizer.get_weights(), expected.get_weights())
        round_trip(optimizer, entry.make(**OPTIONS), all_variables)

    def test_in_fit(self):
        class Counting(keras.layers.Dense):
            def build(self, shape):
                super().build(shape)
                self.count = self.add_weight(dtype="int32", initializer="zeros", name="count")

        model = keras.Sequential([keras.Input((3,)), Counting(2)])
        model.compile(tf_optim_ext.Adam(0.1), "mse")
        x = np.ones((4, 3), np.float32)
        with pytest.warns(UserWarning, match="count"):
            model.fit(x, x[:, :2], verbose=0)

    @pytest.mark.parametrize(
        ("make", "gradient", "error", "message"),
        [
            (lambda: tf.Variable([1, 2]), [1.0, 1.0], TypeError, "int32, and a gradient"),
            (lambda: tf.Variable([1j, 2]), [1.0, 1.0], TypeError, "complex128.*real and imagin"),
            (
                lambda: tf.Variable([[1.0]], shape=[None, 1]),
                [[1.0]],
                ValueError,
                r"fixed shape.*'open:0' has shape \(None, 1\)",
            ),
            (lambda: tf.Variable([1.0], shape=None), [1.0], None, ""),
        ],
        ids=["integer", "complex", "open shape", "fixed shape"],
    )
    def test_with_a_gradient(self, make, gradient, error, message):
        variable = make()
        if error is ValueError:
            variable = tf.Variable([[1.0]], shape=[None, 1], name="open")
        optimizer, before = tf_optim_ext.Adam(0.1), variable.numpy()
        for _ in range(2):
            if error is None:
                optimizer.apply_gradients([(tf.constant(gradient), variable)])
                continue
            with pytest.raises(error, match=message):
                optimizer.apply_gradients([(tf.constant(gradient), variable)])
            assert np.array_equal(variable.numpy(), before)
            assert int(optimizer.iterations) == 0

    def test_open_shape_without_gradient(self):
        optimizer, variable = tf_optim_ext.Adam(0.1), tf.Variable(1.0)
        is_open = tf.Variable([[1.0]], shape=[None, 1])
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply_gradients([(None, is_open), (tf.constant(1.0), variable)])
        assert int(optimizer.iterations) == 1
