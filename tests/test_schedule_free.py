"""Schedule-free optimizers: which weights the model's variables hold, y or the average x.

Their rules are tested with those of the other optimizers.
"""

import gc

import conftest
import numpy as np
import pytest
import tensorflow as tf
from common import arrays, assert_close, has_multi_optimizer, same
from generation import LossScaleOptimizer, keras, only_keras_3, path_of
from schedule_free_models import (
    BATCHES,
    MAKERS,
    TOLERANCE,
    X,
    Y,
    adamw,
    average_of,
    averages,
    every_class,
    fit,
    fitted,
    loss,
    make_model,
    output,
    sgd,
    state,
    uninterrupted,
)

import tf_optim_ext


@pytest.fixture(
    params=[pytest.param("ScheduleFreeSGD", marks=pytest.mark.long), "ScheduleFreeAdamW"]
)
def make(request):
    return MAKERS[request.param]


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

    @only_keras_3("refuses that")
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
        assert {tf.as_dtype(v.dtype) for v in model.variables} == {tf.bfloat16}
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


@pytest.mark.once
class TestCallbacks:
    @pytest.mark.parametrize(
        ("make", "save_freq"), [pytest.param(sgd, "epoch", marks=pytest.mark.long), (adamw, 2)]
    )
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

    @pytest.mark.parametrize(
        ("make", "save_freq"), [pytest.param(sgd, "epoch", marks=pytest.mark.long), (adamw, 2)]
    )
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

    @pytest.mark.parametrize(
        ("where", "callbacks"),
        [
            ("on_epoch_begin", "new"),
            pytest.param("on_epoch_begin", "same", marks=pytest.mark.long),
            pytest.param("on_epoch_end", "new", marks=pytest.mark.long),
            ("on_epoch_end", "same"),
        ],
    )
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


@pytest.mark.once
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

    @pytest.mark.parametrize(
        "form", conftest.shortened(FORMS, ("none", "nested", "single", "nested explicit"))
    )
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

    @pytest.mark.parametrize("explicit", [False, pytest.param(True, marks=pytest.mark.long)])
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

    @only_keras_3("has another message")
    def test_not_compiled(self):
        model = make_model()
        expected = output(arrays(model.variables))
        assert_close([model.predict(X, verbose=0)], [expected], **TOLERANCE)
        with pytest.raises(ValueError, match="compile"):
            model.fit(X, Y)


class TestWrappers:
    def test_loss_scale(self, make):
        record = Record()
        optimizer = LossScaleOptimizer(make(), initial_scale=8.0)
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
        wrap = LossScaleOptimizer
        model = fitted(wrap(sgd(), initial_scale=8.0))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.inner_optimizer.holds_averaged_weights
        fit(loaded)
        expected = fitted(wrap(sgd(), initial_scale=8.0), epochs=4)
        assert_close(state(loaded), state(expected), **TOLERANCE)

    @has_multi_optimizer
    def test_several_optimizers(self, tmp_path):
        model = make_model()
        last = path_of(model.layers[-1].kernel).split("/")[-2]
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
