"""Stored state of another optimizer, of other options or variables: weights load, with a warning.

And the same whether the optimizer was built before or after loading.
"""

import re
import warnings

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import SHAPES, arrays, make_variables, same, train, unchanged
from generation import keras, only_keras_3

import tf_optim_ext

pytestmark = pytest.mark.once

ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]
AMSGRAD = registry.BY_NAME["AdamW-amsgrad"]
ACCUMULATING = {"use_ema": True, "gradient_accumulation_steps": 2}
both_orders = pytest.mark.parametrize("built", [False, True], ids=["before build", "after build"])


def stored(optimizer, shapes=SHAPES, steps=2):
    train(optimizer, make_variables(shapes=shapes), steps)
    store = {}
    optimizer.save_own_variables(store)
    return store


def load(optimizer, store, built, match, shapes=SHAPES):
    """Loads what does not fit, and builds the optimizer before or after that."""
    variables = make_variables(shapes=shapes)
    if built:
        optimizer.build(variables)

    def run():
        optimizer.load_own_variables(store)
        optimizer.build(variables)

    with pytest.warns(UserWarning, match=match):
        run()
    return variables


class TestAnotherOptimizer:
    @both_orders
    def test_starts_afresh_and_trains(self, entry, built):
        other = ADAM if entry.cls is not tf_optim_ext.Adam else SGD
        optimizer = entry.make()
        rate = np.asarray(optimizer.learning_rate)
        match = f"not used.*starts afresh. It is the state of '{other.cls.__name__}'"
        variables = load(optimizer, stored(other.make(learning_rate=0.5)), built, match)
        assert int(optimizer.iterations) == 0
        assert np.asarray(optimizer.learning_rate) == rate
        fresh, expected = entry.make(), make_variables()
        train(optimizer, variables)
        train(fresh, expected)
        assert same(arrays(variables), arrays(expected))
        assert same(optimizer.get_weights(), fresh.get_weights())

    def test_of_a_trained_one_goes_on(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        with unchanged(optimizer, variables), pytest.warns(UserWarning, match="state of 3 steps"):
            optimizer.load_own_variables(stored(SGD.make()))

    @both_orders
    @pytest.mark.parametrize(
        ("entry", "options", "other", "other_options", "message"),
        [
            (AMSGRAD, {}, registry.BY_NAME["AdamW"], {}, r"missing: \['velocity_hat.0'"),
            (registry.BY_NAME["AdamW"], {}, AMSGRAD, {}, r"not known: \['velocity_hat.0'"),
            (SGD, {}, registry.BY_NAME["SGD"], {}, r"missing: \['momentum.0'"),
            (ADAM, ACCUMULATING, ADAM, {}, r"missing: \['average.0'"),
            (ADAM, {}, ADAM, ACCUMULATING, r"not known: \['average.0'"),
        ],
        ids=["amsgrad on", "amsgrad off", "momentum on", "average on", "average off"],
    )
    def test_other_options(self, built, entry, options, other, other_options, message):
        rate = {"learning_rate": 0.03125}
        optimizer = entry.make(**rate, **options)
        match = f"starts afresh.*{message}"
        load(optimizer, stored(other.make(**rate, **other_options)), built, match)
        assert int(optimizer._iterations) == 0

    @both_orders
    @pytest.mark.parametrize(
        ("there", "stored_shapes", "message"),
        [
            (SHAPES, SHAPES[:2], r"missing: \['momentum.2', 'velocity.2'\]"),
            (SHAPES[:2], SHAPES, r"not known: \['momentum.2', 'velocity.2'\]"),
            (SHAPES, (*SHAPES[:2], (2,)), r"another shape: \['momentum.2 \(2,\) instead of \(\)'"),
        ],
        ids=["fewer", "more", "other shape"],
    )
    def test_other_variables(self, built, there, stored_shapes, message):
        load(ADAM.make(), stored(ADAM.make(), stored_shapes), built, message, there)


class TestWholeness:
    """The state of such an optimizer over such variables must be whole."""

    def test_an_entry_is_missing(self, entry):
        if not entry.slots:
            pytest.skip("no slots")
        store = stored(entry.make())
        del store[f"{entry.slots[0]}.1"]
        optimizer, variables = entry.make(), make_variables()
        train(optimizer, variables)
        match = re.escape(f"is not whole. Of its entries, missing: ['{entry.slots[0]}.1']")
        with unchanged(optimizer, variables), pytest.raises(ValueError, match=match):
            optimizer.load_own_variables(store)

    def test_not_built(self):
        store = stored(ADAM.make())
        del store["velocity.0"]
        optimizer, variables = ADAM.make(), make_variables()
        optimizer.load_own_variables(store)
        before = arrays(variables)
        for _ in range(2):  # and it does not go on with half of a state
            with pytest.raises(ValueError, match=r"missing: \['velocity.0'\]"):
                train(optimizer, variables)
            assert same(arrays(variables), before)

    def test_empty(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables)
        with unchanged(optimizer, variables):
            optimizer.load_own_variables({})

    def test_without_the_name_of_a_class(self):
        """Files of earlier versions have none."""
        optimizer = ADAM.make()
        store = stored(optimizer)
        del store["class_name"]
        other = ADAM.make()
        other.build(make_variables())
        other.load_own_variables(store)
        assert same(other.get_weights(), optimizer.get_weights())


def model_of(head=1, name="head"):
    layers = [keras.Input((3,)), keras.layers.Dense(2, name="body")]
    model = keras.Sequential([*layers, keras.layers.Dense(head, name=name)])
    for i, variable in enumerate(model.trainable_variables):
        variable.assign(np.random.default_rng(i).normal(size=variable.shape))
    return model


def fit(model, epochs=1):
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    y = np.zeros((8, model.layers[-1].units), np.float32)
    model.fit(x, y, epochs=epochs, verbose=0, shuffle=False)


def compile_with(model, optimizer):
    # Eagerly: tracing would take most of the time.
    model.compile(optimizer, "mse", run_eagerly=True)


def trained(path, optimizer):
    model = model_of()
    compile_with(model, optimizer)
    fit(model)
    model.save_weights(path)
    return model


class TestWeightsFiles:
    """What people do with `load_weights`."""

    @pytest.mark.few("NovoGrad", "Prodigy")
    @both_orders
    def test_of_another_optimizer(self, entry, built, tmp_path):
        path = tmp_path / "model.weights.h5"
        other = tf_optim_ext.Adam if entry.cls is not tf_optim_ext.Adam else tf_optim_ext.Lion
        first = trained(path, other(0.1))
        model = model_of()
        compile_with(model, entry.make())
        if built:
            model.optimizer.build(model.trainable_variables)
        with pytest.warns(UserWarning, match=f"not used.*'{other.__name__}'"):
            model.load_weights(path)
        assert same(model.get_weights(), first.get_weights())
        fit(model, 2)
        assert int(model.optimizer.iterations) == 2

    def test_of_keras_own(self, tmp_path):
        path = tmp_path / "model.weights.h5"
        trained(path, keras.optimizers.SGD(0.1, momentum=0.9))
        model = model_of()
        compile_with(model, tf_optim_ext.Adam(0.1))
        model.load_weights(path)
        with pytest.warns(UserWarning, match="starts afresh"):
            fit(model)

    @both_orders
    def test_frozen_backbone(self, built, tmp_path):
        path = tmp_path / "model.weights.h5"
        first = trained(path, tf_optim_ext.AdamW(0.1))
        model = model_of()
        model.layers[0].trainable = False
        compile_with(model, tf_optim_ext.AdamW(0.1))
        if built:
            model.optimizer.build(model.trainable_variables)

        def load_and_fit():
            model.load_weights(path)
            assert same(model.get_weights(), first.get_weights())
            fit(model)

        with pytest.warns(UserWarning, match=r"afresh.*'momentum\.2'"):
            load_and_fit()
        assert int(model.optimizer.iterations) == 1

    @both_orders
    def test_new_head(self, built, tmp_path):
        path = tmp_path / "model.weights.h5"
        trained(path, tf_optim_ext.AdamW(0.1))
        model = model_of(head=2)
        compile_with(model, tf_optim_ext.AdamW(0.1))
        if built:
            model.optimizer.build(model.trainable_variables)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.load_weights(path, skip_mismatch=True)
            fit(model)
        texts = " ".join(str(warning.message) for warning in caught)
        assert re.search(r"'momentum.2 \(2, 1\) instead of \(2, 2\)'", texts)
        assert int(model.optimizer.iterations) == 1

    @both_orders
    @pytest.mark.parametrize("make", [tf_optim_ext.Adam, tf_optim_ext.ScheduleFreeAdamW])
    def test_resuming_goes_on_bit_for_bit(self, built, make, tmp_path):
        path = tmp_path / "model.weights.h5"
        first = trained(path, make(0.1))
        model = model_of()
        compile_with(model, make(0.1))
        if built:
            model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
        fit(model)
        fit(first)
        assert same(model.get_weights(), first.get_weights())
        assert int(model.optimizer.iterations) == 2

    @both_orders
    def test_stored_learning_rate(self, built, tmp_path):
        path = tmp_path / "model.weights.h5"
        trained(path, tf_optim_ext.Adam(0.25))
        model = model_of()
        compile_with(model, tf_optim_ext.Adam(0.001))
        if built:
            model.optimizer.build(model.trainable_variables)
        match = r"takes the stored learning rate 0.25 instead of 0.001\. Set"
        with pytest.warns(UserWarning, match=match):
            model.load_weights(path)
        assert float(model.optimizer.learning_rate) == 0.25
        model.optimizer.learning_rate = 0.5
        fit(model)
        assert float(model.optimizer.learning_rate) == 0.5

    def test_model_files_say_nothing_of_it(self, tmp_path):
        model = trained(tmp_path / "model.weights.h5", tf_optim_ext.Adam(0.25))
        model.optimizer.learning_rate = 0.125
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert float(loaded.optimizer.learning_rate) == 0.125

    @only_keras_3("logs it")
    def test_keras_drops_it_with_a_warning(self, tmp_path):
        trained(tmp_path / "all.weights.h5", keras.optimizers.SGD(0.1, momentum=0.9))
        other = model_of()
        compile_with(other, keras.optimizers.Adam(0.1))
        fit(other)
        with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
            other.load_weights(tmp_path / "all.weights.h5")
        assert int(other.optimizer.iterations) == 1


def test_a_learning_rate_set_between_loading_and_building_stays():
    optimizer = ADAM.make(learning_rate=0.25)
    store = stored(ADAM.make(learning_rate=0.5), ((3, 2), (4,)))
    with pytest.warns(UserWarning, match="stored learning rate"):
        optimizer.load_own_variables(store)
    optimizer.learning_rate = tf.constant(0.125)
    with pytest.warns(UserWarning, match="afresh"):
        optimizer.build(make_variables())
    assert float(optimizer.learning_rate) == 0.125
    assert int(optimizer.iterations) == 0
