"""Parameter groups: as separate optimizers, bit for bit, in one step."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from common import arrays, assert_close, make_gradients, make_variables, same, unchanged
from generation import IS_KERAS_2, keras
from modes import check_route, in_mode, modes

import tf_optim_ext
from tf_optim_ext import SGD, AdamW, Group, Lion, layerwise_learning_rates
from tf_optim_ext import no_decay_of_biases_and_norms as no_decay

STEPS = 4
# Overrides that most optimizers have, and what the same are to an optimizer alone.
OVERRIDES = (
    ({"learning_rate_factor": 0.5}, {"learning_rate": 0.05}),
    ({"learning_rate": 0.3}, {"learning_rate": 0.3}),
    ({"weight_decay": 0.25}, {"weight_decay": 0.25}),
    ({"clipvalue": 0.2}, {"clipvalue": 0.2}),
)
# Optimizers with state of all variables that depends on the learning rate.
ONE_RATE = (
    tf_optim_ext.DAdaptAdam,
    tf_optim_ext.DAdaptLion,
    tf_optim_ext.DAdaptSGD,
    tf_optim_ext.Prodigy,
    tf_optim_ext.ScheduleFreeAdamW,
    tf_optim_ext.ScheduleFreeRAdam,
    tf_optim_ext.ScheduleFreeSGD,
)
Piecewise = keras.optimizers.schedules.PiecewiseConstantDecay


def trained(optimizer, variables, gradients, mode="eager"):
    step = in_mode(mode, optimizer, variables)
    for own in gradients:
        step([tf.constant(g) for g in own])
    return optimizer


def assert_as_separate(make, group, alone, mode="eager", dtype="float32"):
    """Compares one optimizer with a group for "bias" with two optimizers.

    Args:
        make: function of keyword arguments.
        group: arguments of the group.
        alone: the same as arguments of an optimizer of its own.
    """
    gradients = [make_gradients(i, dtype=dtype) for i in range(STEPS)]
    variables = make_variables("tf", dtype=dtype)
    optimizer = make(groups=[Group("bias", **group)])
    trained(optimizer, variables, gradients, mode)
    expected = make_variables("tf", dtype=dtype)
    parts = [(make(), [0, 2]), (make(**alone), [1])]
    for part, members in parts:
        own = [expected[i] for i in members]
        trained(part, own, [[g[i] for i in members] for g in gradients], mode)
        for i in members:
            assert same(arrays([variables[i]]), arrays([expected[i]])), expected[i].name
            for name in part.get_slot_names():
                a, b = optimizer.get_slot(variables[i], name), part.get_slot(expected[i], name)
                assert same(arrays([a]), arrays([b])), name
    return optimizer


class TestAsSeparateOptimizers:
    @pytest.mark.family
    @pytest.mark.parametrize(("group", "alone"), OVERRIDES, ids=lambda x: next(iter(x)))
    def test_every_optimizer(self, entry, group, alone):
        arguments = {"learning_rate": 0.1, "weight_decay": 0.125}

        def make(**overrides):
            return entry.make(**{**arguments, **overrides})

        if "weight_decay" not in group and "clipvalue" not in group and entry.cls in ONE_RATE:
            with pytest.raises(ValueError, match="state that all variables share"):
                make(groups=[Group("bias", **group)])
            return
        if entry.is_joint:
            pytest.skip("the update of a variable depends on the others")
        assert_as_separate(make, group, alone)

    @modes
    def test_modes(self, mode):
        def make(**overrides):
            return AdamW(**{"learning_rate": 0.1, "weight_decay": 0.5, **overrides})

        group = {"learning_rate_factor": 0.5, "weight_decay": 0.0, "beta_1": 0.5, "epsilon": 1e-2}
        alone = {"learning_rate": 0.05, "weight_decay": 0.0, "beta_1": 0.5, "epsilon": 1e-2}
        check_route(mode, assert_as_separate(make, group, alone, mode))

    @pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
    def test_dtypes(self, dtype):
        group, alone = {"learning_rate": 0.3, "beta_1": 0.5}, {"learning_rate": 0.3, "beta_1": 0.5}
        assert_as_separate(
            lambda **k: Lion(**{"learning_rate": 0.1, **k}), group, alone, dtype=dtype
        )

    @pytest.mark.parametrize(
        "options",
        [{"use_ema": True}, {"gradient_accumulation_steps": 2}, {"clipnorm": 0.5}],
        ids=str,
    )
    def test_options(self, options):
        group, alone = {"learning_rate": 0.3}, {"learning_rate": 0.3}
        assert_as_separate(
            lambda **k: SGD(**{"learning_rate": 0.1, "momentum": 0.5, **options, **k}), group, alone
        )

    @modes
    def test_schedules_and_variables(self, mode):
        decay = tf.Variable(0.5)
        arguments = {"learning_rate": Piecewise([1], [0.5, 0.25]), "weight_decay": lambda: decay}
        assert_as_separate(
            lambda **k: SGD(**{"learning_rate": 0.1, **k}), arguments, arguments, mode
        )

    def test_rows(self):
        table, dense = tf.Variable(tf.ones([6, 2])), tf.Variable([1.0])
        optimizer = SGD(0.5, groups=[Group(table, learning_rate=0.25)])
        rows = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([0, 4]), (6, 2))
        optimizer.apply_gradients([(rows, table), (tf.constant([1.0]), dense)])
        np.testing.assert_array_equal(table[:, 0], [0.75, 1, 1, 1, 0.75, 1])
        np.testing.assert_array_equal(dense, [0.5])


class TestLearningRate:
    @pytest.mark.parametrize("mode", ["eager", "function"])
    def test_groups_follow_the_optimizer(self, mode):
        a, b, c = (tf.Variable(0.0, name=name) for name in "abc")
        schedule = Piecewise([0], [8.0, 4.0])
        groups = [Group("b", learning_rate=2.0), Group("c", learning_rate=schedule)]
        optimizer = SGD(1.0, groups=groups)
        step = in_mode(mode, optimizer, [a, b, c])
        ones = [tf.constant(1.0)] * 3
        step(ones)
        assert arrays([a, b, c]) == [-1, -2, -8]
        optimizer.learning_rate = 0.5  # as `ReduceLROnPlateau` does
        step(ones)
        assert arrays([a, b, c]) == [-1.5, -3, -10]

    def test_beside_a_schedule(self):
        a, b = tf.Variable(0.0, name="a"), tf.Variable(0.0, name="b")
        optimizer = SGD(Piecewise([0], [1.0, 0.5]), groups=[Group("b", learning_rate=2.0)])
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant(1.0), a), (tf.constant(1.0), b)])
        assert arrays([a, b]) == [-1.5, -4]

    def test_groups_of_several_optimizers(self):
        group = Group("w", learning_rate=2.0)
        for rate in (1.0, 0.5):
            w = tf.Variable(0.0, name="w")
            SGD(rate, groups=[group]).apply_gradients([(tf.constant(1.0), w)])
            assert float(w) == -2.0

    def test_plateau(self):
        model = keras.Sequential([keras.layers.Dense(1), keras.layers.Dense(1)])
        optimizer = SGD(0.5, groups=[Group(model.layers[1], learning_rate=0.25)])
        model.compile(optimizer, "mse")
        plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=100.0)
        x = np.zeros([4, 2], np.float32)
        model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=[plateau])
        lines = []
        optimizer.describe(lines.append)
        rates = {line.split()[0].split("/")[0]: float(line.split()[-2]) for line in lines[1:]}
        assert sorted(set(rates.values()))[-1] < 0.5
        by_layer = [float(line.split()[-2]) for line in lines[1:]]
        assert by_layer[0] == by_layer[1] == 2 * by_layer[2] == 2 * by_layer[3]


class TestFrozen:
    @modes
    def test_stays_as_it_is(self, mode):
        variables = make_variables("tf")
        before = arrays(variables)
        options = {"use_ema": True, "weight_decay": 0.5, "global_clipnorm": 1.0}
        optimizer = AdamW(0.1, **options, groups=[Group("bias", frozen=True)])
        gradients = [make_gradients(i) for i in range(2)]
        for own in gradients:
            own[1] *= 1e6  # which must not count for the norm
        trained(optimizer, variables, gradients, mode)
        others = make_variables("tf")
        trained(AdamW(0.1, **options), others[::2], [g[::2] for g in gradients], mode)
        assert same(arrays(variables)[1:2], before[1:2])
        assert same(arrays(variables[::2]), arrays(others[::2]))
        with pytest.raises(KeyError):
            optimizer.get_slot(variables[1], "momentum")

    def test_all_of_them(self):
        variable = tf.Variable(1.0, name="v")
        optimizer = SGD(0.1, momentum=0.5, groups=[Group("v", frozen=True)])
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert float(variable) == 1.0
        assert int(optimizer.iterations) == 1


def model_of_layers(named=True):
    layers = [keras.layers.Dense(3, name="first"), keras.layers.BatchNormalization(name="norm")]
    return keras.Sequential([*layers, keras.layers.Dense(1, name="head")])


def fit(model, **arguments):
    x = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    model.fit(x, x[:, :1], verbose=0, shuffle=False, batch_size=4, **arguments)


class TestSelection:
    @pytest.mark.parametrize("run_eagerly", [False, True])
    def test_of_a_model_that_is_built_late(self, run_eagerly):
        model = model_of_layers()
        groups = [
            Group(model.layers[0], weight_decay=0.5, name="backbone"),
            no_decay(),
            Group(lambda v: v.shape[-1] == 1, frozen=True, name="output"),
        ]
        optimizer = AdamW(0.1, weight_decay=0.25, groups=groups)
        model.compile(optimizer, "mse", run_eagerly=run_eagerly)
        fit(model)
        lines = []
        optimizer.describe(lines.append)
        names = [re.split("  +", line)[2] for line in lines[1:]]
        others = ["biases and norms"] * 2
        assert names == [*["backbone"] * 2, *others, "output (frozen)", "biases and norms"]

    def test_first_match_wins(self):
        v = tf.Variable(0.0, name="both")
        optimizer = SGD(
            1.0, groups=[Group("bo", learning_rate=2.0), Group("th", learning_rate=4.0)]
        )
        optimizer.apply_gradients([(tf.constant(1.0), v)])
        assert float(v) == -2.0

    def test_forms(self):
        a, b, c = (tf.Variable(0.0, name=name) for name in ("one", "two", "three"))
        group = Group([a, ["tw", lambda v: False]], learning_rate=2.0)
        optimizer = SGD(1.0, groups=[group])
        ones = [tf.constant(1.0)] * 3
        optimizer.apply_gradients(zip(ones, (a, b, c)))
        assert arrays([a, b, c]) == [-2, -2, -1]
        as_dict = SGD(1.0, groups=[{"select": "one", "learning_rate": 2.0}])
        as_dict.apply_gradients([(tf.constant(1.0), a)])
        assert float(a) == -4.0

    def test_layerwise_rates(self):
        model = model_of_layers()
        optimizer = SGD(1.0, groups=layerwise_learning_rates(model.layers, 0.5))
        model.build((None, 2))
        optimizer.build(model.trainable_variables)
        rates = [float(r) for r in optimizer._rates(model.trainable_variables)]
        assert rates == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]

    def test_a_group_of_nothing(self):
        variables = make_variables("tf")
        optimizer = AdamW(groups=[Group("bias"), Group("embedding", weight_decay=0.0)])
        with (
            unchanged(optimizer, variables),
            pytest.raises(ValueError, match="selects none") as error,
        ):
            optimizer.apply_gradients(zip(make_gradients(0), variables))
        assert "embedding" in str(error.value)
        assert "kernel" in str(error.value)


class TestErrors:
    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: Group(3), TypeError, "regular expressions, layers, variables or functions"),
            (lambda: Group("("), Exception, "unterminated"),
            (lambda: Group("a", learning_rate=-1.0), ValueError, "learning_rate"),
            (lambda: Group("a", learning_rate_factor="big"), ValueError, "learning_rate_factor"),
            (lambda: Group("a", frozen="yes"), ValueError, "frozen"),
            (lambda: SGD(groups=["a"]), TypeError, "list of `tf_optim_ext.Group`"),
            (lambda: SGD(groups=[Group("a", clipnorm=1.0)]), TypeError, "It takes|A group takes"),
            (lambda: SGD(groups=[Group("a", beta_1=0.5)]), TypeError, "A group takes"),
            (lambda: AdamW(groups=[Group("a", beta_1=2.0)]), ValueError, "beta_1"),
            (lambda: SGD(groups=[Group("a", momentum=0.5)]), ValueError, "for all variables"),
            (
                lambda: tf_optim_ext.Prodigy(groups=[Group("a", learning_rate=0.5)]),
                ValueError,
                "state that all variables share",
            ),
            (
                lambda: tf_optim_ext.Nadam(groups=[Group("a", beta_1=0.5)]),
                ValueError,
                "state that all variables share",
            ),
        ],
    )
    def test_at_once(self, make, error, message):
        with pytest.raises(error, match=message):
            make()

    def test_they_cannot_be_replaced(self):
        with pytest.raises(AttributeError):
            SGD().groups = []

    def test_describe_before_build(self):
        with pytest.raises(ValueError, match="build"):
            SGD(groups=[Group("a")]).describe()


class TestSaving:
    def optimizer(self, model):
        return AdamW(
            0.01,
            weight_decay=0.25,
            groups=[
                Group(model.layers[0], learning_rate=Piecewise([3], [0.5, 0.25])),
                Group("head/bias$", frozen=True),
                no_decay(),
                Group("head", learning_rate=0.1, beta_1=0.5, name="head"),
            ],
        )

    def test_config(self):
        model = model_of_layers()
        model.build((None, 2))
        optimizer = self.optimizer(model)
        for built in (False, True):
            if built:
                optimizer.build(model.trainable_variables)
            text = json.dumps(optimizer.get_config())
            clone = AdamW.from_config(json.loads(text))
            assert json.dumps(clone.get_config()) == text
            clone.build(model.trainable_variables)
            tables = []
            for each in (optimizer, clone) if built else ():
                each.describe(tables.append)
            if built:
                assert tables[: len(tables) // 2] == tables[len(tables) // 2 :]

    def test_without_groups_it_is_one_for_keras(self):
        assert "groups" not in SGD().get_config()

    @pytest.mark.parametrize("built", [False, True])
    def test_model_file(self, tmp_path, built):
        model = model_of_layers()
        if built:
            model.build((None, 2))
        model.compile(self.optimizer(model), "mse")
        fit(model, epochs=2)
        path = str(tmp_path / "model.keras")
        model.save(path)
        loaded = keras.models.load_model(path)
        assert [g.name for g in loaded.optimizer.groups] == [g.name for g in model.optimizer.groups]
        for each in (model, loaded):
            fit(each, epochs=2)
        assert_close(loaded.trainable_variables, model.trainable_variables)
        assert same(arrays(loaded.optimizer.variables), arrays(model.optimizer.variables))

    @pytest.mark.skipif(IS_KERAS_2, reason="of Keras 3")
    def test_weights_file(self, tmp_path):
        models = [model_of_layers() for _ in range(2)]
        for model in models:
            model.compile(self.optimizer(model), "mse")
            fit(model)
        models[0].save_weights(str(tmp_path / "w.weights.h5"))
        models[1].load_weights(str(tmp_path / "w.weights.h5"))
        for model in models:
            fit(model)
        assert_close(models[1].trainable_variables, models[0].trainable_variables)


class TestDescribe:
    def test_table(self):
        variables = make_variables("tf")
        optimizer = AdamW(0.5, weight_decay=0.25, groups=[Group("bias", beta_1=0.5, name="b")])
        optimizer.build(variables)
        lines = []
        optimizer.describe(lines.append)
        assert lines[0].split() == [
            "variable",
            "shape",
            "group",
            "learning_rate",
            "weight_decay",
            "beta_1",
        ]
        assert lines[2].split() == ["bias:0", "(4,)", "b", "0.5", "0.25", "0.5"]
        assert lines[3].split()[-4:] == ["-", "0.5", "0.25", "0.9"]
