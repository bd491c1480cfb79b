"""Schedule-free optimizers: which weights the model's variables hold, y or the average x.

Their rules are tested with those of the other optimizers.
"""

import copy
import functools
import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
import two_devices_schedule_free
from common import (
    arrays,
    assert_close,
    make_gradients,
    make_variables,
    outcomes_of,
    same,
    train,
    unchanged,
)

import tf_optim_ext

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(16, 1)).astype(np.float32)
BATCHES = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, len(X), 4)]

# Different modes fuse and order operations differently, and a switch to x and back rounds.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}

ARGUMENTS = {
    "ScheduleFreeSGD": {"learning_rate": 0.2, "momentum": 0.8, "weight_decay": 0.01},
    "ScheduleFreeAdamW": {"learning_rate": 0.1, "beta_1": 0.7, "warmup_steps": 3, "r": 0.5},
    "ScheduleFreeRAdam": {"learning_rate": 0.1, "beta_2": 0.9, "silent_sgd_phase": False},
}


def maker(name):
    def make(**overrides):
        return getattr(tf_optim_ext, name)(**{**ARGUMENTS[name], **overrides})

    return make


MAKERS = {name: maker(name) for name in ARGUMENTS}
sgd, adamw = MAKERS["ScheduleFreeSGD"], MAKERS["ScheduleFreeAdamW"]
every_class = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.fixture(params=["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def make(request):
    return MAKERS[request.param]


def make_model(optimizer=None, seed=0, run_eagerly=True, **compile_arguments):
    # Eagerly unless a test is about functions: tracing would take most of the time.
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    if optimizer is not None:
        model.compile(optimizer, "mse", run_eagerly=run_eagerly, **compile_arguments)
    return model


def fit(model, epochs=2, **arguments):
    return model.fit(
        X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **arguments
    ).history


def fitted(optimizer, epochs=2, run_eagerly=True, **arguments):
    model = make_model(optimizer, run_eagerly=run_eagerly)
    fit(model, epochs, **arguments)
    return model


def state(model):
    return arrays([*model.variables, *model.optimizer.variables])


@functools.cache
def uninterrupted(make, epochs):
    """The state after a training without anything else."""
    return state(fitted(make(), epochs))


def output(weights):
    kernel, bias, last_kernel, last_bias = weights
    return (X @ kernel + bias) @ last_kernel + last_bias


def loss(weights):
    return np.mean(np.square(output(weights) - Y))


@functools.cache
def averages(make, epochs=2):
    """Trains in a loop of its own. Returns x by its definition, at the end of every epoch, and y.

    The weight of a step is what the sum of all weights grew by.
    """
    model, optimizer = make_model(), make()
    variables = model.trainable_variables
    average, total, ends = arrays(variables), 0.0, []
    for _ in range(epochs):
        for x, y in BATCHES:
            with tf.GradientTape() as tape:
                mse = tf.reduce_mean(tf.square(model(x) - y))
            optimizer.apply_gradients(zip(tape.gradient(mse, variables), variables))
            before, total = total, float(optimizer.scalars["weight_sum"])
            part = (total - before) / total
            z = arrays(optimizer.get_slot(v, "z") for v in variables)
            average = [(1 - part) * a + part * b for a, b in zip(average, z)]
        ends.append(average)
    assert not optimizer.holds_averaged_weights
    return ends, arrays(variables)


def average_of(model):
    """x of a model that holds y, from y and z."""
    optimizer = model.optimizer
    assert not optimizer.holds_averaged_weights
    beta = getattr(optimizer, "momentum", None) or optimizer.beta_1
    z = arrays(optimizer.get_slot(v, "z") for v in model.trainable_variables)
    y = arrays(model.trainable_variables)
    return [a + (1 - 1 / beta) * (b - a) for a, b in zip(y, z)]


class Record(keras.callbacks.Callback):
    """Records whether the variables hold x, by the name of the event."""

    EVENTS = (
        "epoch_begin",
        "train_batch_begin",
        "train_batch_end",
        "test_begin",
        "test_batch_end",
        "test_end",
        "epoch_end",
        "train_end",
        "predict_begin",
    )

    def __init__(self):
        super().__init__()
        self.found = {}
        for event in self.EVENTS:
            setattr(self, f"on_{event}", lambda *args, event=event, **_: self.record(event))

    def record(self, event):
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self.found.setdefault(event, set()).add(optimizer.holds_averaged_weights)


class AtEpochEnd(keras.callbacks.Callback):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def on_epoch_end(self, epoch, logs=None):
        self.call(epoch)


class TestFit:
    @every_class
    def test_leaves_the_average(self, make):
        model = fitted(make(), epochs=3, run_eagerly=False)
        expected, y = averages(make, epochs=3)
        assert model.optimizer.holds_averaged_weights
        assert_close(model.variables, expected[-1], **TOLERANCE)
        model.optimizer.use_training_weights()
        assert_close(model.variables, y, **TOLERANCE)
        assert_close(average_of(model), expected[-1], **TOLERANCE)
        assert not np.allclose(y[0], expected[-1][0], rtol=1e-3), "x is not y by chance"

    @pytest.mark.parametrize(
        ("make", "mode"),
        [
            (sgd, {}),
            (sgd, {"run_eagerly": True}),
            (adamw, {"jit_compile": True}),
            (adamw, {"steps_per_execution": 2}),
        ],
    )
    def test_modes(self, make, mode):
        record = Record()
        model = make_model(make(), **{"run_eagerly": False, **mode})
        history = fit(model, validation_data=(X, Y), callbacks=[record])
        expected, y = averages(make)
        assert_close(model.variables, expected[-1], **TOLERANCE)
        np.testing.assert_allclose(history["val_loss"], [loss(e) for e in expected], rtol=1e-4)
        assert_close([model.predict(X, verbose=0)], [output(expected[-1])], **TOLERANCE)
        assert record.found["train_batch_end"] == {False}
        model.optimizer.use_training_weights()
        assert_close(model.variables, y, **TOLERANCE)

    def test_validation(self, make):
        plain, validated, frequent = make_model(make()), make_model(make()), make_model(make())
        fit(plain, epochs=2)
        history = fit(validated, epochs=2, validation_data=(X, Y))
        expected, _ = averages(make, epochs=2)
        np.testing.assert_allclose(history["val_loss"], [loss(e) for e in expected], rtol=1e-4)
        assert same(state(validated), state(plain))

        def look(*args, **_):
            loss_at_x, found = frequent.evaluate(X, Y, verbose=0), frequent.predict(X, verbose=0)
            np.testing.assert_allclose(loss_at_x, np.mean(np.square(found - Y)), rtol=1e-4)
            frequent.test_on_batch(X, Y)
            frequent.predict_on_batch(X)
            frequent.get_weights()

        looking = keras.callbacks.LambdaCallback(on_train_batch_end=look, on_epoch_end=look)
        fit(frequent, epochs=2, callbacks=[looking])
        assert same(state(frequent), state(plain))

    def test_when_it_switches(self):
        record, model = Record(), make_model(sgd())
        fit(model, validation_data=(X, Y), callbacks=[record])
        model.predict(X, verbose=0, callbacks=[record])
        averaged = {event for event, found in record.found.items() if found == {True}}
        training = {event for event, found in record.found.items() if found == {False}}
        assert training == {"epoch_begin", "train_batch_begin", "train_batch_end"}
        assert averaged == set(Record.EVENTS) - training

    def test_goes_on(self, make):
        model = fitted(make())
        fit(model)
        assert_close(state(model), uninterrupted(make, 4), **TOLERANCE)

    def test_no_epoch(self):
        model = fitted(sgd(), epochs=0)
        assert same(arrays(model.variables), arrays(make_model().variables))

    def test_custom_train_step(self, make):
        class Custom(keras.Model):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    mse = tf.reduce_mean(tf.square(self(x, training=True) - y))
                gradients = tape.gradient(mse, self.trainable_variables)
                self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
                return {"loss": mse}

            def fit(self, *args, **kwargs):
                return super().fit(*args, **kwargs)

        plain = make_model()
        model = Custom(plain.inputs, plain.outputs)
        model.compile(make(), "mse", run_eagerly=True)
        fit(model)
        assert_close(model.variables, averages(make)[0][-1], **TOLERANCE)

    def test_interrupted_at_the_end_of_an_epoch(self):
        # What it held before must be forgotten, not restored whenever memory is freed.
        def fail(epoch):
            raise KeyboardInterrupt

        model = make_model(sgd())
        callbacks = [tf_optim_ext.AveragedWeights(), AtEpochEnd(fail)]
        with pytest.raises(KeyboardInterrupt):
            fit(model, callbacks=callbacks)
        interrupted = state(model)
        assert_close(model.variables, averages(sgd, epochs=1)[0][-1], **TOLERANCE)
        model.train_on_batch(*BATCHES[0])
        trained = state(model)
        model.predict(X, verbose=0)
        callbacks.pop()
        gc.collect()
        assert same(state(model), trained)
        for variable, value in zip([*model.variables, *model.optimizer.variables], interrupted):
            variable.assign(value)
        fit(model, epochs=1, callbacks=callbacks)
        assert_close(state(model), uninterrupted(sgd, 2), **TOLERANCE)

    def test_interrupted_in_an_epoch(self):
        def fail(batch, logs):
            raise KeyboardInterrupt

        model = make_model(sgd())
        with pytest.raises(KeyboardInterrupt):
            fit(model, callbacks=keras.callbacks.LambdaCallback(on_train_batch_end=fail))
        assert not model.optimizer.holds_averaged_weights
        expected = output(average_of(model))
        assert_close([model.predict(X, verbose=0)], [expected], **TOLERANCE)

    def test_weights_loaded_at_the_end_of_an_epoch_are_kept(self, tmp_path):
        path = tmp_path / "a.weights.h5"
        fitted(adamw()).save_weights(path)
        model = make_model(adamw())
        load = AtEpochEnd(lambda epoch: model.load_weights(path) if epoch == 0 else None)
        fit(model, callbacks=[load])
        assert_close(state(model), uninterrupted(adamw, 3), **TOLERANCE)

    def test_weights_set_after_build(self):
        # Before the first update x and y are the weights, whatever z was initialised with.
        model, other = make_model(sgd()), make_model(seed=1)
        model.optimizer.build(model.trainable_variables)
        model.set_weights(other.get_weights())
        before = arrays(model.variables)
        expected = output(before)
        assert_close([model.predict(X, verbose=0)], [expected], **TOLERANCE)
        model.optimizer.use_averaged_weights()
        assert same(arrays(model.variables), before)
        fit(model)
        expected = make_model(sgd())
        expected.set_weights(before)
        fit(expected)
        assert same(state(model), state(expected))

    def test_accumulation(self):
        # Half of an update is none.
        model, other = make_model(sgd(gradient_accumulation_steps=4)), make_model(seed=1)
        model.optimizer.build(model.trainable_variables)
        model.set_weights(other.get_weights())
        model.train_on_batch(*BATCHES[0])
        expected = output(arrays(other.variables))
        assert_close([model.predict(X, verbose=0)], [expected], **TOLERANCE)
        model = fitted(sgd(gradient_accumulation_steps=4))
        model.optimizer.use_training_weights()
        expected = average_of(model)
        model.optimizer.use_averaged_weights()
        assert_close(model.variables, expected, **TOLERANCE)

    def test_nothing_to_train(self):
        model = make_model(sgd())
        model.trainable = False
        model.optimizer.build([])
        assert not model.optimizer.holds_averaged_weights
        expected = output(arrays(model.variables))
        assert_close([model.predict(X, verbose=0)], [expected], **TOLERANCE)
        model.optimizer.use_averaged_weights()
        model.optimizer.use_training_weights()

    def test_bfloat16(self, make):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((3,)), keras.layers.Dense(1, dtype="bfloat16")]
        model = keras.Sequential(layers)
        model.compile(make(), "mse", run_eagerly=True)
        fit(model)
        assert {v.dtype for v in model.variables} == {"bfloat16"}
        assert model.optimizer.holds_averaged_weights
        held = arrays(model.variables)
        model.optimizer.use_training_weights()
        assert_close(held, average_of(model), rtol=0.02, atol=0.01)
        before = state(model)
        with model.optimizer.averaged_weights():
            assert not same(arrays(model.variables), before[:2])
        assert same(state(model), before)
        model.train_on_batch(*BATCHES[0])


class TestTrainOnBatch:
    def train(self, model, look=None, batches=BATCHES):
        for x, y in batches:
            model.train_on_batch(x, y)
            if look:
                look()

    def test_evaluation_between(self, make, tmp_path):
        plain, watched = make_model(make()), make_model(make())
        self.train(plain)

        def look():
            expected = output(average_of(watched))
            assert_close([watched.predict(X, verbose=0)], [expected], **TOLERANCE)
            assert_close([watched.predict_on_batch(X)], [expected], **TOLERANCE)
            mse = np.mean(np.square(expected - Y))
            np.testing.assert_allclose(watched.evaluate(X, Y, verbose=0), mse, rtol=1e-4)
            np.testing.assert_allclose(watched.test_on_batch(X, Y), mse, rtol=1e-4)
            watched.save(tmp_path / "model.keras")
            watched.save_weights(tmp_path / "model.weights.h5")

        self.train(watched, look)
        assert not watched.optimizer.holds_averaged_weights
        assert same(state(watched), state(plain))

    def test_after_fit(self, make):
        model = fitted(make(), epochs=1)
        self.train(model)
        expected = make_model(make())
        self.train(expected, batches=[*BATCHES, *BATCHES])
        assert_close(state(model), state(expected), **TOLERANCE)

    def test_after_loading_into_an_unbuilt_optimizer(self, tmp_path):
        path = tmp_path / "a.weights.h5"
        trained = fitted(sgd())
        trained.save_weights(path)
        model = make_model(sgd(), seed=1)
        model.load_weights(path)
        expected = output(arrays(trained.variables))
        assert_close([model.predict(X, verbose=0)], [expected], **TOLERANCE)
        for each in (trained, model):
            self.train(each)
        assert_close(state(model), state(trained), **TOLERANCE)


class TestCallbacks:
    @pytest.mark.parametrize(("make", "save_freq"), [(sgd, "epoch"), (adamw, 2)])
    def test_checkpoint_of_model(self, make, tmp_path, save_freq):
        path = str(tmp_path / "model.keras")
        check = keras.callbacks.ModelCheckpoint(path, save_freq=save_freq)
        model = fitted(make(), callbacks=[check])
        assert same(state(model), uninterrupted(make, 2))
        loaded = keras.models.load_model(path)
        assert loaded.optimizer.holds_averaged_weights
        assert_close(loaded.variables, model.variables, **TOLERANCE)
        fit(loaded)
        assert_close(state(loaded), uninterrupted(make, 4), **TOLERANCE)

    @pytest.mark.parametrize(("make", "save_freq"), [(sgd, "epoch"), (adamw, 2)])
    def test_checkpoint_of_weights(self, make, tmp_path, save_freq):
        path = str(tmp_path / "{epoch}.weights.h5")
        check = keras.callbacks.ModelCheckpoint(path, save_freq=save_freq, save_weights_only=True)
        model = fitted(make(), callbacks=[check])
        expected, _ = averages(make)
        for epoch in (1, 2):
            loaded = make_model()
            loaded.load_weights(path.format(epoch=epoch))
            assert_close(loaded.variables, expected[epoch - 1], **TOLERANCE)
        assert same(state(model), uninterrupted(make, 2))

    def test_best_only(self, tmp_path):
        path = str(tmp_path / "best.keras")
        check = keras.callbacks.ModelCheckpoint(path, save_best_only=True)
        model = make_model(sgd())
        history = fit(model, epochs=3, validation_data=(X, Y), callbacks=check)
        best = keras.models.load_model(path).evaluate(X, Y, verbose=0)
        np.testing.assert_allclose(best, min(history["val_loss"]), rtol=1e-5)

    def test_early_stopping(self, make):
        # Nothing is ever better than the first epoch.
        stop = keras.callbacks.EarlyStopping(
            "val_loss", min_delta=1e9, patience=2, restore_best_weights=True
        )
        model = make_model(make())
        history = fit(model, epochs=9, validation_data=(X, Y), callbacks=[stop])
        assert len(history["loss"]) == 3
        assert model.optimizer.holds_averaged_weights
        assert_close(model.variables, averages(make, epochs=1)[0][0], **TOLERANCE)
        np.testing.assert_allclose(
            model.evaluate(X, Y, verbose=0), history["val_loss"][0], rtol=1e-5
        )

    @pytest.mark.parametrize("callbacks", ["new", "same"])
    @pytest.mark.parametrize("where", ["on_epoch_begin", "on_epoch_end"])
    def test_backup_and_restore(self, tmp_path, where, callbacks):
        failing = True

        def fail(epoch, logs):
            if epoch == 1 and failing:
                raise RuntimeError("interrupted")

        def make_callbacks():
            # Fails after the backup or, in the second epoch, before it.
            backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
            failure = keras.callbacks.LambdaCallback(**{where: fail})
            return [tf_optim_ext.AveragedWeights(), failure, backup]

        model, given = make_model(sgd()), make_callbacks()
        with pytest.raises(RuntimeError, match="interrupted"):
            fit(model, epochs=4, callbacks=given)
        if callbacks == "new":
            model, given = make_model(sgd(), seed=1), make_callbacks()
        failing = False
        history = fit(model, epochs=4, callbacks=given)
        assert len(history["loss"]) == 3
        assert_close(state(model), uninterrupted(sgd, 4), **TOLERANCE)


class TestCallbacksArgument:
    FORMS = {
        "none": lambda record: None,
        "list": lambda record: [record],
        "nested": lambda record: [[record]],
        "single": lambda record: record,
        "explicit": lambda record: [tf_optim_ext.AveragedWeights(), record],
        "nested explicit": lambda record: [[tf_optim_ext.AveragedWeights()], record],
        "single explicit": lambda record: tf_optim_ext.AveragedWeights(),
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_forms(self, form, monkeypatch):
        lists = self.record_lists(monkeypatch)
        model, record = make_model(sgd()), Record()
        model.fit(X, Y, 4, 2, 0, self.FORMS[form](record), shuffle=False)
        assert same(state(model), uninterrupted(sgd, 2))
        assert self.count(lists[0]) == 1
        if form not in ("none", "single explicit"):
            assert record.found["epoch_end"] == record.found["train_end"] == {True}
            assert record.found["train_batch_end"] == {False}

    @staticmethod
    def record_lists(monkeypatch):
        lists, original = [], keras.callbacks.CallbackList.__init__

        def init(self, *args, **kwargs):
            original(self, *args, **kwargs)
            lists.append(self)

        monkeypatch.setattr(keras.callbacks.CallbackList, "__init__", init)
        return lists

    @staticmethod
    def count(callback_list):
        return sum(isinstance(c, tf_optim_ext.AveragedWeights) for c in callback_list.callbacks)

    @pytest.mark.parametrize("explicit", [False, True])
    def test_callback_list(self, explicit):
        model, record = make_model(sgd()), Record()
        given = [tf_optim_ext.AveragedWeights(), record] if explicit else [record]
        callbacks = keras.callbacks.CallbackList(given, add_history=True, model=model)
        for _ in range(2):
            model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
            assert self.count(callbacks) == 1
        assert record.found["epoch_end"] == record.found["train_end"] == {True}
        assert record.found["train_batch_end"] == {False}
        expected = fitted(sgd())
        fit(expected)
        assert same(state(model), state(expected))

    def test_given_list_is_not_changed(self):
        callbacks = [Record()]
        fitted(sgd(), callbacks=callbacks)
        assert len(callbacks) == 1

    def test_others_are_unaffected(self, monkeypatch, tmp_path):
        sgd()  # installs the hooks
        lists = self.record_lists(monkeypatch)
        results = []
        for optimizer in (tf_optim_ext.SGD(0.1), keras.optimizers.SGD(0.1)):
            model = make_model(optimizer)
            fit(model)
            model.train_on_batch(X, Y)
            assert self.count(lists[-1]) == 0
            expected = output(arrays(model.variables))
            assert_close([model.predict(X, verbose=0)], [expected], **TOLERANCE)
            model.evaluate(X, Y, verbose=0)
            model.save(tmp_path / "model.keras")
            results.append(model.variables)
        assert_close(*results, **TOLERANCE)

    def test_callback_without_averages(self):
        model = make_model("sgd")
        fit(model, callbacks=[tf_optim_ext.AveragedWeights()])
        expected = make_model("sgd")
        fit(expected)
        assert same(arrays(model.variables), arrays(expected.variables))

    def test_not_compiled(self):
        model = make_model()
        expected = output(arrays(model.variables))
        assert_close([model.predict(X, verbose=0)], [expected], **TOLERANCE)
        with pytest.raises(ValueError, match="compile"):
            model.fit(X, Y)


class TestWrappers:
    def test_loss_scale(self, make):
        record = Record()
        optimizer = keras.optimizers.LossScaleOptimizer(make(), initial_scale=8.0)
        model = make_model(optimizer)
        history = fit(model, validation_data=(X, Y), callbacks=[record])
        expected, y = averages(make)
        assert_close(model.variables, expected[-1], **TOLERANCE)
        np.testing.assert_allclose(history["val_loss"], [loss(e) for e in expected], rtol=1e-4)
        assert record.found["train_batch_end"] == {False}
        assert record.found["test_begin"] == record.found["epoch_end"] == {True}
        optimizer.inner_optimizer.use_training_weights()
        assert_close(model.variables, y, **TOLERANCE)
        model.train_on_batch(*BATCHES[0])

    def test_loss_scale_saved(self, tmp_path):
        wrap = keras.optimizers.LossScaleOptimizer
        model = fitted(wrap(sgd(), initial_scale=8.0))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.inner_optimizer.holds_averaged_weights
        fit(loaded)
        expected = fitted(wrap(sgd(), initial_scale=8.0), epochs=4)
        assert_close(state(loaded), state(expected), **TOLERANCE)

    def test_several_optimizers(self, tmp_path):
        model = make_model()
        last = model.layers[-1].kernel.path.split("/")[-2]
        optimizers = [sgd(), tf_optim_ext.SGD(0.1)]
        by_path = keras.optimizers.OptimizerMap(optimizers[0], {f".*{last}/.*": optimizers[1]})
        model.compile(keras.optimizers.MultiOptimizer(by_path), "mse", run_eagerly=True)
        history = fit(model, validation_data=(X, Y))
        held = arrays(model.variables)
        np.testing.assert_allclose(history["val_loss"][-1], loss(held), rtol=1e-4)
        optimizers[0].use_training_weights()
        assert same(arrays(model.variables[2:]), held[2:])
        assert not np.allclose(arrays(model.variables)[0], held[0])
        assert_close([model.predict(X, verbose=0)], [output(held)], **TOLERANCE)
        model.train_on_batch(*BATCHES[0])


class TestSaving:
    def test_model(self, make, tmp_path):
        model = fitted(make())
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.holds_averaged_weights
        assert same(state(loaded), state(model))
        fit(loaded)
        assert_close(state(loaded), uninterrupted(make, 4), **TOLERANCE)

    def test_weights(self, make, tmp_path):
        path = tmp_path / "a.weights.h5"
        model = fitted(make())
        model.save_weights(path)
        into_trained = fitted(make(), epochs=1)
        into_training = fitted(make(), epochs=1)
        into_training.train_on_batch(*BATCHES[0])
        for loaded in (make_model(make(), seed=1), into_trained, into_training):
            loaded.load_weights(path)
            expected = output(arrays(model.variables))
            assert_close([loaded.predict(X, verbose=0)], [expected], **TOLERANCE)
            fit(loaded)
            assert_close(state(loaded), uninterrupted(make, 4), **TOLERANCE)

    @pytest.mark.parametrize("training", [False, True])
    def test_export(self, tmp_path, training):
        model = fitted(sgd(), epochs=1)
        if training:
            model.optimizer.use_training_weights()
            expected = output(average_of(model))
        else:
            expected = output(arrays(model.variables))
        before = state(model)
        model.export(tmp_path / "export", verbose=False)
        assert same(state(model), before)
        loaded = tf.saved_model.load(tmp_path / "export")
        assert_close([loaded.serve(tf.constant(X))], [expected], **TOLERANCE)

    def test_saved_model(self, tmp_path):
        model = fitted(adamw(), epochs=1)
        tf.saved_model.save(model, tmp_path / "saved")
        loaded = tf.saved_model.load(tmp_path / "saved")
        (served,) = loaded.signatures["serving_default"](tf.constant(X)).values()
        assert_close([served], [output(arrays(model.variables))], **TOLERANCE)

    @pytest.mark.parametrize("averaged", [False, True])
    @pytest.mark.parametrize("built", [False, True])
    @pytest.mark.parametrize("kind", ["keras", "tf"])
    def test_checkpoint(self, make, tmp_path, averaged, built, kind):
        variables, optimizer = make_variables(kind), make()
        train(optimizer, variables)
        if averaged:
            optimizer.use_averaged_weights()
        held = dict(zip("abc", variables))
        path = tf.train.Checkpoint(optimizer=optimizer, **held).save(tmp_path / "ckpt")

        others, restored = make_variables(kind, seed=1), make()
        if built:
            restored.build(others)
        held = dict(zip("abc", others))
        status = tf.train.Checkpoint(optimizer=restored, **held).restore(path)
        if not built:
            restored.build(others)
        status.assert_consumed()
        assert restored.holds_averaged_weights == averaged
        assert same(arrays(others), arrays(variables))
        for each, weights in ((optimizer, variables), (restored, others)):
            each.use_training_weights()
            train(each, weights, first=3)
        assert same(arrays(others), arrays(variables))
        assert same(arrays(restored.variables), arrays(optimizer.variables))

    def test_checkpoint_restored_by_the_first_step(self, tmp_path):
        # The weights are known to be averaged no sooner than that.
        variables, optimizer = make_variables("tf"), sgd()
        train(optimizer, variables)
        optimizer.use_averaged_weights()
        path = tf.train.Checkpoint(optimizer=optimizer, v=variables).save(tmp_path / "ckpt")
        others, restored = make_variables("tf", seed=1), sgd()
        tf.train.Checkpoint(optimizer=restored, v=others).restore(path)
        before = arrays(others)
        with pytest.raises(RuntimeError, match="use_training_weights"):
            train(restored, others, first=3)
        assert same(arrays(others), before)
        for each, weights in ((optimizer, variables), (restored, others)):
            each.use_training_weights()
            train(each, weights, first=3)
        assert same(arrays(others), arrays(variables))

    @pytest.mark.parametrize("averaged", [False, True])
    def test_get_and_set_weights(self, make, averaged):
        variables, optimizer = make_variables(), make()
        train(optimizer, variables)
        if averaged:
            optimizer.use_averaged_weights()
        others, other = make_variables(seed=1), make()
        other.build(others)
        other.set_weights(optimizer.get_weights())
        for variable, value in zip(others, arrays(variables)):
            variable.assign(value)
        assert other.holds_averaged_weights == averaged
        other.use_training_weights()
        optimizer.use_training_weights()
        assert same(arrays(others), arrays(variables))

    def test_copy(self, make):
        variables, optimizer = make_variables(), make()
        train(optimizer, variables)
        optimizer.use_averaged_weights()
        clone = copy.deepcopy(optimizer)
        clone.build(variables)
        assert clone.holds_averaged_weights
        assert same(clone.get_weights(), optimizer.get_weights())
        clone.use_training_weights()
        assert optimizer.holds_averaged_weights, "a copy has its own state"


class TestSwitching:
    @pytest.fixture(params=["keras", "tf"])
    def trained(self, make, request):
        variables, optimizer = make_variables(request.param), make()
        train(optimizer, variables)
        return optimizer, variables

    def test_context(self, trained):
        optimizer, variables = trained
        with unchanged(optimizer, variables):
            before = arrays(variables)
            with optimizer.averaged_weights():
                assert optimizer.holds_averaged_weights
                averaged = arrays(variables)
                assert not any(same([a], [b]) for a, b in zip(averaged, before))
                with optimizer.averaged_weights():
                    assert same(arrays(variables), averaged)
                assert optimizer.holds_averaged_weights
                assert same(arrays(variables), averaged)
            assert not optimizer.holds_averaged_weights
        optimizer.use_averaged_weights()
        assert same(arrays(variables), averaged)
        with optimizer.averaged_weights():
            pass
        assert same(arrays(variables), averaged)
        assert optimizer.holds_averaged_weights

    def test_exception_in_context(self, trained):
        optimizer, variables = trained
        with unchanged(optimizer, variables):
            with pytest.raises(ArithmeticError), optimizer.averaged_weights():
                raise ArithmeticError
            assert not optimizer.holds_averaged_weights

    def test_training_goes_on_after_context(self, trained, make):
        optimizer, variables = trained
        with optimizer.averaged_weights():
            pass
        train(optimizer, variables, first=3)
        expected = make_variables()
        train(make(), expected, steps=6)
        assert same(arrays(variables), arrays(expected))

    def test_switches_are_idempotent(self, trained):
        optimizer, variables = trained
        y = arrays(variables)
        optimizer.use_training_weights()
        assert same(arrays(variables), y)
        optimizer.use_averaged_weights()
        averaged = arrays(variables)
        optimizer.use_averaged_weights()
        assert same(arrays(variables), averaged)
        optimizer.use_training_weights()
        assert_close(variables, y, **TOLERANCE)
        again = arrays(variables)
        optimizer.use_training_weights()
        assert same(arrays(variables), again)

    def test_before_build(self, make):
        optimizer = make()
        with unchanged(optimizer):
            optimizer.use_averaged_weights()
            optimizer.use_training_weights()
            with optimizer.averaged_weights():
                assert not optimizer.holds_averaged_weights

    def test_context_around_build(self, make):
        optimizer, variables = make(), make_variables()
        before = arrays(variables)
        with optimizer.averaged_weights():
            optimizer.build(variables)
        assert not optimizer.holds_averaged_weights
        assert same(arrays(variables), before)

    def test_all_of_the_average(self):
        # With beta = 1, y is x.
        optimizer, variables = sgd(momentum=1.0), make_variables()
        train(optimizer, variables)
        before = arrays(variables)
        with optimizer.averaged_weights():
            assert same(arrays(variables), before)

    @pytest.mark.parametrize("wrap", [lambda f: f, tf.function, tf.function(jit_compile=True)])
    def test_no_step_from_averaged_weights(self, trained, wrap):
        optimizer, variables = trained
        gradients = [tf.constant(g) for g in make_gradients(3)]

        @wrap
        def step():
            optimizer.apply_gradients(zip(gradients, variables))
            return 0

        with (
            optimizer.averaged_weights(),
            unchanged(optimizer, variables),
            pytest.raises(RuntimeError, match="use_training_weights"),
        ):
            step()
        step()
        assert int(optimizer.iterations) == 4

    def test_function_of_the_averaged_model(self, make):
        # What was traced reads the variables, whichever weights they hold.
        model = fitted(make())
        call = tf.function(model)
        expected = output(arrays(model.variables))
        model.optimizer.use_training_weights()
        assert not np.allclose(call(X), expected, rtol=1e-3)
        with model.optimizer.averaged_weights():
            assert_close([call(X)], [expected], **TOLERANCE)


@pytest.fixture(scope="module")
def on_two_devices():
    """What the script found, by the name of the check; it runs in a process of its own."""
    return outcomes_of("two_devices_schedule_free.py")


@pytest.mark.parametrize("check", two_devices_schedule_free.CHECKS)
def test_mirrored_strategy(on_two_devices, check):
    assert on_two_devices[check] == "equal"
