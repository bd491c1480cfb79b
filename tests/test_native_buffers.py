"""The native library works in the variables' own memory, and only there."""

import numpy as np
import pytest
import tensorflow as tf
from common import make_variables
from native_steps import make_copy_on_read, sgd_step

import tf_optim_ext
from tf_optim_ext import _keras


def address(variable):
    """Where the values of a variable are; nobody holds them afterwards."""
    return _keras.tensorflow_variable(variable).read_value()._numpy().ctypes.data


@pytest.mark.usefixtures("native_only")
class TestBuffers:
    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    def test_a_step_allocates_no_second_variable(self, entry, graph):
        variables, optimizer = make_variables("tf", ((100, 30), (7,), (1,))), entry.make()
        optimizer.build(variables)
        gradients = [tf.ones(v.shape) for v in variables]
        step = tf.function(optimizer.apply) if graph else optimizer.apply
        # The counter is TensorFlow's to update.
        written = [*variables, *(v for v in optimizer.variables[2:] if v.dtype == "float32")]
        step(gradients, variables)
        before = [(address(v), np.array(v)) for v in written]
        step(gradients, variables)
        assert [address(v) for v in written] == [where for where, _ in before]
        changed = [not np.array_equal(v, value) for v, (_, value) in zip(written, before)]
        assert any(changed[:3]) or any(changed[3:])

    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    def test_a_step_copies_what_somebody_holds(self, graph):
        variable, optimizer = tf.Variable(tf.ones([100, 30])), tf_optim_ext.SGD(0.5)
        optimizer.build([variable])
        step = tf.function(optimizer.apply) if graph else optimizer.apply
        before, held = address(variable), variable.read_value()
        assert held._numpy().ctypes.data == before
        step([tf.ones([100, 30])], [variable])
        assert held._numpy().ctypes.data == before
        after = address(variable)
        assert after != before
        # Once, as nobody holds the copy.
        step([tf.ones([100, 30])], [variable])
        assert address(variable) == after
        np.testing.assert_array_equal(held, np.ones([100, 30]))
        np.testing.assert_array_equal(variable, np.zeros([100, 30]))

    @pytest.mark.parametrize("copy_on_read", [False, True])
    @pytest.mark.parametrize("graph", [False, True])
    def test_what_was_read_before_stays(self, copy_on_read, graph):
        variable = tf.Variable(tf.range(5.0))
        if copy_on_read:
            make_copy_on_read(variable)
        optimizer = tf_optim_ext.SGD(0.5, momentum=0.5)
        optimizer.build([variable])
        slot = optimizer.get_slot(variable, "momentum").value
        step = tf.function(optimizer.apply) if graph else optimizer.apply
        held = []
        for i in range(1, 4):
            held += [(variable.read_value(), variable.numpy(), slot.read_value())]
            held[-1] = (*held[-1], [np.array(x) for x in held[-1]])
            step([tf.ones(5)], [variable])
            assert i == int(optimizer.iterations)
            assert not np.array_equal(variable.numpy(), held[-1][1])
        for *values, copies in held:
            for value, copy in zip(values, copies, strict=True):
                np.testing.assert_array_equal(value, copy)

    @pytest.mark.parametrize("copy_on_read", [False, True])
    def test_steps_after_sparse_updates(self, copy_on_read):
        variable = tf.Variable(tf.ones([4, 3]))
        for _ in range(3):
            if copy_on_read:
                make_copy_on_read(variable)
            sgd_step([variable], [tf.ones([4, 3])], 0.25)
        np.testing.assert_array_equal(variable, np.full((4, 3), 0.25))

    @pytest.mark.parametrize("graph", [False, True])
    def test_gradient_in_the_variables_own_buffer(self, graph):
        variable = tf.Variable(tf.range(100.0))
        optimizer = tf_optim_ext.SGD(0.25)
        optimizer.build([variable])
        read = variable.read_value()
        before = read.numpy().copy()

        def step():
            gradient = variable.read_value()
            optimizer.apply([gradient], [variable])
            return gradient

        gradient = tf.function(step)() if graph else step()
        np.testing.assert_array_equal(variable, 0.75 * before)
        np.testing.assert_array_equal(gradient, before)
        np.testing.assert_array_equal(read, before)

    @pytest.mark.parametrize("graph", [False, True])
    @pytest.mark.parametrize("kind", [tf.Variable, tf.keras.Variable])
    def test_variables_as_gradients_of_each_other(self, graph, kind):
        a, b = kind(np.full(10, 4.0, np.float32)), kind(np.full(10, 16.0, np.float32))
        optimizer = tf_optim_ext.SGD(0.25)
        optimizer.build([a, b])

        def step():
            optimizer.apply([b, a], [a, b])

        tf.function(step)() if graph else step()
        np.testing.assert_array_equal(a, np.full(10, 0.0))
        np.testing.assert_array_equal(b, np.full(10, 15.0))

    def test_a_slot_as_gradient(self):
        variable = tf.Variable(tf.ones(10))
        optimizer = tf_optim_ext.SGD(0.5, momentum=0.5)
        optimizer.build([variable])
        slot = optimizer.get_slot(variable, "momentum")
        slot.assign(tf.fill([10], 2.0))
        optimizer.apply([slot], [variable])
        np.testing.assert_array_equal(slot, np.zeros(10))
        np.testing.assert_array_equal(variable, np.ones(10))

    def test_one_gradient_for_two_variables(self):
        a, b, g = tf.Variable(tf.ones(10)), tf.Variable(tf.zeros(10)), tf.ones(10)
        sgd_step([a, b], [g, g])
        np.testing.assert_array_equal(a, np.full(10, 0.5))
        np.testing.assert_array_equal(b, np.full(10, -0.5))
        np.testing.assert_array_equal(g, np.ones(10))

    def test_arrays_that_variables_were_made_of_stay(self):
        # Large and aligned, such that TensorFlow may use the array's own memory.
        memory = np.zeros(2**20 + 64, np.float32)
        offset = -memory.ctypes.data % 64 // 4
        initial = memory[offset : offset + 2**20]
        initial[:] = 1.0
        gradient = initial.copy()
        variable = tf.Variable(initial)
        assigned = tf.Variable(tf.zeros(2**20))
        assigned.assign(tf.convert_to_tensor(initial))
        constant = tf.constant(gradient)
        sgd_step([variable, assigned], [constant, constant])
        assert float(variable[0]) == float(assigned[-1]) == 0.5
        assert np.all(initial == 1.0)
        assert np.all(gradient == 1.0)

    def test_two_variables_that_share_a_buffer(self):
        value = tf.ones(1000)
        a, b = tf.Variable(value), tf.Variable(value)
        b.assign(a.read_value())
        sgd_step([a, b], [tf.ones(1000), tf.fill([1000], 2.0)])
        np.testing.assert_array_equal(a, np.full(1000, 0.5))
        np.testing.assert_array_equal(b, np.zeros(1000))
        np.testing.assert_array_equal(value, np.ones(1000))

    def test_assigning_between_steps(self):
        variable = tf.Variable(tf.ones(10))
        optimizer = tf_optim_ext.SGD(0.5)
        for value in (3.0, 5.0):
            variable.assign(tf.fill([10], value))
            optimizer.apply([tf.ones(10)], [variable])
            np.testing.assert_array_equal(variable, np.full(10, value - 0.5))
