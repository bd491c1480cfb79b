"""`schedules.find_learning_rate`: what it finds, and that it leaves everything as it was."""

import contextlib
import copy

import numpy as np
import pytest
import tensorflow as tf
from common import has_multi_optimizer
from conftest import shortened
from generation import IS_KERAS_2, LossScaleOptimizer, keras, only_keras_3

import tf_optim_ext
from tf_optim_ext import schedules

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 5)).astype(np.float32)
Y = (X @ RNG.normal(size=(5, 1))).astype(np.float32)
LINEAR = schedules.Linear(0.1, 50)


def model_with(optimizer, built=True, **options):
    """A model with state beside its weights: of batch normalisation and dropout."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    if built:
        model.fit(X, Y, batch_size=8, verbose=0)
    return model


def linear_model(optimizer, **options):
    """A model whose loss is deterministic: of all data in each batch."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse", **options)
    return model


def all_variables(model):
    """Everything that training changes, found in other ways than the range test does."""
    found = {}
    for layer in model.layers:
        for i, variable in enumerate(layer.variables):
            found[f"{layer.name}/{i}"] = np.array(variable)
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            found[f"{layer.name}/seed"] = np.array(generator.state)
        generator = getattr(layer, "_random_generator", None)
        if getattr(generator, "_generator", None) is not None:
            found[f"{layer.name}/generator"] = np.array(generator._generator.state)
    for kind, optimizer in (("outer", model.optimizer), ("inner", innermost(model.optimizer))):
        for i, variable in enumerate(optimizer.variables):
            found[f"{kind}/{i}"] = np.array(variable)
    if hasattr(model.optimizer, "inner_optimizer"):
        state = model.optimizer
        scale = state._loss_scale.current_loss_scale if IS_KERAS_2 else state.dynamic_scale
        found["scale"] = np.array(scale)
    return found


def innermost(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


@contextlib.contextmanager
def unchanged(model):
    """Asserts that the block leaves a model and its optimizer as they were, to the last bit."""
    before = all_variables(model)
    kept = {n: vars(model).get(n) for n in ("train_function", "history", "stop_training")}
    given = innermost(model.optimizer)._learning_rate
    rate = float(model.optimizer.learning_rate)
    yield
    after = all_variables(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.tobytes() == after[name].tobytes(), name
    assert {n: vars(model).get(n) for n in kept} == kept
    assert innermost(model.optimizer)._learning_rate is given
    assert float(model.optimizer.learning_rate) == rate


OPTIMIZERS = {
    "ours": lambda: tf_optim_ext.Adam(0.1),
    "ours with a schedule": lambda: tf_optim_ext.Adam(LINEAR),
    "ours with a variable": lambda: tf_optim_ext.SGD(tf.Variable(0.1), momentum=0.5),
    "ours with a callable": lambda: tf_optim_ext.SGD(lambda: 0.1),
    "averages": lambda: tf_optim_ext.SGD(0.1, use_ema=True, gradient_accumulation_steps=2),
    "schedule-free": lambda: tf_optim_ext.ScheduleFreeAdamW(0.1),
    "Keras'": lambda: keras.optimizers.Adam(0.1),
    "Keras' with a schedule": lambda: keras.optimizers.Adam(LINEAR),
    "loss scale": lambda: LossScaleOptimizer(tf_optim_ext.Adam(0.1)),
    "loss scale of Keras'": lambda: LossScaleOptimizer(keras.optimizers.Adam(LINEAR)),
}
if IS_KERAS_2:  # which has no accumulation
    OPTIMIZERS["averages"] = lambda: tf_optim_ext.SGD(0.1, use_ema=True)


class TestRestores:
    @pytest.mark.parametrize("kind", shortened(OPTIMIZERS, ("ours with a schedule", "loss scale")))
    def test_everything(self, kind):
        model = model_with(OPTIMIZERS[kind]())
        with unchanged(model):
            found = schedules.find_learning_rate(model, (X, Y), steps=8, batch_size=8)
        assert len(found.rates) >= 2

    @pytest.mark.parametrize("kind", shortened(["ours", "Keras' with a schedule"], ("ours",)))
    def test_training_goes_on_as_if_nothing_had_been(self, kind):
        weights = []
        for tests in (False, True):
            model = model_with(OPTIMIZERS[kind]())
            if tests:
                schedules.find_learning_rate(model, (X, Y), steps=8)
            model.fit(X, Y, batch_size=8, verbose=0, shuffle=False)
            weights.append([w.tobytes() for w in model.get_weights()])
        assert weights[0] == weights[1]

    @pytest.mark.long
    def test_after_an_exception(self):
        model = model_with(tf_optim_ext.Adam(LINEAR))

        def batches():
            yield X[:8], Y[:8]
            yield X[8:16], Y[8:16]
            raise ValueError("from the data")

        with unchanged(model), pytest.raises((ValueError, tf.errors.OpError)):
            schedules.find_learning_rate(model, batches(), steps=8)

    def test_after_an_interruption_between_batches(self, monkeypatch):
        model = model_with(tf_optim_ext.ScheduleFreeAdamW(0.1))
        count = []

        def interrupted():
            count.append(1)
            if len(count) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(model, "reset_metrics", interrupted)
        with unchanged(model), pytest.raises(KeyboardInterrupt):
            schedules.find_learning_rate(model, (X, Y), steps=8)

    @pytest.mark.long
    def test_a_loss_that_is_not_finite(self):
        model = model_with(tf_optim_ext.SGD(0.1))
        with unchanged(model), pytest.raises(ValueError, match="0 finite losses"):
            schedules.find_learning_rate(model, (X * np.float32("nan"), Y))

    @pytest.mark.skipif(not IS_KERAS_2, reason="Keras 2's alone")
    def test_random_generators(self):
        experimental = keras.backend.experimental
        before = experimental.is_tf_random_generator_enabled()
        experimental.enable_tf_random_generator()
        try:
            model = model_with(tf_optim_ext.Adam(0.1))
            assert any(name.endswith("/generator") for name in all_variables(model))
            with unchanged(model):
                schedules.find_learning_rate(model, (X, Y), steps=4)
        finally:
            if not before:
                experimental.disable_tf_random_generator()

    @pytest.mark.long
    def test_training_weights_from_a_file(self, tmp_path):
        """Those of a schedule-free optimizer, which nothing but its file has."""
        model = model_with(tf_optim_ext.ScheduleFreeAdamW(0.1))
        model.save(tmp_path / "model.keras")
        weights = []
        for tests in (False, True):
            loaded = keras.models.load_model(tmp_path / "model.keras")
            if tests:
                schedules.find_learning_rate(loaded, (X, Y), steps=4)
            loaded.optimizer.use_training_weights()
            weights.append([w.tobytes() for w in loaded.get_weights()])
        assert weights[0] == weights[1]

    @pytest.mark.parametrize(
        "kind", shortened(["ours", "schedule-free", "Keras'", "loss scale"], ["ours"])
    )
    def test_what_is_not_built(self, kind):
        model, other = (model_with(OPTIMIZERS[kind](), built=False) for _ in range(2))
        schedules.find_learning_rate(model, (X, Y), steps=4)
        assert model.built and int(innermost(model.optimizer).iterations) == 0
        other.build((None, 5))
        other.set_weights(model.get_weights())
        for each in (model, other):
            each.layers[2].rate = 0.0  # seeds of layers differ
            each.compile(each.optimizer, "mse")
            each.fit(X, Y, batch_size=8, verbose=0, shuffle=False)
        for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    @pytest.mark.long
    def test_a_model_that_was_compiled_anew(self):
        model = model_with(tf_optim_ext.Adam(0.1))
        model.compile(tf_optim_ext.Adam(0.2), "mse")
        schedules.find_learning_rate(model, (X, Y), steps=4)
        assert int(model.optimizer.iterations) == 0
        assert vars(model).get("train_function") is None
        assert float(model.optimizer.learning_rate) == np.float32(0.2)


class TestFinds:
    def test_losses_of_each_rate(self):
        """Gradient descent, written out: each loss is that before the update."""
        model = linear_model(tf_optim_ext.SGD(0.1))
        w = np.array(model.get_weights()[0], np.float64)
        found = schedules.find_learning_rate(
            model, (X, Y), steps=9, lowest=1e-3, highest=0.1, smoothing=0.5, batch_size=len(X)
        )
        np.testing.assert_allclose(found.rates, np.geomspace(1e-3, 0.1, 9))
        losses, smoothed, mean = [], [], 0.0
        for i, rate in enumerate(found.rates):
            error = X @ w - Y
            losses.append(np.mean(error**2))
            w = w - rate * 2 / len(X) * (X.T @ error)
            mean = 0.5 * mean + 0.5 * losses[-1]
            smoothed.append(mean / (1 - 0.5 ** (i + 1)))
        np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
        np.testing.assert_allclose(found.smoothed_losses, smoothed, rtol=1e-5)
        assert not found.diverged

    def test_the_end_at_divergence(self):
        model = linear_model(tf_optim_ext.SGD(0.1))
        found = schedules.find_learning_rate(
            model, (X, Y), 30, lowest=1e-5, smoothing=0.0, divergence=5.0, batch_size=len(X)
        )
        assert found.diverged and len(found.rates) < 30
        assert found.rates.shape == found.losses.shape == found.smoothed_losses.shape
        assert found.losses[-1] > 5 * found.losses.min()
        assert np.all(found.losses[:-1] <= 5 * np.minimum.accumulate(found.losses)[:-1])
        # Gradient descent diverges above 2 over the largest curvature.
        limit = 2 / np.linalg.eigvalsh(2 / len(X) * X.T @ X)[-1]
        assert limit / 100 < found.suggestion < limit

    @pytest.mark.long
    def test_negative_losses(self):
        model = linear_model(tf_optim_ext.SGD(0.1))
        model.compile(tf_optim_ext.SGD(0.1), loss=lambda y, p: tf.square(y - p) - 100.0)
        found = schedules.find_learning_rate(model, (X, Y), highest=1e-3, steps=10)
        assert len(found.rates) == 10 and not found.diverged

    def test_the_suggestion(self):
        rates, losses = np.geomspace(1e-4, 1, 20), np.ones(20)
        losses[0], losses[15] = 0.1, 0.2
        found = schedules.RangeTest(rates, losses, losses, False)
        assert found.suggestion == rates[15] / 10

    @pytest.mark.long
    def test_keras_own_and_ours_find_the_same(self):
        found = [
            schedules.find_learning_rate(
                linear_model(cls(0.1)), (X, Y), steps=12, highest=0.1, batch_size=len(X)
            )
            for cls in (tf_optim_ext.Adam, keras.optimizers.Adam)
        ]
        np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-4)

    @pytest.mark.long
    def test_inside_xla(self):
        found = [
            schedules.find_learning_rate(
                linear_model(tf_optim_ext.Adam(LINEAR), jit_compile=jit),
                (X, Y),
                steps=6,
                highest=0.1,
                batch_size=len(X),
            )
            for jit in (False, True)
        ]
        np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-4)


class TestData:
    def data(self, kind):
        dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
        return {
            "arrays": (X, Y),
            "weighted arrays": (X, Y, np.ones(len(X), np.float32)),
            "tensors": (tf.constant(X), tf.constant(Y)),
            "dataset": dataset,  # of fewer batches than steps
            "infinite dataset": dataset.repeat(),
            "generator": ((X[i : i + 8], Y[i : i + 8]) for _ in range(9) for i in range(0, 48, 8)),
        }[kind]

    @pytest.mark.parametrize(
        "kind",
        shortened(
            ["arrays", "weighted arrays", "tensors", "dataset", "infinite dataset", "generator"],
            ["weighted arrays", "dataset"],
        ),
    )
    def test_of_every_kind(self, kind):
        model = linear_model(tf_optim_ext.SGD(0.1))
        found = schedules.find_learning_rate(model, self.data(kind), steps=7, highest=0.01)
        assert len(found.rates) == 7

    @pytest.mark.parametrize(
        "kind", shortened(["arrays", "weighted arrays", "dataset", "infinite dataset"], ["dataset"])
    )
    def test_for_a_model_that_is_not_built(self, kind):
        model = model_with(tf_optim_ext.SGD(0.1), built=False)
        found = schedules.find_learning_rate(model, self.data(kind), steps=3, highest=0.01)
        assert len(found.rates) == 3

    def test_a_generator_for_a_model_that_is_not_built(self):
        model = model_with(tf_optim_ext.SGD(0.1), built=False)
        with pytest.raises(ValueError, match="Call the model on a batch first"):
            schedules.find_learning_rate(model, self.data("generator"))
        assert vars(model).get("train_function") is None

    @pytest.mark.long
    def test_a_model_with_a_step_of_its_own(self):
        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(1)

            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(self.dense(x) - y))
                variables = self.dense.trainable_variables
                self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
                return {"loss": loss}

        model = Own()
        model.compile(tf_optim_ext.SGD(0.1))
        found = schedules.find_learning_rate(model, (X, Y), steps=5)
        assert len(found.rates) == 5
        assert int(model.optimizer.iterations) == 0

    @pytest.mark.long
    def test_steps_per_execution(self):
        model = linear_model(tf_optim_ext.SGD(0.1), steps_per_execution=3)
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).repeat()
        assert len(schedules.find_learning_rate(model, data, steps=4).rates) == 4

    @pytest.mark.long
    def test_under_a_strategy(self):
        with tf.distribute.OneDeviceStrategy("cpu:0").scope():
            model = model_with(tf_optim_ext.Adam(0.1))
        with unchanged(model):
            schedules.find_learning_rate(model, (X, Y), steps=4)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 1}, "`steps` must be an integer >= 2"),
            ({"lowest": 0.0}, r"`lowest` must be in \(0, inf\)"),
            ({"lowest": 1.0, "highest": 0.5}, r"`highest` must be in \(1.0, inf\)"),
            ({"smoothing": 1.0}, r"`smoothing` must be in \[0, 1\)"),
            ({"divergence": 1.0}, r"`divergence` must be in \(1, inf\)"),
        ],
    )
    def test_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            schedules.find_learning_rate(linear_model("sgd"), (X, Y), **options)

    def test_what_is_no_model(self):
        with pytest.raises(TypeError, match="`model` must be a Keras model"):
            schedules.find_learning_rate(tf_optim_ext.SGD(0.1), (X, Y))

    def test_a_model_that_is_not_compiled(self):
        model = keras.Sequential([keras.layers.Dense(1)])
        with pytest.raises(ValueError, match=r"call `model\.compile"):
            schedules.find_learning_rate(model, (X, Y))

    @has_multi_optimizer
    @only_keras_3("has no `MultiOptimizer`")
    def test_several_optimizers(self):
        each = keras.optimizers.OptimizerMap(tf_optim_ext.SGD(0.1), {".*x": tf_optim_ext.SGD(1.0)})
        model = linear_model(keras.optimizers.MultiOptimizer(each))
        with pytest.raises(ValueError, match="2 optimizers"):
            schedules.find_learning_rate(model, (X, Y))

    @pytest.mark.skipif(not IS_KERAS_2, reason="Keras 2's alone")
    def test_legacy_optimizers(self):
        model = linear_model(keras.optimizers.legacy.SGD(0.1))
        with pytest.raises(ValueError, match=r"must be a `tf_keras.optimizers.Optimizer`"):
            schedules.find_learning_rate(model, (X, Y))

    def test_a_step_without_a_loss(self):
        class Silent(keras.Sequential):
            def train_step(self, data):
                return {"other": tf.constant(1.0)}

        model = Silent([keras.layers.Input((5,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match=r"must return a dict with 'loss'.*\['other'\]"):
            schedules.find_learning_rate(model, (X, Y))


class TestPlot:
    def test_axes(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("agg")
        from matplotlib import pyplot

        losses = np.linspace(1.0, 0.5, 20)
        found = schedules.RangeTest(np.geomspace(1e-4, 1, 20), losses, losses, False)
        ax = found.plot()
        assert ax.get_xscale() == "log" and ax.get_ylabel() == "loss"
        assert ax.lines[0].get_ydata().tolist() == found.losses.tolist()
        assert ax.lines[1].get_ydata().tolist() == found.smoothed_losses.tolist()
        assert ax.lines[2].get_xdata()[0] == found.suggestion
        mine = pyplot.subplots()[1]
        assert copy.copy(found).plot(mine) is mine
        pyplot.close("all")


@pytest.mark.long
class TestOtherGeneration:
    def test_a_model_of_keras_2(self):
        tf_keras = pytest.importorskip("tf_keras")
        model = tf_keras.Sequential([tf_keras.layers.Dense(1)])
        model.compile(tf_optim_ext.tf_keras.Adam(0.1), "mse")
        model.fit(X, Y, verbose=0)
        with unchanged(model):
            tf_optim_ext.tf_keras.schedules.find_learning_rate(model, (X, Y), steps=4)
