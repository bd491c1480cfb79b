"""Saving and restoring: Keras files, `tf.train.Checkpoint`, SavedModel."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    arrays,
    assert_close,
    has_twin,
    keras_twin,
    make_variables,
    same,
    train,
    unchanged,
)
from generation import FIRST_SLOT, IS_KERAS_2, QUIET, keras, only_keras_3

import tf_optim_ext
from tf_optim_ext.base.schedule_free import ScheduleFreeOptimizer

ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]
OPTIONS = {"use_ema": True, "gradient_accumulation_steps": 2}

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)


def functional():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])


@keras.saving.register_keras_serializable("test_state")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = keras.layers.Dense(4)
        self.head = keras.layers.Dense(2)

    def call(self, x):
        return self.head(self.body(x))


def compiled(optimizer, make=functional, seed=0):
    keras.utils.set_random_seed(seed)
    model = make()
    model(X)
    model.compile(optimizer, "mse", run_eagerly=True)
    return model


def fit(model, steps=3):
    for _ in range(steps):
        model.train_on_batch(X, Y)


def everything(model):
    return [*arrays(model.variables), *model.optimizer.get_weights()]


class TestKerasFiles:
    @pytest.mark.parametrize("make", [functional, Subclassed])
    @pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
    def test_every_kind_of_model(self, make, options, tmp_path):
        self.check_model(ADAM, options, make, tmp_path)

    @pytest.mark.few("NovoGrad", "Prodigy", "ScheduleFreeAdamW")
    def test_model_continues_as_if_uninterrupted(self, entry, tmp_path):
        # Two averages of the weights exclude each other.
        averages = issubclass(entry.cls, ScheduleFreeOptimizer)
        options = {n: v for n, v in OPTIONS.items() if not (averages and "ema" in n)}
        self.check_model(entry, options, functional, tmp_path)

    def check_model(self, entry, options, make, tmp_path):
        model = compiled(entry.make(**options), make)
        fit(model)
        if isinstance(model.optimizer, ScheduleFreeOptimizer):
            model.optimizer.use_averaged_weights()  # which are saved
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert type(loaded.optimizer) is entry.cls
        assert loaded.optimizer.get_config() == model.optimizer.get_config()
        assert int(loaded.optimizer._iterations) == 3
        assert same(everything(loaded), everything(model))
        fit(model)
        fit(loaded)
        assert same(everything(loaded), everything(model))
        assert loaded.optimizer.get_slot_names() == model.optimizer.get_slot_names()

    @pytest.mark.parametrize("make", [functional, Subclassed])
    def test_weights_files(self, make, tmp_path):
        model = compiled(ADAM.make(), make)
        fit(model)
        model.save_weights(tmp_path / "all.weights.h5")
        for built in (True, False):
            other = compiled(ADAM.make(), make, seed=1)
            if built:
                fit(other, 1)
            other.load_weights(tmp_path / "all.weights.h5")
            assert int(other.optimizer.iterations) == 3
            other.optimizer.build(other.trainable_variables)
            assert same(everything(other), everything(model))

    @pytest.mark.parametrize("make", [functional, Subclassed])
    def test_model_saved_before_its_first_step(self, make, tmp_path):
        model = compiled(ADAM.make(), make)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        fit(model)
        fit(loaded)
        assert same(everything(loaded), everything(model))

    def test_saved_again_before_the_slots_exist(self, tmp_path):
        model = compiled(ADAM.make())
        fit(model)
        model.save_weights(tmp_path / "first.weights.h5")
        loaded = compiled(ADAM.make(), seed=1)
        loaded.load_weights(tmp_path / "first.weights.h5")
        assert not loaded.optimizer.built
        loaded.optimizer.learning_rate = 0.125
        loaded.save_weights(tmp_path / "second.weights.h5")
        again = compiled(ADAM.make(), seed=2)
        with pytest.warns(UserWarning, match="takes the stored learning rate 0.125"):
            again.load_weights(tmp_path / "second.weights.h5")
        model.optimizer.learning_rate = 0.125
        for each in (model, loaded, again):
            fit(each)
            assert same(everything(each), everything(model))

    def test_schedule_and_number_may_replace_each_other(self, tmp_path):
        def schedule():
            return keras.optimizers.schedules.CosineDecay(0.1, 10)

        for first, second in ((0.5, schedule()), (schedule(), 0.5)):
            model = compiled(ADAM.make(learning_rate=first))
            fit(model)
            model.save_weights(tmp_path / "all.weights.h5")
            other = compiled(ADAM.make(learning_rate=second))
            fit(other, 1)
            other.load_weights(tmp_path / "all.weights.h5")
            slots = [arrays(m.optimizer.variables)[-8:] for m in (model, other)]
            assert same(*slots)
            if second == 0.5:
                assert float(other.optimizer.learning_rate) == 0.5

    def test_own_weights_and_slots(self, tmp_path):
        # Variables of one name, names with dots and names that others have, too.
        def make():
            optimizer, variables = ADAM.make(), make_variables()
            optimizer.build(variables)
            optimizer.add_slot(variables[1], "extra")
            for name in ("w", "w", "a.b", "a.b", "iterations", "momentum.0", "learning_rate"):
                optimizer.add_weight(name, ())
            return optimizer

        optimizer = make()
        for i, variable in enumerate(optimizer.variables):
            variable.assign(np.full(variable.shape, i))
        store = {}
        optimizer.save_own_variables(store)
        # And the class; in Keras 2, the learning rate is no variable of the list.
        assert len(store) == len(optimizer.variables) - FIRST_SLOT + 3
        assert {
            "class_name",
            "iterations",
            "learning_rate",
            "momentum.0",
            "velocity.2",
            "extra.0",
        } < set(store)
        other = make()
        other.learning_rate = optimizer.learning_rate
        other.load_own_variables(store)
        assert same(other.get_weights(), optimizer.get_weights())

    def test_keys_do_not_depend_on_names(self):
        stores = []
        for kind in ("keras", "tf"):
            optimizer = ADAM.make(name=f"named_{kind}")
            train(optimizer, make_variables(kind))
            stores.append({})
            optimizer.save_own_variables(stores[-1])
        assert set(stores[0]) == set(stores[1])


class TestFilesOfKeras:
    """Keras' optimizers number their variables; ours reads that."""

    @has_twin
    def test_state_is_read_and_training_continues(self, entry):
        options = {"use_ema": True} if IS_KERAS_2 else OPTIONS
        theirs, expected, store = keras_twin(entry, **options), make_variables(), {}
        train(theirs, expected)
        theirs.save_own_variables(store)
        state, values = arrays(theirs.variables), arrays(expected)
        results = []
        for built in (True, False):
            ours, variables = entry.make(**options), make_variables()
            if built:
                train(ours, variables, 1)
            ours.load_own_variables(store)
            assert int(ours._iterations) == 3
            ours.build(variables)
            # Scalar state is float64 here, float32 there.
            assert same([w.astype(v.dtype) for w, v in zip(ours.get_weights(), state)], state)
            for variable, value in zip(variables, values):
                variable.assign(value)
            train(ours, variables, first=3)
            results.append(variables)
        train(theirs, expected, first=3)
        for variables in results:
            assert_close(variables, expected)

    def test_file(self, tmp_path):
        theirs = compiled(keras_twin(ADAM))
        fit(theirs)
        theirs.save_weights(tmp_path / "all.weights.h5")
        for built in (True, False):
            ours = compiled(ADAM.make(), seed=1)
            if built:
                fit(ours, 1)
            ours.load_weights(tmp_path / "all.weights.h5")
            ours.optimizer.build(ours.trainable_variables)
            expected = arrays([*theirs.variables, *theirs.optimizer.variables])
            assert same(everything(ours), expected)

    def test_slots_get_the_values_that_they_had(self, tmp_path):
        # All variables have one shape, so that a wrong order would fit as well.
        entry = registry.BY_NAME["AdamW-amsgrad"]
        theirs, variables = keras_twin(entry), make_variables(shapes=((2,), (2,), (2,)))
        train(theirs, variables)
        store = {}
        theirs.save_own_variables(store)
        ours = entry.make()
        ours.build(variables)
        ours.load_own_variables(store)
        for name in ("momentum", "velocity", "velocity_hat"):
            expected = getattr(
                theirs,
                {"momentum": "_momentums", "velocity": "_velocities"}.get(name, "_velocity_hats"),
            )
            assert same(arrays([ours.get_slot(v, name) for v in variables]), arrays(expected))

    @only_keras_3("has other positions")
    def test_another_optimizer(self):
        theirs = keras.optimizers.SGD(0.1, momentum=0.9)
        train(theirs, make_variables())
        store = {}
        theirs.save_own_variables(store)
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        match = r"keeps its own state.*missing: \['5', '6', '7'\]"
        with unchanged(optimizer, variables), pytest.warns(UserWarning, match=match):
            optimizer.load_own_variables(store)
        unbuilt = ADAM.make()
        unbuilt.load_own_variables(store)
        assert int(unbuilt.iterations) == 3
        with pytest.warns(UserWarning, match=r"starts afresh.*missing: \['5'"):
            train(unbuilt, variables)
        assert int(unbuilt.iterations) == 3

    @only_keras_3("has other positions")
    def test_other_shapes(self):
        theirs = keras.optimizers.Adam(0.1)
        train(theirs, make_variables(shapes=((2,), (4,), ())))
        store = {}
        theirs.save_own_variables(store)
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        message = r"another shape: \['2 \(2,\) instead of \(3, 2\)'"
        with unchanged(optimizer, variables), pytest.warns(UserWarning, match=message):
            optimizer.load_own_variables(store)


class Training(tf.Module):
    """A module with an optimizer, whose step can be a signature."""

    def __init__(self, optimizer, kind="tf", make_step_portable=False):
        super().__init__()
        self.optimizer = optimizer
        self.weights = make_variables(kind)
        self.make_step_portable = make_step_portable

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def step(self, factor):
        with tf_optim_ext.portable() if self.make_step_portable else contextlib.nullcontext():
            self.optimizer.minimize(
                lambda: sum(tf.reduce_sum(tf.square(factor * w - 1.0)) for w in self.weights),
                lambda: self.weights,
            )
        return {"kernel": tf.identity(self.weights[0]), "scale": tf.identity(self.weights[2])}


class TestCheckpoint:
    def checkpoint(self, optimizer, variables):
        return tf.train.Checkpoint(optimizer=optimizer, variables=variables)

    @pytest.mark.parametrize("kind", ["keras", "tf"])
    @pytest.mark.parametrize("when", ["before build", "after build", "after steps"])
    def test_restore_at_any_time(self, when, kind, tmp_path):
        self.check_restore(ADAM, when, kind, tmp_path)

    def test_restore(self, entry, tmp_path):
        self.check_restore(entry, "before build", "keras", tmp_path)

    def check_restore(self, entry, when, kind, tmp_path):
        optimizer, variables = entry.make(**OPTIONS), make_variables(kind)
        train(optimizer, variables)
        path = self.checkpoint(optimizer, variables).save(tmp_path / "ckpt")
        other, others = entry.make(**OPTIONS), make_variables(kind, seed=1)
        if when == "after build":
            other.build(others)
        if when == "after steps":
            train(other, others, 1)
        status = self.checkpoint(other, others).restore(path)
        assert int(other._iterations) == 3
        other.build(others)
        status.assert_consumed()
        status.assert_existing_objects_matched()
        assert same(other.get_weights(), optimizer.get_weights())
        assert same(arrays(others), arrays(variables))
        train(optimizer, variables, first=3)
        train(other, others, first=3)
        assert same(other.get_weights(), optimizer.get_weights())
        assert same(arrays(others), arrays(variables))

    def test_restore_before_the_variables_exist(self, entry, tmp_path):
        optimizer, variables = entry.make(), make_variables("tf")
        train(optimizer, variables)
        path = self.checkpoint(optimizer, variables).save(tmp_path / "ckpt")
        other, holder = entry.make(), tf.train.Checkpoint()
        checkpoint = tf.train.Checkpoint(optimizer=other, variables=holder)
        status = checkpoint.restore(path)
        others = make_variables("tf", seed=1)
        for i, variable in enumerate(others):
            setattr(holder, str(i), variable)
        other.build(others)
        status.assert_consumed()
        assert same(other.get_weights(), optimizer.get_weights())
        assert same(arrays(others), arrays(variables))

    def test_restore_before_a_step_in_a_function(self, tmp_path):
        results, path = [], None
        for restored in (False, True):
            training = Training(ADAM.make())
            checkpoint = tf.train.Checkpoint(training)
            if restored:
                status = checkpoint.restore(path)
            else:
                training.step(2.0)
                path = checkpoint.save(tmp_path / "ckpt")
            training.step(3.0)
            if restored:
                status.assert_consumed()
            assert int(training.optimizer.iterations) == 2
            results.append([*arrays(training.weights), *training.optimizer.get_weights()])
        assert same(*results)

    def test_model(self, tmp_path):
        model = compiled(ADAM.make())
        fit(model)
        path = tf.train.Checkpoint(model=model).save(tmp_path / "ckpt")
        other = compiled(ADAM.make(), seed=1)
        status = tf.train.Checkpoint(model=other).restore(path)
        other.optimizer.build(other.trainable_variables)
        status.assert_existing_objects_matched()
        assert same(everything(other), everything(model))

    def test_keys_name_variable_and_slot(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables("tf")
        train(optimizer, variables)
        optimizer.add_weight("own", ())
        path = self.checkpoint(optimizer, variables).save(tmp_path / "ckpt")
        keys = {
            name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
            for name, _ in tf.train.list_variables(path)
        }
        slots = {
            f"variables/{i}/.OPTIMIZER_SLOT/optimizer/{slot}"
            for i in range(3)
            for slot in ("momentum", "velocity")
        }
        own = {"optimizer/iterations", "optimizer/learning_rate", "optimizer/own"}
        others = {"variables/0", "variables/1", "variables/2", "save_counter"}
        assert keys - {"_CHECKPOINTABLE_OBJECT_GRAPH"} == slots | own | others
        # Keras: positions only.
        theirs = keras_twin(ADAM)
        train(theirs, variables)
        path = self.checkpoint(theirs, variables).save(tmp_path / "keras")
        assert not any("velocity" in name for name, _ in tf.train.list_variables(path))

    def test_slots_follow_their_variables(self, entry, tmp_path):
        # By position, the slots of the second would go to the first.
        def checkpoint(optimizer, first, second):
            return tf.train.Checkpoint(optimizer=optimizer, first=first, second=second)

        optimizer = entry.make()
        first, second = tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0])
        train(optimizer, [first, second])
        path = checkpoint(optimizer, first, second).save(tmp_path / "ckpt")
        other = entry.make()
        new_first, new_second = tf.Variable([0.0, 0.0]), tf.Variable([0.0, 0.0])
        other.build([new_second, new_first])
        checkpoint(other, new_first, new_second).restore(path).assert_consumed()
        for old, new in ((first, new_first), (second, new_second)):
            assert same(arrays([old]), arrays([new]))
            for name in entry.slots:
                slots = [optimizer.get_slot(old, name), other.get_slot(new, name)]
                assert same(arrays(slots[:1]), arrays(slots[1:]))

    def test_later_restore_wins(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables("tf")
        checkpoint = self.checkpoint(optimizer, variables)
        paths = []
        for step in range(2):
            train(optimizer, variables, 1, first=step)
            paths.append(checkpoint.save(tmp_path / "ckpt"))
        state = optimizer.get_weights()
        other, others = ADAM.make(), make_variables("tf")
        for path in paths:
            self.checkpoint(other, others).restore(path)
        other.build(others)
        assert same(other.get_weights(), state)

    def test_own_weights_and_slots_created_after_the_restore(self, tmp_path):
        def checkpoint(optimizer):
            return tf.train.Checkpoint(optimizer=optimizer, variable=variable)

        variable, optimizer = tf.Variable([1.0]), SGD.make()
        optimizer.add_weight("one", ()).assign(3.0)
        optimizer.add_weight("one", ()).assign(4.0)
        optimizer.add_slot(variable, "extra").assign([5.0])
        path = checkpoint(optimizer).save(tmp_path / "ckpt")
        other = SGD.make()
        status = checkpoint(other).restore(path)
        assert float(other.add_weight("one", ())) == 3.0
        assert float(other.add_weight("one", ())) == 4.0
        assert np.asarray(other.add_slot(variable, "extra")).tolist() == [5.0]
        status.assert_consumed()

    def test_what_is_missing_is_noticed(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables("tf")
        train(optimizer, variables)
        path = self.checkpoint(optimizer, variables).save(tmp_path / "ckpt")
        other, others = SGD.make(), make_variables("tf")
        train(other, others)
        status = self.checkpoint(other, others).restore(path)
        with pytest.raises(AssertionError, match="velocity"):
            status.assert_consumed()
        status.expect_partial()

    def test_manager(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables()
        checkpoint = self.checkpoint(optimizer, variables)
        manager = tf.train.CheckpointManager(checkpoint, tmp_path, max_to_keep=2)
        for step in range(4):
            train(optimizer, variables, 1, first=step)
            manager.save()
        assert len(manager.checkpoints) == 2
        other, others = ADAM.make(), make_variables(seed=1)
        manager = tf.train.CheckpointManager(
            self.checkpoint(other, others), tmp_path, max_to_keep=2
        )
        assert manager.restore_or_initialize() == manager.latest_checkpoint
        other.build(others)
        assert same(other.get_weights(), optimizer.get_weights())

    def test_module(self, tmp_path):
        training = Training(ADAM.make(), "keras")
        training.step(2.0)
        path = tf.train.Checkpoint(training).save(tmp_path / "ckpt")
        other = Training(ADAM.make(), "keras")
        other.step(1.0)
        tf.train.Checkpoint(other).restore(path).assert_consumed()
        assert same(other.optimizer.get_weights(), training.optimizer.get_weights())

    def test_unbuilt(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables("tf")
        path = self.checkpoint(optimizer, variables).save(tmp_path / "ckpt")
        other = ADAM.make()
        train(other, variables)
        self.checkpoint(other, variables).restore(path).expect_partial()
        assert int(other.iterations) == 0


LOAD = """
import json, sys
import tensorflow as tf

results = {}
for name, path, steps in json.loads(sys.argv[1]):
    try:
        loaded = tf.saved_model.load(path)
        if steps:
            step = loaded.signatures["train"]
            values = [step(factor=tf.constant(x)) for x in steps][-1]
            values = {k: v.numpy().tolist() for k, v in values.items()}
        else:
            serve = loaded.signatures["serving_default"]
            keyword = next(iter(serve.structured_input_signature[1]))
            values = next(iter(serve(**{keyword: tf.ones((2, 3))}).values())).numpy().tolist()
        results[name] = values
    except Exception as error:
        results[name] = f"{type(error).__name__}: {error}"
assert "tf_optim_ext" not in sys.modules
print(json.dumps(results))
"""


def load_elsewhere(*requests):
    """Loads SavedModels in a process that does not import this package."""
    run = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps([[n, str(p), s] for n, p, s in requests])],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(sys.executable).parent,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


class TestSavedModel:
    STEPS = (1.5, 2.0, 0.5)

    def expected(self, training):
        return {k: v.numpy() for k, v in [training.step(x) for x in self.STEPS][-1].items()}

    def test_elsewhere(self, tmp_path, native_only):
        model = compiled(tf_optim_ext.Adam(0.1))
        fit(model)
        tf.saved_model.save(model, str(tmp_path / "saved"))
        model.export(tmp_path / "exported", **QUIET)
        options = {"use_ema": True, "gradient_accumulation_steps": 2, "clipnorm": 1.0}
        trainings = {
            "portable": Training(ADAM.make(), make_step_portable=True),
            "portable options": Training(ADAM.make(**options), "keras", make_step_portable=True),
            "native": Training(ADAM.make()),
        }
        for name, training in trainings.items():
            training.step(1.0)
            signatures = {"train": training.step}
            tf.saved_model.save(training, str(tmp_path / name), signatures=signatures)
        requests = [(name, tmp_path / name, self.STEPS) for name in trainings]
        results = load_elsewhere(
            ("saved", tmp_path / "saved", []), ("exported", tmp_path / "exported", []), *requests
        )
        predictions = model(np.ones((2, 3), np.float32))
        for name in ("saved", "exported"):
            assert_close([np.array(results[name])], [predictions])
        for name in ("portable", "portable options"):
            assert isinstance(results[name], dict), results[name]
            expected = self.expected(trainings[name])
            for key, value in results[name].items():
                np.testing.assert_allclose(value, expected[key], rtol=1e-6)
        # A clean error that names the op, and not a crash.
        assert "Op type not registered 'TfOptimExt" in results["native"]

    @pytest.mark.few("NovoGrad", "Prodigy")
    def test_training_step_here(self, entry, tmp_path):
        training = Training(entry.make())
        training.step(1.0)
        state = training.optimizer.get_weights()
        tf.saved_model.save(training, str(tmp_path / "m"), signatures={"train": training.step})
        loaded = tf.saved_model.load(str(tmp_path / "m"))
        assert same(arrays(loaded.weights), arrays(training.weights))
        # Slots are in the file under their names.
        names = ["iterations", "learning_rate"]
        names += [f"{slot}.{i}" for slot in entry.slots for i in range(3)]
        names += [*training.optimizer.scalars]
        if isinstance(training.optimizer, ScheduleFreeOptimizer):
            names.append("averaged")
        store = {}
        training.optimizer.save_own_variables(store)
        assert sorted(store) == sorted(["class_name", *names])
        for name in names:
            assert same(arrays([getattr(loaded.optimizer, name)]), [store[name]])
        assert same(training.optimizer.get_weights(), state)
        step = loaded.signatures["train"]
        for factor in self.STEPS:
            expected = training.step(factor)
            actual = step(factor=tf.constant(factor))
        for key, value in expected.items():
            assert_close([actual[key]], [value], rtol=1e-6)
        assert int(loaded.optimizer.iterations) == 4

    def test_export_leaves_the_optimizer_as_it_was(self, tmp_path):
        training = Training(ADAM.make())
        training.step(1.0)
        with unchanged(training.optimizer, training.weights):
            tf.saved_model.save(training, str(tmp_path / "m"), signatures={"train": training.step})
        assert training.optimizer.get_slot_names() == list(ADAM.slots)
        path = tf.train.Checkpoint(training).save(tmp_path / "ckpt")
        assert any(".OPTIMIZER_SLOT" in name for name, _ in tf.train.list_variables(path))

    def test_loaded_twice_is_independent(self, tmp_path):
        training = Training(ADAM.make())
        training.step(1.0)
        tf.saved_model.save(training, str(tmp_path / "m"), signatures={"train": training.step})
        first, second = (tf.saved_model.load(str(tmp_path / "m")) for _ in range(2))
        first.signatures["train"](factor=tf.constant(2.0))
        assert int(first.optimizer.iterations) == 2
        assert int(second.optimizer.iterations) == 1
        assert same(arrays(second.weights), arrays(training.weights))
