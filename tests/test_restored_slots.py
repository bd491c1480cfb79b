"""Slots that exist as soon as a checkpoint was restored."""

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import arrays, both_kinds, make_variables, same, train
from generation import FIRST_SLOT, keras, path_of

pytestmark = pytest.mark.once

ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]
OPTIONS = {"use_ema": True, "gradient_accumulation_steps": 2}


def checkpoint(optimizer, variables):
    return tf.train.Checkpoint(optimizer=optimizer, variables=variables)


def trained(make, kind="tf", folder="."):
    """An optimizer after three steps, its variables, and the path of their checkpoint."""
    optimizer, variables = make(), make_variables(kind)
    train(optimizer, variables)
    return optimizer, variables, checkpoint(optimizer, variables).save(f"{folder}/ckpt")


def restored(make, path, kind="tf"):
    """A new optimizer and variables, restored and not built; and the status."""
    optimizer, variables = make(), make_variables(kind, seed=1)
    return optimizer, variables, checkpoint(optimizer, variables).restore(path)


def check_continues(optimizer, variables, other, others):
    for own, given in ((optimizer, variables), (other, others)):
        train(own, given, 2, first=3)
    assert same(arrays(others), arrays(variables))
    assert same(other.get_weights(), optimizer.get_weights())
    names = [[path_of(v).partition("/")[2] for v in o.variables] for o in (other, optimizer)]
    assert names[0] == names[1]


def test_every_slot(entry, tmp_path):
    optimizer, variables, path = trained(entry.make, folder=tmp_path)
    other, others, status = restored(entry.make, path)
    assert not other.built
    assert sorted(other.get_slot_names()) == sorted(entry.slots)
    for old, new in zip(variables, others):
        for name in entry.slots:
            slot, wanted = other.get_slot(new, name), optimizer.get_slot(old, name)
            assert same(arrays([slot]), arrays([wanted]))
    if not optimizer.scalars:
        status.assert_consumed()
    taken = [other.get_slot(v, name) for v in others for name in entry.slots]
    other.build(others)
    status.assert_consumed()
    assert all(
        slot is other.get_slot(v, name)
        for slot, (v, name) in zip(taken, [(v, n) for v in others for n in entry.slots])
    )
    assert other.get_slot_names() == optimizer.get_slot_names()
    check_continues(optimizer, variables, other, others)


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        {**OPTIONS, "sparse": "lazy"},
        {"row_wise": True},
        {"sparse": "catch_up"},
        {"row_wise": True, "sparse": "catch_up", **OPTIONS},
    ],
    ids=str,
)
@both_kinds
def test_with_options(options, kind, tmp_path):
    def make():
        return ADAM.make(**options)

    optimizer, variables, path = trained(make, kind, tmp_path)
    other, others, status = restored(make, path, kind)
    status.assert_consumed()
    names = optimizer.get_slot_names()
    assert sorted(other.get_slot_names()) == sorted(names)
    for old, new in zip(variables, others):
        for name in names:
            found = arrays([other.get_slot(new, name), optimizer.get_slot(old, name)])
            assert same(found[:1], found[1:]), name
    check_continues(optimizer, variables, other, others)


def test_in_a_function(tmp_path):
    optimizer, variables, path = trained(ADAM.make, folder=tmp_path)
    other, others, status = restored(ADAM.make, path)
    status.assert_consumed()
    slot = other.get_slot(others[0], "velocity")

    @tf.function
    def step():
        other.apply_gradients([(tf.ones_like(v), v) for v in others])

    step()
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in variables])
    assert other.get_slot(others[0], "velocity") is slot
    assert same(other.get_weights(), optimizer.get_weights())


def test_variables_that_come_after_the_restore(tmp_path):
    optimizer, variables, path = trained(ADAM.make, folder=tmp_path)
    other, holder = ADAM.make(), tf.train.Checkpoint()
    status = tf.train.Checkpoint(optimizer=other, variables=holder).restore(path)
    for i, variable in enumerate(make_variables("tf", seed=1)):
        with pytest.raises(KeyError):
            other.get_slot(variable, "velocity")
        setattr(holder, str(i), variable)
        found = arrays([other.get_slot(variable, "velocity")])
        assert same(found, arrays([optimizer.get_slot(variables[i], "velocity")]))
    status.assert_consumed()


def test_values_assigned_before_the_first_step_stay(tmp_path):
    _, _, path = trained(ADAM.make, folder=tmp_path)
    other, others, _ = restored(ADAM.make, path)
    other.get_slot(others[1], "momentum").assign([1.0, 2.0, 3.0, 4.0])
    other.build(others)
    assert np.asarray(other.get_slot(others[1], "momentum")).tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_missing_slot(tmp_path):
    _, _, path = trained(ADAM.make, folder=tmp_path)
    other, others, _ = restored(ADAM.make, path)
    with pytest.raises(KeyError, match=r"No slot 'u'.*'momentum', 'velocity'"):
        other.get_slot(others[0], "u")
    with pytest.raises(KeyError, match="No slot 'velocity' for the variable"):
        other.get_slot(tf.Variable(1.0), "velocity")


class TestOwnSlots:
    """Those of `add_slot`, of which the optimizer knows nothing before it is called."""

    def saved(self, tmp_path):
        variable, optimizer = tf.Variable([1.0, 2.0, 3.0]), ADAM.make()
        optimizer.add_slot(variable, "own", shape=(2, 5)).assign(np.arange(10.0).reshape(2, 5))
        optimizer.add_slot(variable, "scalar", shape=()).assign(7.0)
        train(optimizer, [variable], 1)
        return checkpoint(optimizer, [variable]).save(tmp_path / "ckpt")

    @pytest.mark.parametrize("build", [False, True], ids=["unbuilt", "built"])
    def test_are_created_when_they_are_asked_for(self, build, tmp_path):
        path = self.saved(tmp_path)
        variable, other = tf.Variable([0.0, 0.0, 0.0]), ADAM.make()
        if build:
            other.build([variable])
        status = checkpoint(other, [variable]).restore(path)
        with pytest.raises(AssertionError, match=r"own|scalar"):
            status.assert_consumed()
        slot = other.get_slot(variable, "own")
        assert np.asarray(slot).tolist() == np.arange(10.0).reshape(2, 5).tolist()
        assert slot is other.add_slot(variable, "own", shape=(2, 5))
        assert float(other.get_slot(variable, "scalar").numpy()) == 7.0
        status.assert_consumed()
        assert any(slot is v for v in other.variables)
        train(other, [variable], 1, first=1)
        assert slot is other.get_slot(variable, "own")

    def test_are_saved_again(self, tmp_path):
        path = self.saved(tmp_path)
        variable, other = tf.Variable([0.0, 0.0, 0.0]), ADAM.make()
        first = checkpoint(other, [variable])
        first.restore(path)
        velocity = arrays([other.get_slot(variable, "velocity")])
        own = arrays([other.get_slot(variable, "own")])
        path = first.save(tmp_path / "again")
        third = ADAM.make()
        checkpoint(third, [variable]).restore(path)
        assert same(arrays([third.get_slot(variable, "velocity")]), velocity)
        assert same(arrays([third.get_slot(variable, "own")]), own)

    def test_of_another_shape_by_add_slot(self, tmp_path):
        path = self.saved(tmp_path)
        variable, other = tf.Variable([0.0, 0.0, 0.0]), ADAM.make()
        checkpoint(other, [variable]).restore(path).expect_partial()
        with pytest.raises(ValueError, match="shape"):
            other.add_slot(variable, "own", shape=(3,))


class TestWhatIsLeftAlone:
    def test_slots_of_another_optimizer(self, tmp_path):
        _, _, path = trained(ADAM.make, folder=tmp_path)
        other, others, status = restored(SGD.make, path)
        assert other.get_slot_names() == ["momentum"]
        with pytest.raises(AssertionError, match="velocity"):
            status.assert_consumed()
        train(other, others, 1)
        assert other.get_slot_names() == ["momentum"]

    def test_variables_that_are_not_optimized(self, tmp_path):
        optimizer, variables, path = trained(ADAM.make, folder=tmp_path)
        other, others, _ = restored(ADAM.make, path)
        other.build(others[:1])
        assert len(other.variables) == FIRST_SLOT + 2
        with pytest.raises(KeyError, match="bias"):
            other.get_slot(others[1], "velocity")
        found = arrays([other.get_slot(others[0], "velocity")])
        assert same(found, arrays([optimizer.get_slot(variables[0], "velocity")]))

    def test_variables_of_another_shape(self, tmp_path):
        _, _, path = trained(ADAM.make, folder=tmp_path)
        other, others = ADAM.make(), [tf.Variable(tf.zeros((5, 5)))]
        with pytest.raises(ValueError, match="shape"):
            checkpoint(other, others).restore(path)
        assert not other.get_slot_names()

    def test_later_restore_wins(self, tmp_path):
        optimizer, variables, first = trained(ADAM.make, folder=tmp_path)
        train(optimizer, variables, 1, first=3)
        second = checkpoint(optimizer, variables).save(tmp_path / "later")
        other, others = ADAM.make(), make_variables("tf")
        for path in (first, second):
            checkpoint(other, others).restore(path)
        slot = other.get_slot(others[0], "velocity")
        assert same(arrays([slot]), arrays([optimizer.get_slot(variables[0], "velocity")]))
        check_continues(optimizer, variables, other, others)

    def test_files_of_keras(self, tmp_path):
        """A checkpoint of a compiled model, restored before its first step."""

        def compiled():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
            model.compile(ADAM.make(), "mse")
            return model

        model, other = compiled(), compiled()
        x = np.ones((4, 3), np.float32)
        model.fit(x, x[:, :2], verbose=0)
        path = tf.train.Checkpoint(model=model).save(tmp_path / "ckpt")
        tf.train.Checkpoint(model=other).restore(path).assert_consumed()
        for each in (model, other):
            each.fit(x, x[:, :2], verbose=0)
        assert same(arrays(other.trainable_variables), arrays(model.trainable_variables))
        assert same(other.optimizer.get_weights(), model.optimizer.get_weights())


def test_legacy_optimizers_do_the_same(tmp_path):
    from legacy import legacy

    _, _, path = trained(lambda: legacy.Adam(0.1), folder=tmp_path)
    other, others, status = restored(lambda: legacy.Adam(0.1), path)
    status.expect_partial()  # its numbers come with the first step
    assert other.get_slot(others[0], "v").shape == others[0].shape
