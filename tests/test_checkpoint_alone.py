"""`tf.train.Checkpoint` of an optimizer without its model."""

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import arrays, make_variables, same, train
from generation import FIRST_SLOT, keras

import tf_optim_ext

pytestmark = pytest.mark.once

ADAM = registry.BY_NAME["Adam"]
OPTIONS = {"use_ema": True, "gradient_accumulation_steps": 2}
WHEN = ("before build", "after build", "after steps")


def check_restore(entry, when, kind, folder, **options):
    optimizer, variables = entry.make(**options), make_variables(kind)
    train(optimizer, variables)
    optimizer.add_slot(variables[0], "of_user", "ones").assign(tf.fill(variables[0].shape, 7.0))
    path = tf.train.Checkpoint(optimizer=optimizer).save(folder / "ckpt")
    other, others = entry.make(**options), make_variables(kind)
    for variable, value in zip(others, variables):
        variable.assign(value)
    if when == "after build":
        other.build(others)
    if when == "after steps":
        train(other, others, 1)
        for variable, value in zip(others, variables):
            variable.assign(value)
    status = tf.train.Checkpoint(optimizer=other).restore(path)
    assert int(other._iterations) == 3
    other.build(others)
    of_user = other.add_slot(others[0], "of_user")
    status.assert_consumed()
    status.assert_existing_objects_matched()
    assert np.all(np.asarray(of_user) == 7.0)
    assert same(other.get_weights(), optimizer.get_weights())
    train(optimizer, variables, first=3)
    train(other, others, first=3)
    assert same(other.get_weights(), optimizer.get_weights())
    assert same(arrays(others), arrays(variables))


class TestRestore:
    def test_every_optimizer(self, entry, tmp_path):
        check_restore(entry, "before build", "keras", tmp_path)

    @pytest.mark.few("NovoGrad", "Prodigy")
    @pytest.mark.parametrize("when", WHEN)
    def test_at_any_time(self, entry, when, tmp_path):
        check_restore(entry, when, "tf", tmp_path)

    @pytest.mark.parametrize("when", WHEN)
    def test_with_options(self, when, tmp_path):
        check_restore(ADAM, when, "keras", tmp_path, **OPTIONS)

    @pytest.mark.parametrize("when", WHEN)
    def test_row_wise(self, when, tmp_path):
        check_restore(registry.BY_NAME["Adagrad"], when, "keras", tmp_path, row_wise=True)


class TestFiles:
    def test_keys_name_the_slot(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        path = tf.train.Checkpoint(optimizer=optimizer).save(tmp_path / "ckpt")
        reader = tf.train.load_checkpoint(path)
        keys = [key for key in reader.get_variable_to_shape_map() if "velocity" in key]
        # TensorFlow doubles the dot of a name.
        key = "optimizer/velocity..1/.ATTRIBUTES/VARIABLE_VALUE"
        assert len(keys) == 3
        expected = np.asarray(optimizer.get_slot(variables[1], "velocity"))
        assert same([reader.get_tensor(key)], [expected])

    def test_holds_nothing_of_the_model(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        path = tf.train.Checkpoint(optimizer=optimizer).save(tmp_path / "ckpt")
        names = [name for name, _ in tf.train.list_variables(path)]
        # The counter of saves, the graph of objects, and the learning rate.
        assert len(names) == len(optimizer.variables) - FIRST_SLOT + 4

    def test_slots_of_the_variables_that_are_there_are_saved_with_them(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables("tf")
        train(optimizer, variables)
        checkpoint = tf.train.Checkpoint(optimizer=optimizer, first=variables[0])
        names = [name for name, _ in tf.train.list_variables(checkpoint.save(tmp_path / "ckpt"))]
        slots = sorted(name for name in names if "momentum" in name)
        assert slots == [
            "first/.OPTIMIZER_SLOT/optimizer/momentum/.ATTRIBUTES/VARIABLE_VALUE",
            "optimizer/momentum..1/.ATTRIBUTES/VARIABLE_VALUE",
            "optimizer/momentum..2/.ATTRIBUTES/VARIABLE_VALUE",
        ]
        other, others = ADAM.make(), make_variables("tf", seed=1)
        other.build(others)
        status = tf.train.Checkpoint(optimizer=other, first=others[0]).restore(
            str(tmp_path / "ckpt-1")
        )
        status.assert_consumed()
        assert same(other.get_weights(), optimizer.get_weights())

    def test_saved_alone_and_restored_with_the_model(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables("tf")
        train(optimizer, variables)
        path = tf.train.Checkpoint(optimizer=optimizer).save(tmp_path / "ckpt")
        for when in ("before", "after"):
            other, others = ADAM.make(), make_variables("tf")
            if when == "after":
                other.build(others)
            status = tf.train.Checkpoint(optimizer=other, variables=others).restore(path)
            other.build(others)
            status.expect_partial()
            assert same(other.get_weights(), optimizer.get_weights())

    def test_saved_with_the_model_and_restored_alone_is_noticed(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables("tf")
        train(optimizer, variables)
        path = tf.train.Checkpoint(optimizer=optimizer, variables=variables).save(tmp_path / "ckpt")
        other = ADAM.make()
        other.build(make_variables("tf"))
        status = tf.train.Checkpoint(optimizer=other).restore(path)
        with pytest.raises(AssertionError):
            status.assert_existing_objects_matched()

    def test_manager(self, tmp_path):
        optimizer, variables = ADAM.make(), make_variables()
        manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(optimizer=optimizer), tmp_path, max_to_keep=2
        )
        for step in range(4):
            train(optimizer, variables, 1, first=step)
            manager.save()
        other, others = ADAM.make(), make_variables()
        manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(optimizer=other), tmp_path, max_to_keep=2
        )
        assert manager.restore_or_initialize() == manager.latest_checkpoint
        other.build(others)
        assert same(other.get_weights(), optimizer.get_weights())

    def test_compiled_model_inside(self, tmp_path):
        """The optimizer is reachable twice; its slots are saved once, with the variables."""
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(tf_optim_ext.AdamW(0.1), "mse")
        x = np.ones((4, 3), np.float32)
        model.fit(x, x[:, :2], verbose=0)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        names = [name for name, _ in tf.train.list_variables(checkpoint.save(tmp_path / "ckpt"))]
        assert len([name for name in names if "momentum" in name]) == 2

    def test_as_keras_does(self, tmp_path):
        optimizer, variables = keras.optimizers.Adam(0.1), make_variables()
        train(optimizer, variables)
        path = tf.train.Checkpoint(optimizer=optimizer).save(tmp_path / "ckpt")
        assert len(tf.train.list_variables(path)) >= len(optimizer.variables) + 2
