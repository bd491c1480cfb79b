"""What optimizers take beyond Keras' arguments, and what only some of them have."""

import itertools
import json

import numpy as np
import pytest
import references
import registry
import tensorflow as tf
from common import arrays, assert_close, make_gradients, make_variables
from generation import keras
from modes import (
    MOMENTS,
    RATE,
    check_route,
    dense,
    fit,
    in_mode,
    modes,
)
from references import addons, descendants

import tf_optim_ext
from tf_optim_ext import (
    SGD,
    Adam,
    AdamW,
    DecoupledWeightDecayExtension,
    Lion,
    NAdamW,
    Signum,
    extend_with_decoupled_weight_decay,
)

# Optimizers with their references, whose updates of a step do not depend on the weights.
OPTIMIZERS = {
    "Adam": (lambda **k: Adam(**MOMENTS, **k), references.adam, MOMENTS),
    "SGD": (
        lambda **k: SGD(RATE, momentum=0.8, **k),
        references.sgd,
        {"learning_rate": RATE, "momentum": 0.8},
    ),
    "Lion": (
        lambda **k: Lion(RATE, 0.8, 0.9, **k),
        references.lion,
        {"learning_rate": RATE, "beta_1": 0.8, "beta_2": 0.9},
    ),
    "NAdamW": (
        lambda **k: NAdamW(**MOMENTS, momentum_decay=0.3, **{"weight_decay": None, **k}),
        descendants.nadamw,
        {**MOMENTS, "momentum_decay": 0.3},
    ),
    "Signum": (
        lambda **k: Signum(RATE, 0.8, **k),
        addons.signum,
        {"learning_rate": RATE, "momentum": 0.8},
    ),
}
by_name = pytest.mark.parametrize("name", OPTIMIZERS)

Piecewise = keras.optimizers.schedules.PiecewiseConstantDecay


def piecewise():
    return Piecewise([0, 2], [0.5, 0.25, 0.125])


def decay_of_steps(steps):
    return [0.5, 0.25, 0.25, *[0.125] * steps][:steps]


@keras.saving.register_keras_serializable("test_options")
def constant_decay():
    return 0.25


def steps_of(count, every=1):
    """Gradients of every step as arrays, some of them zero."""
    gradients = [make_gradients(i) for i in range(count * every)]
    for step in gradients:
        step[0][0, 0] = 0.0
    return gradients


def updates_of(name, gradients):
    """For each step what the plain optimizer subtracts from the weights, in float64."""
    _, reference, arguments = OPTIMIZERS[name]
    starts = [np.zeros_like(g, np.float64) for g in gradients[0]]
    paths = []
    for start, own in zip(starts, zip(*gradients)):
        weights = [start, *(w for w, _ in reference(start, own, **arguments))]
        paths.append([before - after for before, after in itertools.pairwise(weights)])
    return list(zip(*paths))


def cautious_update(u, g):
    """As Liang et al. write it, arXiv:2411.16085, with the bound of their code."""
    mask = u * g > 0
    return u * mask / max(np.mean(mask), 1e-3)


def expected(name, gradients, options, decays, excluded=()):
    """The weights after the steps: decay and caution as the papers write them."""
    weights = [w.astype(np.float64) for w in arrays(make_variables())]
    for step, (updates, decay) in enumerate(zip(updates_of(name, gradients), decays)):
        rate = 1.0 if options.get("fully_decoupled_weight_decay") else RATE
        for i, u in enumerate(updates):
            if options.get("cautious"):
                u = cautious_update(u, gradients[step][i])
            decayed = 1.0
            if options.get("cautious_weight_decay"):
                decayed = u * weights[i] >= 0
            part = 0.0 if i in excluded else rate * decay
            weights[i] = weights[i] - part * decayed * weights[i] - u
    return weights


OPTIONS = (
    {"cautious": True},
    {"cautious_weight_decay": True},
    {"cautious": True, "cautious_weight_decay": True},
    {"fully_decoupled_weight_decay": True},
    {"fully_decoupled_weight_decay": True, "cautious_weight_decay": True},
)


def option_id(options):
    return "+".join(options) or "plain"


class TestFrame:
    @pytest.mark.parametrize("options", OPTIONS, ids=option_id)
    @by_name
    def test_numbers(self, name, options):
        optimizer, variables = OPTIMIZERS[name][0](weight_decay=0.2, **options), make_variables()
        gradients = steps_of(5)
        step = in_mode("function", optimizer, variables)
        for own in gradients:
            step(own)
        check_route("function", optimizer)
        assert_close(variables, expected(name, gradients, options, [0.2] * 5), rtol=1e-4)

    @pytest.mark.parametrize("mode", ["eager", "xla"])
    @pytest.mark.parametrize("options", [OPTIONS[2], OPTIONS[3]], ids=option_id)
    def test_other_modes(self, options, mode):
        optimizer, variables = Adam(**MOMENTS, weight_decay=0.2, **options), make_variables("tf")
        gradients = steps_of(4)
        step = in_mode(mode, optimizer, variables)
        for own in gradients:
            step([tf.constant(g) for g in own])
        check_route(mode, optimizer)
        assert_close(variables, expected("Adam", gradients, options, [0.2] * 4), rtol=1e-4)

    @modes
    def test_with_clipping_and_accumulation(self, mode):
        options = OPTIONS[2]
        optimizer = SGD(
            RATE,
            momentum=0.8,
            weight_decay=0.2,
            clipnorm=0.7,
            gradient_accumulation_steps=2,
            **options,
        )
        variables, gradients = make_variables("tf"), steps_of(4, every=2)
        step = in_mode(mode, optimizer, variables)
        for own in gradients:
            step([tf.constant(g) for g in own])
        means = [[(a + b) / 2 for a, b in zip(*pair)] for pair in zip(*[iter(gradients)] * 2)]
        clipped = [[g * min(1.0, 0.7 / np.linalg.norm(g)) for g in own] for own in means]
        assert_close(variables, expected("SGD", clipped, options, [0.2] * 4), rtol=1e-4)

    def test_by_hand(self):
        # The third weight is left out, so that the others move by 3 / 2 of the step.
        optimizer = SGD(0.5, momentum=0.5, cautious=True)
        variable = tf.Variable([1.0, 1.0, 1.0])
        optimizer.apply_gradients([(tf.constant([1.0, 1.0, 4.0]), variable)])
        np.testing.assert_array_equal(variable, [0.5, 0.5, -1.0])
        optimizer.apply_gradients([(tf.constant([1.0, 1.0, -1.0]), variable)])
        np.testing.assert_allclose(variable, [0.5 - 1.125, 0.5 - 1.125, -1.0])

    def test_decay_by_hand(self):
        # Weights of 0 and those that grow do not decay.
        optimizer = Signum(0.5, cautious_weight_decay=True, weight_decay=0.5)
        variable = tf.Variable([1.0, -1.0, 1.0, 0.0])
        optimizer.apply_gradients([(tf.constant([2.0, -2.0, -2.0, 0.0]), variable)])
        np.testing.assert_array_equal(variable, [0.25, -0.25, 1.5, 0.0])

    def test_nothing_moves_without_agreement(self):
        optimizer, variable = Lion(0.5, 1.0, 0.5, cautious=True), tf.Variable([1.0, 2.0])
        for _ in range(2):  # with a beta of 1, the first update is 0
            optimizer.apply_gradients([(tf.constant([1.0, 1.0]), variable)])
        np.testing.assert_array_equal(variable, [0.5, 1.5])
        optimizer.apply_gradients([(tf.constant([-0.1, -0.1]), variable)])
        np.testing.assert_array_equal(variable, [0.5, 1.5])

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: tf_optim_ext.SignSGD(cautious=True), "no momentum: `cautious`"),
            (lambda: tf_optim_ext.Adagrad(cautious=True), "no momentum: `cautious`"),
            (
                lambda: tf_optim_ext.MADGRAD(cautious_weight_decay=True),
                "no momentum: `cautious_weight_decay`",
            ),
            *[
                (lambda cls=cls: cls(cautious_weight_decay=True), "part of the update")
                for cls in (
                    tf_optim_ext.Lamb,
                    tf_optim_ext.LARS,
                    tf_optim_ext.NovoGrad,
                    tf_optim_ext.Adan,
                    tf_optim_ext.StableAdamW,
                    tf_optim_ext.Prodigy,
                    tf_optim_ext.DAdaptAdam,
                )
            ],
            *[
                (
                    lambda cls=cls: cls(fully_decoupled_weight_decay=True),
                    f"{cls.__name__} has no use for `fully_decoupled_weight_decay`",
                )
                for cls in (
                    tf_optim_ext.Lamb,
                    tf_optim_ext.LAMB,
                    tf_optim_ext.LARS,
                    tf_optim_ext.NovoGrad,
                    tf_optim_ext.DAdaptSGD,
                    tf_optim_ext.ScheduleFreeSGD,
                )
            ],
            (
                lambda: tf_optim_ext.SGDW(0.1, fully_decoupled_weight_decay=True),
                "SGDW has no use for",
            ),
            (
                lambda: extend_with_decoupled_weight_decay(tf_optim_ext.Lamb)(0.1),
                "has no use for",
            ),
            (lambda: Adam(cautious="very"), "cautious"),
            (lambda: Adam(fully_decoupled_weight_decay=None), "fully_decoupled_weight_decay"),
        ],
    )
    def test_refused_at_once(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    @pytest.mark.parametrize("options", OPTIONS, ids=option_id)
    def test_config(self, options):
        optimizer = AdamW(weight_decay=0.1, **options)
        config = json.loads(json.dumps(optimizer.get_config(), default=float))
        assert {name: config.get(name) for name in options} == options
        clone = AdamW.from_config(config)
        assert clone.get_config() == config
        for name in ("cautious", "cautious_weight_decay", "fully_decoupled_weight_decay"):
            assert getattr(clone, name) is options.get(name, False)

    def test_config_without_options_is_one_for_keras(self):
        keras.optimizers.Adam.from_config(Adam(0.1).get_config())


class TestDecaySchedules:
    @modes
    @pytest.mark.parametrize("excluded", [False, True], ids=["all", "excluded"])
    def test_numbers(self, excluded, mode):
        optimizer, variables = Adam(**MOMENTS, weight_decay=piecewise()), make_variables("tf")
        if excluded:
            optimizer.exclude_from_weight_decay(var_names=["bias"])
        gradients = steps_of(5)
        step = in_mode(mode, optimizer, variables)
        for own in gradients:
            step([tf.constant(g) for g in own])
        check_route(mode, optimizer)
        wanted = expected("Adam", gradients, {}, decay_of_steps(5), [1] if excluded else [])
        assert_close(variables, wanted, rtol=1e-4)

    @by_name
    def test_fully_decoupled(self, name):
        options = {"fully_decoupled_weight_decay": True}
        optimizer = OPTIMIZERS[name][0](weight_decay=piecewise(), **options)
        variables, gradients = make_variables(), steps_of(4)
        for own in gradients:
            optimizer.apply_gradients(zip(own, variables))
        wanted = expected(name, gradients, options, decay_of_steps(4))
        assert_close(variables, wanted, rtol=1e-4)

    @modes
    def test_callable(self, mode):
        decay = tf.Variable(0.5)
        optimizer = SGD(RATE, momentum=0.8, weight_decay=lambda: decay)
        variables, gradients = make_variables("tf"), steps_of(2)
        step = in_mode(mode, optimizer, variables)
        step([tf.constant(g) for g in gradients[0]])
        decay.assign(0.0)
        step([tf.constant(g) for g in gradients[1]])
        check_route(mode, optimizer)
        assert_close(variables, expected("SGD", gradients, {}, [0.5, 0.0]), rtol=1e-4)

    def test_of_the_learning_rate_too(self):
        rates = Piecewise([0], [0.5, 0.25])
        optimizer, variable = SGD(rates, weight_decay=piecewise()), tf.Variable(1.0)
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant(0.0), variable)])
        assert float(variable) == (1 - 0.5 * 0.5) * (1 - 0.25 * 0.25)

    @pytest.mark.parametrize("cls", [SGD, AdamW, Lion, NAdamW])
    def test_config(self, cls):
        config = json.loads(json.dumps(cls(weight_decay=piecewise()).get_config()))
        clone = cls.from_config(config)
        assert isinstance(clone.weight_decay, Piecewise)
        assert clone.weight_decay.get_config() == piecewise().get_config()
        assert clone.get_config() == config
        copy = keras.optimizers.deserialize(keras.optimizers.serialize(clone))
        assert copy.get_config() == config

    def test_config_of_a_function(self):
        config = json.loads(json.dumps(SGD(weight_decay=constant_decay).get_config()))
        assert SGD.from_config(config).weight_decay is constant_decay

    def test_model_file(self, tmp_path):
        model = dense()
        model.compile(SGD(0.1, momentum=0.5, weight_decay=piecewise(), cautious=True), "mse")
        fit(model, 1)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert isinstance(loaded.optimizer.weight_decay, Piecewise)
        assert loaded.optimizer.cautious
        for each in (model, loaded):
            fit(each)
        assert_close(loaded.trainable_variables, model.trainable_variables)


@keras.saving.register_keras_serializable("test_options")
class Inherited(DecoupledWeightDecayExtension, keras.optimizers.SGD):
    pass


@keras.saving.register_keras_serializable("test_options")
class InheritedOurs(DecoupledWeightDecayExtension, SGD):
    pass


BASES = {
    "SGD": (SGD, {"learning_rate": RATE, "momentum": 0.8}, references.sgd),
    "Adam": (Adam, MOMENTS, references.adam),
    "Keras' SGD": (
        keras.optimizers.SGD,
        {"learning_rate": RATE, "momentum": 0.8},
        references.sgd,
    ),
    "Keras' Adam": (keras.optimizers.Adam, MOMENTS, references.adam),
}


class TestDecoupledWeightDecay:
    def expected(self, name, gradients, decayed=(0, 1, 2)):
        _, arguments, reference = BASES[name]
        results = []
        for i, start in enumerate(arrays(make_variables())):
            zero = np.zeros_like(start, np.float64)
            path = [zero, *(w for w, _ in reference(zero, [g[i] for g in gradients], **arguments))]
            w = start.astype(np.float64)
            for before, after in itertools.pairwise(path):
                w = w - (0.25 * w if i in decayed else 0.0) + (after - before)
            results.append(w)
        return results

    def make(self, name, **kwargs):
        base, arguments, _ = BASES[name]
        return extend_with_decoupled_weight_decay(base)(0.25, **arguments, **kwargs)

    @pytest.mark.parametrize("name", BASES)
    @pytest.mark.parametrize("in_function", [False, True], ids=["eager", "function"])
    def test_numbers(self, name, in_function):
        optimizer, variables, gradients = self.make(name), make_variables(), steps_of(3)
        step = in_mode("function" if in_function else "eager", optimizer, variables)
        for own in gradients:
            step([tf.constant(g) for g in own])
        assert_close(variables, self.expected(name, gradients), rtol=1e-4)
        if isinstance(optimizer, tf_optim_ext.Optimizer):
            check_route("eager", optimizer)

    @pytest.mark.parametrize("name", BASES)
    def test_selected_variables(self, name):
        optimizer, variables, gradients = self.make(name), make_variables(), steps_of(3)
        for own in gradients:
            optimizer.apply_gradients(zip(own, variables), decay_var_list=variables[:1])
        assert_close(variables, self.expected(name, gradients, decayed=[0]), rtol=1e-4)
        optimizer.apply_gradients(zip(gradients[0], variables))
        assert optimizer._decays(variables[1]), "for that call only"

    @pytest.mark.parametrize("name", BASES)
    def test_excluded_variables(self, name):
        optimizer = self.make(name, exclude_from_weight_decay=["bias", "sc.le"])
        variables, gradients = make_variables(), steps_of(3)
        for own in gradients:
            optimizer.apply_gradients(zip(own, variables))
        assert_close(variables, self.expected(name, gradients, decayed=[0]), rtol=1e-4)

    @pytest.mark.parametrize("name", BASES)
    def test_selection_goes_before_exclusion(self, name):
        optimizer = self.make(name, exclude_from_weight_decay=["bias", "sc.le"])
        variables, gradients = make_variables(), steps_of(3)
        for own in gradients:
            optimizer.apply_gradients(zip(own, variables), decay_var_list=variables[1:2])
        assert_close(variables, self.expected(name, gradients, decayed=[1]), rtol=1e-4)

    @pytest.mark.parametrize("name", ["SGD", "Adam"])
    def test_minimize(self, name):
        # Keras' own optimizers have no such method.
        optimizer, variables, gradients = self.make(name), make_variables(), steps_of(3)
        for own in gradients:

            def loss(own=own):
                return sum(tf.reduce_sum(tf.constant(g) * w) for g, w in zip(own, variables))

            # In the order of TensorFlow Addons.
            optimizer.minimize(loss, variables, None, None, [variables[2], variables[0]])
        assert_close(variables, self.expected(name, gradients, decayed=[0, 2]), rtol=1e-4)

    @pytest.mark.parametrize("name", BASES)
    def test_config(self, name):
        optimizer = self.make(name, exclude_from_weight_decay=["bias"], clipnorm=100.0)
        config = json.loads(json.dumps(optimizer.get_config(), default=float))
        assert config["weight_decay"] == 0.25
        clone = type(optimizer).from_config(config)
        assert clone.get_config() == config
        variables, gradients = make_variables(), steps_of(2)
        for own in gradients:
            clone.apply_gradients(zip(own, variables))
        assert_close(variables, self.expected(name, gradients, decayed=[0, 2]), rtol=1e-4)

    @pytest.mark.parametrize("cls", [Inherited, InheritedOurs])
    def test_inherited_in_fit(self, cls, tmp_path):
        model, reference = dense(), dense()
        model.compile(cls(0.25, learning_rate=0.1, exclude_from_weight_decay=["bias"]), "mse")
        fit(model, 1)
        reference.compile(keras.optimizers.SGD(0.1), "mse")
        before = arrays(reference.trainable_variables)
        fit(reference, 1)
        for i, (old, new) in enumerate(zip(before, arrays(reference.trainable_variables))):
            wanted = new if i % 2 else new - 0.25 * old
            np.testing.assert_allclose(model.trainable_variables[i], wanted, rtol=1e-4, atol=1e-6)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert type(loaded.optimizer) is cls
        for each in (model, loaded):
            fit(each)
        assert_close(loaded.trainable_variables, model.trainable_variables)

    def test_schedule(self):
        optimizer = extend_with_decoupled_weight_decay(SGD)(piecewise(), learning_rate=0.1)
        variable = tf.Variable(1.0)
        for _ in range(2):
            optimizer.apply_gradients([(tf.constant(0.0), variable)], decay_var_list=[variable])
        assert float(variable) == 0.5 * 0.75


def test_registry_knows_the_options():
    options = {name for entry in registry.ENTRIES for name in entry.options}
    assert {"cautious", "cautious_weight_decay"} <= options
