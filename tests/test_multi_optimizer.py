"""`MultiOptimizer`: which optimizer trains what; more on models in `test_wrappers_models`."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
from common import arrays, assert_close, make_gradients, make_variables, same, train, unchanged
from generation import IS_KERAS_2, LossScaleOptimizer, keras
from modes import in_mode, modes

import tf_optim_ext
from tf_optim_ext import MultiOptimizer

X = np.ones((8, 4), np.float32)
Y = np.ones((8, 1), np.float32)


def make_pair(variables, **options):
    first = tf_optim_ext.Adam(0.1, **options)
    second = tf_optim_ext.SGD(0.2, momentum=0.9, **options)
    return MultiOptimizer([(first, variables[0]), (second, list(variables[1:]))])


def make_model(units=(4, 4, 1)):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(n) for n in units)])


def fit(model, optimizer):
    model.compile(optimizer, "mse", run_eagerly=True)
    model.fit(X, Y, batch_size=4, epochs=1, verbose=0, shuffle=False)


class TestSteps:
    @modes
    def test_each_trains_its_own(self, mode):
        variables, alone = make_variables(), make_variables()
        optimizer = make_pair(variables)
        first, second = tf_optim_ext.Adam(0.1), tf_optim_ext.SGD(0.2, momentum=0.9)
        step = in_mode(mode, optimizer, variables)
        for t in range(4):
            gradients = [tf.constant(g) for g in make_gradients(t)]
            step(gradients)
            first.apply_gradients([(gradients[0], alone[0])])
            second.apply_gradients(zip(gradients[1:], alone[1:]))
            assert_close(variables, arrays(alone))
        for each in (optimizer, *optimizer.optimizers):
            assert int(each.iterations) == 4

    def test_in_two_pairs_and_in_none(self):
        """As in TensorFlow Addons: the one is updated twice, the other never."""
        twice, never = tf.Variable(1.0), tf.Variable(2.0)
        optimizer = MultiOptimizer([(tf_optim_ext.SGD(s), twice) for s in (0.25, 0.5)])
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant(1.0), v) for v in (twice, never)])
        assert (float(twice), float(never)) == (-0.5, 2.0)

    def test_one_optimizer_in_two_pairs(self):
        variables, alone = make_variables(), make_variables()
        inner, single = tf_optim_ext.Adam(0.1), tf_optim_ext.Adam(0.1)
        optimizer = MultiOptimizer([(inner, variables[:1]), (inner, variables[1:])])
        train(optimizer, variables)
        train(single, alone)
        assert same(arrays(variables), arrays(alone))
        assert len(optimizer.optimizers) == 1 and int(inner.iterations) == 3

    def test_without_gradients_of_one(self):
        variables = make_variables()
        optimizer = make_pair(variables)
        before = arrays(variables)
        gradients = [tf.constant(g) for g in make_gradients(0)]
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply_gradients(zip([None, *gradients[1:]], variables))
        assert same(arrays(variables[:1]), before[:1])
        assert int(optimizer.iterations) == 1

    def test_bad_input_changes_nothing(self):
        """Neither what the first optimizer trains."""
        variables = make_variables()
        optimizer = make_pair(variables)
        train(optimizer, variables)
        pairs = [(tf.zeros(v.shape), v) for v in variables]
        for bad, message in (
            ((tf.zeros([7]), variables[-1]), "has shape"),
            ((tf.zeros([1]), tf.Variable([1.0])), "was not built for"),
        ):
            with unchanged(optimizer, variables), pytest.raises(ValueError, match=message):
                optimizer.apply_gradients([*pairs[:-1], bad])

    def test_options_inside(self):
        variables = make_variables()
        optimizer = make_pair(variables, use_ema=True, ema_momentum=0.5)
        train(optimizer, variables)
        wanted = [
            optimizer.optimizers[i > 0].get_slot(v, "average") for i, v in enumerate(variables)
        ]
        assert optimizer.use_ema is True
        optimizer.finalize_variable_values(variables)
        assert same(arrays(variables), arrays(wanted))
        optimizer = MultiOptimizer(
            [(tf_optim_ext.SGD(clipnorm=1.0), variables[0]), (tf_optim_ext.SGD(), variables[1])]
        )
        with pytest.raises(AttributeError, match=r"differ in `clipnorm`: \[1.0, None\]"):
            print(optimizer.clipnorm)

    def test_wrappers_inside(self):
        variables, alone = make_variables(), make_variables()
        look, single = (tf_optim_ext.Lookahead(tf_optim_ext.SGD(0.1), 2) for _ in range(2))
        optimizer = MultiOptimizer([(look, variables[:2]), (tf_optim_ext.SGD(0.0), variables[2])])
        train(optimizer, variables)
        for t in range(3):
            gradients = [tf.constant(g) for g in make_gradients(t)]
            single.apply_gradients(zip(gradients[:2], alone))
        assert same(arrays(variables), arrays(alone))

    def test_update_step(self):
        variables = [tf.Variable(1.0), tf.Variable(1.0)]
        optimizer = MultiOptimizer([(tf_optim_ext.SGD(0.1), variables[0])])
        optimizer.build(variables)
        for variable in variables:
            optimizer.update_step(tf.constant(1.0), variable, 0.5)
        assert [float(v) for v in variables] == [0.5, 1.0]


class TestRates:
    def test_setting_scales_all(self):
        variables = make_variables()
        optimizer = make_pair(variables)
        assert float(optimizer.learning_rate) == np.float32(0.1)
        optimizer.learning_rate = 0.05
        rates = [float(each.learning_rate) for each in optimizer.optimizers]
        np.testing.assert_allclose(rates, [0.05, 0.1], rtol=1e-6)
        optimizer.lr = float(optimizer.lr)
        assert rates == [float(each.learning_rate) for each in optimizer.optimizers]

    def test_with_a_schedule(self):
        schedule = keras.optimizers.schedules.CosineDecay(0.5, 10)
        variables = make_variables()
        optimizer = MultiOptimizer(
            [(tf_optim_ext.SGD(0.5), variables[0]), (tf_optim_ext.SGD(schedule), variables[1])]
        )
        with pytest.raises(TypeError, match="LearningRateSchedule"):
            optimizer.learning_rate = 0.25
        assert float(optimizer.learning_rate) == 0.5

    def test_of_zero(self):
        optimizer = MultiOptimizer([(tf_optim_ext.SGD(0.0), tf.Variable(1.0))])
        optimizer.learning_rate = 0.0
        with pytest.raises(ValueError, match="which no factor changes"):
            optimizer.learning_rate = 0.5
        with pytest.raises(ValueError, match="`learning_rate` must be"):
            optimizer.learning_rate = -0.5


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({}, ValueError, "one of `optimizers_and_layers` and"),
            ({"optimizers_and_layers": [], "optimizer_specs": []}, ValueError, "one of"),
            ({"optimizers_and_layers": []}, TypeError, "must be a list of pairs"),
            ({"optimizers_and_layers": 5}, TypeError, "Received: 5"),
            ({"optimizers_and_layers": [("sgd",)]}, TypeError, r"the element \('sgd',\)"),
            ({"optimizers_and_layers": [("sgd", "head")]}, TypeError, "Received: 'head' of type"),
            ({"optimizers_and_layers": [(None, [])]}, TypeError, "Received: None of type"),
            ({"optimizer_specs": [{"optimizer": "sgd"}]}, TypeError, 'dicts with "optimizer"'),
        ],
    )
    def test_of_another_form(self, arguments, error, message):
        with pytest.raises(error, match=message):
            MultiOptimizer(**arguments)

    def test_scaling_of_the_loss(self):
        variables = make_variables()
        with pytest.raises(ValueError, match="Put the `LossScaleOptimizer` around"):
            MultiOptimizer([(LossScaleOptimizer(tf_optim_ext.SGD()), variables[0])])
        with pytest.raises(ValueError, match="must have the same `loss_scale_factor`"):
            MultiOptimizer(
                [
                    (tf_optim_ext.SGD(loss_scale_factor=8.0), variables[0]),
                    (tf_optim_ext.SGD(), variables[1]),
                ]
            )

    def test_none_of_the_variables(self):
        optimizer = MultiOptimizer([(tf_optim_ext.SGD(), tf.Variable(1.0, name="elsewhere"))])
        with pytest.raises(ValueError, match=r"None of the variables .*here.*elsewhere"):
            optimizer.build([tf.Variable(1.0, name="here")])
        assert not optimizer.built

    def test_config(self):
        model = make_model()
        optimizer = MultiOptimizer(
            [(tf_optim_ext.Adam(0.1), model.layers[0]), ("sgd", model.layers[1:])]
        )
        specs = optimizer.optimizer_specs
        assert [len(spec["weights"]) for spec in specs] == [2, 4]
        assert [spec["optimizer"] for spec in specs] == optimizer.optimizers
        for built in (False, True):
            if built:
                optimizer.build(model.trainable_variables)
            config = optimizer.get_config()
            for copied in (
                MultiOptimizer.from_config(config),
                keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
            ):
                assert copied.get_config()["optimizer_specs"] == [
                    {k: v for k, v in spec.items() if k != "positions"}
                    for spec in config["optimizer_specs"]
                ]
                copied.build(model.trainable_variables)
                assert copied.get_config() == optimizer.get_config() or not built

    def test_config_of_variables_of_one_name(self):
        """The order of the variables tells them apart."""
        variables = [tf.Variable(float(i)) for i in range(3)]
        optimizer = MultiOptimizer(
            [(tf_optim_ext.SGD(0.5), variables[1]), (tf_optim_ext.SGD(0.0), variables[::2])]
        )
        optimizer.build(variables)
        copied = MultiOptimizer.from_config(optimizer.get_config())
        others = [tf.Variable(float(i), name=f"other{i}") for i in range(3)]
        for some in (others, [tf.Variable(float(i)) for i in range(3)]):
            copied = MultiOptimizer.from_config(optimizer.get_config())
            copied.apply_gradients([(tf.constant(1.0), v) for v in some])
            assert [float(v) for v in some] == [0.0, 0.5, 2.0]

    def test_config_of_layers_without_weights(self):
        layer = keras.layers.Dense(1, name="late")
        optimizer = MultiOptimizer([(tf_optim_ext.SGD(), layer)])
        with pytest.raises(ValueError, match="the layer 'late' has no weights yet"):
            optimizer.get_config()

    def test_specs(self):
        model = make_model()
        spec = MultiOptimizer.create_optimizer_spec(tf_optim_ext.SGD(0.1), model.layers[1])
        optimizer = MultiOptimizer(optimizer_specs=[spec])
        before = [arrays(layer.weights) for layer in model.layers]
        fit(model, optimizer)
        changed = [not same(arrays(layer.weights), old) for layer, old in zip(model.layers, before)]
        assert changed == [False, True, False]


class TestInterface:
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
    def test_copies(self, copied):
        variables = make_variables("tf")
        optimizer = make_pair(variables)
        train(optimizer, variables)
        clone, others = copied(optimizer), [tf.Variable(v) for v in variables]
        train(optimizer, variables, 2, 3)
        train(clone, others, 2, 3)
        assert same(arrays(others), arrays(variables))
        assert same(clone.get_weights(), optimizer.get_weights())

    def test_iterations(self):
        counter, variable = tf.Variable(5, dtype=tf.int64), tf.Variable(1.0)
        optimizer = MultiOptimizer([(tf_optim_ext.SGD(0.1), variable)])
        optimizer.iterations = counter
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert int(optimizer.iterations) == int(optimizer.optimizers[0].iterations)

    def test_variables(self):
        variables = make_variables()
        optimizer = make_pair(variables)
        optimizer.build(variables)
        expected = [v for each in optimizer.optimizers for v in each.variables]
        assert [id(v) for v in optimizer.variables[1:]] == [id(v) for v in expected]


class TestPublishedByAddons:
    """What the tests of TensorFlow Addons expect, whose numbers are of steps."""

    def test_layers_and_lists_of_layers(self):
        model = make_model((4, 4, 4, 1))
        before = [arrays(layer.weights) for layer in model.layers]
        optimizer = MultiOptimizer(
            [
                (keras.optimizers.SGD(0.0), model.layers[0]),
                (keras.optimizers.Adam(), model.layers[1]),
                (keras.optimizers.Adam(), model.layers[2:]),
            ]
        )
        fit(model, optimizer)
        changed = [not same(arrays(layer.weights), old) for layer, old in zip(model.layers, before)]
        assert changed == [False, True, True, True]
        for each in (optimizer, *optimizer.optimizers):
            assert int(each.iterations) == 2

    def test_a_model_and_a_layer_of_it(self):
        model = make_model()
        optimizer = MultiOptimizer(
            [(keras.optimizers.Adam(), model), (keras.optimizers.SGD(), model.layers[-1])]
        )
        fit(model, optimizer)
        for each in (optimizer, *optimizer.optimizers):
            assert int(each.iterations) == 2

    def test_nested_models(self):
        parts = [make_model((1,)) for _ in range(3)]
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Average()([part(inputs) for part in parts]))
        optimizer = MultiOptimizer(
            [(keras.optimizers.SGD(rate), part) for rate, part in zip((0.1, 0.0, 0.1), parts)]
        )
        before = [arrays(part.weights) for part in parts]
        fit(model, optimizer)
        changed = [not same(arrays(part.weights), old) for part, old in zip(parts, before)]
        assert changed == [True, False, True]

    def test_only_one_layer(self):
        """The others, such as pretrained ones, keep their weights."""
        model = make_model()
        before = [arrays(layer.weights) for layer in model.layers]
        fit(model, MultiOptimizer([(keras.optimizers.SGD(0.1), model.layers[-1])]))
        changed = [not same(arrays(layer.weights), old) for layer, old in zip(model.layers, before)]
        assert changed == [False, False, True]


def test_inside_the_one_of_keras():
    if IS_KERAS_2 or not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("Keras has it since 3.15")
    model, expected = make_model(), make_model()
    look = tf_optim_ext.Lookahead(tf_optim_ext.SGD(0.1), 2)
    fit(model, keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(look)))
    fit(expected, tf_optim_ext.Lookahead(tf_optim_ext.SGD(0.1), 2))
    assert_close(model.variables, arrays(expected.variables))


def test_around_the_one_of_keras():
    if IS_KERAS_2 or not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("Keras has it since 3.15")
    results = []
    for make in (tf_optim_ext.SGD, keras.optimizers.SGD):
        model = make_model()
        inner = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(make(0.1)))
        fit(model, tf_optim_ext.Lookahead(inner, 2))
        results.append(arrays(model.variables))
    assert_close(*results)
