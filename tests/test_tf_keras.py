"""`tf_optim_ext.tf_keras`: optimizers of Keras 2 in programs where `tf.keras` is Keras 3.

`TF_USE_LEGACY_KERAS=1 pytest` runs the other tests with Keras 2 as `tf.keras`.
"""

import copy
import itertools
import pickle
import subprocess
import sys

import conftest
import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    PACKAGE,
    arrays,
    assert_close,
    make_gradients,
    make_variables,
    route_of_dense,
    same,
    train,
)
from generation import IS_KERAS_2, keras

import tf_optim_ext

tf_keras = pytest.importorskip("tf_keras")
from tf_optim_ext import tf_keras as ours

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(8, 1)).astype(np.float32)


def over_keras_2(entry, **overrides):
    cls = getattr(ours, entry.cls.__name__)
    return cls(**{**entry.arguments, **entry.options, **overrides})


def trained(entry, **arguments):
    tf_keras.utils.set_random_seed(0)
    model = tf_keras.Sequential([tf_keras.layers.Dense(2), tf_keras.layers.Dense(1)])
    model.compile(over_keras_2(entry), "mse", **arguments)
    fit(model)
    return model


def fit(model):
    model.fit(X, Y, batch_size=4, verbose=0, shuffle=False)


@pytest.mark.once
class TestClasses:
    @pytest.mark.family
    def test_are_optimizers_of_keras_2_alone(self, entry):
        cls = getattr(ours, entry.cls.__name__)
        assert issubclass(cls, (entry.cls, tf_keras.optimizers.Optimizer))
        assert issubclass(cls, ours.Optimizer)
        assert cls.__name__ == entry.cls.__name__ and cls.__doc__ == entry.cls.__doc__
        assert cls is getattr(ours, entry.cls.__name__)
        assert tf_keras.saving.get_registered_name(cls) == f"tf_optim_ext>{cls.__name__}"
        if not IS_KERAS_2:
            assert not issubclass(cls, keras.optimizers.Optimizer)
            assert not issubclass(entry.cls, tf_keras.optimizers.Optimizer)

    def test_derive_from_each_other_as_the_others_do(self):
        assert issubclass(ours.AdamW, ours.Adam)
        assert not issubclass(ours.AdamW, ours.SGD)

    def test_what_is_no_optimizer_is_the_same(self):
        assert ours.Slot is tf_optim_ext.Slot
        assert set(dir(ours)) == set(tf_optim_ext.__all__)
        with pytest.raises(AttributeError, match="no_such_name"):
            ours.no_such_name  # noqa: B018

    def test_callback(self):
        assert issubclass(ours.AveragedWeights, tf_keras.callbacks.Callback)

    def test_of_users(self):
        class Heavy(ours.Optimizer):
            state = [tf_optim_ext.Slot("momentum")]

            def __init__(self, learning_rate=0.5, **kwargs):
                super().__init__(learning_rate, **kwargs)

            @staticmethod
            def rule(w, g, s, h):
                s.momentum = s.momentum + g
                return w - h.learning_rate * s.momentum

        assert isinstance(Heavy(), tf_keras.optimizers.Optimizer)
        variable = tf.Variable([1.0])
        optimizer = Heavy()
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant([1.0]), variable)])
        assert variable.numpy().tolist() == [1.0 - 0.5 - 1.0]

    @pytest.mark.skipif(not IS_KERAS_2, reason="Keras 3: they are others")
    def test_are_the_same_where_all_is_keras_2(self):
        assert ours.AdamW is tf_optim_ext.AdamW


class TestSteps:
    def test_have_the_same_bits(self, entry):
        optimizer, variables = over_keras_2(entry), make_variables("tf")
        other, expected = entry.make(), make_variables("tf")
        train(optimizer, variables)
        train(other, expected)
        assert same(arrays(variables), arrays(expected))
        assert optimizer.route == other.route
        for name in entry.slots:
            slots = (
                [o.get_slot(v, name) for v in vs]
                for o, vs in ((optimizer, variables), (other, expected))
            )
            assert same(*map(arrays, slots))

    def test_options(self, entry):
        options = {"use_ema": True, "gradient_accumulation_steps": 2, "global_clipnorm": 0.5}
        optimizer, variables = over_keras_2(entry, **options), make_variables("tf")
        other, expected = entry.make(**options), make_variables("tf")
        train(optimizer, variables, 4)
        train(other, expected, 4)
        optimizer.finalize_variable_values(variables)
        other.finalize_variable_values(expected)
        assert same(arrays(variables), arrays(expected))


@pytest.fixture(params=conftest.shortened(registry.BY_NAME, ("Prodigy",)))
def kind(request):
    return registry.BY_NAME[request.param]


class TestModels:
    def test_modes_agree(self, kind):
        results = [
            arrays(trained(kind, **mode).variables)
            for mode in ({}, {"run_eagerly": True}, {"jit_compile": True})
        ]
        for other in results[1:]:
            assert_close(other, results[0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", ["model.keras", "saved_model"])
    def test_saved_and_loaded(self, kind, name, tmp_path):
        model = trained(kind)
        model.save(tmp_path / name)
        loaded = tf_keras.models.load_model(tmp_path / name)
        assert type(loaded.optimizer) is type(model.optimizer)
        assert loaded.optimizer.get_config() == model.optimizer.get_config()
        assert same(arrays(loaded.variables), arrays(model.variables))
        if name == "model.keras":  # Keras 2 reads no optimizer's state from SavedModels
            for each in (model, loaded):
                fit(each)
            assert_close(loaded.variables, model.variables)

    def test_weights_in_the_format_of_tensorflow(self, kind, tmp_path):
        model, other = trained(kind), trained(kind)
        fit(model)
        model.save_weights(tmp_path / "weights")
        other.load_weights(tmp_path / "weights").assert_existing_objects_matched()
        assert same(*(o.optimizer.get_weights() for o in (other, model)))

    def test_mixed_precision(self, kind):
        tf_keras.mixed_precision.set_global_policy("mixed_float16")
        try:
            model = trained(kind)
        finally:
            tf_keras.mixed_precision.set_global_policy("float32")
        assert str(model.optimizer.inner_optimizer.route) == route_of_dense()
        assert all(np.all(np.isfinite(w)) for w in arrays(model.variables))

    def test_keras_own_gives_the_same(self):
        entry = registry.BY_NAME["AdamW"]
        tf_keras.utils.set_random_seed(0)
        theirs = tf_keras.Sequential([tf_keras.layers.Dense(2), tf_keras.layers.Dense(1)])
        theirs.compile(tf_keras.optimizers.AdamW(**entry.arguments), "mse")
        fit(theirs)
        assert_close(trained(entry).variables, theirs.variables)


class TestCopies:
    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"]
    )
    def test_go_on(self, entry, copied):
        optimizer, variables = over_keras_2(entry), make_variables("tf")
        train(optimizer, variables, 2)
        clone, others = copied(optimizer), [tf.Variable(v) for v in variables]
        assert type(clone) is type(optimizer)
        for each, mine in ((optimizer, variables), (clone, others)):
            each.apply_gradients(zip(map(tf.constant, make_gradients(2)), mine))
        assert same(arrays(others), arrays(variables))
        assert same(clone.get_weights(), optimizer.get_weights())


class TestKeras2Interface:
    def test_names_of_slots(self):
        for name, theirs in (
            ("Adam", {"m": "momentum", "v": "velocity", "vhat": "velocity_hat"}),
            ("RMSprop", {"rms": "velocity", "momentum": "momentum", "mg": "average_gradient"}),
            ("Adagrad", {"accumulator": "accumulator"}),
            ("Adadelta", {"accum_grad": "accumulated_grad", "accum_var": "accumulated_delta_var"}),
            ("Adamax", {"m": "momentum", "v": "norm"}),
        ):
            options = {"amsgrad": True} if name == "Adam" else {}
            options |= {"momentum": 0.5, "centered": True} if name == "RMSprop" else {}
            for module in (ours, tf_optim_ext):
                optimizer, variable = getattr(module, name)(0.1, **options), tf.Variable([1.0])
                optimizer.build([variable])
                for old, new in theirs.items():
                    assert optimizer.get_slot(variable, old) is optimizer.get_slot(variable, new)
                assert set(theirs) & set(optimizer.get_slot_names()) <= set(theirs.values())

    def test_a_slot_of_the_user_goes_before_an_old_name(self):
        optimizer, variable = ours.Adam(0.1), tf.Variable([1.0])
        optimizer.build([variable])
        own = optimizer.add_slot(variable, "m")
        assert optimizer.get_slot(variable, "m") is own

    def test_arguments(self):
        assert ours.Adam(0.1, jit_compile=False).get_config()["is_legacy_optimizer"] is False
        assert ours.Adam(0.1, epsilon=None).epsilon == tf_keras.backend.epsilon()
        with pytest.raises(ValueError, match="only one of"):
            ours.Adam(0.1, clipnorm=1.0, global_clipnorm=1.0)
        with pytest.raises(TypeError, match=r"Instead of `decay`.*InverseTimeDecay"):
            ours.Adam(0.1, decay=0.5)

    def test_backend_sets_the_learning_rate(self):
        optimizer = ours.SGD(0.5)
        tf_keras.backend.set_value(optimizer.lr, 0.25)
        assert float(tf_keras.backend.get_value(optimizer.learning_rate)) == 0.25
        variable = tf.Variable(1.0)
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert float(variable) == 0.75

    def test_schedules_of_both(self):
        of_both = (tf_keras.optimizers.schedules, keras.optimizers.schedules)
        for schedules, module in itertools.product(of_both, (ours, tf_optim_ext)):
            optimizer = module.SGD(schedules.PiecewiseConstantDecay([0], [1.0, 0.5]))
            variable = tf.Variable(2.0)
            for _ in range(2):
                optimizer.apply_gradients([(tf.constant(1.0), variable)])
            assert float(variable) == 0.5

    def test_callbacks(self):
        model = trained(registry.BY_NAME["AdamW"])
        schedule = tf_keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.125)
        plateau = tf_keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=9)
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[schedule, plateau])
        assert float(model.optimizer.learning_rate) == 0.0625

    def test_schedule_free_optimizers_average_by_themselves(self):
        entry = registry.BY_NAME["ScheduleFreeAdamW"]
        model = trained(entry)
        assert model.optimizer.holds_averaged_weights
        fit(model)
        model.evaluate(X, Y, verbose=0)
        assert model.optimizer.holds_averaged_weights

    def test_decoupled_weight_decay_of_keras_own(self):
        cls = tf_optim_ext.extend_with_decoupled_weight_decay(tf_keras.optimizers.SGD)
        variable = tf.Variable(1.0)
        optimizer = cls(weight_decay=0.5, learning_rate=0.1)
        optimizer.apply_gradients([(tf.constant(2.0), variable)])
        np.testing.assert_allclose(float(variable), 0.5 - 0.2, rtol=1e-6)


def output_of(code, **environment):
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "PYTHONPATH": str(PACKAGE), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or run.stderr.strip().splitlines()[-1]


@pytest.mark.once
class TestProcesses:
    """Of Keras 2; for those of Keras 3, see `test_fresh_process.py`."""

    def test_keras_2_as_tf_keras(self):
        code = (
            "import sys, tensorflow as tf, tf_optim_ext as t\n"
            "from tf_optim_ext import tf_keras\n"
            "optimizer = tf.keras.optimizers.get(t.AdamW(0.1))\n"
            "print(isinstance(optimizer, tf.keras.optimizers.Optimizer), 'keras' in sys.modules,"
            " tf_keras.AdamW is t.AdamW)"
        )
        assert output_of(code, TF_USE_LEGACY_KERAS="1") == "True False True"

    @pytest.mark.long
    def test_where_it_is_missing(self):
        code = "import sys; sys.modules['tf_keras'] = None; import tf_optim_ext"
        message = output_of(code, TF_USE_LEGACY_KERAS="1")
        assert "ImportError" in message and 'pip install "tf_keras==2.' in message
