"""Whole models in `.h5` files, the format of Keras 2."""

import numpy as np
import pytest
import registry
from common import arrays, same
from generation import FIRST_SLOT, LossScaleOptimizer, keras, only_keras_3

import tf_optim_ext

ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(8, 1)).astype(np.float32)
# As an object: Keras 3 cannot read the names of losses in its files.
LOSS = keras.losses.MeanSquaredError
OPTIONS = [
    {"use_ema": True, "gradient_accumulation_steps": 2},
    {"gradient_accumulation_steps": 2, "sparse": "lazy"},
    {"row_wise": True},
    {"sparse": "catch_up"},
    {"weight_decay": 0.1, "clipnorm": 0.5},
]

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]


@keras.saving.register_keras_serializable("test_h5")
class WithOwnWeight(keras.Model):
    """A functional model with a variable that belongs to no layer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.own = self.add_weight(shape=(1,), initializer="ones", name="own")

    def call(self, inputs, **kwargs):
        return super().call(inputs, **kwargs) * self.own


def sequential():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])


def nested():
    inputs = keras.Input((3,))
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    return keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))


def with_own_weight():
    inputs = keras.Input((3,))
    return WithOwnWeight(inputs, keras.layers.Dense(1)(inputs))


MODELS = [sequential, nested, with_own_weight]


def trained(optimizer, make=sequential, epochs=3):
    keras.utils.set_random_seed(0)
    model = make()
    # Eagerly, which takes a tenth of the time.
    model.compile(optimizer, LOSS(), run_eagerly=True)
    fit(model, epochs)
    return model


def fit(model, epochs=2):
    model.fit(X, Y, epochs=epochs, batch_size=8, verbose=0, shuffle=False)


def saved_and_loaded(model, path):
    model.save(path)
    loaded = keras.models.load_model(path, {"WithOwnWeight": WithOwnWeight})
    loaded.run_eagerly = True
    return loaded


def check_continues(loaded, model, steps=3):
    assert loaded.optimizer.built
    assert int(loaded.optimizer._iterations.numpy()) == steps
    assert same(arrays(loaded.optimizer.variables), arrays(model.optimizer.variables))
    for each in (model, loaded):
        fit(each)
    assert same(arrays(loaded.trainable_variables), arrays(model.trainable_variables))
    assert same(arrays(loaded.optimizer.variables), arrays(model.optimizer.variables))
    assert int(loaded.optimizer._iterations.numpy()) == steps + 2


@pytest.mark.few("NovoGrad", "Prodigy")
def test_training_goes_on(entry, tmp_path):
    model = trained(entry.make())
    check_continues(saved_and_loaded(model, tmp_path / "model.h5"), model)


@pytest.mark.long
@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
def test_with_more_options(entry, options, tmp_path):
    check_options(entry, options, tmp_path)


@pytest.mark.few("NovoGrad", "Prodigy")
@pytest.mark.parametrize("options", OPTIONS[:1], ids=str)
def test_with_options(entry, options, tmp_path):
    check_options(entry, options, tmp_path)


def check_options(entry, options, tmp_path):
    try:
        optimizer = entry.make(**options)
    except ValueError as error:
        pytest.skip(str(error))
    model = trained(optimizer)
    check_continues(saved_and_loaded(model, tmp_path / "model.h5"), model)


@pytest.mark.parametrize("make", MODELS)
@only_keras_3("needs another configuration of layers")
def test_kinds_of_models(make, tmp_path):
    model = trained(ADAM.make(), make)
    check_continues(saved_and_loaded(model, tmp_path / "model.h5"), model)


def test_saved_again_without_training(tmp_path):
    model = trained(ADAM.make())
    loaded = saved_and_loaded(model, tmp_path / "first.h5")
    check_continues(saved_and_loaded(loaded, tmp_path / "second.h5"), model)


def test_a_rate_set_after_loading_stays(tmp_path):
    model = trained(ADAM.make())
    model.optimizer.learning_rate = 0.25
    loaded = saved_and_loaded(model, tmp_path / "model.h5")
    assert float(loaded.optimizer.learning_rate) == 0.25
    loaded.optimizer.learning_rate = 0.125
    fit(loaded)
    assert float(loaded.optimizer.learning_rate) == 0.125


def test_compiled_functions_and_xla(tmp_path):
    model = trained(ADAM.make())
    loaded = saved_and_loaded(model, tmp_path / "model.h5")
    for jit in (False, True):
        for each in (model, loaded):
            each.compile(each.optimizer, LOSS(), jit_compile=jit)
            fit(each)
        assert same(arrays(loaded.trainable_variables), arrays(model.trainable_variables))


def test_saved_before_the_first_step(tmp_path):
    model = sequential()
    model.compile(ADAM.make(), LOSS(), run_eagerly=True)
    loaded = saved_and_loaded(model, tmp_path / "model.h5")
    assert int(loaded.optimizer._iterations.numpy()) == 0
    for each in (model, loaded):
        fit(each)
    assert same(arrays(loaded.trainable_variables), arrays(model.trainable_variables))


def test_frozen_layers(tmp_path):
    def make():
        model = sequential()
        model.layers[0].trainable = False
        return model

    model = trained(SGD.make(), make)
    loaded = saved_and_loaded(model, tmp_path / "model.h5")
    assert len(loaded.optimizer.variables) == FIRST_SLOT + 2
    check_continues(loaded, model)


def test_inside_of_a_loss_scale_optimizer(tmp_path):
    optimizer = LossScaleOptimizer(ADAM.make(), initial_scale=4.0)
    model = trained(optimizer)
    loaded = saved_and_loaded(model, tmp_path / "model.h5")
    inner = loaded.optimizer.inner_optimizer
    assert len(inner.variables) == len(optimizer.inner_optimizer.variables)
    fit(loaded)
    assert len(inner.variables) == len(optimizer.inner_optimizer.variables)


def test_without_the_optimizer(tmp_path):
    model = trained(ADAM.make())
    model.save(tmp_path / "model.h5", include_optimizer=False)
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    loaded.compile(ADAM.make(), LOSS())
    fit(loaded)
    assert int(loaded.optimizer._iterations.numpy()) == 2


def test_weights_of_another_number_of_variables_are_not_taken(tmp_path, caplog):
    """Keras warns then, and starts anew."""
    import logging

    model = trained(ADAM.make())
    model.optimizer.add_weight("own", ())
    logging.getLogger("absl").propagate = True
    with caplog.at_level(logging.WARNING, logger="absl"):
        loaded = saved_and_loaded(model, tmp_path / "model.h5")
    assert "freshly initialized" in caplog.text
    assert int(loaded.optimizer._iterations.numpy()) == 0
    fit(loaded)
    assert int(loaded.optimizer._iterations.numpy()) == 2


def test_build_elsewhere_takes_what_it_is_given(tmp_path):
    """The loader's model is that of this optimizer only."""

    @keras.saving.register_keras_serializable("test_h5")
    class Building(keras.layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self.inner = tf_optim_ext.SGD(0.5, momentum=0.5)
            self.inner.build([self.kernel])

    def make():
        return keras.Sequential([keras.Input((3,)), Building(1)])

    model = trained(ADAM.make(), make)
    loaded = saved_and_loaded(model, tmp_path / "model.h5")
    assert len(loaded.layers[0].inner.variables) == FIRST_SLOT + 1
    check_continues(loaded, model)
