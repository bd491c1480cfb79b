"""Arguments that TensorFlow Addons' optimizers have."""

import functools
import inspect
import json
import pathlib
import re
import threading

import numpy as np
import pytest
import references
import registry
import tensorflow as tf
from common import arrays, assert_close, make_gradients, make_variables, unchanged
from generation import keras, only_keras_3
from modes import MODES, dense, fit, wrapped
from references import addons

import tf_optim_ext

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "migration-from-tensorflow-addons.md"
# Constructor arguments of tensorflow_addons.optimizers 0.23.0, in their order, with their defaults.
_REQUIRED = inspect.Parameter.empty
_BETAS = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999}
_WARM_UP = {"sma_threshold": 5.0, "total_steps": 0, "warmup_proportion": 0.1, "min_lr": 0.0}
_PENALTIES = {"l1_regularization_strength": 0.0, "l2_regularization_strength": 0.0}
ARGUMENTS = {
    "AdaBelief": {
        **_BETAS,
        "epsilon": 1e-14,
        "weight_decay": 0.0,
        "amsgrad": False,
        "rectify": True,
        **_WARM_UP,
    },
    "COCOB": {"alpha": 100, "use_locking": False},
    "ConditionalGradient": {
        "learning_rate": _REQUIRED,
        "lambda_": 0.01,
        "epsilon": 1e-7,
        "ord": "fro",
    },
    "LAMB": {
        **_BETAS,
        "epsilon": 1e-6,
        "weight_decay": 0.0,
        "exclude_from_weight_decay": None,
        "exclude_from_layer_adaptation": None,
    },
    "LazyAdam": {**_BETAS, "epsilon": 1e-7, "amsgrad": False},
    "NovoGrad": {
        **_BETAS,
        "epsilon": 1e-7,
        "weight_decay": 0.0,
        "grad_averaging": False,
        "amsgrad": False,
    },
    "ProximalAdagrad": {
        "learning_rate": 0.001,
        "initial_accumulator_value": 0.1,
        **_PENALTIES,
    },
    "RectifiedAdam": {
        **_BETAS,
        "epsilon": 1e-7,
        "weight_decay": 0.0,
        "amsgrad": False,
        **_WARM_UP,
    },
    "SGDW": {
        "weight_decay": _REQUIRED,
        "learning_rate": 0.001,
        "momentum": 0.0,
        "nesterov": False,
    },
    "Yogi": {
        "learning_rate": 0.01,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-3,
        **_PENALTIES,
        "initial_accumulator_value": 1e-6,
        "activation": "sign",
    },
}
# Of which the migration page says that they are gone.
GONE = {"COCOB": {"use_locking"}}
# What all of them take after these; the first is not in the signatures of TensorFlow Addons.
COMMON = {
    "exclude_from_weight_decay": ["bias"],
    "name": "mine",
    "clipnorm": 0.5,
    "clipvalue": 0.5,
    "global_clipnorm": 0.5,
}

ADAMW = tf_optim_ext.extend_with_decoupled_weight_decay(tf_optim_ext.Adam)
RATE, DECAY = 0.05, 0.25


@keras.saving.register_keras_serializable("test_addons_arguments")
class AddonsAdamW(tf_optim_ext.DecoupledWeightDecayExtension, tf_optim_ext.Adam):
    """TensorFlow Addons' `AdamW`."""


@keras.saving.register_keras_serializable("test_addons_arguments")
class AddonsBase(tf_optim_ext.SGD):
    """A class of a user's own to extend, with the name of no other."""


_ADAM = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}
_MOMENTUM = {"momentum": 0.7, "nesterov": True}
SELECTIVE = {
    "SGDW": (tf_optim_ext.SGDW, {}, addons.sgdw),
    "SGDW-nesterov": (tf_optim_ext.SGDW, _MOMENTUM, addons.sgdw),
    "extended-SGD": (
        tf_optim_ext.extend_with_decoupled_weight_decay(tf_optim_ext.SGD),
        _MOMENTUM,
        addons.sgdw,
    ),
    "extended-Adam": (ADAMW, _ADAM, None),
}
by_selective = pytest.mark.parametrize("name", SELECTIVE)
by_extended = pytest.mark.parametrize(
    "base", [tf_optim_ext.Adam, AddonsBase, keras.optimizers.Adam]
)


def make(name, **arguments):
    cls, own, _ = SELECTIVE[name]
    return cls(DECAY, **{"learning_rate": RATE, **own, **arguments})


def expected(name, gradients, decayed):
    """The weights after steps, of which each decays the variables at some positions."""
    _, own, reference = SELECTIVE[name]
    results = []
    for i, start in enumerate(arrays(make_variables())):
        own_gradients = [g[i] for g in gradients]
        # Neither reads the weights: what decays is added to the path that starts at zero.
        zero = np.zeros_like(start, np.float64)
        rate = {"learning_rate": float(np.float32(RATE)), **own}
        if reference is None:
            steps = references.adam(zero, own_gradients, amsgrad=False, **rate)
        else:
            rate = {"momentum": 0.0, "nesterov": False, **rate}
            steps = reference(zero, own_gradients, weight_decay=0.0, **rate)
        w, before = start.astype(np.float64), zero
        for step, (after, _) in enumerate(steps):
            w = w - (DECAY * w if i in decayed[step] else 0.0) + (after - before)
            before = after
        results.append(w)
    return results


def _of_base(config, name):
    return {**config, "config": {**config["config"], "base_optimizer": name}}


def _pass(_):
    """A `tf.function` cannot return a Keras variable."""


class TestSelection:
    """`exclude_from_weight_decay` and `decay_var_list`."""

    @pytest.mark.parametrize(
        ("name", "mode"),
        [
            # Each call is traced, and compiled under XLA, anew.
            pytest.param(
                name,
                mode,
                marks=pytest.mark.long if mode.endswith("xla") and name != "SGDW-nesterov" else (),
            )
            for name in SELECTIVE
            for mode in MODES
        ],
    )
    def test_precedence(self, name, mode):
        """What a call selects is decayed, excluded or not; the next call selects anew."""
        optimizer = make(name, exclude_from_weight_decay=["bias"])
        variables = make_variables()
        gradients = [make_gradients(i) for i in range(4)]
        decayed = [(1,), (0, 2), (), (0, 1)]
        for own, selected in zip(gradients, decayed):
            # The second call has the exclusions alone.
            chosen = None if selected == (0, 2) else [variables[i] for i in selected]
            call = functools.partial(optimizer.apply_gradients, decay_var_list=chosen)
            step = wrapped(mode, lambda given, call=call: _pass(call(zip(given, variables))))
            step([tf.constant(g) for g in own])
        assert_close(variables, expected(name, gradients, decayed), rtol=1e-4)

    @by_selective
    def test_minimize(self, name):
        optimizer, variables = make(name, exclude_from_weight_decay="bias"), make_variables()
        gradients = [make_gradients(i) for i in range(3)]
        for own in gradients:

            def loss(own=own):
                return sum(tf.reduce_sum(tf.constant(g) * w) for g, w in zip(own, variables))

            optimizer.minimize(loss, variables, decay_var_list=(variables[1],))
        assert_close(variables, expected(name, gradients, [(1,)] * 3), rtol=1e-4)

    @by_selective
    def test_config(self, name):
        optimizer = make(name, exclude_from_weight_decay=["bi.s"], clipnorm=1e3)
        config = json.loads(json.dumps(optimizer.get_config()))
        clone = type(optimizer).from_config(config)
        assert clone.get_config() == config
        variables, gradients = make_variables(), [make_gradients(i) for i in range(2)]
        for own in gradients:
            clone.apply_gradients(zip(own, variables))
        assert_close(variables, expected(name, gradients, [(0, 2)] * 2), rtol=1e-4)

    @pytest.mark.parametrize("cls", [tf_optim_ext.SGDW, AddonsAdamW])
    def test_model_file(self, cls, tmp_path):
        model = dense()
        model.compile(cls(DECAY, learning_rate=RATE, exclude_from_weight_decay=["bias"]), "mse")
        fit(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert type(loaded.optimizer) is cls
        excluded = [not loaded.optimizer._decays(v) for v in loaded.trainable_variables]
        assert excluded == [False, True, False, True]
        for each in (model, loaded):
            fit(each)
        assert_close(loaded.trainable_variables, model.trainable_variables, rtol=0, atol=0)

    @pytest.mark.parametrize("how", ["get", "keras", "h5"])
    @by_extended
    @only_keras_3("warns of `.h5` files")
    def test_extended_ones_are_loaded(self, base, how, tmp_path):
        """Without being registered by whoever extends them."""
        cls = tf_optim_ext.extend_with_decoupled_weight_decay(base)
        optimizer = cls(DECAY, learning_rate=RATE, exclude_from_weight_decay=["bias"])
        if how == "get":
            config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
            found = tf.keras.optimizers.get(config)
        else:
            model = dense()
            model.compile(optimizer, keras.losses.MeanSquaredError())
            fit(model)
            model.save(tmp_path / f"model.{how}")
            found = keras.models.load_model(tmp_path / f"model.{how}").optimizer
        assert type(found) is cls
        assert found.get_config() == optimizer.get_config()

    def test_an_extended_one_of_an_unknown_class(self):
        class Unknown(tf_optim_ext.SGD):
            pass

        cls = tf_optim_ext.extend_with_decoupled_weight_decay(Unknown)
        optimizer = cls(DECAY, learning_rate=RATE)
        config = keras.optimizers.serialize(optimizer)
        for given in (config, {**config, "config": {}}, _of_base(config, "keras.optimizers.get")):
            with pytest.raises(ValueError, match=r"register_keras_serializable.*custom_objects="):
                keras.optimizers.deserialize(given)
        found = keras.optimizers.deserialize(config, custom_objects={"Unknown": Unknown})
        assert type(found) is cls
        mine = keras.saving.register_keras_serializable("test_addons_arguments", "Mine")(cls)
        found = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert type(found) is mine

    @by_selective
    def test_calls_of_several_threads(self, name):
        """Two calls that overlap, of which each selects another variable."""
        variables = [tf.Variable(1.0), tf.Variable(1.0)]
        both, waits = threading.Barrier(2, timeout=60), [False]

        def rate():
            if waits[0]:
                both.wait()
            return RATE

        optimizer = make(name, learning_rate=rate)
        optimizer.build(variables)
        waits[0] = True

        def step(variable):
            pairs = [(tf.constant(0.0), variable)]
            optimizer.apply_gradients(pairs, decay_var_list=[variable])

        threads = [threading.Thread(target=step, args=(v,)) for v in variables]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        waits[0] = False
        assert [float(v) for v in variables] == [1 - DECAY, 1 - DECAY]
        optimizer.apply_gradients([(tf.constant(0.0), v) for v in variables])
        assert [float(v) for v in variables] == [(1 - DECAY) ** 2] * 2

    @by_selective
    def test_a_call_that_fails_selects_nothing_for_the_next(self, name):
        optimizer, variables = make(name), make_variables()
        optimizer.build(variables)

        @tf.function
        def traced():
            pairs = zip(make_gradients(0), reversed(variables))  # shapes that do not fit
            optimizer.apply_gradients(pairs, decay_var_list=variables[:1])

        with unchanged(optimizer, variables), pytest.raises(ValueError, match="shape"):
            traced()
        gradients = make_gradients(0)
        optimizer.apply_gradients(zip(gradients, variables))
        assert_close(variables, expected(name, [gradients], [(0, 1, 2)]), rtol=1e-4)

    @by_selective
    def test_two_optimizers(self, name):
        """The argument is that of the optimizer that was called."""
        inner, variable = make(name), tf.Variable(1.0)
        outer = make(name, learning_rate=lambda: (step_inside(), RATE)[1])
        outer.build([tf.Variable(1.0)])
        weight = outer._optimized[0]

        def step_inside():
            inner.apply_gradients([(tf.constant(0.0), variable)])

        variable.assign(1.0)
        outer.apply_gradients([(tf.constant(0.0), weight)], decay_var_list=[])
        assert float(weight) == 1.0
        assert float(variable) < 1.0

    @pytest.mark.parametrize("wrong", [[5], ["kernel"], [None]])
    def test_no_variable(self, wrong):
        optimizer, variables = make("SGDW"), make_variables()
        optimizer.build(variables)
        pairs = list(zip(make_gradients(0), variables))
        with unchanged(optimizer, variables), pytest.raises(TypeError, match="Variable"):
            optimizer.apply_gradients(pairs, decay_var_list=wrong)


@pytest.mark.once
class TestConstructors:
    @pytest.mark.parametrize("name", ARGUMENTS)
    def test_names_order_and_defaults(self, name):
        wanted = {k: v for k, v in ARGUMENTS[name].items() if k not in GONE.get(name, ())}
        parameters = inspect.signature(getattr(tf_optim_ext, name)).parameters
        taken = {k: p.default for k, p in parameters.items() if k in wanted}
        assert list(taken) == list(wanted)
        assert list(parameters)[: len(wanted)] == list(wanted)
        text = PAGE.read_text(encoding="utf-8")
        row = re.search(rf"^\| `{name}` \|.*$", text, re.MULTILINE).group(0)
        for argument, default in wanted.items():
            # TensorFlow Addons' 0.0 says what Keras' None does.
            same = (taken[argument] or None) == (default or None)
            assert same or f"`{argument}`" in row, argument
        for argument in GONE.get(name, ()):
            assert f"`{argument}` is gone" in row

    @pytest.mark.parametrize("name", ARGUMENTS)
    def test_what_all_take(self, name):
        cls = getattr(tf_optim_ext, name)
        first = {"weight_decay": 0.1} if name == "SGDW" else {}
        for argument, value in COMMON.items():
            if argument == "exclude_from_weight_decay" and name not in ("SGDW", "LAMB"):
                continue
            optimizer = cls(**first, **{argument: value})
            if argument != "exclude_from_weight_decay":
                assert getattr(optimizer, argument) == value

    def test_old_name_of_lambs_weight_decay(self):
        optimizer = tf_optim_ext.LAMB(0.1, weight_decay_rate=0.3)
        assert optimizer.weight_decay == 0.3
        assert "weight_decay_rate" not in optimizer.get_config()
        with pytest.raises(ValueError, match="older name of `weight_decay`"):
            tf_optim_ext.LAMB(0.1, weight_decay=0.1, weight_decay_rate=0.3)
        with pytest.raises(ValueError, match="weight_decay"):
            tf_optim_ext.LAMB(0.1, weight_decay_rate=-0.3)


def test_every_selective_optimizer_of_the_registry_is_tested():
    selective = {
        entry.cls
        for entry in registry.ENTRIES
        if "exclude_from_weight_decay" in inspect.signature(entry.cls).parameters
    }
    assert selective == {tf_optim_ext.SGDW, tf_optim_ext.LAMB}
