"""What only some optimizers have: exclusions from scaling, estimates, another norm, numbers."""

import json

import numpy as np
import pytest
import recordings
import references
import tensorflow as tf
from common import arrays, assert_close, make_gradients, make_variables, same, train, unchanged
from generation import keras, only_keras_3
from modes import (
    MOMENTS,
    RATE,
    check_route,
    dense,
    fit,
    in_mode,
    modes,
    wrapped,
)
from references import addons, descendants, parameter_free

import tf_optim_ext
from tf_optim_ext import ConditionalGradient, NAdamW, Sophia

PER_VARIABLE = ("weight_decay", "layer_adaptation")
LAYERWISE = {
    "LAMB": (lambda **k: tf_optim_ext.LAMB(**MOMENTS, weight_decay=0.3, **k), references.lamb),
    "Lamb": (lambda **k: tf_optim_ext.Lamb(**MOMENTS, weight_decay=0.3, **k), references.lamb),
    "LARS": (lambda **k: tf_optim_ext.LARS(0.5, 0.8, 0.2, weight_decay=0.3, **k), addons.lars),
}
by_layerwise = pytest.mark.parametrize("name", LAYERWISE)


def exclude(optimizer, variables, kind):
    """Excludes the bias from decay, and the kernel from adaptation."""
    if kind == "regex":
        optimizer.exclude_from_weight_decay(var_names=["bi.s"])
        optimizer.exclude_from_layer_adaptation(var_names=["^kernel"])
    else:
        optimizer.exclude_from_weight_decay(var_list=variables[1:2])
        optimizer.exclude_from_layer_adaptation(var_list=variables[:1])


class TestLayerwise:
    def unadapted(self, name, w, gradients):
        """The kernel: with decay in the update, whose ratio is 1."""
        if name == "LARS":
            momentum = 0.0
            for g in gradients:
                momentum = 0.8 * momentum + 0.5 * (g + 0.3 * w)
                w = w - momentum
            return w
        (*_, (w, _)) = references.adamw(w, gradients, **self.own_epsilon, weight_decay=0.3)
        return w

    # Adam's epsilon counts before its correction; without it both are the same.
    own_epsilon = {**MOMENTS, "epsilon": 0.0}

    def make(self, name, **kwargs):
        optimizer = LAYERWISE[name][0](**kwargs)
        if name != "LARS":
            optimizer.epsilon = 0.0
        return optimizer

    def expected(self, name, gradients):
        kernel, bias, scale = (w.astype(np.float64) for w in arrays(make_variables()))
        reference = LAYERWISE[name][1]
        arguments = self.own_epsilon
        if name == "LARS":
            arguments = {"learning_rate": 0.5, "momentum": 0.8, "trust_coefficient": 0.2}
        own = list(zip(*gradients))
        (*_, (bias, _)) = reference(bias, own[1], **arguments)
        (*_, (scale, _)) = reference(scale, own[2], **arguments, weight_decay=0.3)
        return [self.unadapted(name, kernel, own[0]), bias, scale]

    @pytest.mark.parametrize("kind", ["regex", "list"])
    @by_layerwise
    def test_exclusions(self, name, kind):
        optimizer, variables = self.make(name), make_variables()
        exclude(optimizer, variables, kind)
        gradients = [make_gradients(i) for i in range(4)]
        for own in gradients:
            optimizer.apply_gradients(zip(own, variables))
        check_route("eager", optimizer)
        assert_close(variables, self.expected(name, gradients), rtol=1e-4)

    @pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
    @pytest.mark.parametrize("kind", ["regex", "list"])
    @by_layerwise
    def test_survive_from_config(self, name, kind, built):
        optimizer, variables = self.make(name), make_variables()
        exclude(optimizer, variables, kind)
        if built:
            optimizer.build(variables)
        config = json.loads(json.dumps(optimizer.get_config()))
        for _ in range(2):
            clone = type(optimizer).from_config(config)
            config = clone.get_config()
        variables = make_variables()
        gradients = [make_gradients(i) for i in range(4)]
        for own in gradients:
            clone.apply_gradients(zip(own, variables))
        assert_close(variables, self.expected(name, gradients), rtol=1e-4)

    @pytest.mark.parametrize("name", ["LAMB", pytest.param("LARS", marks=pytest.mark.long)])
    def test_survive_a_model_file(self, name, tmp_path):
        model = dense()
        optimizer = LAYERWISE[name][0]()
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        optimizer.exclude_from_layer_adaptation(var_list=[model.layers[-1].kernel])
        model.compile(optimizer, "mse")
        fit(model, 1)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        values = loaded.optimizer._hyperparameter_values(PER_VARIABLE, loaded.trainable_variables)
        assert values["layer_adaptation"] == [1.0, 1.0, 0.0, 1.0]
        assert values["weight_decay"] == [0.3, 0.0, 0.3, 0.0]
        for each in (model, loaded):
            fit(each)
        assert_close(loaded.trainable_variables, model.trainable_variables)

    @pytest.mark.parametrize(
        ("arguments", "decay", "adaptation"),
        [
            ({}, 0.3, 1.0),
            ({"exclude_from_weight_decay": ["bias"]}, [0.3, 0.0, 0.3], [1.0, 0.0, 1.0]),
            ({"exclude_from_weight_decay": "bias"}, [0.3, 0.0, 0.3], [1.0, 0.0, 1.0]),
            (
                {"exclude_from_weight_decay": ["bias"], "exclude_from_layer_adaptation": []},
                [0.3, 0.0, 0.3],
                1.0,
            ),
            (
                {
                    "exclude_from_weight_decay": ["bias"],
                    "exclude_from_layer_adaptation": ["kern", "scale"],
                },
                [0.3, 0.0, 0.3],
                [0.0, 1.0, 0.0],
            ),
            ({"exclude_from_layer_adaptation": ["bias"]}, 0.3, [1.0, 0.0, 1.0]),
        ],
        ids=["none", "decay", "text", "decay-only", "both", "adaptation"],
    )
    def test_arguments_of_lamb(self, arguments, decay, adaptation):
        optimizer = tf_optim_ext.LAMB(weight_decay=0.3, **arguments)
        for each in (optimizer, tf_optim_ext.LAMB.from_config(optimizer.get_config())):
            values = each._hyperparameter_values(PER_VARIABLE, make_variables())
            assert values["weight_decay"] == decay
            assert values["layer_adaptation"] == adaptation

    @by_layerwise
    def test_late_call(self, name):
        optimizer, variables = self.make(name), make_variables()
        train(optimizer, variables, 1)
        with unchanged(optimizer, variables), pytest.raises(ValueError, match="before"):
            optimizer.exclude_from_layer_adaptation(var_list=variables)
        assert "layer_adaptation_exclusions" not in optimizer.get_config()

    def test_a_later_call_replaces_an_earlier_one(self):
        optimizer, variables = self.make("LARS"), make_variables()
        optimizer.exclude_from_layer_adaptation(var_names=["bias"])
        optimizer.exclude_from_layer_adaptation(var_list=variables[2:])
        values = optimizer._hyperparameter_values(PER_VARIABLE, variables)
        assert values["layer_adaptation"] == [1.0, 1.0, 0.0]


SOPHIA = {"learning_rate": RATE, "beta_1": 0.8, "beta_2": 0.7, "rho": 0.5, "epsilon": 1e-3}


class TestSophia:
    def estimates(self, step):
        return [10.0 * np.abs(g) for g in make_gradients(50 + step)]

    @modes
    def test_equals_the_reference(self, mode):
        optimizer, variables = Sophia(**SOPHIA, weight_decay=0.3), make_variables("tf")
        gradients = [make_gradients(i) for i in range(6)]
        step = in_mode(mode, optimizer, variables)

        def update(estimates):
            optimizer.update_hessian(estimates, scale=4)

        update = wrapped(mode, update)
        optimizer.build(variables)
        for i, own in enumerate(gradients):
            if i % 2 == 0:
                update([tf.constant(h) for h in self.estimates(i)])
            step([tf.constant(g) for g in own])
            check_route(mode, optimizer)
        for i, start in enumerate(arrays(make_variables())):
            (*_, (w, slots)) = descendants.sophia(
                start,
                [g[i] for g in gradients],
                **SOPHIA,
                weight_decay=0.3,
                hessian_estimates={t + 1: 4.0 * self.estimates(t)[i] for t in (0, 2, 4)},
            )
            assert_close([variables[i]], [w], rtol=1e-4)
            for name, slot in slots.items():
                assert_close([optimizer.get_slot(variables[i], name)], [slot], rtol=1e-4)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_equals_the_recording(self, dtype):
        path = recordings.DIRECTORY / "pytorch_optimizer_sophia.npz"
        metadata, (recorded,) = recordings.load(path)
        arguments = dict(metadata["arguments"])
        estimates = arguments.pop("hessian_estimates")
        rate = arguments["learning_rate"]
        optimizer = Sophia(**arguments)
        # A number would be rounded to float32.
        optimizer.learning_rate = lambda: tf.constant(rate, dtype)
        variable = tf.Variable(recorded["initial"].astype(dtype))
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-10}
        for i, g in enumerate(recorded["gradients"].astype(dtype)):
            if str(i + 1) in estimates:
                h = np.asarray(estimates[str(i + 1)], dtype)
                optimizer.update_hessian([h], [variable])
            optimizer.apply_gradients([(g, variable)])
            np.testing.assert_allclose(variable, recorded["weights"][i], **tolerance)
            hessian = np.asarray(optimizer.get_slot(variable, "hessian"))
            np.testing.assert_allclose(hessian, recorded["slots"]["hessian"][i], rtol=1e-4)

    @pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
    def test_none(self, built):
        optimizer, variables = Sophia(**SOPHIA), make_variables()
        if built:
            optimizer.build(variables)
        estimates = self.estimates(0)
        with pytest.warns(UserWarning, match="bias"):
            optimizer.update_hessian([estimates[0], None, estimates[2]], variables)
        averages = [optimizer.get_slot(v, "hessian") for v in variables]
        assert_close(averages, [0.3 * estimates[0], np.zeros(4), 0.3 * estimates[2]])
        train(optimizer, variables, 1)

    def test_some_variables(self):
        optimizer, variables = Sophia(**SOPHIA), make_variables()
        optimizer.build(variables)
        optimizer.update_hessian([np.ones(4)], variables[1:2])
        averages = [optimizer.get_slot(v, "hessian") for v in variables]
        assert_close(averages, [np.zeros((3, 2)), 0.3 * np.ones(4), 0.0])
        assert int(optimizer.iterations) == 0

    def test_of_16_bit_weights(self):
        variable = tf.Variable(tf.zeros(2, tf.float16))
        optimizer = Sophia(**SOPHIA)
        optimizer.update_hessian([tf.constant([2.0, 4.0], tf.float16)], [variable], scale=0.5)
        assert_close([optimizer.get_slot(variable, "hessian")], [[0.3, 0.6]])

    @pytest.mark.parametrize(
        "call",
        [
            lambda o, v: o.update_hessian([np.ones((2, 3)), np.ones(4), np.ones(())]),
            lambda o, v: o.update_hessian([np.ones((3, 2)), np.ones(4)]),
            lambda o, v: o.update_hessian([np.ones(4)], v),
            lambda o, v: o.update_hessian([np.ones((3, 2))], [tf.Variable(np.ones((3, 2)))]),
            lambda o, v: o.update_hessian([np.ones(4)], v[1:2], scale=-1.0),
            lambda o, v: o.update_hessian([np.ones(4)], v[1:2], scale="all"),
            lambda o, v: o.update_hessian([None, None, None]),
        ],
        ids=["shape", "count", "lengths", "stranger", "negative", "text", "none"],
    )
    def test_bad_input(self, call):
        optimizer, variables = Sophia(**SOPHIA), make_variables()
        train(optimizer, variables, 1)
        with unchanged(optimizer, variables), pytest.raises((TypeError, ValueError)):
            call(optimizer, variables)

    def test_without_variables_before_it_is_built(self):
        with pytest.raises(ValueError, match="built"):
            Sophia().update_hessian([np.ones(4)])


NUCLEAR = {"learning_rate": 0.75, "lambda_": 0.25, "epsilon": 1e-7, "ord": "nuclear"}
FACTORS = ({"clipnorm": 0.1}, {"global_clipnorm": 0.1}, {"loss_scale_factor": 64.0})


def first_corner(g):
    u, _, v = np.linalg.svd(g.astype(np.float64), full_matrices=False)
    return u[:, :1] @ v[:1]


class TestNuclearNorm:
    def test_equals_the_recording(self):
        path = recordings.DIRECTORY / "tensorflow_addons_conditionalgradient_nuclear.npz"
        metadata, recorded = recordings.load(path)
        optimizer = ConditionalGradient(**metadata["arguments"])
        variables = [tf.Variable(v["initial"], dtype=tf.float64) for v in recorded]
        for i in range(len(recorded[0]["gradients"])):
            gradients = [v["gradients"][i] for v in recorded]
            optimizer.apply_gradients(zip(gradients, variables))
            assert_close(variables, [v["weights"][i] for v in recorded], rtol=1e-5, atol=1e-6)

    def check(self, mode, shapes, options):
        optimizer = ConditionalGradient(**NUCLEAR, **options)
        variables = make_variables("tf", shapes)
        step = in_mode(mode, optimizer, variables)
        gradients = [make_gradients(i, shapes) for i in range(3)]
        for own in gradients:
            step([tf.constant(g) for g in own])
        check_route(mode, optimizer)
        for i, start in enumerate(arrays(make_variables("tf", shapes))):
            own = [g[i] for g in gradients]
            (*_, (w, _)) = addons.conditionalgradient(start, own, **NUCLEAR)
            assert_close([variables[i]], [w], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("mode", ["eager", "function"])
    @pytest.mark.parametrize("options", [{}, *FACTORS], ids=lambda f: next(iter(f), "plain"))
    def test_equals_the_reference_whatever_the_factor(self, options, mode):
        self.check(mode, ((3, 4), (5, 2)), options)

    def test_in_xla(self):
        self.check("xla", ((3, 2),), FACTORS[0])

    def test_clipped_elements(self):
        shapes = ((3, 4),)
        (g,), (variable,) = make_gradients(0, shapes), make_variables("tf", shapes)
        start = variable.numpy()
        optimizer = ConditionalGradient(**NUCLEAR, clipvalue=0.2, loss_scale_factor=2.0)
        optimizer.apply_gradients([(2.0 * g, variable)])
        corner = first_corner(np.clip(g, -0.2, 0.2))
        assert_close([variable], [0.75 * start - 0.25 * 0.25 * corner])

    def test_batch_of_matrices(self):
        shapes = ((2, 3, 4),)
        (g,), (variable,) = make_gradients(0, shapes), make_variables("tf", shapes)
        start = variable.numpy()
        ConditionalGradient(**NUCLEAR).apply_gradients([(g, variable)])
        corners = np.stack([first_corner(matrix) for matrix in g])
        assert_close([variable], [0.75 * start - 0.25 * 0.25 * corners])

    @pytest.mark.parametrize("options", [{}, *FACTORS], ids=lambda f: next(iter(f), "plain"))
    def test_vectors_are_as_with_the_other_norm(self, options):
        shapes = ((4,), (), (0, 3))
        results = []
        for ord in ("fro", "nuclear"):
            optimizer = ConditionalGradient(**NUCLEAR | {"ord": ord, "epsilon": 0.1}, **options)
            variables = make_variables("tf", shapes)
            train(optimizer, variables)
            results.append(variables)
        assert_close(*results)

    def test_accumulated_gradients(self):
        shapes = ((3, 4),)
        optimizer = ConditionalGradient(**NUCLEAR, gradient_accumulation_steps=2)
        (variable,) = make_variables("tf", shapes)
        start = variable.numpy()
        (a,), (b,) = make_gradients(0, shapes), make_gradients(1, shapes)
        optimizer.apply_gradients([(a, variable)])
        np.testing.assert_array_equal(variable, start)
        optimizer.apply_gradients([(b, variable)])
        assert_close([variable], [0.75 * start - 0.25 * 0.25 * first_corner(a + b)])

    def test_update_step(self):
        shapes = ((3, 4),)
        (g,), (variable,) = make_gradients(0, shapes), make_variables("tf", shapes)
        start = variable.numpy()
        optimizer = ConditionalGradient(**NUCLEAR)
        optimizer.build([variable])
        optimizer.update_step(tf.constant(g), variable, tf.constant(0.75))
        assert_close([variable], [0.75 * start - 0.25 * 0.25 * first_corner(g)])


def product_of_nadam(momentum_decay, steps):
    t = np.arange(1.0, steps + 1)
    return np.prod(0.8 * (1 - 0.5 * 0.96 ** (momentum_decay * t)))


PRODIGY = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, "initial_d": 0.01}
DOG = {"learning_rate": 0.7, "reps_rel": 1e-2, "epsilon": 1e-3}
NUMBERS = {
    "Nadam": lambda: tf_optim_ext.Nadam(**MOMENTS),
    "NAdamW": lambda: NAdamW(**MOMENTS, momentum_decay=0.3),
    "Prodigy": lambda: tf_optim_ext.Prodigy(0.7, **PRODIGY),
    "DoG": lambda: tf_optim_ext.DoG(**DOG),
    "NovoGrad": lambda: tf_optim_ext.NovoGrad(**MOMENTS, amsgrad=True),
}
by_numbers = pytest.mark.parametrize("name", NUMBERS)


def numbers(optimizer):
    """Scalar state, of all variables and of each."""
    found = [float(v.numpy()) for v in optimizer.scalars.values()]
    for name in optimizer._program().variable_scalars:
        for variable in optimizer._optimized:
            found.append(float(optimizer.get_slot(variable, name).numpy()))
    return found


class TestNumbers:
    def expected(self, name, steps):
        if name in ("Nadam", "NAdamW"):
            decay = 1.0 if name == "Nadam" else 0.3
            return {"momentum_product": product_of_nadam(decay, steps)}
        start, gradients = arrays(make_variables()), [make_gradients(i) for i in range(steps)]
        if name == "DoG":
            (*_, (_, _, found)) = parameter_free.dog(start, gradients, **DOG)
        else:
            (*_, (_, _, found)) = parameter_free.prodigy(
                start, gradients, learning_rate=0.7, **PRODIGY
            )
        return {**found, "k": steps}

    @pytest.mark.parametrize("name", ["Nadam", "NAdamW", "Prodigy", "DoG"])
    def test_of_all_variables(self, name):
        optimizer, variables = NUMBERS[name](), make_variables()
        for steps in (1, 5):
            done = int(optimizer.iterations)
            train(optimizer, variables, steps - done, first=done)
            wanted = self.expected(name, steps)
            assert optimizer.scalars.keys() <= wanted.keys()
            for key, variable in optimizer.scalars.items():
                assert variable.dtype == "float64" and variable.shape == ()
                np.testing.assert_allclose(float(variable.numpy()), wanted[key], rtol=1e-5)

    def test_are_those_of_updates_not_of_calls(self):
        optimizer = tf_optim_ext.Nadam(**MOMENTS, gradient_accumulation_steps=2)
        train(optimizer, make_variables(), 6)
        product = float(optimizer.scalars["momentum_product"].numpy())
        np.testing.assert_allclose(product, product_of_nadam(1.0, 3), rtol=1e-12)

    def test_of_each_variable(self):
        optimizer, variables = NUMBERS["NovoGrad"](), make_variables()
        train(optimizer, variables, 5)
        assert optimizer.scalars == {}
        gradients = [make_gradients(i) for i in range(5)]
        for i, start in enumerate(arrays(make_variables())):
            own = [g[i] for g in gradients]
            (*_, (_, slots)) = addons.novograd(start, own, **MOMENTS, amsgrad=True)
            for name in ("velocity", "velocity_hat"):
                slot = optimizer.get_slot(variables[i], name)
                assert slot.dtype == "float64" and slot.shape == ()
                np.testing.assert_allclose(float(slot.numpy()), slots[name], rtol=1e-5)

    def test_none_before_the_first_step(self):
        assert NUMBERS["Prodigy"]().scalars == {}

    def test_the_dictionary_is_a_copy(self):
        optimizer = NUMBERS["DoG"]()
        train(optimizer, make_variables(), 1)
        optimizer.scalars.clear()
        assert set(optimizer.scalars) == {"max_distance", "squared_norm_sum"}

    def continues(self, name, restore):
        """Trains, restores into another optimizer, and asserts that both go on alike."""
        optimizer, variables = NUMBERS[name](), make_variables("tf")
        train(optimizer, variables, 3)
        wanted, values = numbers(optimizer), arrays(variables)
        other, others = NUMBERS[name](), make_variables("tf")
        restore(optimizer, variables, other, others)
        for variable, value in zip(others, values):
            variable.assign(value)
        other.build(others)
        assert numbers(other) == wanted
        train(optimizer, variables, 2, first=3)
        train(other, others, 2, first=3)
        assert same(arrays(others), arrays(variables))
        assert numbers(other) == numbers(optimizer) != wanted

    @pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
    @by_numbers
    def test_own_variables(self, name, built):
        def restore(optimizer, variables, other, others):
            store = {}
            optimizer.save_own_variables(store)
            if built:
                train(other, others, 1)
            other.load_own_variables(store)

        self.continues(name, restore)

    @pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
    @by_numbers
    def test_checkpoint(self, name, built, tmp_path):
        def restore(optimizer, variables, other, others):
            saved = tf.train.Checkpoint(optimizer=optimizer, variables=variables)
            path = saved.save(str(tmp_path / "state"))
            if built:
                train(other, others, 1)
            checkpoint = tf.train.Checkpoint(optimizer=other, variables=others)
            status = checkpoint.restore(path)
            other.build(others)
            status.assert_consumed()

        self.continues(name, restore)

    @by_numbers
    def test_get_and_set_weights(self, name):
        def restore(optimizer, variables, other, others):
            other.build(others)
            other.set_weights(optimizer.get_weights())

        self.continues(name, restore)

    @pytest.mark.parametrize("name", ["Nadam", "Prodigy", "NovoGrad"])
    def test_model_file(self, name, tmp_path):
        model = dense()
        # Eagerly: tracing would take most of the time.
        model.compile(NUMBERS[name](), "mse", run_eagerly=True)
        fit(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        loaded.run_eagerly = True
        loaded.optimizer.build(loaded.trainable_variables)
        assert numbers(loaded.optimizer) == numbers(model.optimizer)
        for each in (model, loaded):
            fit(each)
        assert_close(loaded.trainable_variables, model.trainable_variables)

    @pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
    @only_keras_3("does not save Nadam's product")
    def test_state_of_the_nadam_of_keras(self, built):
        theirs, expected, store = keras.optimizers.Nadam(**MOMENTS), make_variables(), {}
        train(theirs, expected, 3)
        theirs.save_own_variables(store)
        ours, variables = NUMBERS["Nadam"](), make_variables()
        if built:
            train(ours, variables, 1)
        ours.load_own_variables(store)
        ours.build(variables)
        product = float(ours.scalars["momentum_product"].numpy())
        np.testing.assert_allclose(product, product_of_nadam(1.0, 3), rtol=1e-6)
        for variable, value in zip(variables, arrays(expected)):
            variable.assign(value)
        for optimizer, trained in ((theirs, expected), (ours, variables)):
            train(optimizer, trained, 2, first=3)
        assert_close(variables, expected)
