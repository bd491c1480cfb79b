"""Constructors, configuration, copies, learning rates, and optimizers that users write."""

import copy
import inspect
import json
import pickle
import re

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    CLIPPING,
    arguments,
    arrays,
    assert_close,
    has_twin,
    keras_twin,
    make_gradients,
    make_variables,
    same,
    train,
    unchanged,
)
from generation import FIRST_SLOT, IS_KERAS_2, KerasVariable, keras
from hypothesis import given, settings
from hypothesis import strategies as st
from legacy import legacy

import tf_optim_ext
from tf_optim_ext import Boolean, Hyperparameter, Slot
from tf_optim_ext.base import arguments as arguments_of_all
from tf_optim_ext.checks import Range
from tf_optim_ext.rule import lerp, sign

ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]


def make_schedule():
    return keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=2, decay_rate=0.5)


@keras.saving.register_keras_serializable("test_configuration")
def constant_rate():
    return 0.25


# Which a flag excludes, or whose other values have entries of their own.
COUNTED_FROM_0 = ("momentum", "total_steps", "alpha_warmup_steps", "beta_3_warmup_steps")
COUNTED_FROM_0 += ("min_lr", "warmup_proportion", "learning_rate_power")


def intervals_of(cls):
    return {**cls.declaration().intervals, "learning_rate": "[0, inf)"}


@pytest.mark.once
class TestHyperparameters:
    @pytest.mark.family
    def test_out_of_range(self, entry):
        for name, value in entry.bad.items():
            with pytest.raises(ValueError, match=f"^{entry.cls.__name__}: `{name}`") as error:
                entry.make(**{name: value})
            assert repr(value) in str(error.value)
            interval = intervals_of(entry.cls).get(name, "")
            assert interval.replace("boolean", "True or False") in str(error.value)

    def test_bounds(self, entry):
        # The bounds themselves, and the numbers next to them.
        for name, interval in intervals_of(entry.cls).items():
            if interval == "boolean":
                continue
            low, high = (float(x) for x in interval[1:-1].split(","))
            for value in (low, high, np.nextafter(low, -np.inf), np.nextafter(high, np.inf)):
                if value in Range(interval):
                    assert float(getattr(entry.make(**{name: value}), name)) == value
                else:
                    with pytest.raises(ValueError, match=name):
                        entry.make(**{name: value})
            for value in (np.nan, np.inf, -np.inf, "0.5", None, True, 1j, [0.5, 0.6]):
                # An upper bound may be infinite, and None the name of a default.
                default = inspect.signature(entry.cls).parameters[name].default
                if (value == np.inf and interval.endswith("inf]")) or (
                    value is None and (default is None or name == "epsilon")
                ):
                    continue
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
    def test_base_arguments(self, name, value):
        with pytest.raises(ValueError, match=f"`{name}`.*{re.escape(repr(value))}"):
            ADAM.make(**{name: value})

    def test_one_kind_of_clipping(self):
        with pytest.raises(ValueError, match="clip"):
            ADAM.make(clipnorm=1.0, clipvalue=1.0)

    @pytest.mark.parametrize("convert", [np.float32, np.float64, tf.constant, np.array])
    def test_numbers_of_any_kind(self, entry, convert):
        value = convert(0.5)
        optimizer = entry.make(learning_rate=value, weight_decay=value, clipnorm=value)
        config = optimizer.get_config()
        assert json.loads(json.dumps(config)) == config
        assert config["learning_rate"] == config["weight_decay"] == config["clipnorm"] == 0.5

    def test_whole_numbers_of_any_kind(self):
        config = ADAM.make(
            use_ema=np.bool_(True),
            ema_overwrite_frequency=np.int64(3),
            gradient_accumulation_steps=np.int32(2),
        ).get_config()
        assert json.loads(json.dumps(config)) == config

    def test_unknown_argument(self, entry):
        with pytest.raises(TypeError, match=r"'momentun'.*'learning_rate'.*'clipnorm'"):
            entry.make(momentun=0.9)

    def test_changed_after_construction(self):
        results = []
        for optimizer in (tf_optim_ext.Adam(0.1), keras.optimizers.Adam(0.1)):
            variables = make_variables()
            train(optimizer, variables, 1)
            optimizer.beta_1, optimizer.weight_decay = 0.5, 0.1
            train(optimizer, variables, 2, first=1)
            results.append(arrays(variables))
        assert_close(*results)

    def test_legacy_accepted_what_is_out_of_range(self):
        assert legacy.Adam(beta_1=1.5).get_config()["beta_1"] == 1.5


class TestLearningRate:
    @pytest.mark.parametrize("in_function", [False, True], ids=["eager", "function"])
    def test_schedule(self, entry, in_function):
        optimizer, variables = entry.make(learning_rate=make_schedule()), make_variables()
        other, expected = entry.make(), make_variables()

        def apply(*gradients):
            optimizer.apply_gradients(zip(gradients, variables))

        step = tf.function(apply) if in_function else apply
        for i in range(3):
            rate = 0.1 * 0.5 ** (i / 2)
            np.testing.assert_allclose(np.asarray(optimizer.learning_rate), rate, rtol=1e-6)
            other.learning_rate = rate
            gradients = [tf.constant(g) for g in make_gradients(i)]
            step(*gradients)
            other.apply_gradients(zip(gradients, expected))
        assert_close(variables, expected)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: 0.05,
            lambda: np.float32(0.05),
            lambda: tf.constant(0.05),
            lambda: tf.constant(0.05, tf.float64),
            lambda: tf.Variable(0.05),
            lambda: KerasVariable(0.05),
        ],
        ids=["float", "numpy", "float32", "float64", "tf variable", "keras variable"],
    )
    def test_callable(self, make):
        value = make()
        optimizer, variables = ADAM.make(learning_rate=lambda: value), make_variables()
        other, expected = ADAM.make(learning_rate=0.05), make_variables()
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

        options = {"use_ema": True, "weight_decay": 0.1, "clipnorm": 1.0}
        train(entry.make(learning_rate=rate, **options), make_variables(), 4)
        assert len(calls) == 4

    def test_callable_reads_a_variable_in_a_function(self):
        rate, variable = tf.Variable(1.0), tf.Variable([10.0])
        optimizer = tf_optim_ext.SGD(lambda: rate)
        step = tf.function(lambda: optimizer.apply_gradients([(tf.ones(1), variable)]) + 0)
        step()
        rate.assign(2.0)
        step()
        assert float(variable[0]) == 7.0

    def test_integer(self, entry):
        if not IS_KERAS_2:
            with pytest.raises(ValueError, match="float"):
                keras.optimizers.SGD(1)
        optimizer = entry.make(learning_rate=1)
        assert float(optimizer.learning_rate) == 1.0
        optimizer.learning_rate = 2
        assert float(optimizer.lr) == 2.0

    def test_set_and_get_by_both_names(self, entry):
        optimizer, variables = entry.make(), make_variables()
        other, expected = entry.make(learning_rate=0.125), make_variables()
        optimizer.lr = 0.5
        assert float(optimizer.learning_rate) == 0.5
        optimizer.learning_rate = tf.constant(0.25)
        assert float(optimizer.lr) == 0.25
        optimizer.lr.assign(0.125)
        train(optimizer, variables)
        train(other, expected)
        assert same(arrays(variables), arrays(expected))

    def test_change_reaches_a_traced_function(self):
        optimizer, variable = tf_optim_ext.SGD(1.0), tf.Variable([10.0])
        step = tf.function(lambda: optimizer.apply_gradients([(tf.ones(1), variable)]) + 0)
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
        optimizer = entry.make(learning_rate=make_schedule())
        with pytest.raises(TypeError, match="LearningRateSchedule"):
            setattr(optimizer, name, 0.25)
        np.testing.assert_allclose(np.asarray(optimizer.learning_rate), 0.1)
        setattr(optimizer, name, make_schedule())

    def test_number_replaced_by_a_schedule(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        count = len(optimizer.variables)
        optimizer.learning_rate = make_schedule()
        assert len(optimizer.variables) == len(optimizer.get_weights()) == count - (FIRST_SLOT - 1)
        np.testing.assert_allclose(np.asarray(optimizer.learning_rate), 0.1 * 0.5**1.5, rtol=1e-6)
        train(optimizer, variables, first=3)


@pytest.mark.once
class TestSignature:
    @has_twin
    def test_is_that_of_keras(self, entry):
        ours = inspect.signature(entry.cls).parameters
        theirs = inspect.signature(getattr(keras.optimizers, entry.keras)).parameters
        theirs = {n: p for n, p in theirs.items() if p.kind != p.VAR_KEYWORD}
        own = {*arguments_of_all.OWN, "groups", *entry.cls._unknown_arguments}
        assert set(ours) - own == set(theirs) - set(entry.cls._ignored_arguments)
        ours = {name: parameter for name, parameter in ours.items() if name in theirs}
        positional = [n for n, p in ours.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
        assert positional == list(theirs)[: len(positional)]
        for name, parameter in ours.items():
            # Before 3.15, Keras' default was the name of the class.
            assert parameter.default == (None if name == "name" else theirs[name].default), name

    def test_hyperparameters_are_positional_in_the_order_of_keras(self):
        ours = tf_optim_ext.AdamW(0.1, 0.02, 0.8, 0.9, 1e-3, True, name="a").get_config()
        theirs = keras.optimizers.AdamW(0.1, 0.02, 0.8, 0.9, 1e-3, True, name="a").get_config()
        assert ours == theirs

    def test_of_subclasses(self):
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


@pytest.mark.once
class TestConfig:
    @pytest.mark.parametrize("clipping", CLIPPING, ids=lambda c: next(iter(c)))
    @pytest.mark.parametrize(
        "make_rate",
        [lambda: 0.75, make_schedule, lambda: constant_rate],
        ids=["number", "schedule", "callable"],
    )
    def test_round_trip_of_every_argument(self, make_rate, clipping):
        self.check_round_trip(ADAM, make_rate(), clipping)

    @pytest.mark.family
    def test_round_trip_with_nothing_at_its_default(self, entry):
        self.check_round_trip(entry, make_schedule(), {"clipnorm": 0.5})

    def check_round_trip(self, entry, rate, clipping):
        arguments = {
            **entry.arguments,
            **entry.options,
            "learning_rate": rate,
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
        # Flags, and what a flag excludes, have entries of their own.
        at_default = {n for n in arguments if arguments[n] == defaults[n]}
        declaration = entry.cls.declaration()
        assert at_default <= {*declaration.flags, *declaration.choices, *COUNTED_FROM_0}
        optimizer = entry.cls(**arguments)
        config = optimizer.get_config()
        # What only this package knows is left out if it is not used.
        selections = {n for n in defaults if n.startswith("exclude_from_")}  # saved otherwise
        needed = set(defaults) - set(arguments_of_all.OWN) - selections - {"groups"}
        of_generation = {"is_legacy_optimizer", "jit_compile"} if IS_KERAS_2 else set()
        assert needed <= set(config) - of_generation <= set(defaults)
        assert of_generation <= set(config)
        assert entry.options.items() <= config.items()
        text = json.dumps(config)
        clone = entry.cls.from_config(json.loads(text))
        assert json.dumps(clone.get_config()) == text
        for name in set(arguments) - {"learning_rate"}:
            assert config[name] == getattr(clone, name) == arguments[name]
        assert float(clone.learning_rate) == float(optimizer.learning_rate)
        results = []
        for each in (optimizer, clone):
            variables = make_variables()
            train(each, variables, 10)
            results.append(arrays(variables))
        assert same(*results)
        assert not same(results[0], arrays(make_variables()))

    def test_from_config_leaves_the_config_alone(self, entry):
        config = entry.make(learning_rate=make_schedule(), weight_decay=0.1).get_config()
        before = json.dumps(config)
        entry.cls.from_config(config)
        assert json.dumps(config) == before

    def test_old_key_of_the_learning_rate(self, entry):
        config = entry.make().get_config()
        config["lr"] = config.pop("learning_rate") * 2
        clone = entry.cls.from_config(config)
        np.testing.assert_allclose(float(clone.lr), 2 * entry.arguments["learning_rate"], rtol=1e-6)
        assert "lr" in config

    def test_unknown_key(self, entry):
        config = {**entry.make().get_config(), "momentun": 1.0}
        with pytest.raises((TypeError, ValueError), match="momentun") as error:
            entry.cls.from_config(config)
        for word in ("learning_rate", "clipnorm", *entry.cls.declaration().intervals):
            assert word in str(error.value)

    @has_twin
    def test_reads_what_keras_writes(self, entry):
        config = keras_twin(entry, clipnorm=0.5, name="theirs").get_config()
        assert entry.cls.from_config(config).get_config() == config

    @pytest.mark.family
    def test_serialize_and_deserialize(self, entry):
        optimizer = entry.make(weight_decay=0.1)
        data = json.dumps(keras.optimizers.serialize(optimizer))
        for clone in (
            keras.optimizers.deserialize(json.loads(data)),
            keras.optimizers.get(json.loads(data)),
            tf.keras.optimizers.deserialize(json.loads(data)),
        ):
            assert type(clone) is entry.cls
            assert clone.get_config() == optimizer.get_config()
        assert keras.optimizers.get(optimizer) is optimizer
        assert isinstance(optimizer, keras.optimizers.Optimizer)

    @pytest.mark.family
    def test_registered_under_the_name_of_the_package(self, entry):
        name = keras.saving.get_registered_name(entry.cls)
        assert name == f"tf_optim_ext>{entry.cls.__name__}"


def by_pickle(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


class TestCopies:
    @pytest.mark.parametrize(
        "make_copy",
        [copy.deepcopy, lambda o: by_pickle(by_pickle(o))],
        ids=["deepcopy", "copy of a copy"],
    )
    def test_every_kind_of_copy(self, make_copy):
        self.check_copy(ADAM, make_copy)

    def test_continue(self, entry):
        self.check_copy(entry, by_pickle)

    def test_continue_in_a_function(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        clone, others = copy.deepcopy(optimizer), make_variables()
        for other, variable in zip(others, variables):
            other.assign(variable)

        @tf.function
        def step(*gradients):
            clone.apply_gradients(zip(gradients, others))

        for i in range(3, 6):
            step(*[tf.constant(g) for g in make_gradients(i)])
        train(optimizer, variables, first=3)
        assert_close(others, variables)
        assert_close(clone.variables, optimizer.variables)

    def check_copy(self, entry, make_copy):
        options = {"weight_decay": 0.3, "use_ema": True, "gradient_accumulation_steps": 2}
        optimizer, variables = entry.make(**options), make_variables()
        optimizer.exclude_from_weight_decay(var_list=variables[1:2])
        train(optimizer, variables)
        clone, others = make_copy(optimizer), make_variables()
        assert int(clone._iterations) == 3
        for other, variable in zip(others, variables):
            other.assign(variable)
        state = optimizer.get_weights()
        train(clone, others, first=3)
        assert same(optimizer.get_weights(), state), "the original was touched"
        train(optimizer, variables, first=3)
        assert same(arrays(others), arrays(variables))
        assert same(clone.get_weights(), optimizer.get_weights())

    def test_what_is_assigned_before_the_first_step_stays(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        clone = copy.deepcopy(optimizer)
        clone.learning_rate = 0.5
        clone.iterations.assign(7)
        train(clone, variables, 1)
        assert float(clone.learning_rate) == 0.5
        assert int(clone.iterations) == 8
        expected = 0.8 * optimizer.get_weights()[FIRST_SLOT] + 0.2 * make_gradients(0)[0]
        np.testing.assert_allclose(clone.get_weights()[FIRST_SLOT], expected, rtol=1e-5)

    def test_before_the_first_step(self, entry):
        clone = copy.deepcopy(entry.make())
        variables, expected = make_variables(), make_variables()
        train(clone, variables)
        train(entry.make(), expected)
        assert same(arrays(variables), arrays(expected))


@keras.saving.register_keras_serializable("test_configuration")
class Signed(tf_optim_ext.Optimizer):
    """Descends along the sign of a mean of gradients; if `biased`, of the mean less a constant."""

    state = [Slot("mean", "ones"), Slot("unused")]
    hyperparameters = [Hyperparameter("rho", "(0, 1)"), Boolean("biased")]

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
        assert optimizer.route.kind == "none"
        optimizer.apply_gradients([(tf.constant([-1.0, -9.0]), variable)])
        # The means are 0.75 - 0.25 and 0.75 - 2.25.
        assert np.asarray(optimizer.get_slot(variable, "mean")).tolist() == [0.5, -1.5]
        assert variable.numpy().tolist() == [0.5, 1.5]
        assert optimizer.get_slot_names() == ["mean"], "only slots that the rule touches"

    def test_route_says_why(self, native_only):
        optimizer = Signed()
        train(optimizer, make_variables())
        assert str(optimizer.route) == "tensorflow: the rule is not in the native library"

    def test_options_come_with_it(self):
        options = {
            "weight_decay": 0.5,
            "use_ema": True,
            "clipvalue": 1.0,
            "gradient_accumulation_steps": 2,
        }
        variable = tf.Variable([8.0])
        optimizer = Signed(0.5, rho=0.25, biased=True, **options)
        for gradient in (40.0, 20.0):
            optimizer.apply_gradients([(tf.constant([gradient]), variable)])
        # 8 - 0.5 * 0.5 * 8 - 0.5; the mean is 0.25 * 1 + 0.75 * clip(30).
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
        for each in (model, loaded):
            each.fit(x, x[:, :1], verbose=0, shuffle=False)
        assert same(loaded.get_weights(), model.get_weights())

    def test_without_rule(self):
        class Ruleless(tf_optim_ext.Optimizer):
            pass

        for cls in (Ruleless, tf_optim_ext.Optimizer):
            with pytest.raises(TypeError, match=rf"{cls.__name__}.*rule\(w, g, s, h\)"):
                cls(0.1)

    def test_arguments_must_be_declared_and_given(self):
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
            (lambda w, g, s, h: w - h.beta * g, AttributeError, r"beta.*rho"),
            (lambda w, g, s, h: w if g > 0 else g, TypeError, "where"),
            (lambda w, g, s, h: None, TypeError, "must return the new weight"),
        ],
        ids=["slot", "hyperparameter", "branch", "return"],
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

    def test_of_an_optimizer_keeps_its_kernel(self, native_only):
        class Renamed(tf_optim_ext.Adam):
            pass

        optimizer = Renamed(0.1)
        train(optimizer, make_variables())
        assert optimizer.route.is_native

    @pytest.mark.parametrize("declared", [{"rho": "(0, 1)"}, ["rho"], [Slot("rho")], "rho"])
    def test_what_is_no_declaration_is_refused(self, declared):
        with pytest.raises(TypeError, match="`hyperparameters` of Wrong must be a list of Hyper"):
            type("Wrong", (Signed,), {"hyperparameters": declared})

    def test_declarations_are_inherited_and_may_be_declared_anew(self):
        class Heir(Signed):
            state = [Slot("mean", 2.0), Slot("more")]

        declaration = Heir.declaration()
        assert declaration.initial == {"mean": 2.0, "unused": 0.0, "more": 0.0}
        assert declaration.arguments == ["rho", "biased"]

    def test_separate_slots_come_last(self):
        class Separate(Signed):
            state = [Slot("first", separate=True), Slot("last")]

            @staticmethod
            def rule(w, g, s, h):
                s.first, s.last = s.last + g, s.first
                return w

        optimizer = Separate(name="o")
        optimizer.build(make_variables())
        names = [v.name.partition(":")[0] for v in optimizer.variables[FIRST_SLOT:]]
        if IS_KERAS_2:
            names = ["_".join(reversed(name.split("/"))) for name in names]
        assert names == [
            "kernel_last",
            "bias_last",
            "scale_last",
            "kernel_first",
            "bias_first",
            "scale_first",
        ]


@pytest.mark.once
@pytest.mark.parametrize("entry_name", registry.BY_NAME)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_valid_configuration_survives(entry_name, data):
    entry = registry.BY_NAME[entry_name]
    config = entry.cls(**data.draw(arguments(entry))).get_config()
    assert entry.cls.from_config(json.loads(json.dumps(config))).get_config() == config
