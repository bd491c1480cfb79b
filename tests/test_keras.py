"""Inside Keras and TensorFlow: `fit` in all its modes, custom loops, wrappers, strategies."""

import contextlib
import functools

import conftest
import numpy as np
import pytest
import registry
import tensorflow as tf
import two_devices
from common import (
    KINDS,
    SHAPES,
    arrays,
    assert_close,
    has_multi_optimizer,
    keras_twin,
    make_gradients,
    make_variables,
    outcomes_of,
    route_of_dense,
    same,
    train,
    unchanged,
)
from generation import (
    FIRST_SLOT,
    IS_KERAS_2,
    LossScaleOptimizer,
    keras,
    only_keras_3,
    path_of,
    scale_of,
    set_dtype_policy,
)

import tf_optim_ext

ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]

# Different modes fuse and order operations differently; each step rounds a few times.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(16, 1)).astype(np.float32)


def make_model(seed=0, **layer):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, "tanh", **layer), keras.layers.Dense(1)]
    )


def fit(optimizer, model=None, epochs=2, callbacks=(), **compile_arguments):
    """Trains a model in batches of 4 in a fixed order, and returns it."""
    model = model or make_model()
    model.compile(optimizer, "mse", **compile_arguments)
    model.fit(
        X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    )
    return model


def expect_route(optimizer, inside_xla=False):
    """Asserts that the route is native where it can be."""
    assert str(optimizer.route) == route_of_dense(inside_xla)


class TestFit:
    @pytest.mark.parametrize(
        "entry_name",
        conftest.shortened(registry.BY_NAME, ("Prodigy",)),
    )
    def test_modes_agree(self, entry_name):
        entry = registry.BY_NAME[entry_name]
        results, in_portable = {}, "tensorflow: inside portable()"
        for title, arguments, surroundings, route in (
            ("default", {}, contextlib.nullcontext, route_of_dense()),
            ("eager", {"run_eagerly": True}, contextlib.nullcontext, route_of_dense()),
            ("xla", {"jit_compile": True}, contextlib.nullcontext, route_of_dense(True)),
            ("portable xla", {"jit_compile": True}, tf_optim_ext.portable, in_portable),
            ("several steps", {"steps_per_execution": 4}, contextlib.nullcontext, route_of_dense()),
        ):
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            optimizer = entry.make()
            with surroundings():
                fit(optimizer, model, **arguments)
            results[title] = [*arrays(model.variables), *optimizer.get_weights()]
            assert int(optimizer.iterations) == 8
            assert str(optimizer.route) == route
        for title, result in results.items():
            for value, expected in zip(result, results["default"]):
                np.testing.assert_allclose(value, expected, **TOLERANCE, err_msg=title)

    def test_steps_in_an_xla_loop(self):
        optimizer, expected = ADAM.make(), ADAM.make()
        model = fit(optimizer, jit_compile=True, steps_per_execution=3)
        expect_route(optimizer, inside_xla=True)
        assert_close(model.variables, fit(expected).variables, **TOLERANCE)

    def test_equals_keras(self):
        model, expected = fit(ADAM.make()), fit(keras_twin(ADAM))
        assert_close(model.variables, expected.variables, **TOLERANCE)

    @pytest.mark.parametrize("mode", [{}, {"jit_compile": True}, {"run_eagerly": True}])
    def test_options_in_every_mode(self, mode):
        options = {
            "weight_decay": 0.1,
            "global_clipnorm": 0.3,
            "use_ema": True,
            "ema_momentum": 0.5,
            "ema_overwrite_frequency": 2,
            "gradient_accumulation_steps": 2,
        }
        model = fit(ADAM.make(**options), **mode)
        alone, reference = ADAM.make(**options), make_model()
        for _ in range(2):
            for i in range(0, len(X), 4):
                x, y = X[i : i + 4], Y[i : i + 4]
                alone.minimize(
                    lambda x=x, y=y: tf.reduce_mean(tf.square(reference(x) - y)),
                    reference.trainable_variables,
                )
        alone.finalize_variable_values(reference.trainable_variables)
        assert_close(model.variables, reference.variables, **TOLERANCE)

    def test_train_on_batch(self):
        optimizer, expected_optimizer = ADAM.make(), ADAM.make()
        model = make_model()
        model.compile(optimizer, "mse")
        for _ in range(2):
            for i in range(0, len(X), 4):
                model.train_on_batch(X[i : i + 4], Y[i : i + 4])
        assert_close(model.variables, fit(expected_optimizer).variables, **TOLERANCE)
        expect_route(optimizer)

    def test_custom_train_step(self):
        class Custom(keras.Model):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
                variables = self.trainable_variables
                gradients = tape.gradient(loss, variables)
                self.optimizer.apply_gradients(zip(gradients, variables))
                return {"loss": loss}

        plain = make_model()
        custom = Custom(plain.inputs, plain.outputs)
        optimizer = ADAM.make()
        fit(optimizer, custom)
        assert_close(custom.variables, fit(ADAM.make()).variables, **TOLERANCE)
        expect_route(optimizer)

    def test_minimize_in_a_train_step(self):
        class Custom(keras.Model):
            def train_step(self, data):
                x, y = data
                self.optimizer.minimize(
                    lambda: tf.reduce_mean(tf.square(self(x, training=True) - y)),
                    lambda: self.trainable_variables,
                )
                return {"count": self.optimizer.iterations}

        plain = make_model()
        custom = Custom(plain.inputs, plain.outputs)
        fit(ADAM.make(), custom)
        assert_close(custom.variables, fit(ADAM.make()).variables, **TOLERANCE)

    def test_constraint(self):
        results = []
        for make in (ADAM.make, lambda: keras_twin(ADAM)):
            model = make_model(kernel_constraint=keras.constraints.MaxNorm(0.5))
            fit(make(), model)
            results.append(model.variables)
            norms = np.linalg.norm(np.asarray(model.variables[0]), axis=0)
            assert np.max(norms) <= 0.5 + 1e-6
        assert np.max(norms) > 0.49, "the constraint is not met by chance"
        assert_close(*results, **TOLERANCE)

    @pytest.mark.parametrize("wrap", [lambda f: f, tf.function, tf.function(jit_compile=True)])
    @pytest.mark.parametrize("kind", KINDS)
    def test_constraint_of_a_variable(self, kind, wrap):
        variables = make_variables(kind)
        if kind == "tf":
            variables = [tf.Variable(v, constraint=tf.nn.relu) for v in variables]
        else:
            for variable in variables:
                variable.constraint = keras.constraints.NonNeg()
        optimizer, unconstrained, free = ADAM.make(), ADAM.make(), make_variables(kind)
        gradients = [tf.constant(g) for g in make_gradients(0)]
        step = wrap(lambda *g: optimizer.apply_gradients(zip(g, variables)) + 0)
        step(*gradients)
        unconstrained.apply_gradients(zip(gradients, free))
        assert_close(variables, [np.maximum(v, 0) for v in arrays(free)])

    @only_keras_3("names variables without their layers")
    def test_frozen_and_unused_variables(self):
        # Frozen ones get no slots and no warning; unused ones are named in a warning.
        class Partly(keras.Model):
            def __init__(self):
                super().__init__()
                self.frozen = keras.layers.Dense(2, name="frozen", trainable=False)
                self.used = keras.layers.Dense(1, name="used")
                self.unused = keras.layers.Dense(1, name="unused")

            def build(self, shape):
                self.frozen.build(shape)
                self.used.build((None, 2))
                self.unused.build(shape)

            def call(self, x):
                return self.used(self.frozen(x))

        model, optimizer = Partly(), ADAM.make()
        model(X)
        before = {path_of(v): np.array(v) for v in model.variables}
        with pytest.warns(UserWarning, match=r"unused/kernel.*unused/bias") as caught:
            fit(optimizer, model)
        messages = [str(w.message) for w in caught if "Gradients do not exist" in str(w.message)]
        assert messages
        assert not any("/used" in m or "frozen" in m for m in messages)
        for variable in model.variables:
            moved = not np.array_equal(np.array(variable), before[path_of(variable)])
            assert moved == (path_of(variable).split("/")[-2] == "used")
        assert len(optimizer.variables) == FIRST_SLOT + 4 * len(ADAM.slots)
        with pytest.raises(KeyError, match="frozen"):
            optimizer.get_slot(model.frozen.kernel, "momentum")

    def test_same_optimizer_for_another_model(self):
        optimizer = ADAM.make()
        model = fit(optimizer, run_eagerly=True)
        other = make_model(seed=1)
        other.compile(optimizer, "mse", run_eagerly=True)
        with (
            unchanged(optimizer, [*model.variables, *other.variables]),
            pytest.raises(ValueError, match=r"not built for the variables.*kernel"),
        ):
            other.train_on_batch(X, Y)


class TestCallbacks:
    @pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}])
    def test_learning_rate_scheduler(self, mode):
        rates, optimizer = [], ADAM.make(learning_rate=0.5)
        schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
        record = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: rates.append(float(optimizer.lr))
        )
        fit(optimizer, callbacks=[schedule, record], **mode)
        assert rates == [0.25, 0.125]

    def test_reduce_on_plateau(self):
        optimizer = SGD.make(learning_rate=0.5)
        reduce = keras.callbacks.ReduceLROnPlateau("loss", 0.1, patience=1, min_delta=1e9)
        fit(optimizer, epochs=3, callbacks=[reduce])
        np.testing.assert_allclose(float(optimizer.learning_rate), 0.005, rtol=1e-6)

    def test_rate_of_zero_moves_nothing(self):
        stop = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0)
        model = fit(tf_optim_ext.Adam(0.1, weight_decay=0.1), callbacks=[stop])
        assert same(arrays(model.variables), arrays(make_model().variables))

    @only_keras_3("has no `SwapEMAWeights`")
    def test_swap_ema_weights(self):
        results = []
        for optimizer in (
            ADAM.make(use_ema=True, ema_momentum=0.5),
            keras_twin(ADAM, use_ema=True, ema_momentum=0.5),
        ):
            swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
            model = fit(optimizer, callbacks=[swap], run_eagerly=True)
            results.append(arrays(model.variables))
        assert_close(*results, **TOLERANCE)

    @pytest.mark.parametrize(
        ("on_epoch", "dtype"),
        [
            pytest.param(on_epoch, dtype, id=f"{when}-{dtype}", marks=marks)
            for on_epoch, when, dtype, marks in (
                (True, "on_epoch", "float32", pytest.mark.long),
                (True, "on_epoch", "bfloat16", pytest.mark.long),
                (True, "on_epoch", "float16", pytest.mark.long),
                (False, "in_validation", "float32", pytest.mark.long),
                (False, "in_validation", "bfloat16", ()),
                (False, "in_validation", "float16", pytest.mark.long),
            )
        ],
    )
    @only_keras_3("has no `SwapEMAWeights`")
    def test_swap_ema_weights_changes_nothing_else(self, dtype, on_epoch):
        # The model has the rounded averages, which stay in float32, and gets its weights back.
        optimizer, alone = (ADAM.make(use_ema=True, ema_momentum=0.5) for _ in range(2))
        model, expected = make_model(dtype=dtype), make_model(dtype=dtype)
        averages, weights = [], []

        def look(*_):
            for average, weight in zip(
                optimizer._model_variables_moving_average, arrays(model.trainable_variables)
            ):
                assert average.dtype == "float32"
                averages.append(tf.cast(average.value, weight.dtype).numpy())
                weights.append(weight)

        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)
        hook = "on_epoch_end" if on_epoch else "on_test_end"
        # Keras calls callbacks in their order, so that this one looks before or after the swap.
        looking = keras.callbacks.LambdaCallback(**{hook: look})
        callbacks = [swap, looking] if on_epoch else [looking, swap]
        for _ in range(2):
            for each, by, given in ((model, optimizer, callbacks), (expected, alone, [])):
                each.compile(by, "mse")
                each.fit(X, Y, 4, 2, 0, callbacks=given, validation_data=(X, Y), shuffle=False)
        assert len(averages) == 4 * len(model.trainable_variables)
        assert same(weights, averages)
        assert same(optimizer.get_weights(), alone.get_weights())
        assert same(arrays(model.variables), arrays(expected.variables))

    @only_keras_3("has no `SwapEMAWeights`")
    def test_swap_ema_weights_without_average(self):
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        with pytest.raises(ValueError, match="use_ema=True"):
            fit(ADAM.make(), callbacks=[swap])

    def test_checkpoint_and_resume(self, tmp_path):
        path = str(tmp_path / "{epoch}.keras")
        fit(ADAM.make(), epochs=2, callbacks=[keras.callbacks.ModelCheckpoint(path)])
        resumed = keras.models.load_model(path.format(epoch=2))
        assert int(resumed.optimizer.iterations) == 8
        resumed.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        assert_close(resumed.variables, fit(ADAM.make(), epochs=4).variables, **TOLERANCE)


class TestLoops:
    """Loops with `tf.GradientTape`."""

    @staticmethod
    def loss(variables, x):
        return sum(tf.reduce_sum(tf.square(x * v - 1.0)) for v in variables)

    def make_step(self, optimizer, variables, counts=None):
        def step(x):
            if counts is not None:
                counts.append(0)
            with tf.GradientTape() as tape:
                loss = self.loss(variables, x)
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables))
            return loss

        return step

    def test_eager_and_function_agree(self, entry):
        self.check_agreement(entry, {"eager": lambda f: f, "function": tf.function})

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("name", ["Adam", "SGD", "Lamb"])
    def test_xla_agrees(self, name, kind):
        xla = tf.function(jit_compile=True)
        self.check_agreement(registry.BY_NAME[name], {"eager": lambda f: f, "xla": xla}, kind)

    def check_agreement(self, entry, modes, kind="tf"):
        results = []
        for title, wrap in modes.items():
            optimizer, variables = entry.make(), make_variables(kind, SHAPES[:2])
            step = wrap(self.make_step(optimizer, variables))
            for i in range(3):
                step(tf.constant(0.5 + i))
            results.append(arrays([*variables, *optimizer.variables]))
            expect_route(optimizer, inside_xla=title == "xla")
        assert_close(results[1], results[0], **TOLERANCE)

    @pytest.mark.few
    def test_no_step_after_the_first_is_traced(self, entry):
        self.check_traces(entry, jit_compile=False)

    def test_no_step_after_the_first_is_compiled(self):
        self.check_traces(ADAM, jit_compile=True)

    def check_traces(self, entry, jit_compile):
        options = {"use_ema": True, "gradient_accumulation_steps": 2, "clipnorm": 1.0}
        optimizer, variables = entry.make(**options), make_variables(shapes=SHAPES[:2])
        counts = []
        step = tf.function(self.make_step(optimizer, variables, counts), jit_compile=jit_compile)
        step(tf.constant(0.0))
        # `tf.function` traces the first call twice if variables are created in it.
        traced = len(counts)
        assert traced <= 2
        for i in range(4):
            optimizer.learning_rate = 0.1 / (1 + i)
            step(tf.constant(float(i)))
        assert len(counts) == traced
        assert step.experimental_get_tracing_count() == traced

    def test_learning_rate_set_between_calls(self):
        optimizer, variables = ADAM.make(learning_rate=0.0, weight_decay=0.5), make_variables()
        step = tf.function(self.make_step(optimizer, variables))
        before = arrays(variables)
        step(tf.constant(1.0))
        assert same(arrays(variables), before)
        optimizer.learning_rate = 0.1
        step(tf.constant(1.0))
        assert not any(same([a], [b]) for a, b in zip(arrays(variables), before))

    def expected(self, entry, steps):
        optimizer, variables = entry.make(), make_variables()
        step = self.make_step(optimizer, variables)
        for x in steps:
            step(tf.constant(x))
        return variables

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_cond_and_while_loop(self, jit_compile):
        # A step for every even number below 7, half of them in a nested function.
        optimizer, variables = ADAM.make(), make_variables()
        step = self.make_step(optimizer, variables)
        nested = tf.function(step)

        @tf.function(jit_compile=jit_compile)
        def run():
            def body(i):
                x = tf.cast(i, tf.float32)

                def even():
                    return tf.cond(tf.equal(i % 4, 0), lambda: nested(x), lambda: step(x))

                tf.cond(tf.equal(i % 2, 0), even, lambda: 0.0)
                return [i + 1]

            tf.while_loop(lambda i: i < 7, body, [tf.constant(0)])

        optimizer.build(variables)
        run()
        assert int(optimizer.iterations) == 4
        expect_route(optimizer, inside_xla=jit_compile)
        assert_close(variables, self.expected(ADAM, [0.0, 2.0, 4.0, 6.0]), **TOLERANCE)

    def test_autograph_loop(self):
        optimizer, variables = ADAM.make(), make_variables()
        step = self.make_step(optimizer, variables)

        @tf.function
        def run(values):
            for x in values:
                if x > 0:
                    step(x)

        run(tf.constant([1.0, -1.0, 2.0]))
        assert_close(variables, self.expected(ADAM, [1.0, 2.0]), **TOLERANCE)

    def test_first_step_in_a_nested_function(self):
        optimizer, variables = ADAM.make(), make_variables()
        inner = tf.function(self.make_step(optimizer, variables))
        outer = tf.function(lambda x: inner(x) + inner(x + 1.0))
        outer(tf.constant(1.0))
        assert_close(variables, self.expected(ADAM, [1.0, 2.0]), **TOLERANCE)

    @pytest.mark.parametrize("options", [{}, {"global_clipnorm": 0.1}, {"clipnorm": 0.1}])
    def test_traced_outside_and_called_inside_xla(self, options, native_inside_xla):
        optimizer, variables = ADAM.make(**options), make_variables()
        alone, expected = ADAM.make(**options), make_variables()
        step = tf.function(self.make_step(optimizer, variables))
        step(tf.constant(1.0))
        inside = tf.function(lambda x: step.get_concrete_function(x)(x), jit_compile=True)
        inside(tf.constant(1.5))
        step(tf.constant(2.0))
        outside = self.make_step(alone, expected)
        for x in (1.0, 1.5, 2.0):
            outside(tf.constant(x))
        assert_close(variables, expected, **TOLERANCE)
        assert_close(optimizer.variables, alone.variables, **TOLERANCE)

    def test_two_optimizers_on_one_model(self):
        variables, expected = make_variables(), make_variables()
        first, second = ADAM.make(), SGD.make()

        @tf.function
        def step():
            gradients = [tf.constant(g) for g in make_gradients(0)]
            first.apply_gradients(zip(gradients[:1], variables[:1]))
            second.apply_gradients(zip(gradients[1:], variables[1:]))

        step()
        ADAM.make().apply_gradients(zip(make_gradients(0)[:1], expected[:1]))
        SGD.make().apply_gradients(zip(make_gradients(0)[1:], expected[1:]))
        assert_close(variables, expected, **TOLERANCE)

    def test_successive_steps_of_one_call_see_each_other(self):
        optimizer, variables = ADAM.make(), make_variables()
        step = self.make_step(optimizer, variables)
        tf.function(lambda: [step(tf.constant(x)) for x in (1.0, 2.0, 3.0)])()
        assert_close(variables, self.expected(ADAM, [1.0, 2.0, 3.0]), **TOLERANCE)
        assert int(optimizer.iterations) == 3


class TestLossScaleOptimizer:
    @pytest.fixture
    def float16_layers(self):
        set_dtype_policy("mixed_float16")
        yield
        set_dtype_policy("float32")

    def test_skipped_step_leaves_everything(self, entry):
        self.check_skipping(entry, lambda f: f)

    def test_skipped_step_leaves_everything_in_a_function(self):
        self.check_skipping(ADAM, tf.function)

    def check_skipping(self, entry, wrap):
        optimizer, variables = entry.make(), make_variables()
        scaled = LossScaleOptimizer(optimizer, initial_scale=8.0)
        scaled.build(variables)

        @wrap
        def step(*gradients):
            scaled.apply_gradients(zip(gradients, variables))

        bad = make_gradients(0)
        bad[0][0, 0] = np.inf
        with unchanged(optimizer, variables):
            step(*[tf.constant(g) for g in bad])
            if IS_KERAS_2:  # which counts the steps that it leaves out
                optimizer.iterations.assign_sub(1)
        assert float(scale_of(scaled)) == 4.0
        # Keras 2 expects gradients without the scale.
        factor = 1 if IS_KERAS_2 else 4
        step(*[tf.constant(factor * g) for g in make_gradients(0)])
        assert int(optimizer.iterations) == 1
        other, expected = entry.make(), make_variables()
        train(other, expected, 1)
        assert_close(variables, expected, **TOLERANCE)
        expect_route(optimizer)

    def test_mixed_float16(self, float16_layers):
        # Variables are float32, layers compute in float16, and `compile` wraps the optimizer.
        results = []
        for optimizer in (ADAM.make(), keras_twin(ADAM)):
            model = fit(optimizer)
            assert isinstance(model.optimizer, LossScaleOptimizer)
            assert model.optimizer.inner_optimizer is optimizer
            assert all(v.dtype == "float32" for v in model.trainable_variables)
            results.append(arrays(model.trainable_variables))
        assert not np.allclose(results[0][0], arrays(make_model().variables)[0])
        assert_close(*results, rtol=1e-3, atol=1e-4)

    def test_overflow_in_fit_is_skipped(self, float16_layers):
        inner = ADAM.make()
        scaled = LossScaleOptimizer(inner, initial_scale=2.0**30)
        fit(scaled, epochs=10)
        # Keras 2 counts the steps that it leaves out.
        assert 0 < int(inner.iterations) < 40 + IS_KERAS_2
        assert float(scale_of(scaled)) < 2.0**30
        assert all(np.all(np.isfinite(w)) for w in inner.get_weights())

    def test_saved_and_loaded(self, tmp_path):
        model = fit(LossScaleOptimizer(ADAM.make()))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert type(loaded.optimizer.inner_optimizer) is tf_optim_ext.Adam
        for each in (model, loaded):
            each.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        assert_close(loaded.variables, model.variables, rtol=1e-6)
        assert_close(loaded.optimizer.variables, model.optimizer.variables, rtol=1e-6)


@has_multi_optimizer
class TestMultiOptimizer:
    def make_model(self):
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(2, name="body"),
                keras.layers.Dense(1, name="head"),
            ],
            name="model",
        )

    def test_fit(self):
        model, expected = self.make_model(), self.make_model()
        default, for_head = ADAM.make(), SGD.make()
        optimizer_map = keras.optimizers.OptimizerMap(
            default, {".*head/.*": for_head, "unused": ADAM.make()}
        )
        optimizer = keras.optimizers.MultiOptimizer(optimizer_map)
        fit(optimizer, model)
        assert int(optimizer.iterations) == 8
        body, head = ADAM.make(), SGD.make()
        for _ in range(2):
            for i in range(0, len(X), 4):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(expected(X[i : i + 4]) - Y[i : i + 4]))
                variables = expected.trainable_variables
                gradients = tape.gradient(loss, variables)
                body.apply_gradients(zip(gradients[:2], variables[:2]))
                head.apply_gradients(zip(gradients[2:], variables[2:]))
        assert_close(model.variables, expected.variables, **TOLERANCE)
        for inner in (default, for_head):
            expect_route(inner)


@functools.cache
def on_two_devices(some):
    """What `two_devices.py` found, by the name of the check; it runs in a process of its own."""
    names = two_devices.SOME if some else two_devices.CHECKS.keys() - two_devices.SOME
    return outcomes_of("two_devices.py", *names)


@pytest.mark.parametrize("check", conftest.shortened(two_devices.CHECKS, two_devices.SOME))
def test_mirrored_strategy(check):
    assert on_two_devices(check in two_devices.SOME)[check] == "equal"
