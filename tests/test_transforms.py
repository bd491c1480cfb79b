"""What surrounds every rule: clipping, averages, accumulation, loss scale, decay, precision.

As in Keras where Keras is right; where it is not, the tests show both.
"""

import json
import re

import conftest
import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    CLIPPING,
    arrays,
    assert_close,
    both_kinds,
    has_twin,
    keras_twin,
    make_gradients,
    make_variables,
    same,
    train,
    unchanged,
)
from generation import KerasVariable, keras, only_keras_3

import tf_optim_ext

ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]
clippings = pytest.mark.parametrize("clipping", CLIPPING, ids=lambda c: next(iter(c)))
one_clipping = pytest.mark.parametrize(
    "clipping",
    conftest.shortened(CLIPPING, [{"global_clipnorm": 0.5}]),
    ids=lambda c: next(iter(c)),
)


def run(optimizer, steps=5, *, in_function=False, gradients=make_gradients, kind="keras"):
    """Trains new variables and returns them."""
    variables = make_variables(kind)

    def apply(*given):
        optimizer.apply_gradients(zip(given, variables))

    step = tf.function(apply) if in_function else apply
    for i in range(steps):
        step(*[tf.constant(g) for g in gradients(i)])
    return variables


def compare_with_keras(entry, options, steps=5, **kwargs):
    """Trains ours and Keras' optimizer, asserts that the weights are equal, returns both."""
    ours, theirs = entry.make(**options), keras_twin(entry, **options)
    assert_close(run(ours, steps, **kwargs), run(theirs, steps, **kwargs))
    return ours, theirs


class TestClipping:
    @has_twin
    @clippings
    @only_keras_3("has other averages, and no accumulation")
    def test_equals_keras(self, entry, clipping):
        # Some gradients are below the limit and some are above.
        def scaled(i):
            return [np.float32(10.0 ** (i - 3)) * g for g in make_gradients(i)]

        ours, theirs = compare_with_keras(entry, clipping, gradients=scaled)
        assert_close(ours.variables, theirs.variables)

    @one_clipping
    @only_keras_3("has other averages, and no accumulation")
    def test_equals_keras_in_a_function(self, clipping):
        ours, theirs = compare_with_keras(ADAM, clipping, in_function=True)
        assert_close(ours.variables, theirs.variables)

    @pytest.mark.parametrize("name", ["Adam", "SGD-momentum", "Lion"])
    @pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
    @clippings
    def test_of_what_is_not_finite_equals_keras(self, name, clipping, value):
        def bad(i):
            gradients = make_gradients(i)
            gradients[0][1, 1] = value
            return gradients

        entry = registry.BY_NAME[name]
        ours, _ = compare_with_keras(entry, clipping, gradients=bad, steps=1)
        if "global_clipnorm" in clipping:
            other = ours.get_slot(ours._optimized[1], entry.slots[0])
            assert np.all(np.isnan(np.asarray(other))), "the norm of all is not finite"

    def test_every_kind_has_an_effect(self, entry):
        if entry.cls is tf_optim_ext.SignSGD:
            pytest.skip("no factor of the gradient has an effect")
        results = []
        for clipping in ({}, *CLIPPING):
            optimizer = entry.make(**clipping)
            variables = run(
                optimizer, gradients=lambda i: [g * 10.0 ** (i - 1) for g in make_gradients(i)]
            )
            everything = arrays([*variables, *optimizer.variables[2:]])
            results.append(np.concatenate([a.ravel() for a in everything]))
        for i, a in enumerate(results):
            for b in results[:i]:
                assert not np.allclose(a, b, rtol=1e-4)

    @clippings
    def test_of_the_unscaled_gradient(self, clipping):
        expected = run(ADAM.make(**clipping))
        scaled = run(
            ADAM.make(loss_scale_factor=64.0, **clipping),
            gradients=lambda i: [g * 64 for g in make_gradients(i)],
        )
        assert_close(scaled, expected)

    def test_norms_of_16_bit_gradients_do_not_overflow(self):
        variable = tf.Variable(tf.zeros(4, tf.float16))
        gradient = tf.fill(4, tf.constant(400.0, tf.float16))  # its norm is 800, squared 640,000
        tf_optim_ext.SGD(1.0, clipnorm=2.0).apply_gradients([(gradient, variable)])
        assert variable.numpy().tolist() == [-1.0] * 4


class TestLossScale:
    def test_scale_loss(self, entry):
        assert float(entry.make(loss_scale_factor=8.0).scale_loss(tf.constant(3.0))) == 24.0
        assert float(entry.make().scale_loss(tf.constant(3.0))) == 3.0

    @has_twin
    @only_keras_3("has other averages, and no accumulation")
    def test_equals_keras(self, entry):
        compare_with_keras(entry, {"loss_scale_factor": 16.0})


class TestAverage:
    @has_twin
    @only_keras_3("has other averages, and no accumulation")
    def test_equals_keras(self, entry):
        self.check_average(entry, 2)

    @pytest.mark.parametrize("frequency", [None, 1, 3])
    @only_keras_3("starts averages at the initial weights")
    def test_frequencies(self, frequency):
        self.check_average(ADAM, frequency)

    def check_average(self, entry, frequency):
        options = {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": frequency}
        ours, theirs = compare_with_keras(entry, options)
        variables = ours._optimized
        averages = [ours.get_slot(v, "average") for v in variables]
        assert_close(averages, theirs._model_variables_moving_average)
        if frequency != 1:
            assert not np.allclose(averages[0], variables[0])
        ours.finalize_variable_values(variables)
        assert same(arrays(variables), arrays(averages))

    @pytest.mark.parametrize("frequency", [pytest.param(None, marks=pytest.mark.long), 2])
    @only_keras_3("has other averages, and no accumulation")
    def test_equals_keras_in_a_function(self, frequency):
        options = {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": frequency}
        ours, theirs = compare_with_keras(ADAM, options, in_function=True)
        assert_close(ours.variables, theirs.variables)

    def test_finalize_without_average_changes_nothing(self, entry):
        optimizer = entry.make()
        variables = run(optimizer)
        with unchanged(optimizer, variables):
            optimizer.finalize_variable_values(variables)

    def test_finalize_for_other_variables(self, entry):
        optimizer = entry.make(use_ema=True)
        variables = run(optimizer)
        with unchanged(optimizer, variables), pytest.raises(ValueError, match=r"2 .*3"):
            optimizer.finalize_variable_values(variables[:2])

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
    @only_keras_3("starts averages at the initial weights")
    def test_of_other_dtypes(self, dtype):
        options = {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2}
        optimizer, variables = ADAM.make(**options), make_variables(dtype=dtype)
        train(optimizer, variables, 4)
        average = optimizer.get_slot(variables[0], "average")
        assert average.dtype == ("float64" if dtype == "float64" else "float32")
        assert same(arrays(variables[:1]), arrays([tf.cast(average.value, dtype)]))

    def test_overwritten_weights_and_averages_do_not_share_memory(self):
        options = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2}
        optimizer = tf_optim_ext.SGD(1.0, **options)
        variable = tf.Variable([0.0])
        average = []
        for _ in range(3):
            optimizer.apply_gradients([(tf.ones(1), variable)])
            average.append(float(np.asarray(optimizer.get_slot(variable, "average"))[0]))
        # Weights -1, -2 replaced by their average, and one less.
        assert average == [-1.0, -1.5, (-1.5 + -2.5) / 2]
        assert float(variable[0]) == -2.5


class TestAccumulation:
    @has_twin
    @only_keras_3("has other averages, and no accumulation")
    def test_equals_keras(self, entry):
        options = {"gradient_accumulation_steps": 3, "clipnorm": 0.3}
        ours, theirs = compare_with_keras(entry, options, steps=8)
        assert int(ours.iterations) == int(theirs.iterations) == 2
        assert int(ours._iterations) == 8
        # The two calls since the latest update.
        expected = [a + b for a, b in zip(make_gradients(6), make_gradients(7))]
        sums = [ours.get_slot(v, "gradient_accumulator") for v in ours._optimized]
        assert_close(sums, expected)

    @one_clipping
    @only_keras_3("has other averages, and no accumulation")
    def test_equals_keras_in_a_function(self, clipping):
        options = {"gradient_accumulation_steps": 3, **clipping}
        compare_with_keras(ADAM, options, steps=8, in_function=True)

    def test_equals_one_step_on_the_mean(self, entry):
        optimizer, variables = entry.make(gradient_accumulation_steps=2), make_variables()
        other, expected = entry.make(), make_variables()
        for i in range(3):
            first, second = make_gradients(2 * i), make_gradients(2 * i + 1)
            before = arrays(variables)
            optimizer.apply_gradients(zip(first, variables))
            assert same(arrays(variables), before), "nothing moves between updates"
            optimizer.apply_gradients(zip(second, variables))
            other.apply_gradients(zip([(a + b) / 2 for a, b in zip(first, second)], expected))
        assert_close(variables, expected)
        sums = [optimizer.get_slot(v, "gradient_accumulator") for v in optimizer._optimized]
        assert not any(np.any(a) for a in arrays(sums))

    @has_twin
    @only_keras_3("has no accumulation")
    def test_averages_advance_with_updates_only(self, entry):
        options = {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.5}
        ours, theirs = compare_with_keras(entry, options, steps=6)
        other, expected = entry.make(use_ema=True, ema_momentum=0.5), make_variables()
        for i in range(3):
            pairs = zip(make_gradients(2 * i), make_gradients(2 * i + 1))
            other.apply_gradients(zip([(a + b) / 2 for a, b in pairs], expected))
        right = [other.get_slot(v, "average") for v in expected]
        assert_close([ours.get_slot(v, "average") for v in ours._optimized], right)
        # Keras moves the average at every call.
        wrong = theirs._model_variables_moving_average
        assert np.max(np.abs(np.asarray(wrong[0]) - np.asarray(right[0]))) > 1e-3

    def test_infinite_sums_are_reset(self):
        optimizer, variable = tf_optim_ext.SGD(1.0, gradient_accumulation_steps=2), tf.Variable(0.0)
        for gradient in (np.inf, 1.0):
            optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
        assert float(variable) == -np.inf
        variable.assign(0.0)
        for gradient in (1.0, 3.0):
            optimizer.apply_gradients([(tf.constant(gradient), variable)])
        assert float(variable) == -2.0

    @pytest.mark.few
    def test_everything_at_once(self, entry):
        # The same numbers in a function as eagerly.
        options = {
            "gradient_accumulation_steps": 2,
            "use_ema": True,
            "ema_momentum": 0.5,
            "ema_overwrite_frequency": 2,
            "clipnorm": 0.5,
            "loss_scale_factor": 4.0,
            "weight_decay": 0.1,
        }
        results = []
        for in_function in (False, True):
            optimizer = entry.make(**options)
            variables = run(optimizer, 8, in_function=in_function, kind="tf")
            results.append(arrays([*variables, *optimizer.variables]))
        assert_close(*results)


def decayed(optimizer, variables):
    """Which variables a step without gradient moves."""
    before = arrays(variables)
    zeros = [np.zeros(v.shape, np.float32) for v in variables]
    optimizer.apply_gradients(zip(zeros, variables))
    return [not np.array_equal(a, b) for a, b in zip(before, arrays(variables))]


class TestDecayExclusions:
    @both_kinds
    @pytest.mark.parametrize(
        ("select", "expected"),
        [
            (lambda v: {}, [True, True, True]),
            (lambda v: {"var_list": [v[0], v[2]]}, [False, True, False]),
            (lambda v: {"var_names": ["bias"]}, [True, False, True]),
            (lambda v: {"var_names": "bias"}, [True, False, True]),
            (lambda v: {"var_names": ["^ker", "sc.le"]}, [False, True, False]),
            (lambda v: {"var_list": [v[2]], "var_names": ["bias"]}, [True, False, False]),
            (lambda v: {"var_list": [], "var_names": []}, [True, True, True]),
            (lambda v: {"var_list": v}, [False, False, False]),
        ],
        ids=["none", "list", "name", "text", "regex", "both", "empty", "all"],
    )
    def test_selection(self, kind, select, expected):
        optimizer, variables = tf_optim_ext.AdamW(weight_decay=0.5), make_variables(kind)
        optimizer.exclude_from_weight_decay(**select(variables))
        assert decayed(optimizer, variables) == expected
        assert decayed(optimizer, variables) == expected

    def test_every_optimizer(self, entry):
        if any(node.op == "global_sum" for node in entry.make()._program().nodes):
            pytest.skip("the decay of one variable has an effect on the others")
        results = []
        for weight_decay in (0.5, 0.0):
            optimizer, variables = entry.make(weight_decay=weight_decay), make_variables()
            optimizer.exclude_from_weight_decay(var_list=variables[2:], var_names=["bias"])
            train(optimizer, variables)
            results.append(arrays(variables))
        differ = [not np.array_equal(a, b) for a, b in zip(*results, strict=True)]
        assert differ == [True, False, False]

    @has_twin
    @only_keras_3("has other averages, and no accumulation")
    def test_equals_keras(self, entry):
        if entry.keras == "Lamb":
            pytest.skip("Keras' Lamb decays outside of the trust ratio")
        results = []
        for optimizer in (entry.make(weight_decay=0.2), keras_twin(entry, weight_decay=0.2)):
            variables = make_variables()
            optimizer.exclude_from_weight_decay(var_list=variables[:1], var_names=["bias"])
            train(optimizer, variables)
            results.append(arrays(variables))
        assert_close(*results)

    @only_keras_3("has no paths")
    def test_anchors_apply_to_the_name_and_to_the_path(self):
        with keras.name_scope("dense"):
            variable = KerasVariable(np.ones(2, "float32"), name="bias")
        for pattern, excluded in (
            ("^bias$", True),
            ("^dense/bias$", True),
            ("^dense$", False),
            ("bias bias", False),
        ):
            optimizer = tf_optim_ext.SGD(0.1, weight_decay=0.5)
            optimizer.exclude_from_weight_decay(var_names=[pattern])
            assert decayed(optimizer, [variable]) == [not excluded], pattern

    def test_a_later_call_replaces_an_earlier_one(self):
        optimizer, variables = tf_optim_ext.SGD(0.1, weight_decay=0.5), make_variables()
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        optimizer.exclude_from_weight_decay(var_list=variables[2:])
        assert decayed(optimizer, variables) == [True, True, False]

    @only_keras_3("has another message")
    def test_late_call(self, entry):
        optimizer, variables = entry.make(weight_decay=0.5), make_variables()
        train(optimizer, variables)
        with unchanged(optimizer, variables), pytest.raises(ValueError, match="before"):
            optimizer.exclude_from_weight_decay(var_list=variables)
        assert all(optimizer._decays(v) for v in variables)
        # Keras' guard checks an attribute that nobody sets.
        late = keras.optimizers.SGD(0.1, weight_decay=0.5)
        late.build(make_variables())
        late.exclude_from_weight_decay(var_names=["bias"])

    @pytest.mark.parametrize(
        "method", ["exclude_from_weight_decay", "exclude_from_layer_adaptation"]
    )
    def test_the_same_call_again(self, method):
        """As when it is in a function that each replica runs."""
        optimizer, variables = tf_optim_ext.Lamb(0.1), make_variables()
        exclude = getattr(optimizer, method)
        exclude(variables[:1], ["bias"])
        train(optimizer, variables)
        with unchanged(optimizer, variables):
            exclude(variables[:1], ["bias"])
            for other in [(), (variables[:1],), (variables[1:2], ["bias"]), (None, ["bias"])]:
                with pytest.raises(ValueError, match=f"`{method}` must be called before"):
                    exclude(*other)

    def test_bad_pattern(self):
        optimizer = SGD.make()
        with pytest.raises(re.error):
            optimizer.exclude_from_weight_decay(var_names=["("])
        assert "weight_decay_exclusions" not in optimizer.get_config()

    @pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
    @both_kinds
    def test_survive_from_config(self, kind, built):
        optimizer, variables = tf_optim_ext.AdamW(weight_decay=0.5), make_variables(kind)
        optimizer.exclude_from_weight_decay(var_list=variables[:1], var_names=["bias"])
        if built:
            train(optimizer, variables)
        config = json.loads(json.dumps(optimizer.get_config()))
        assert config == optimizer.get_config()
        for _ in range(2):
            clone = tf_optim_ext.AdamW.from_config(config)
            assert decayed(clone, make_variables(kind)) == [False, False, True]
            config = tf_optim_ext.AdamW.from_config(config).get_config()

    def test_survive_under_other_paths_once_built(self):
        optimizer, variables = tf_optim_ext.SGD(0.1, weight_decay=0.5), make_variables("tf")
        optimizer.exclude_from_weight_decay(var_list=variables[1:2])
        train(optimizer, variables)
        others = [tf.Variable(v, name=f"other_{i}") for i, v in enumerate(variables)]
        clone = tf_optim_ext.SGD.from_config(optimizer.get_config())
        assert decayed(clone, others) == [True, False, True]

    def test_keras_forgets_them(self):
        optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        clone = keras.optimizers.SGD.from_config(optimizer.get_config())
        assert decayed(clone, make_variables()) == [True, True, True]

    @pytest.mark.parametrize("subclassed", [False, True], ids=["functional", "subclassed"])
    def test_survive_load_model(self, tmp_path, subclassed):
        x = np.ones((4, 3), np.float32)
        model = TwoLayers() if subclassed else two_layers()
        model(x)
        optimizer = tf_optim_ext.SGD(0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_list=[model.layers[-1].kernel], var_names=["bias"])
        model.compile(optimizer, "mse")
        model.fit(x, x[:, :1], verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        for each in (model, loaded):
            for variable in each.trainable_variables:
                variable.assign(np.ones(variable.shape))
            changed = decayed(each.optimizer, each.trainable_variables)
            assert changed == [True, False, False, False]


def two_layers():
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1, name="head")]
    )


@keras.saving.register_keras_serializable("test_transforms")
class TwoLayers(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = keras.layers.Dense(2)
        self.head = keras.layers.Dense(1)

    def call(self, x):
        return self.head(self.body(x))


class TestPrecision:
    def test_slots_of_16_bit_weights_are_those_of_float32(self, entry):
        optimizer, variables = entry.make(), make_variables(dtype="bfloat16")
        by_their_rule = (tf_optim_ext.NovoGrad, tf_optim_ext.LARS, tf_optim_ext.Ftrl)
        starts_as_weights = bool({"z", "initial_weights"} & set(entry.slots))
        if starts_as_weights or entry.is_joint or entry.cls in by_their_rule:
            pytest.skip("some slot depends on the weights, which are rounded here")
        other, twins = entry.make(), make_variables()
        for i in range(3):
            gradients = [tf.cast(g, "bfloat16") for g in make_gradients(i)]
            optimizer.apply_gradients(zip(gradients, variables))
            other.apply_gradients(zip(gradients, twins))
        for name in entry.slots:
            slots = [optimizer.get_slot(v, name) for v in variables]
            single = name in entry.cls.declaration().variable_scalars
            assert all(s.dtype == ("float64" if single else "float32") for s in slots)
            assert_close(slots, [other.get_slot(v, name) for v in twins])

    def test_beta_of_0999_is_not_1_in_bfloat16(self):
        def zeros():
            return tf.Variable(tf.zeros(2, tf.bfloat16))

        gradient = tf.ones(2, tf.bfloat16)
        ours, variable = tf_optim_ext.Adam(0.01, beta_2=0.999), zeros()
        for _ in range(4):
            ours.apply_gradients([(gradient, variable)])
        velocity = np.asarray(ours.get_slot(variable, "velocity"))
        np.testing.assert_allclose(velocity, 1 - 0.999**4, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(variable, np.float32), -0.04, rtol=0.02)
        # Keras casts 0.999 to 1, which makes the bias correction zero.
        theirs, variable = keras.optimizers.Adam(0.01, beta_2=0.999), zeros()
        theirs.apply_gradients([(gradient, variable)])
        assert theirs.variables[2].dtype == "bfloat16"
        assert not np.any(np.isclose(np.asarray(variable, np.float32), -0.01, rtol=0.1))
