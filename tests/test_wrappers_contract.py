"""`Lookahead`, `MovingAverage` and `SWA`: arguments, calls, and gradients of all kinds."""

import copy
import inspect
import pickle
import warnings

import conftest
import numpy as np
import pytest
import tensorflow as tf
from common import (
    SHAPES,
    arrays,
    assert_close,
    make_gradients,
    make_variables,
    same,
    train,
    unchanged,
)
from generation import IS_KERAS_2, LossScaleOptimizer, keras, only_keras_3
from modes import MODES, in_mode
from wrapped import SLOTS, STEPS, WRAPPERS, each_wrapper

import tf_optim_ext
from tf_optim_ext import _keras


class TestArguments:
    def test_of_addons(self):
        """Names, order and defaults are those of tensorflow_addons.optimizers 0.23.0."""
        required = inspect.Parameter.empty
        expected = {
            "Lookahead": {"optimizer": required, "sync_period": 6, "slow_step_size": 0.5},
            "MovingAverage": {
                "optimizer": required,
                "average_decay": 0.99,
                "num_updates": None,
                "start_step": 0,
                "dynamic_decay": False,
            },
            "SWA": {"optimizer": required, "start_averaging": 0, "average_period": 10},
            "MultiOptimizer": {"optimizers_and_layers": None, "optimizer_specs": None},
        }
        for name, arguments in expected.items():
            parameters = inspect.signature(getattr(tf_optim_ext, name)).parameters
            found = {key: parameter.default for key, parameter in parameters.items()}
            assert list(found.items()) == [*arguments.items(), ("name", name)]

    @pytest.mark.parametrize(
        ("cls", "bad"),
        [
            ("Lookahead", {"sync_period": 0}),
            ("Lookahead", {"sync_period": 2.5}),
            ("Lookahead", {"slow_step_size": 1.5}),
            ("MovingAverage", {"average_decay": -0.1}),
            ("MovingAverage", {"start_step": -1}),
            ("MovingAverage", {"num_updates": -1}),
            ("MovingAverage", {"dynamic_decay": "yes"}),
            ("SWA", {"start_averaging": -1}),
            ("SWA", {"average_period": 0}),
        ],
    )
    def test_out_of_range(self, cls, bad):
        (name,) = bad
        with pytest.raises(ValueError, match=rf"{cls}: `{name}` must be .*Received: {name}="):
            getattr(tf_optim_ext, cls)(tf_optim_ext.SGD(), **bad)

    @each_wrapper
    def test_what_is_of_the_optimizer_inside(self, name):
        with pytest.raises(TypeError, match=r"unknown arguments \['clipnorm'\].*optimizer inside"):
            WRAPPERS[name](tf_optim_ext.SGD(), clipnorm=1.0)
        inner = tf_optim_ext.SGD(0.1, clipnorm=0.5, gradient_accumulation_steps=2, sparse="lazy")
        optimizer = WRAPPERS[name](inner)
        assert optimizer.clipnorm == 0.5 and optimizer.gradient_accumulation_steps == 2
        assert optimizer.sparse == "lazy" and optimizer.use_ema is False
        optimizer.clipnorm = 2.0
        assert inner.clipnorm == 2.0
        with pytest.raises(ValueError, match="clipnorm"):
            optimizer.clipnorm = -1.0
        with pytest.raises(AttributeError, match="has no attribute 'no_such'"):
            optimizer.no_such = 1

    def test_counts_cannot_change_any_more(self):
        optimizer = tf_optim_ext.Lookahead(tf_optim_ext.SGD(0.1), 2)
        optimizer.sync_period = 3
        assert optimizer.sync_period == 3
        with pytest.raises(ValueError, match="sync_period"):
            optimizer.sync_period = 0
        optimizer.build([tf.Variable(1.0)])
        optimizer.sync_period = 3
        with pytest.raises(AttributeError, match="`sync_period` cannot be changed"):
            optimizer.sync_period = 4

    def test_of_another_generation(self):
        tf_keras = pytest.importorskip("tf_keras")
        if IS_KERAS_2:
            pytest.skip("there is one generation")
        with pytest.raises(TypeError, match=r"needs a `keras.optimizers.Optimizer`"):
            tf_optim_ext.Lookahead(tf_keras.optimizers.SGD())

    @each_wrapper
    def test_config(self, name):
        for inner in (tf_optim_ext.AdamW(0.2, weight_decay=0.1), keras.optimizers.Adam(0.2)):
            optimizer = WRAPPERS[name](inner)
            config = optimizer.get_config()
            for argument, value in WRAPPERS[name].keywords.items():
                assert config[argument] == value
            for copied in (
                type(optimizer).from_config(config),
                keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
            ):
                assert type(copied) is type(optimizer)
                assert copied.get_config() == config
                assert type(copied.inner_optimizer) is type(inner)

    def test_config_with_schedules_and_variables(self):
        schedule = keras.optimizers.schedules.CosineDecay(0.5, 10)
        optimizer = tf_optim_ext.MovingAverage(
            tf_optim_ext.SGD(schedule), average_decay=schedule, num_updates=tf.Variable(7)
        )
        copied = type(optimizer).from_config(optimizer.get_config())
        assert copied.get_config() == optimizer.get_config()
        assert copied.num_updates == 7

    def test_nested(self):
        optimizer = tf_optim_ext.MovingAverage(
            tf_optim_ext.Lookahead(tf_optim_ext.SGD(1.0), 2, 0.5), 0.5
        )
        copied = type(optimizer).from_config(optimizer.get_config())
        for each in (optimizer, copied):
            variable = tf.Variable(0.0)
            for _ in range(2):
                each.apply_gradients([(tf.constant(-1.0), variable)])
            # The weights are 0, 1, and 2, of which the half is kept.
            assert float(variable) == 1.0
            assert float(each.get_slot(variable, "average")) == 0.5 * 0.5 + 0.5
        assert copied.get_config() == optimizer.get_config()


class TestInterface:
    @each_wrapper
    def test_learning_rate(self, name):
        for inner in (tf_optim_ext.Adam(0.5), keras.optimizers.Adam(0.5)):
            optimizer = WRAPPERS[name](inner)
            assert float(optimizer.learning_rate) == float(optimizer.lr) == 0.5
            optimizer.learning_rate = 0.25
            assert float(inner.learning_rate) == 0.25
            optimizer.lr = 0.125
            assert float(inner.learning_rate) == 0.125
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
        optimizer = WRAPPERS[name](tf_optim_ext.SGD(schedule))
        assert float(optimizer.learning_rate) == 1.0
        train(optimizer, make_variables())
        assert float(optimizer.learning_rate) == 0.5
        with pytest.raises(TypeError):
            optimizer.learning_rate = 1.0

    @each_wrapper
    def test_minimize(self, name):
        variable, other = tf.Variable([1.0, 2.0]), tf.Variable([1.0, 2.0])
        optimizer, expected = (WRAPPERS[name](tf_optim_ext.SGD(0.1)) for _ in range(2))
        for _ in range(STEPS):
            optimizer.minimize(lambda: tf.reduce_sum(variable**2), [variable])
            expected.apply_gradients([(2 * tf.identity(other), other)])
        assert same([variable.numpy()], [other.numpy()])

    def test_scaled_loss(self):
        variable = tf.Variable(1.0)
        optimizer = tf_optim_ext.Lookahead(tf_optim_ext.SGD(0.5, loss_scale_factor=8.0))
        assert float(optimizer.scale_loss(tf.constant(2.0))) == 16.0
        optimizer.minimize(lambda: 2.0 * variable, [variable])
        assert float(variable) == 0.0

    @each_wrapper
    def test_variables(self, name):
        variables = make_variables()
        optimizer = WRAPPERS[name](tf_optim_ext.Adam(0.1))
        optimizer.build(variables)
        inner = optimizer.inner_optimizer
        own = [optimizer._counter, *(optimizer.get_slot(v, SLOTS[name]) for v in variables)]
        expected = [*own, *inner.variables]
        assert [id(v) for v in optimizer.variables] == [id(v) for v in expected]
        assert [id(v) for v in optimizer.variables()] == [id(v) for v in optimizer.weights]
        assert optimizer.get_slot_names() == [SLOTS[name]]
        train(optimizer, variables, 4)
        weights = optimizer.get_weights()
        other = WRAPPERS[name](tf_optim_ext.Adam(0.1))
        twins = [tf.Variable(v) for v in arrays(variables)]
        other.build(twins)
        other.set_weights(weights)
        train(optimizer, variables, 4, 4)
        train(other, twins, 4, 4)
        assert same(arrays(twins), arrays(variables))
        assert same(other.get_weights(), optimizer.get_weights())

    def test_iterations(self):
        optimizer = tf_optim_ext.SWA(tf_optim_ext.SGD(0.1))
        counter = tf.Variable(5, dtype=tf.int64)
        optimizer.iterations = counter
        variable = tf.Variable(1.0)
        result = optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert int(counter) == int(optimizer.iterations) == int(result) == 6
        # The average knows that it is the first update that it sees.
        assert float(optimizer.get_slot(variable, "average")) == float(variable)

    @each_wrapper
    def test_what_was_trained_before(self, name):
        """Periods count from where the wrapper comes in."""
        inner, variables = tf_optim_ext.SGD(0.1), make_variables()
        train(inner, variables, 5)
        fresh, others = tf_optim_ext.SGD(0.1), [tf.Variable(v) for v in arrays(variables)]
        for each, some in ((inner, variables), (fresh, others)):
            train(WRAPPERS[name](each), some, 7)
        assert same(arrays(variables), arrays(others))

    @pytest.mark.parametrize("mode", conftest.shortened(MODES[:3], ("eager", "function")))
    @pytest.mark.parametrize("module", [tf_optim_ext, keras.optimizers], ids=["ours", "keras"])
    @only_keras_3("its own optimizers do not accumulate")
    def test_accumulation_inside(self, module, mode):
        variables = [tf.Variable([1.0, 2.0])]
        optimizer = tf_optim_ext.MovingAverage(
            module.SGD(1.0, gradient_accumulation_steps=2), average_decay=0.5
        )
        step = in_mode(mode, optimizer, variables)
        averages = []
        for _ in range(4):
            step([tf.constant([0.5, 0.5])])
            averages.append(optimizer.get_slot(variables[0], "average").numpy()[0])
        np.testing.assert_allclose(averages, [1.0, 0.75, 0.75, 0.375])
        assert int(optimizer.iterations) == 2

    def test_average_of_the_optimizer_inside(self):
        variable = tf.Variable([1.0])
        optimizer = tf_optim_ext.Lookahead(
            tf_optim_ext.SGD(1.0, use_ema=True, ema_momentum=0.5), 2, slow_step_size=0.5
        )
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant([1.0]), variable)])
        # 1 -> 0 -> -1, of which the half is kept; the average is of 0 and -1.
        assert variable.numpy().tolist() == [0.0]
        optimizer.finalize_variable_values([variable])
        assert variable.numpy().tolist() == [-0.5]

    def test_gradients_and_updates_in_graphs(self):
        variable = tf.Variable([3.0, 4.0])
        optimizer = tf_optim_ext.Lookahead(tf_optim_ext.SGD(1.0, clipnorm=1.0))

        @tf.function
        def clipped():
            return optimizer.get_gradients(tf.reduce_sum(variable**2), [variable])

        np.testing.assert_allclose(clipped()[0], [0.6, 0.8], rtol=1e-6)
        with tf.Graph().as_default():
            variable = tf.compat.v1.get_variable("w", initializer=[1.0, 2.0], use_resource=True)
            optimizer = tf_optim_ext.MovingAverage(tf_optim_ext.SGD(1.0), 0.5)
            (update,) = optimizer.get_updates(tf.reduce_sum(variable), [variable])
            average = optimizer.get_slot(variable, "average")
            with tf.compat.v1.Session() as session:
                session.run(tf.compat.v1.global_variables_initializer())
                for _ in range(2):
                    session.run(update)
                values = session.run([variable, _keras.tensorflow_variable(average)])
        assert_close(values, [[-1.0, 0.0], [-0.25, 0.75]])

    @each_wrapper
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
    def test_copies(self, name, copied):
        optimizer, variables = WRAPPERS[name](tf_optim_ext.Adam(0.1)), make_variables("tf")
        train(optimizer, variables, 4)
        clone, others = copied(optimizer), [tf.Variable(v) for v in variables]
        train(optimizer, variables, 5, 4)
        train(clone, others, 5, 4)
        assert same(arrays(others), arrays(variables))
        assert same(clone.get_weights(), optimizer.get_weights())

    @each_wrapper
    def test_update_step(self, name):
        variable = tf.Variable([1.0])
        optimizer = WRAPPERS[name](tf_optim_ext.SGD(0.1))
        optimizer.build([variable])
        optimizer.update_step(tf.constant([1.0]), variable, 0.5)
        assert variable.numpy().tolist() == [0.5]


class TestGradients:
    @pytest.mark.parametrize("mode", conftest.shortened(MODES[:3], ("eager", "function")))
    @each_wrapper
    def test_sparse_ones_are_like_dense_ones(self, name, mode):
        table = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
        values = tf.constant(np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32))
        slices = tf.IndexedSlices(values, tf.constant([4, 1, 4]), tf.constant([6, 2]))
        results = []
        for gradient in (slices, tf.convert_to_tensor(slices)):
            variable = tf.Variable(table)
            optimizer = WRAPPERS[name](tf_optim_ext.SGD(0.1, momentum=0.9))
            step = in_mode(mode, optimizer, [variable])
            for _ in range(6):
                step([gradient])
            results.append([variable, optimizer.get_slot(variable, SLOTS[name])])
        assert_close(*results)

    @each_wrapper
    def test_lazy_rows_are_averaged_as_well(self, name):
        table = tf.Variable(tf.ones([4, 2]))
        optimizer = WRAPPERS[name](tf_optim_ext.LazyAdam(0.1))
        for row in (0, 1, 0, 1, 2):
            slices = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([row]), tf.constant([4, 2]))
            optimizer.apply_gradients([(slices, table)])
        slot = optimizer.get_slot(table, SLOTS[name]).numpy()
        assert np.all(np.isfinite(slot)) and np.all(slot[3] == 1.0)
        assert not np.any(slot[:2] == 1.0)

    @each_wrapper
    @pytest.mark.parametrize("module", [tf_optim_ext, keras.optimizers], ids=["ours", "keras"])
    def test_missing_ones(self, name, module):
        variables, alone = make_variables(), make_variables()
        optimizer, single = WRAPPERS[name](module.SGD(0.1)), module.SGD(0.1)
        optimizer.build(variables)
        for t in range(STEPS):
            gradients = [tf.constant(g) for g in make_gradients(t)]
            if t < 4:
                gradients[1] = None
            for each, some in ((optimizer, variables), (single, alone)):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    each.apply_gradients(zip(gradients, some))
                if each is optimizer:  # Keras 2 logs it
                    assert len(caught) == (t < 4)
        if name != "Lookahead":
            assert_close(variables, arrays(alone))
        assert all(
            np.all(np.isfinite(optimizer.get_slot(v, SLOTS[name]).numpy())) for v in variables
        )

    @each_wrapper
    def test_16_bits(self, name):
        """Slow weights and averages are float32, and keep what the weights cannot hold."""
        for dtype in ("bfloat16", "float16", "float64"):
            variables = make_variables(dtype=dtype)
            optimizer = WRAPPERS[name](tf_optim_ext.SGD(0.1))
            gradients = [[tf.constant(g) for g in make_gradients(t, dtype=dtype)] for t in range(6)]
            for each in gradients:
                optimizer.apply_gradients(zip(each, variables))
            wanted = "float64" if dtype == "float64" else "float32"
            for variable in variables:
                slot = optimizer.get_slot(variable, SLOTS[name])
                assert tf.as_dtype(slot.dtype).name == wanted
                assert np.all(np.isfinite(slot.numpy()))

    @pytest.mark.parametrize("built", [False, True])
    @pytest.mark.parametrize("module", [tf_optim_ext, keras.optimizers], ids=["ours", "keras"])
    @each_wrapper
    def test_bad_ones_change_nothing(self, name, module, built):
        variables = make_variables("tf")
        optimizer = WRAPPERS[name](module.SGD(0.1))
        if built:
            train(optimizer, variables)
        good = [tf.zeros(shape) for shape in SHAPES]
        stranger = tf.Variable([1.0])
        slices = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([7]), tf.constant([3, 2]))
        bad = [
            (5, TypeError),
            ([(good[0],)], TypeError),
            ([(None, v) for v in variables], ValueError),
            ([(tf.ones([7]), variables[0])], ValueError),
            ([(tf.ones([3, 2], tf.int32), variables[0])], TypeError),
            ([(good[0], "w")], TypeError),
            ([(good[0], variables[0])] * 2, ValueError),
            ([(slices, variables[0])], ValueError),
        ]
        if built:
            bad.append(([(tf.constant([1.0]), stranger)], ValueError))
        for pairs, error in bad:
            with unchanged(optimizer, variables), pytest.raises(error):
                optimizer.apply_gradients(pairs)
        with unchanged(optimizer, variables):
            optimizer.apply_gradients([])

    def test_of_skipped_steps(self):
        """`LossScaleOptimizer` inside: a step without update counts for nothing."""
        if IS_KERAS_2:
            pytest.skip("Keras 2 counts them")
        variable = tf.Variable([1.0])
        optimizer = tf_optim_ext.MovingAverage(
            LossScaleOptimizer(tf_optim_ext.SGD(1.0), initial_scale=2.0), average_decay=0.5
        )
        for gradient in (np.inf, 2.0, np.nan, 2.0):
            optimizer.apply_gradients([(tf.constant([gradient], tf.float32), variable)])
        # Non-finite gradients halve the scale.
        assert variable.numpy().tolist() == [1.0 - 2.0 - 4.0]
        assert int(optimizer.iterations) == 2
        average = 0.5 * (0.5 * 1.0 + 0.5 * -1.0) + 0.5 * -5.0
        assert optimizer.get_slot(variable, "average").numpy().tolist() == [average]


def test_every_wrapper_has_a_twin_over_keras_2():
    ours = pytest.importorskip("tf_optim_ext.tf_keras")
    import tf_keras

    for name in (*WRAPPERS, "MultiOptimizer"):
        cls = getattr(ours, name)
        assert issubclass(cls, (getattr(tf_optim_ext, name), tf_keras.optimizers.Optimizer))
    for name, make in WRAPPERS.items():
        cls = getattr(ours, name)
        for inner in (tf_keras.optimizers.Adam(0.1), ours.Adam(0.1)):
            optimizer, variables = cls(inner, **make.keywords), make_variables("tf")
            train(optimizer, variables, 5)
            expected = make_variables("tf")
            train(make(tf_optim_ext.Adam(0.1)), expected, 5)
            assert_close(variables, arrays(expected))
            copied = tf_keras.optimizers.deserialize(tf_keras.optimizers.serialize(optimizer))
            assert type(copied) is cls and copied.get_config() == optimizer.get_config()
