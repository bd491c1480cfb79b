"""Optimizers around others in compiled models, files and checkpoints."""

import functools

import conftest
import numpy as np
import pytest
import tensorflow as tf
import two_devices_wrappers
from common import arrays, assert_close, make_variables, outcomes_of, same, train
from generation import IS_KERAS_2, LossScaleOptimizer, keras, set_dtype_policy
from modes import wrapped
from test_late_models import check as check_late
from test_late_models import sequential as late_sequential
from wrapped import SLOTS, WRAPPERS, some_wrappers

import tf_optim_ext

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(16, 1)).astype(np.float32)
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}
each_module = pytest.mark.parametrize(
    "module",
    [tf_optim_ext, pytest.param(keras.optimizers, marks=pytest.mark.long)],
    ids=["ours", "keras"],
)
# As an object: Keras 3 cannot read the names of losses in `.h5` files.
LOSS = keras.losses.MeanSquaredError


def make_multi(module, model):
    return tf_optim_ext.MultiOptimizer(
        [(module.Adam(0.1), model.layers[0]), (module.SGD(0.1, momentum=0.9), model.layers[1:])]
    )


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])


def fitted(name, module=tf_optim_ext, epochs=2, scaled=False, **arguments):
    model = make_model()
    if name == "MultiOptimizer":
        optimizer = make_multi(module, model)
    else:
        optimizer = WRAPPERS[name](module.Adam(0.1))
    model.compile(LossScaleOptimizer(optimizer) if scaled else optimizer, LOSS(), **arguments)
    fit(model, epochs)
    return model


def fit(model, epochs=1, **arguments):
    return model.fit(
        X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **arguments
    ).history


ALL = (*WRAPPERS, "MultiOptimizer")


def each_or(*names):
    """All of them, of which only some are not for the long tests."""
    return pytest.mark.parametrize("name", conftest.shortened(ALL, names))


class TestFit:
    @each_or("Lookahead")
    @each_module
    def test_modes_agree(self, name, module):
        expected = fitted(name, module, run_eagerly=True)
        for mode in ({}, {"jit_compile": True}, {"steps_per_execution": 3}):
            model = fitted(name, module, **mode)
            assert_close(model.variables, arrays(expected.variables), **TOLERANCE)
            assert_close(
                model.optimizer.variables, arrays(expected.optimizer.variables), **TOLERANCE
            )
            assert int(model.optimizer.iterations) == 8

    @some_wrappers
    @each_module
    def test_models_that_are_built_late(self, name, module):
        if IS_KERAS_2 and module is keras.optimizers:
            pytest.skip("Keras 2's own optimizers cannot")
        check_late(late_sequential, lambda: WRAPPERS[name](module.Adam(0.1)), epochs=3)

    def test_multi_optimizer_of_a_model_that_is_built_late(self):
        results = []
        for built in (False, True):
            model = late_sequential()
            if built:
                model(np.zeros((1, 3), np.float32))
            model.compile(make_multi(tf_optim_ext, model), "mse")
            fit(model)
            results.append(arrays(model.variables))
        assert same(*results)

    @each_or("MovingAverage")
    def test_mixed_float16(self, name):
        set_dtype_policy("mixed_float16")
        try:
            model, expected = fitted(name), fitted(name, keras.optimizers)
        finally:
            set_dtype_policy("float32")
        assert isinstance(model.optimizer, LossScaleOptimizer)
        assert not np.allclose(arrays(model.variables)[0], arrays(make_model().variables)[0])
        assert_close(model.variables, arrays(expected.variables), rtol=1e-2, atol=1e-3)

    @each_or("MultiOptimizer")
    def test_callbacks_of_the_learning_rate(self, name):
        model = fitted(name)
        schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate)
        plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=99)
        fit(model, epochs=2, callbacks=[schedule, plateau])
        optimizers = (
            model.optimizer.optimizers
            if name == "MultiOptimizer"
            else [model.optimizer.inner_optimizer]
        )
        rates = [float(each.learning_rate) for each in optimizers]
        # Keras 2's callbacks assign to the variable of the first one.
        rates = rates[:1] if IS_KERAS_2 else rates
        np.testing.assert_allclose(rates, 0.1 * 0.5**3, rtol=1e-6)

    def test_average_of_the_optimizer_inside(self):
        """`fit` ends with the averages of `use_ema`."""
        model = make_model()
        inner = tf_optim_ext.SGD(0.1, use_ema=True, ema_momentum=0.5)
        model.compile(tf_optim_ext.Lookahead(inner, 2), "mse")
        fit(model)
        averages = [inner.get_slot(v, "average") for v in model.trainable_variables]
        assert same(arrays(model.trainable_variables), arrays(averages))


class TestFiles:
    def check_goes_on(self, loaded, model):
        assert type(loaded.optimizer) is type(model.optimizer)
        assert_close(loaded.optimizer.variables, arrays(model.optimizer.variables), rtol=0, atol=0)
        for each_model in (loaded, model):
            fit(each_model)
        assert_close(loaded.variables, arrays(model.variables), **TOLERANCE)
        assert_close(loaded.optimizer.variables, arrays(model.optimizer.variables), **TOLERANCE)

    @each_or("MultiOptimizer")
    @each_module
    def test_keras_files(self, name, module, tmp_path):
        model = fitted(name, module, run_eagerly=True)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.get_config() == model.optimizer.get_config()
        self.check_goes_on(loaded, model)

    @each_or("SWA")
    def test_inside_a_loss_scale_optimizer(self, name, tmp_path):
        model = fitted(name, scaled=True, run_eagerly=True)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        inner, other = (m.optimizer.inner_optimizer for m in (model, loaded))
        assert same(other.get_weights(), inner.get_weights())

    @pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
    @each_or("Lookahead")
    @each_module
    def test_h5_files(self, name, module, tmp_path):
        if IS_KERAS_2 and name == "MultiOptimizer":
            pytest.skip("Keras 2 cannot save variables of the same name, such as the counters")
        model = fitted(name, module, run_eagerly=True)
        model.save(tmp_path / "model.h5")
        loaded = keras.models.load_model(tmp_path / "model.h5")
        loaded.run_eagerly = True
        self.check_goes_on(loaded, model)

    @some_wrappers
    @pytest.mark.parametrize("when", ["before build", "after build", "without the model"])
    def test_checkpoints(self, name, when, tmp_path):
        optimizer, variables = WRAPPERS[name](tf_optim_ext.Adam(0.1)), make_variables("tf")
        train(optimizer, variables, 4)
        alone = when == "without the model"
        path = tf.train.Checkpoint(
            optimizer=optimizer, **({} if alone else {"variables": variables})
        ).save(tmp_path / "ckpt")
        other = WRAPPERS[name](tf_optim_ext.Adam(0.1))
        others = [tf.Variable(v if alone else tf.zeros_like(v)) for v in variables]
        if when == "after build":
            other.build(others)
        status = tf.train.Checkpoint(
            optimizer=other, **({} if alone else {"variables": others})
        ).restore(path)
        if when == "before build":
            slots = [other.get_slot(v, SLOTS[name]) for v in others]
            assert same(
                arrays(slots), arrays([optimizer.get_slot(v, SLOTS[name]) for v in variables])
            )
        other.build(others)
        status.assert_consumed()
        assert same(other.get_weights(), optimizer.get_weights())
        for each_optimizer, some in ((optimizer, variables), (other, others)):
            train(each_optimizer, some, 5, 4)
        assert same(arrays(others), arrays(variables))
        assert same(other.get_weights(), optimizer.get_weights())

    @each_or("MultiOptimizer")
    def test_checkpoints_of_models(self, name, tmp_path):
        model, other = (fitted(name, keras.optimizers, run_eagerly=True) for _ in range(2))
        fit(model)
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "ckpt")
        tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
        assert same(arrays(other.variables), arrays(model.variables))
        assert same(arrays(other.optimizer.variables), arrays(model.optimizer.variables))

    @some_wrappers
    def test_a_training_step_in_a_saved_model(self, name, tmp_path):
        class Trainer(tf.Module):
            def __init__(self):
                self.weights = tf.Variable([1.0, 2.0])
                self.optimizer = WRAPPERS[name](tf_optim_ext.SGD(0.1, momentum=0.9))
                self.optimizer.build([self.weights])

            @tf.function(input_signature=[tf.TensorSpec([2])])
            def train(self, gradient):
                self.optimizer.apply_gradients([(gradient, self.weights)])
                return tf.identity(self.weights)

        trainer = Trainer()
        with tf_optim_ext.portable():
            tf.saved_model.save(trainer, tmp_path / "trainer")
        loaded = tf.saved_model.load(tmp_path / "trainer")
        gradient = tf.constant([0.5, -0.5])
        for _ in range(7):
            assert_close([loaded.train(gradient)], [trainer.train(gradient)])

    def test_state_of_another_wrapper(self, tmp_path):
        model = fitted("SWA", run_eagerly=True)
        model.save_weights(tmp_path / "x.weights.h5")
        optimizer = tf_optim_ext.Lookahead(tf_optim_ext.Adam(0.1))
        optimizer.build(model.trainable_variables)
        store = {}
        model.optimizer.save_own_variables(store)
        with pytest.warns(UserWarning, match="It is the state of 'SWA'"):
            optimizer.load_own_variables(store)


class TestCallbacks:
    @pytest.mark.parametrize("name", conftest.shortened(("MovingAverage", "SWA"), ("SWA",)))
    @pytest.mark.parametrize("scaled", [False, pytest.param(True, marks=pytest.mark.long)])
    def test_evaluates_with_averages(self, name, scaled):
        model = make_model()
        optimizer = WRAPPERS[name](tf_optim_ext.SGD(0.1))
        model.compile(LossScaleOptimizer(optimizer) if scaled else optimizer, LOSS())
        plain = make_model()
        plain.compile(WRAPPERS[name](tf_optim_ext.SGD(0.1)), LOSS())
        seen = {}

        class Record(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen[epoch] = arrays(self.model.trainable_variables)

        callbacks = [tf_optim_ext.AveragedWeights(), Record()]
        history = fit(model, 2, validation_data=(X, Y), callbacks=callbacks)
        for epoch in range(2):
            fit(plain)
            with plain.optimizer.averaged_weights():
                assert_close(seen[epoch], arrays(plain.trainable_variables), **TOLERANCE)
                loss = plain.evaluate(X, Y, batch_size=4, verbose=0)
            np.testing.assert_allclose(history["val_loss"][epoch], loss, rtol=1e-4)
        # The training went on from the other weights, and ends with the averages.
        assert_close(seen[1], arrays(model.trainable_variables), rtol=0, atol=0)

    def test_is_not_added_unasked(self):
        tf_optim_ext.ScheduleFreeSGD(0.1)  # prepares Keras' models for the likes of it
        model = fitted("MovingAverage", run_eagerly=True)
        before = arrays(model.variables)
        model.evaluate(X, Y, verbose=0)
        model.predict(X, verbose=0)
        assert same(arrays(model.variables), before)
        averages = [model.optimizer.get_slot(v, "average") for v in model.trainable_variables]
        assert not np.allclose(before[0], averages[0].numpy())

    @pytest.mark.parametrize("update", [False, True])
    @pytest.mark.parametrize("scaled", [False, True])
    def test_checkpoint(self, update, scaled, tmp_path):
        model = make_model()
        optimizer = WRAPPERS["MovingAverage"](tf_optim_ext.SGD(0.1))
        compiled = LossScaleOptimizer(optimizer) if scaled else optimizer
        model.compile(compiled, LOSS(), run_eagerly=True)
        path = str(tmp_path / "{epoch}.weights.h5")
        fit(
            model,
            callbacks=[tf_optim_ext.AverageModelCheckpoint(update, path, save_weights_only=True)],
        )
        averages = arrays([optimizer.get_slot(v, "average") for v in model.trainable_variables])
        now, saved = arrays(model.trainable_variables), make_model()
        saved.load_weights(tmp_path / "1.weights.h5")
        assert same(arrays(saved.trainable_variables), averages)
        assert same(now, averages) == update

    def test_checkpoint_of_the_best_model(self, tmp_path):
        model = make_model()
        model.compile(WRAPPERS["SWA"](tf_optim_ext.SGD(0.1)), LOSS(), run_eagerly=True)
        path = str(tmp_path / "best.keras")
        callback = tf_optim_ext.AverageModelCheckpoint(
            False, path, "loss", save_best_only=True, mode="min"
        )
        callbacks = [tf_optim_ext.AveragedWeights(), callback]
        fit(model, 2, callbacks=callbacks)
        loaded = keras.models.load_model(path)
        averages = [loaded.optimizer.get_slot(v, "average") for v in loaded.trainable_variables]
        assert same(arrays(loaded.trainable_variables), arrays(averages))

    def test_checkpoint_needs_averages(self, tmp_path):
        model = make_model()
        model.compile(tf_optim_ext.SGD(0.1), LOSS())
        callback = tf_optim_ext.AverageModelCheckpoint(False, str(tmp_path / "x.weights.h5"))
        with pytest.raises(TypeError, match="needs an optimizer that keeps averages"):
            fit(model, callbacks=[callback])

    def test_over_keras_2(self):
        tf_keras = pytest.importorskip("tf_keras")
        from tf_optim_ext import tf_keras as ours

        assert issubclass(ours.AverageModelCheckpoint, tf_keras.callbacks.ModelCheckpoint)


@functools.cache
def on_two_devices(some):
    """What the script found, by the name of the check; it runs in a process of its own."""
    checks, short = two_devices_wrappers.CHECKS, two_devices_wrappers.SOME
    return outcomes_of("two_devices_wrappers.py", *(short if some else checks.keys() - short))


@pytest.mark.parametrize(
    "check", conftest.shortened(two_devices_wrappers.CHECKS, two_devices_wrappers.SOME)
)
def test_mirrored_strategy(check):
    assert on_two_devices(check in two_devices_wrappers.SOME)[check] == "equal"


def test_a_step_in_xla_over_a_table():
    """Sparse gradients in XLA, of which the pass of all rows takes none."""
    table = tf.Variable(tf.ones([5, 2]))
    optimizer = WRAPPERS["Lookahead"](tf_optim_ext.SGD(0.1))

    def step():
        slices = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]), tf.constant([5, 2]))
        optimizer.apply_gradients([(slices, table)])

    run = wrapped("xla", step)
    for _ in range(3):
        run()
    np.testing.assert_allclose(table.numpy()[:, 0], [1, 1 - 0.3 * 0.6, 1, 1, 1], rtol=1e-6)
