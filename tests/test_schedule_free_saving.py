"""Schedule-free optimizers: saving, switching between y and x, several devices."""

import contextlib
import copy

import conftest
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
from generation import IS_KERAS_2, QUIET, keras
from modes import wrapped
from schedule_free_models import (
    BATCHES,
    MAKERS,
    TOLERANCE,
    X,
    adamw,
    average_of,
    fit,
    fitted,
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


class TestSaving:
    def test_model(self, make, tmp_path):
        model = fitted(make())
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.holds_averaged_weights
        assert same(state(loaded), state(model))
        fit(loaded)
        assert_close(state(loaded), uninterrupted(make, 4), **TOLERANCE)

    @pytest.mark.parametrize(
        "dtype",
        conftest.shortened(
            # Keras 2 cannot read files with bfloat16.
            ["float32", "mixed_bfloat16", *([] if IS_KERAS_2 else ["bfloat16"]), "float64"],
            ["float64" if IS_KERAS_2 else "bfloat16"],
        ),
    )
    @pytest.mark.parametrize(
        ("kind", "built"),
        [("model.keras", False), ("model.weights.h5", False), ("model.weights.h5", True)],
    )
    def test_from_training_weights_to_the_bit(self, make, tmp_path, kind, built, dtype):
        """x and z alone would give y but for a rounding."""

        def made():
            keras.utils.set_random_seed(0)
            layers = [keras.layers.Dense(n, dtype=dtype) for n in (2, 1)]
            model = keras.Sequential([keras.Input((3,), dtype="float32"), *layers])
            model.compile(make(), "mse", run_eagerly=True)
            return model

        def trained(model):
            for x, y in BATCHES:
                model.train_on_batch(x, y)
            return model

        model = trained(made())
        if kind == "model.keras":
            model.save(tmp_path / kind)
            loaded = keras.models.load_model(tmp_path / kind)
        else:
            model.save_weights(tmp_path / kind)
            loaded = made()
            if built:
                loaded.optimizer.build(loaded.trainable_variables)
            loaded.load_weights(tmp_path / kind)
        x = arrays(loaded.variables)
        assert not same(x, arrays(model.variables))
        assert same(state(trained(loaded)), state(trained(model)))

        # Not where other weights came in.
        (tmp_path / kind).unlink()
        with model.optimizer.averaged_weights():
            model.save_weights(tmp_path / "model.weights.h5")
        other = made()
        other.optimizer.build(other.trainable_variables)
        other.load_weights(tmp_path / "model.weights.h5")
        other.set_weights([w + 1 for w in other.get_weights()])
        expected = [np.asarray(w, np.float64) for w in arrays(other.variables)]
        other.optimizer.use_training_weights()
        found = [np.asarray(w, np.float64) for w in arrays(other.variables)]
        assert all(np.abs(a - b).max() < 0.9 for a, b in zip(found, expected))

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
        model.export(tmp_path / "export", **QUIET)
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

    @pytest.mark.parametrize(
        ("mode", "options"),
        [
            pytest.param(
                mode,
                options,
                id=f"{mode}-{options}",
                marks=pytest.mark.long if options and mode.endswith("xla") else (),
            )
            for mode in ("function", "xla", "portable function", "portable xla")
            for options in ({}, {"gradient_accumulation_steps": 2})
        ],
    )
    def test_no_step_of_a_traced_function(self, make, mode, options):
        """Whichever weights the variables held when it was traced."""
        optimizer, variables = make(**options), make_variables("tf")
        optimizer.build(variables)
        gradients = [tf.constant(g) for g in make_gradients(3)]

        def apply():
            optimizer.apply_gradients(zip(gradients, variables))

        step = wrapped(mode, apply)
        for _ in range(5):  # after the first update, y is x
            step()
        native = optimizer.route.is_native
        reasons = {
            "function": tf_optim_ext.native.why_not(),
            "xla": tf_optim_ext.native.why_not_inside_xla(),
        }
        assert native == (reasons.get(mode, "portable") is None)
        expected, y = int(optimizer.iterations), arrays(variables)
        refused = (
            contextlib.nullcontext()
            if mode.endswith("xla") and not native
            else pytest.raises(tf.errors.InvalidArgumentError, match="use_training_weights")
        )
        for _ in range(2):
            with optimizer.averaged_weights():
                assert not same(arrays(variables), y)
                with unchanged(optimizer, variables), refused:
                    step()
            assert same(arrays(variables), y)
        step()
        assert int(optimizer.iterations) == expected + 1
        assert not same(arrays(variables), y) or options

    @pytest.mark.parametrize("mode", ["eager", "function", "xla", "portable xla"])
    def test_no_update_of_one_variable(self, make, mode):
        optimizer, variable = make(), tf.Variable([1.0, 2.0])
        with pytest.raises(ValueError, match=r"build\(variables\)"):
            optimizer.update_step(tf.ones(2), variable, 0.1)
        optimizer.build([variable])
        train(optimizer, [variable])

        def update():
            optimizer.update_step(tf.ones(2), variable, 0.1)

        update = wrapped(mode, update)
        update()
        with (
            optimizer.averaged_weights(),
            unchanged(optimizer, [variable]),
            contextlib.suppress(RuntimeError, tf.errors.InvalidArgumentError),
        ):
            update()

    def test_switch_between_loading_and_the_first_step(self, make, tmp_path):
        trained, path = fitted(make()), tmp_path / "a.weights.h5"
        trained.save_weights(path)
        model = make_model(make(), seed=1)
        model.load_weights(path)
        optimizer, x = model.optimizer, arrays(model.variables)
        for switch in (
            optimizer.use_training_weights,
            optimizer.use_averaged_weights,
            optimizer.averaged_weights().__enter__,
        ):
            with (
                unchanged(optimizer, model.variables),
                pytest.raises(ValueError, match=r"build\(model.trainable_variables\)"),
            ):
                switch()
        optimizer.build(model.trainable_variables)
        optimizer.use_training_weights()
        assert not same(arrays(model.variables), x)
        optimizer.apply([tf.zeros_like(v) for v in model.trainable_variables])

    @pytest.mark.parametrize("averaged", [False, pytest.param(True, marks=pytest.mark.long)])
    def test_evaluation_of_a_checkpoint_that_waits(self, make, averaged, tmp_path):
        trained = fitted(make())
        x = arrays(trained.variables)
        trained.optimizer.use_training_weights()
        if averaged:
            trained.optimizer.use_averaged_weights()
        held = {"model": trained, "optimizer": trained.optimizer}
        path = tf.train.Checkpoint(**held).save(tmp_path / "ckpt")
        model = make_model(make(), seed=1)
        tf.train.Checkpoint(model=model, optimizer=model.optimizer).restore(path)
        assert_close([model.predict(X, verbose=0)], [output(x)], **TOLERANCE)

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


@pytest.mark.long
@pytest.mark.parametrize("check", two_devices_schedule_free.CHECKS)
def test_mirrored_strategy(on_two_devices, check):
    assert on_two_devices[check] == "equal"
