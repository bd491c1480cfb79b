"""SAM, ASAM and GSAM with models: `fit`, other variables, saving, strategies."""

import copy
import itertools
import pickle

import h5py
import numpy as np
import pytest
import tensorflow as tf
from common import PACKAGE, arrays, outcomes_of, same
from conftest import shortened
from generation import (
    IS_KERAS_2,
    LossScaleOptimizer,
    dtype_policy,
    keras,
    only_keras_3,
    scale_of,
    set_dtype_policy,
)
from modes import wrapped
from sharpness_cases import (
    MODELS,
    WRAPPERS,
    Problem,
    X,
    Y,
    fitted,
    kinds_of_inner,
    looped,
    make,
    normalized,
    some_of,
    wrappers,
)

import tf_optim_ext
from tf_optim_ext import SAM


class TestFit:
    @some_of(
        ("wrapper", "kind"),
        itertools.product(WRAPPERS, MODELS),
        [("SAM", "late")],
    )
    def test_equals_a_loop(self, wrapper, kind):
        results = []
        for train in (fitted, looped):
            model = MODELS[kind]()
            optimizer = make(wrapper, tf_optim_ext.AdamW(0.01))
            losses = train(model, optimizer)
            losses = losses["loss"] if isinstance(losses, dict) else losses
            results.append((losses, arrays(model.variables)))
            assert int(optimizer.iterations) == 4
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
        for actual, expected in zip(results[0][1], results[1][1]):
            if actual.dtype.kind == "f":
                np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)

    @kinds_of_inner
    def test_without_a_radius_is_fit_without_sam(self, inner):
        """Metrics, weights of samples, moving statistics and random states: no step leaves a
        trace of its second computation."""
        results = []
        for is_sam in (True, False):
            module = tf_optim_ext if inner == "ours" else keras.optimizers
            optimizer = module.SGD(0.1, momentum=0.9)
            # The masks of Keras 2 are no variables.
            model = normalized(dropout=0.0 if IS_KERAS_2 else 0.5)
            history = fitted(model, SAM(optimizer, rho=0.0) if is_sam else optimizer)
            results.append((history, arrays(model.variables), arrays(optimizer.variables)))
        (history, weights, state), (other_history, other_weights, other_state) = results
        assert history.keys() == other_history.keys() >= {"loss", "mae"}
        for key, values in history.items():
            np.testing.assert_allclose(values, other_history[key], rtol=1e-5)
        for a, b in zip([*weights, *state], [*other_weights, *other_state]):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        "options",
        shortened([{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}], []),
    )
    def test_modes_are_equal(self, options):
        results = []
        for chosen in (options, {}):
            model = normalized()
            history = fitted(model, SAM(tf_optim_ext.AdamW(0.01)), **chosen)
            results.append((history["mae"], arrays(model.variables)))
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
        for a, b in zip(results[0][1], results[1][1]):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)

    @pytest.mark.long
    def test_class_weights(self):
        results = []
        for rho in (0.0, None):
            model = normalized()
            optimizer = tf_optim_ext.SGD(0.1)
            optimizer = optimizer if rho is None else SAM(optimizer, rho=rho)
            model.compile(optimizer, "sparse_categorical_crossentropy")
            labels = np.arange(8) % 2
            model.fit(X, labels, class_weight={0: 1.0, 1: 5.0}, verbose=0, shuffle=False)
            results.append(arrays(model.trainable_variables))
        for a, b in zip(*results):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    @pytest.mark.long
    def test_a_train_step_of_ones_own(self):
        class Model(keras.Model):
            def train_step(self, data):
                return self.optimizer.train_step(self, data)

        results = []
        for cls in (Model, keras.Model):
            keras.utils.set_random_seed(3)
            inputs = keras.Input((3,))
            model = cls(inputs, keras.layers.Dense(2)(inputs))
            fitted(model, SAM(tf_optim_ext.SGD(0.1)))
            results.append(arrays(model.variables))
        assert same(*results)

    def test_a_train_step_with_one_gradient_is_an_error(self):
        class Model(keras.Model):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(self(x) - y))
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
                return {}

        inputs = keras.Input((3,))
        model = Model(inputs, keras.layers.Dense(2)(inputs))
        model.compile(SAM(tf_optim_ext.SGD(0.1)), run_eagerly=True)
        before = arrays(model.variables)
        with pytest.raises(RuntimeError, match=r"optimizer\.train_step\(self, data\)"):
            model.fit(X, Y, verbose=0)
        assert same(arrays(model.variables), before)

    @pytest.mark.long
    def test_other_models_keep_their_training_step(self):
        SAM(tf_optim_ext.SGD(0.1))
        model = normalized()
        fitted(model, tf_optim_ext.SGD(0.1))
        assert int(model.optimizer.iterations) == 4

    @pytest.mark.long
    def test_the_learning_rate_of_callbacks(self):
        model = normalized()
        optimizer = SAM(tf_optim_ext.SGD(0.1))
        model.compile(optimizer, "mse")
        rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5**epoch)
        history = model.fit(X, Y, epochs=3, verbose=0, callbacks=[rates]).history
        assert float(optimizer.inner_optimizer.learning_rate) == 0.25
        np.testing.assert_allclose(history.get("learning_rate") or history["lr"], [1, 0.5, 0.25])

    @pytest.mark.long
    def test_schedule_free_optimizers_are_evaluated_at_their_averages(self):
        model = normalized()
        optimizer = SAM(tf_optim_ext.ScheduleFreeAdamW(0.1))
        fitted(model, optimizer, epochs=1)
        averages = arrays(model.trainable_variables)
        optimizer.inner_optimizer.use_training_weights()
        assert not same(averages, arrays(model.trainable_variables))


class TestOtherVariables:
    @pytest.mark.parametrize("in_function", [False, True])
    def test_moving_statistics_are_those_of_the_first_computation(self, in_function):
        model, expected = normalized(), normalized()
        expected(X, training=True)
        optimizer = SAM(tf_optim_ext.SGD(0.1), rho=3.0)

        def step():
            optimizer.minimize(lambda: tf.reduce_mean(tf.square(model(X, training=True))), model)

        (tf.function(step) if in_function else step)()
        statistics, others = (list(m.non_trainable_variables) for m in (model, expected))
        assert len(statistics) >= 2
        for a, b in zip(statistics, others):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        assert not np.allclose(statistics[0], 0)

    @only_keras_3("its masks are no variables")
    @pytest.mark.parametrize("in_function", [False, True])
    def test_both_computations_draw_the_same_masks(self, in_function):
        model, expected = normalized(dropout=0.5), normalized(dropout=0.5)
        optimizer = SAM(tf_optim_ext.SGD(0.0), rho=0.0)
        outputs = [tf.Variable(tf.zeros((8, 2))) for _ in range(2)]
        count = []

        def loss():
            output = model(X, training=True)
            outputs[len(count) % 2].assign(output)
            count.append(None)
            return tf.reduce_sum(output)

        step = wrapped(
            "function" if in_function else "eager", lambda: optimizer.minimize(loss, model)
        )
        drawn = []
        for _ in range(2):
            step()
            first, second = (o.numpy() for o in outputs)
            np.testing.assert_array_equal(first, second)
            drawn.append(first)
            np.testing.assert_allclose(first, expected(X, training=True), rtol=1e-5, atol=1e-6)
        assert not np.allclose(*drawn)  # other ones in the next step

    def test_are_left_alone_of_a_module(self):
        class Module(tf.Module):
            def __init__(self):
                self.weights = tf.Variable([1.0, 2.0])
                self.calls = tf.Variable(0, trainable=False)

            def __call__(self):
                self.calls.assign_add(1)
                return tf.reduce_sum(tf.square(self.weights))

        module = Module()
        SAM(tf_optim_ext.SGD(0.1)).minimize(module, module)
        assert int(module.calls) == 1

    def test_are_not_known_of_a_list(self):
        calls, weights = tf.Variable(0, trainable=False), tf.Variable([1.0, 2.0])
        SAM(tf_optim_ext.SGD(0.1)).minimize(
            lambda: tf.reduce_sum(weights) + 0.0 * tf.cast(calls.assign_add(1), "float32"),
            lambda: [weights],
        )
        assert int(calls) == 2

    @pytest.mark.long
    def test_frozen_layers_stay(self):
        model = normalized()
        model.layers[0].trainable = False
        before = arrays(model.layers[0].variables)
        fitted(model, SAM(tf_optim_ext.SGD(0.1)))
        assert same(arrays(model.layers[0].variables), before)


class TestMixedPrecision:
    @pytest.fixture
    def policy(self):
        before = dtype_policy()
        set_dtype_policy("mixed_float16")
        yield
        set_dtype_policy(before)

    @pytest.mark.long
    def test_fit_scales_the_loss(self, policy):
        results = []
        for is_sam in (True, False):
            model = normalized(penalty=False)
            optimizer = tf_optim_ext.SGD(0.1)
            fitted(model, SAM(optimizer, rho=0.0) if is_sam else optimizer)
            assert isinstance(model.optimizer, LossScaleOptimizer)
            scale, count = float(scale_of(model.optimizer)), int(optimizer.iterations)
            results.append(((scale, count), arrays(model.trainable_variables)))
        assert results[0][0] == results[1][0]
        assert results[0][0][1] > 0
        for a, b in zip(results[0][1], results[1][1]):
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)

    @pytest.mark.parametrize("outside", shortened([True, False], [True]))
    def test_a_step_that_overflows_is_skipped(self, policy, outside):
        model = normalized(penalty=False)
        scale = {"initial_scale": 2.0**40}
        inner = tf_optim_ext.AdamW(0.1)
        if outside:
            optimizer = LossScaleOptimizer(SAM(inner), **scale)
            scaled = optimizer
        else:
            scaled = LossScaleOptimizer(inner, **scale)
            optimizer = SAM(scaled)
        model.compile(optimizer, "mse", **({} if IS_KERAS_2 else {"auto_scale_loss": False}))
        before = arrays(model.trainable_variables)
        model.fit(X, Y, verbose=0)
        assert same(arrays(model.trainable_variables), before)
        assert float(scale_of(scaled)) == 2.0**39

    def test_steps_of_a_loop(self):
        weights = tf.Variable([3.0, 4.0])
        optimizer = SAM(LossScaleOptimizer(tf_optim_ext.SGD(0.1), initial_scale=8.0), rho=5.0)
        optimizer.minimize(lambda: tf.reduce_sum(weights**2) / 2, [weights])
        np.testing.assert_allclose(weights, [2.4, 3.2], rtol=1e-6)


class TestSaving:
    @some_of(
        ("inner", "name"),
        # Keras itself does not restore its own optimizers from the latter.
        [("ours", "model.keras"), ("Keras'", "model.keras"), ("ours", "model.h5")],
        [("ours", "model.keras")],
    )
    @pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
    def test_resumes_from_a_file(self, inner, name, tmp_path):
        module = tf_optim_ext if inner == "ours" else keras.optimizers
        model = normalized()
        model.compile(SAM(module.Adam(0.01), rho=0.25), keras.losses.MeanSquaredError())
        model.fit(X, Y, verbose=0, shuffle=False)
        path = str(tmp_path / name)
        model.save(path)
        loaded = keras.models.load_model(path)
        assert type(loaded.optimizer) is SAM
        assert loaded.optimizer.rho == 0.25
        assert type(loaded.optimizer.inner_optimizer) is module.Adam
        assert same(arrays(loaded.optimizer.variables), arrays(model.optimizer.variables))
        for each in (model, loaded):
            each.fit(X, Y, verbose=0, shuffle=False)
        for a, b in zip(arrays(model.variables), arrays(loaded.variables)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    @kinds_of_inner
    def test_files_of_weights_are_those_of_the_inner_optimizer(self, inner, tmp_path):
        module = tf_optim_ext if inner == "ours" else keras.optimizers
        makers = [lambda: SAM(module.Adam(0.01)), lambda: module.Adam(0.01)]
        for make_first, make_second in (makers, makers[::-1]):
            model = normalized()
            model.compile(make_first(), "mse")
            model.fit(X, Y, verbose=0)
            path = str(tmp_path / "model.weights.h5")
            model.save_weights(path)
            loaded = normalized()
            loaded.compile(make_second(), "mse")
            if inner != "ours" or isinstance(model.optimizer, SAM):
                loaded.optimizer.build(loaded.trainable_variables)
            loaded.load_weights(path)
            loaded.optimizer.build(loaded.trainable_variables)
            assert same(arrays(loaded.optimizer.variables), arrays(model.optimizer.variables))
            with h5py.File(path) as file:
                assert list(file["optimizer"]) == ["vars"]

    @wrappers
    def test_configurations_hold_every_argument(self, wrapper):
        arguments = {
            "SAM": {"rho": 0.2},
            "ASAM": {"rho": 0.2, "eta": 0.3, "non_adaptive": ["gamma"]},
            "GSAM": {
                "rho": 0.2,
                "alpha": 0.3,
                "rho_min": 0.1,
                "learning_rate_max": 2.0,
                "learning_rate_min": 0.5,
            },
        }[wrapper]
        optimizer = make(wrapper, tf_optim_ext.AdamW(0.5), name="mine", **arguments)
        config = keras.optimizers.serialize(optimizer)
        again = keras.optimizers.deserialize(config)
        for each in (again, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert type(each) is type(optimizer)
            assert each.get_config() == optimizer.get_config()
            assert each.name == "mine"
            assert all(each.get_config()[n] == value for n, value in arguments.items())
            assert each.inner_optimizer is not optimizer.inner_optimizer

    def test_schedules_survive(self):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.9)
        optimizer = SAM(tf_optim_ext.SGD(schedule), rho=schedule)
        again = SAM.from_config(optimizer.get_config())
        assert again.rho.get_config() == schedule.get_config()

    def test_checkpoints(self, tmp_path):
        problem = Problem()
        variables, optimizer = problem.variables(), SAM(tf_optim_ext.Adam(0.1))
        optimizer.minimize(lambda: problem.loss(0, variables), variables)
        saved = tf.train.Checkpoint(optimizer=optimizer, weights=variables)
        path = saved.save(str(tmp_path / "checkpoint"))
        others, restored = problem.variables(), SAM(tf_optim_ext.Adam(0.1), rho=0.7)
        tf.train.Checkpoint(optimizer=restored, weights=others).restore(path)
        restored.build(others)
        assert same(arrays(restored.variables), arrays(optimizer.variables))
        assert restored.rho == 0.7
        for o, v in ((optimizer, variables), (restored, others)):
            o.rho = 0.3
            o.minimize(lambda v=v: problem.loss(1, v), v)
        assert same(arrays(variables), arrays(others))

    def test_arrays_of_the_state(self):
        problem = Problem()
        variables, optimizer = problem.variables(), SAM(tf_optim_ext.Adam(0.1))
        optimizer.minimize(lambda: problem.loss(0, variables), variables)
        other = SAM(tf_optim_ext.Adam(0.1))
        other.build(variables)
        other.set_weights(optimizer.get_weights())
        assert same(other.get_weights(), optimizer.get_weights())

    def test_a_training_step_is_exported(self, tmp_path):
        class Trainer(tf.Module):
            def __init__(self):
                self.weights = tf.Variable([3.0, 4.0])
                self.optimizer = SAM(tf_optim_ext.SGD(0.1), rho=5.0)
                self.optimizer.build([self.weights])

            @tf.function(input_signature=[])
            def train(self):
                self.optimizer.minimize(lambda: tf.reduce_sum(self.weights**2) / 2, [self.weights])
                return tf.identity(self.weights)

        with tf_optim_ext.portable():
            tf.saved_model.save(Trainer(), str(tmp_path))
        loaded = tf.saved_model.load(str(tmp_path))
        np.testing.assert_allclose(loaded.train(), [2.4, 3.2], rtol=1e-6)


class TestKeras2BesideKeras3:
    @only_keras_3("both are the same there")
    def test_fits(self):
        tf_keras = pytest.importorskip("tf_keras")
        ours = tf_optim_ext.tf_keras
        assert issubclass(ours.GSAM, tf_keras.optimizers.Optimizer)
        assert not issubclass(ours.GSAM, keras.optimizers.Optimizer)
        assert issubclass(ours.GSAM, ours.SAM)
        model = tf_keras.Sequential(
            [tf_keras.layers.Dense(2), tf_keras.layers.BatchNormalization()]
        )
        model.compile(ours.SAM(ours.SGD(0.1)), "mse")
        model.fit(X, Y, verbose=0)
        assert int(model.optimizer.iterations) == 1
        with pytest.raises(TypeError, match="must be an optimizer of tf_keras"):
            ours.SAM(tf_optim_ext.SGD(0.1))


@pytest.mark.long
class TestTwoDevices:
    @pytest.fixture(scope="class")
    def outcomes(self):
        return outcomes_of("two_devices_sam.py", package=PACKAGE)

    @pytest.mark.parametrize(
        "check", ["every replica moves along its own gradient", "fit", "loss scale"]
    )
    def test_mirrored(self, outcomes, check):
        assert outcomes[check] == "equal", outcomes[check]
