"""SAM, ASAM and GSAM: their maths, and what surrounds a step that takes two gradients."""

import copy
import doctest
import itertools
import pickle

import h5py
import numpy as np
import pytest
import registry
import tensorflow as tf
from common import PACKAGE, arrays, outcomes_of, same
from conftest import portable, shortened
from generation import (
    IS_KERAS_2,
    LossScaleOptimizer,
    dtype_policy,
    keras,
    only_keras_3,
    scale_of,
    set_dtype_policy,
)
from modes import MODES, wrapped
from references import builtin, sharpness

import tf_optim_ext
from tf_optim_ext import ASAM, GSAM, SAM
from tf_optim_ext.backends import native
from tf_optim_ext.rule import auxiliary
from tf_optim_ext.wrappers import sam

SHAPES = ((3, 4), (4,), ())
RHO, ETA, ALPHA = 0.3, 0.02, 0.7
WRAPPERS = ("SAM", "ASAM", "GSAM")
STEPS = 4

wrappers = pytest.mark.parametrize("wrapper", WRAPPERS)
kinds_of_inner = pytest.mark.parametrize("inner", shortened(["ours", "Keras'"], ["ours"]))


def some_of(names, product, short):
    """A mark with all combinations of parameters, of which only some are not for the long tests."""
    cases = [
        case if case in short else pytest.param(*case, marks=pytest.mark.long) for case in product
    ]
    return pytest.mark.parametrize(names, cases)


class Problem:
    """A loss that is another one in each step, over a matrix, a bias and a scalar."""

    def __init__(self, dtype="float32", size=1.0):
        rng = np.random.default_rng(7)
        self.initial = [rng.normal(size=s).astype(dtype) for s in SHAPES]
        self._a = [rng.normal(size=(STEPS, *s)) * size for s in SHAPES]
        self._b = [rng.uniform(0.5, 2, size=s) for s in SHAPES]
        self._size = size
        self.dtype = dtype

    def variables(self):
        names = ("kernel", "bias", "scale")
        return [tf.Variable(w, name=n) for w, n in zip(self.initial, names)]

    def loss(self, t, variables):
        total = 0.0
        for a, b, w in zip(self._a, self._b, variables):
            a = tf.constant(a.astype(self.dtype))[t]
            total += tf.reduce_sum(a * tf.sin(tf.constant(b.astype(self.dtype)) * w))
        square = tf.add_n([tf.reduce_sum(tf.square(w)) for w in variables])
        return total + 0.01 * self._size * tf.square(square)

    def gradient(self, t, theta):
        square = sum(np.sum(np.square(w)) for w in theta)
        return [
            a[t] * b * np.cos(b * w) + 0.04 * self._size * square * w
            for a, b, w in zip(self._a, self._b, theta)
        ]


def make(wrapper, inner, **arguments):
    if wrapper == "SAM":
        return SAM(inner, **{"rho": RHO, **arguments})
    if wrapper == "ASAM":
        return ASAM(inner, **{"rho": RHO, "eta": ETA, **arguments})
    return GSAM(inner, **{"rho": RHO, "alpha": ALPHA, **arguments})


def of_paper(wrapper):
    """What `sharpness.trained` needs: the perturbation, and what makes the direction."""
    if wrapper == "ASAM":
        adaptive = [True, False, True]
        return lambda t, w, g: sharpness.asam(w, g, RHO, ETA, adaptive), None
    direction = (lambda g, h: sharpness.gsam_direction(g, h, ALPHA)) if wrapper == "GSAM" else None
    return lambda t, w, g: sharpness.sam(w, g, RHO), direction


def reference_of(entry):
    arguments = {registry.entry.RENAMED.get(n, n): x for n, x in entry.arguments.items()}
    arguments["learning_rate"] = float(np.float32(arguments["learning_rate"]))
    return lambda theta, gradients: entry.reference(theta, gradients, **arguments)


def compare(problem, optimizer, variables, expected, take, rtol, slots=True, scale=None):
    """Takes steps, and compares weights and slots with the reference after each of them."""
    for t, (weights, of_slots) in enumerate(expected):
        take(t)
        for variable, weight, its_slots in zip(variables, weights, of_slots):
            limit = rtol * max(1.0, np.max(np.abs(weight), initial=0.0))
            np.testing.assert_allclose(variable.numpy(), weight, rtol=0, atol=limit)
            for name, slot in its_slots.items() if slots else ():
                actual = np.array(optimizer.get_slot(variable, name))
                limit = rtol * max(1e-30, np.max(np.abs(slot), initial=0.0))
                np.testing.assert_allclose(actual, slot, rtol=0, atol=20 * limit)
    assert int(optimizer.iterations) == STEPS


class TestMaths:
    @some_of(
        ("wrapper", "mode", "name"),
        itertools.product(WRAPPERS, MODES, ["SGD-nesterov", "AdamW", "Lamb"]),
        [
            *itertools.product(WRAPPERS, ["eager"], ["AdamW", "Lamb"]),
            ("ASAM", "function", "SGD-nesterov"),
            ("SAM", "xla", "SGD-nesterov"),
        ],
    )
    def test_equals_the_paper(self, wrapper, mode, name):
        entry, problem = registry.BY_NAME[name], Problem()
        optimizer, variables = make(wrapper, entry.make()), problem.variables()
        step = wrapped(
            mode, lambda t: optimizer.minimize(lambda: problem.loss(t, variables), variables)
        )
        if mode == "xla" and native.why_not_inside_xla():
            pytest.skip("no native steps inside XLA")
        perturbation, direction = of_paper(wrapper)
        expected = sharpness.trained(
            problem.initial, problem.gradient, STEPS, reference_of(entry), perturbation, direction
        )
        compare(problem, optimizer, variables, expected, lambda t: step(tf.constant(t)), 1e-4)

    @wrappers
    def test_around_every_optimizer(self, entry, wrapper):
        problem = Problem("float64")
        optimizer, variables = make(wrapper, entry.make()), problem.variables()
        perturbation, direction = of_paper(wrapper)
        expected = sharpness.trained(
            problem.initial,
            problem.gradient,
            STEPS,
            reference_of(entry),
            perturbation,
            direction,
            joint=entry.is_joint,
        )
        compare(
            problem,
            optimizer,
            variables,
            expected,
            lambda t: optimizer.minimize(lambda: problem.loss(t, variables), variables),
            1e-6,
            slots=not entry.is_joint,
        )

    @wrappers
    def test_around_an_optimizer_of_keras(self, wrapper):
        problem = Problem()
        inner = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer, variables = make(wrapper, inner), problem.variables()
        perturbation, direction = of_paper(wrapper)
        expected = sharpness.trained(
            problem.initial,
            problem.gradient,
            STEPS,
            lambda w, g: builtin.sgd(w, g, learning_rate=np.float32(0.1), momentum=0.9),
            perturbation,
            direction,
        )
        compare(
            problem,
            optimizer,
            variables,
            expected,
            lambda t: optimizer.minimize(lambda: problem.loss(t, variables), variables),
            1e-5,
            slots=False,
        )

    @pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
    @pytest.mark.parametrize("is_portable", [False, True])
    @wrappers
    def test_huge_and_tiny_gradients_have_a_direction(self, wrapper, size, is_portable):
        """Also where their squares are no float32."""
        problem = Problem(size=size)
        problem.initial = [np.abs(w) + 0.5 for w in problem.initial]
        inner = tf_optim_ext.SGD(float(0.1 / size))
        optimizer, variables = make(wrapper, inner), problem.variables()
        perturbation, direction = of_paper(wrapper)
        rate = float(np.float32(0.1 / size))
        expected = sharpness.trained(
            problem.initial,
            problem.gradient,
            STEPS,
            lambda w, g: builtin.sgd(w, g, learning_rate=rate),
            perturbation,
            direction,
        )

        def take(t):
            optimizer.minimize(lambda: problem.loss(t, variables), variables)

        take = portable(take) if is_portable else take
        compare(problem, optimizer, variables, expected, take, 1e-4)

    @wrappers
    def test_zero_gradients_move_nothing(self, wrapper):
        weights, seen = tf.Variable([1.0, 2.0]), []
        optimizer = make(wrapper, tf_optim_ext.SGD(0.1, weight_decay=0.5))

        def loss():
            seen.append(weights.numpy())
            return tf.reduce_sum(weights * 0.0)

        optimizer.minimize(loss, [weights])
        assert same(seen, [np.float32([1, 2])] * 2)
        np.testing.assert_allclose(weights, [0.95, 1.9], rtol=1e-6)  # the decay

    @wrappers
    def test_a_gradient_that_is_not_finite_spoils_what_it_spoils_without(self, wrapper):
        weights, other = tf.Variable([1.0, 2.0]), tf.Variable(3.0)
        optimizer = make(wrapper, tf_optim_ext.SGD(0.1))
        factor = tf.constant([np.inf, 1.0])
        optimizer.minimize(lambda: tf.reduce_sum(weights**2 * factor) + other**2, [weights, other])
        assert not np.isfinite(weights.numpy()).any()

    def test_gsam_without_alpha_is_sam(self):
        problem = Problem()
        results = []
        for optimizer in (
            SAM(tf_optim_ext.AdamW(0.1), rho=RHO),
            GSAM(tf_optim_ext.AdamW(0.1), rho=RHO, alpha=0),
        ):
            variables = problem.variables()
            for t in range(STEPS):
                optimizer.minimize(lambda: problem.loss(t, variables), variables)  # noqa: B023
            results.append(arrays(variables))
        assert same(*results)

    def test_direction_of_gsam_keeps_the_part_along_the_second_gradient(self):
        """The property by which the paper defines it, from what the inner optimizer got."""
        problem = Problem()
        variables, gradients = problem.variables(), []
        optimizer = GSAM(tf_optim_ext.SGD(1.0), rho=RHO, alpha=ALPHA)
        with_tape = tf.GradientTape

        def loss():
            with with_tape() as tape:
                value = problem.loss(0, variables)
            gradients.append(arrays(tape.gradient(value, variables)))
            return problem.loss(0, variables)

        optimizer.minimize(loss, variables)
        g, h = (np.concatenate([a.ravel() for a in each]) for each in gradients)
        d = np.concatenate([(w - v).numpy().ravel() for w, v in zip(problem.initial, variables)])
        rest = d - h
        assert abs(rest @ h) < 1e-4 * np.linalg.norm(rest) * np.linalg.norm(h)
        part = g - (g @ h) / (h @ h) * h
        np.testing.assert_allclose(rest, -ALPHA * part, atol=1e-4)

    @pytest.mark.parametrize("in_function", [False, True])
    @kinds_of_inner
    def test_rho_of_gsam_follows_the_learning_rate(self, inner, in_function):
        # 1, 0.8, 0.6, ... 0.2; then 0, below the least.
        schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 5, 0.0)
        module = tf_optim_ext if inner == "ours" else keras.optimizers
        optimizer = GSAM(
            module.SGD(schedule),
            rho=0.5,
            rho_min=0.1,
            alpha=0.0,
            learning_rate_max=1.0,
            learning_rate_min=0.2,
        )
        weights = tf.Variable(np.float32([3.0, 4.0]))
        points = tf.Variable(np.zeros((2, 2), np.float32))
        count = tf.Variable(0)

        def loss():
            points[count % 2].assign(weights)
            count.assign_add(1)
            return tf.reduce_sum(weights * [0.6, 0.8])

        def step():
            optimizer.minimize(loss, [weights])

        step = tf.function(step) if in_function else step
        for rate in (1.0, 0.8, 0.6, 0.4, 0.2, 0.0):
            step()
            length = np.linalg.norm(points[1] - points[0])
            expected = sharpness.gsam_rho(max(rate, 0.2), 0.5, 0.1, 1.0, 0.2)
            assert abs(length - expected) < 1e-5
        assert int(optimizer.iterations) == 6


class TestSparse:
    @pytest.mark.parametrize("is_portable", [False, True])
    @pytest.mark.parametrize("sparse", ["exact", "lazy"])
    @pytest.mark.parametrize("mode", shortened(MODES, ["eager"]))
    @wrappers
    def test_equals_the_dense_gradient(self, wrapper, sparse, is_portable, mode):
        """With repeated indices; of an embedding, beside a dense variable."""
        if is_portable and mode != "eager":
            pytest.skip("a mode of its own")
        rng = np.random.default_rng(0)
        table, kernel = rng.normal(size=(6, 2)).astype("f"), rng.normal(size=(2, 3)).astype("f")
        ids = tf.constant([4, 1, 4, 2])
        results = []
        for is_sparse in (True, False):
            variables = [tf.Variable(table), tf.Variable(kernel)]
            inner = tf_optim_ext.SGD(0.1, **({"sparse": sparse} if is_sparse else {}))
            optimizer = make(wrapper, inner)

            def loss(variables=variables, is_sparse=is_sparse):
                dense = variables[0] if is_sparse else tf.identity(variables[0])
                return tf.reduce_sum(tf.sin(tf.gather(dense, ids) @ variables[1]))

            def step(optimizer=optimizer, variables=variables, loss=loss):
                optimizer.minimize(loss, variables)

            step = wrapped(mode, portable(step) if is_portable else step)
            for _ in range(2):
                step()
            results.append(arrays(variables))
        for actual, expected in zip(*results):
            np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)
        untouched = [0, 3, 5]
        assert results[0][0][untouched].tobytes() == table[untouched].tobytes()

    @pytest.mark.parametrize("inside_xla", shortened([False, True], [False]))
    def test_gradients_of_other_rows_at_the_second_point(self, inside_xla):
        """GSAM adds gradients of different rows."""
        table = np.random.default_rng(0).normal(size=(6, 2)).astype("f")
        results = []
        for is_sparse in (True, False):
            weights, calls = tf.Variable(table), []
            optimizer = make("GSAM", tf_optim_ext.SGD(0.1))

            def loss(weights=weights, calls=calls, is_sparse=is_sparse):
                calls.append(None)
                ids = [[0, 1, 3, 1], [3, 5]][(len(calls) - 1) % 2]
                rows = tf.gather(weights if is_sparse else tf.identity(weights), ids)
                return tf.reduce_sum(tf.exp(rows))

            step = wrapped(
                "xla" if inside_xla else "eager",
                lambda o=optimizer, f=loss, w=weights: o.minimize(f, [w]),
            )
            step()
            results.append(weights.numpy())
        np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)

    def test_only_rows_with_a_gradient_are_kept_and_moved(self):
        weights = tf.Variable(np.ones((5, 2), np.float32))
        optimizer = SAM(tf_optim_ext.SGD(0.1, sparse="lazy"))
        optimizer.minimize(lambda: tf.reduce_sum(tf.gather(weights, [3, 3])), [weights])
        assert weights.numpy()[[0, 1, 2, 4]].tolist() == [[1, 1]] * 4
        np.testing.assert_allclose(weights.numpy()[3], 1 - 0.2, rtol=1e-6)


class TestRestoring:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
    @pytest.mark.parametrize("mode", shortened(["eager", "function"], ["eager"]))
    @wrappers
    def test_is_exact(self, wrapper, dtype, mode):
        """Weights that are moved by a thousand times their size, and a step of zero."""
        rng = np.random.default_rng(0)
        weights = tf.Variable(tf.cast(rng.normal(size=(7, 5)) * 1e-3, dtype))
        before = weights.numpy()
        moved = tf.Variable(tf.zeros_like(weights))
        optimizer = make(wrapper, tf_optim_ext.SGD(0.0), rho=37.0)

        def loss():
            moved.assign(weights)
            return tf.reduce_sum(tf.square(tf.cast(weights, "float32")))

        wrapped(mode, lambda: optimizer.minimize(loss, [weights]))()
        assert not np.allclose(moved.numpy().astype("f"), before.astype("f"))
        assert same([weights.numpy()], [before])

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    @pytest.mark.parametrize("is_sparse", [False, True])
    @wrappers
    def test_happens_when_the_second_computation_fails(self, wrapper, error, is_sparse):
        weights = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)).astype("f"))
        optimizer = make(wrapper, tf_optim_ext.AdamW(0.1, sparse="lazy"))
        optimizer.build([weights])
        before, state = weights.numpy(), arrays(optimizer.variables)
        calls = []

        def loss():
            calls.append(weights.numpy())
            if len(calls) == 2:
                raise error("the second time")
            rows = tf.gather(weights, [1, 2]) if is_sparse else weights
            return tf.reduce_sum(tf.square(rows))

        with pytest.raises(error, match="the second time"):
            optimizer.minimize(loss, [weights])
        assert not same(calls[:1], calls[1:])
        assert same([weights.numpy()], [before])
        assert same(arrays(optimizer.variables), state)

    def test_of_other_variables_as_well(self):
        model = normalized()
        optimizer = SAM(tf_optim_ext.SGD(0.1))
        calls = []

        def loss():
            value = tf.reduce_mean(tf.square(model(X, training=True)))
            calls.append(arrays(model.non_trainable_variables))
            if len(calls) == 2:
                raise ValueError("the second time")
            return value

        before = arrays(model.trainable_variables)
        with pytest.raises(ValueError, match="second"):
            optimizer.minimize(loss, model)
        assert not same(*calls)
        assert same(arrays(model.non_trainable_variables), calls[0])
        assert same(arrays(model.trainable_variables), before)

    def test_nothing_else_needs_memory_between_steps(self):
        problem = Problem()
        variables, optimizer = problem.variables(), SAM(tf_optim_ext.SGD(0.1))
        optimizer.minimize(lambda: problem.loss(0, variables), variables)
        assert len(optimizer.variables) == len(optimizer.inner_optimizer.variables)


X = np.random.default_rng(1).normal(size=(8, 3)).astype("f")
Y = np.random.default_rng(2).normal(size=(8, 2)).astype("f")
WEIGHTS = np.float32([1, 2, 0, 1, 3, 1, 1, 2])


def normalized(dropout=0.0, late=False, functional=False, penalty=True):
    """A model with moving statistics, and perhaps random masks; always the same weights."""
    keras.utils.set_random_seed(3)
    layers = [
        # Keras cannot add what float16 layers penalize to a loss of float32.
        keras.layers.Dense(4, activation="tanh", activity_regularizer="l2" if penalty else None),
        keras.layers.BatchNormalization(),
        *([keras.layers.Dropout(dropout, seed=5)] if dropout else []),
        keras.layers.Dense(2),
    ]
    if functional:
        output = inputs = keras.Input((3,))
        for layer in layers:
            output = layer(output)
        return keras.Model(inputs, output)
    return keras.Sequential(layers if late else [keras.Input((3,)), *layers])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.of_late = normalized(late=True)

    def call(self, x, training=None):
        return self.of_late(x, training=training)


MODELS = {
    "functional": lambda: normalized(functional=True),
    "sequential": normalized,
    "late": lambda: normalized(late=True),
    "subclassed": Subclassed,
}


def fitted(model, optimizer, epochs=2, **options):
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    history = model.fit(
        X, Y, sample_weight=WEIGHTS, batch_size=4, epochs=epochs, shuffle=False, verbose=0
    )
    return history.history


def looped(model, optimizer, epochs=2):
    """The same steps as those of `fitted`, in a loop; the losses of each epoch."""
    losses = []
    for i in range(0, 8 * epochs, 4):
        x, y, weights = (a[i % 8 : i % 8 + 4] for a in (X, Y, WEIGHTS))

        def loss(x=x, y=y, weights=weights):
            squares = tf.reduce_mean(tf.square(model(x, training=True) - y), -1)
            return tf.reduce_sum(weights * squares) / len(weights) + sum(model.losses)

        losses.append(optimizer.step(loss, model).numpy())
    return np.mean(np.reshape(losses, (epochs, 2)), -1)


class TestFit:
    @some_of(
        ("wrapper", "kind"),
        itertools.product(WRAPPERS, MODELS),
        [("SAM", "late")],
    )
    def test_equals_a_loop(self, wrapper, kind):
        results = []
        for train in (fitted, looped):
            model = MODELS[kind]()
            optimizer = make(wrapper, tf_optim_ext.AdamW(0.01))
            losses = train(model, optimizer)
            losses = losses["loss"] if isinstance(losses, dict) else losses
            results.append((losses, arrays(model.variables)))
            assert int(optimizer.iterations) == 4
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
        for actual, expected in zip(results[0][1], results[1][1]):
            if actual.dtype.kind == "f":
                np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)

    @kinds_of_inner
    def test_without_a_radius_is_fit_without_sam(self, inner):
        """Metrics, weights of samples, moving statistics and random states: no step leaves a
        trace of its second computation."""
        results = []
        for is_sam in (True, False):
            module = tf_optim_ext if inner == "ours" else keras.optimizers
            optimizer = module.SGD(0.1, momentum=0.9)
            # The masks of Keras 2 are no variables.
            model = normalized(dropout=0.0 if IS_KERAS_2 else 0.5)
            history = fitted(model, SAM(optimizer, rho=0.0) if is_sam else optimizer)
            results.append((history, arrays(model.variables), arrays(optimizer.variables)))
        (history, weights, state), (other_history, other_weights, other_state) = results
        assert history.keys() == other_history.keys() >= {"loss", "mae"}
        for key, values in history.items():
            np.testing.assert_allclose(values, other_history[key], rtol=1e-5)
        for a, b in zip([*weights, *state], [*other_weights, *other_state]):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        "options",
        shortened([{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}], []),
    )
    def test_modes_are_equal(self, options):
        results = []
        for chosen in (options, {}):
            model = normalized()
            history = fitted(model, SAM(tf_optim_ext.AdamW(0.01)), **chosen)
            results.append((history["mae"], arrays(model.variables)))
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
        for a, b in zip(results[0][1], results[1][1]):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)

    @pytest.mark.long
    def test_class_weights(self):
        results = []
        for rho in (0.0, None):
            model = normalized()
            optimizer = tf_optim_ext.SGD(0.1)
            optimizer = optimizer if rho is None else SAM(optimizer, rho=rho)
            model.compile(optimizer, "sparse_categorical_crossentropy")
            labels = np.arange(8) % 2
            model.fit(X, labels, class_weight={0: 1.0, 1: 5.0}, verbose=0, shuffle=False)
            results.append(arrays(model.trainable_variables))
        for a, b in zip(*results):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    @pytest.mark.long
    def test_a_train_step_of_ones_own(self):
        class Model(keras.Model):
            def train_step(self, data):
                return self.optimizer.train_step(self, data)

        results = []
        for cls in (Model, keras.Model):
            keras.utils.set_random_seed(3)
            inputs = keras.Input((3,))
            model = cls(inputs, keras.layers.Dense(2)(inputs))
            fitted(model, SAM(tf_optim_ext.SGD(0.1)))
            results.append(arrays(model.variables))
        assert same(*results)

    def test_a_train_step_with_one_gradient_is_an_error(self):
        class Model(keras.Model):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(self(x) - y))
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
                return {}

        inputs = keras.Input((3,))
        model = Model(inputs, keras.layers.Dense(2)(inputs))
        model.compile(SAM(tf_optim_ext.SGD(0.1)), run_eagerly=True)
        before = arrays(model.variables)
        with pytest.raises(RuntimeError, match=r"optimizer\.train_step\(self, data\)"):
            model.fit(X, Y, verbose=0)
        assert same(arrays(model.variables), before)

    @pytest.mark.long
    def test_other_models_keep_their_training_step(self):
        SAM(tf_optim_ext.SGD(0.1))
        model = normalized()
        fitted(model, tf_optim_ext.SGD(0.1))
        assert int(model.optimizer.iterations) == 4

    @pytest.mark.long
    def test_the_learning_rate_of_callbacks(self):
        model = normalized()
        optimizer = SAM(tf_optim_ext.SGD(0.1))
        model.compile(optimizer, "mse")
        rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5**epoch)
        history = model.fit(X, Y, epochs=3, verbose=0, callbacks=[rates]).history
        assert float(optimizer.inner_optimizer.learning_rate) == 0.25
        np.testing.assert_allclose(history.get("learning_rate") or history["lr"], [1, 0.5, 0.25])

    @pytest.mark.long
    def test_schedule_free_optimizers_are_evaluated_at_their_averages(self):
        model = normalized()
        optimizer = SAM(tf_optim_ext.ScheduleFreeAdamW(0.1))
        fitted(model, optimizer, epochs=1)
        averages = arrays(model.trainable_variables)
        optimizer.inner_optimizer.use_training_weights()
        assert not same(averages, arrays(model.trainable_variables))


class TestOtherVariables:
    @pytest.mark.parametrize("in_function", [False, True])
    def test_moving_statistics_are_those_of_the_first_computation(self, in_function):
        model, expected = normalized(), normalized()
        expected(X, training=True)
        optimizer = SAM(tf_optim_ext.SGD(0.1), rho=3.0)

        def step():
            optimizer.minimize(lambda: tf.reduce_mean(tf.square(model(X, training=True))), model)

        (tf.function(step) if in_function else step)()
        statistics, others = (list(m.non_trainable_variables) for m in (model, expected))
        assert len(statistics) >= 2
        for a, b in zip(statistics, others):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        assert not np.allclose(statistics[0], 0)

    @only_keras_3("its masks are no variables")
    @pytest.mark.parametrize("in_function", [False, True])
    def test_both_computations_draw_the_same_masks(self, in_function):
        model, expected = normalized(dropout=0.5), normalized(dropout=0.5)
        optimizer = SAM(tf_optim_ext.SGD(0.0), rho=0.0)
        outputs = [tf.Variable(tf.zeros((8, 2))) for _ in range(2)]
        count = []

        def loss():
            output = model(X, training=True)
            outputs[len(count) % 2].assign(output)
            count.append(None)
            return tf.reduce_sum(output)

        step = wrapped(
            "function" if in_function else "eager", lambda: optimizer.minimize(loss, model)
        )
        drawn = []
        for _ in range(2):
            step()
            first, second = (o.numpy() for o in outputs)
            np.testing.assert_array_equal(first, second)
            drawn.append(first)
            np.testing.assert_allclose(first, expected(X, training=True), rtol=1e-5, atol=1e-6)
        assert not np.allclose(*drawn)  # other ones in the next step

    def test_are_left_alone_of_a_module(self):
        class Module(tf.Module):
            def __init__(self):
                self.weights = tf.Variable([1.0, 2.0])
                self.calls = tf.Variable(0, trainable=False)

            def __call__(self):
                self.calls.assign_add(1)
                return tf.reduce_sum(tf.square(self.weights))

        module = Module()
        SAM(tf_optim_ext.SGD(0.1)).minimize(module, module)
        assert int(module.calls) == 1

    def test_are_not_known_of_a_list(self):
        calls, weights = tf.Variable(0, trainable=False), tf.Variable([1.0, 2.0])
        SAM(tf_optim_ext.SGD(0.1)).minimize(
            lambda: tf.reduce_sum(weights) + 0.0 * tf.cast(calls.assign_add(1), "float32"),
            lambda: [weights],
        )
        assert int(calls) == 2

    @pytest.mark.long
    def test_frozen_layers_stay(self):
        model = normalized()
        model.layers[0].trainable = False
        before = arrays(model.layers[0].variables)
        fitted(model, SAM(tf_optim_ext.SGD(0.1)))
        assert same(arrays(model.layers[0].variables), before)


class TestMixedPrecision:
    @pytest.fixture
    def policy(self):
        before = dtype_policy()
        set_dtype_policy("mixed_float16")
        yield
        set_dtype_policy(before)

    @pytest.mark.long
    def test_fit_scales_the_loss(self, policy):
        results = []
        for is_sam in (True, False):
            model = normalized(penalty=False)
            optimizer = tf_optim_ext.SGD(0.1)
            fitted(model, SAM(optimizer, rho=0.0) if is_sam else optimizer)
            assert isinstance(model.optimizer, LossScaleOptimizer)
            scale, count = float(scale_of(model.optimizer)), int(optimizer.iterations)
            results.append(((scale, count), arrays(model.trainable_variables)))
        assert results[0][0] == results[1][0]
        assert results[0][0][1] > 0
        for a, b in zip(results[0][1], results[1][1]):
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)

    @pytest.mark.parametrize("outside", shortened([True, False], [True]))
    def test_a_step_that_overflows_is_skipped(self, policy, outside):
        model = normalized(penalty=False)
        scale = {"initial_scale": 2.0**40}
        inner = tf_optim_ext.AdamW(0.1)
        if outside:
            optimizer = LossScaleOptimizer(SAM(inner), **scale)
            scaled = optimizer
        else:
            scaled = LossScaleOptimizer(inner, **scale)
            optimizer = SAM(scaled)
        model.compile(optimizer, "mse", **({} if IS_KERAS_2 else {"auto_scale_loss": False}))
        before = arrays(model.trainable_variables)
        model.fit(X, Y, verbose=0)
        assert same(arrays(model.trainable_variables), before)
        assert float(scale_of(scaled)) == 2.0**39

    def test_steps_of_a_loop(self):
        weights = tf.Variable([3.0, 4.0])
        optimizer = SAM(LossScaleOptimizer(tf_optim_ext.SGD(0.1), initial_scale=8.0), rho=5.0)
        optimizer.minimize(lambda: tf.reduce_sum(weights**2) / 2, [weights])
        np.testing.assert_allclose(weights, [2.4, 3.2], rtol=1e-6)


class TestOptionsOfTheInnerOptimizer:
    @pytest.mark.parametrize(
        "options",
        [
            {"global_clipnorm": 0.1},
            {"clipvalue": 0.1},
            {"weight_decay": 0.3},
            {"loss_scale_factor": 16.0},
            {"use_ema": True, "ema_overwrite_frequency": 2},
        ],
        ids=str,
    )
    def test_act_on_the_second_gradient(self, options):
        if IS_KERAS_2 and "loss_scale_factor" in options:
            pytest.skip("Keras 2 has none")
        problem = Problem()
        variables, others = problem.variables(), problem.variables()
        optimizer = make("GSAM", tf_optim_ext.AdamW(0.1, **options))
        expected = tf_optim_ext.AdamW(0.1, **{**options, "loss_scale_factor": None})
        for t in range(STEPS):
            optimizer.minimize(lambda: problem.loss(t, variables), variables)  # noqa: B023
            theta = [w.astype("d") for w in arrays(others)]
            g = problem.gradient(t, theta)
            moved = [w + e for w, e in zip(theta, sharpness.sam(theta, g, RHO))]
            d = sharpness.gsam_direction(g, problem.gradient(t, moved), ALPHA)
            expected.apply_gradients([(tf.constant(a, "float32"), v) for a, v in zip(d, others)])
        for a, b in zip(variables, others):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)

    @only_keras_3("it has none")
    def test_accumulation_adds_second_gradients(self):
        problem = Problem()
        variables = problem.variables()
        optimizer = SAM(tf_optim_ext.SGD(0.1, gradient_accumulation_steps=2), rho=RHO)
        for t in range(2):
            optimizer.minimize(lambda: problem.loss(t, variables), variables)  # noqa: B023
        theta = [w.astype("d") for w in problem.initial]
        total = [0.0 for _ in theta]
        for t in range(2):
            g = problem.gradient(t, theta)
            moved = [w + e for w, e in zip(theta, sharpness.sam(theta, g, RHO))]
            total = [s + h / 2 for s, h in zip(total, problem.gradient(t, moved))]
        for v, w, s in zip(variables, theta, total):
            np.testing.assert_allclose(v, w - 0.1 * s, rtol=1e-4, atol=1e-5)


class TestSaving:
    @some_of(
        ("inner", "name"),
        # Keras itself does not restore its own optimizers from the latter.
        [("ours", "model.keras"), ("Keras'", "model.keras"), ("ours", "model.h5")],
        [("ours", "model.keras")],
    )
    @pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
    def test_resumes_from_a_file(self, inner, name, tmp_path):
        module = tf_optim_ext if inner == "ours" else keras.optimizers
        model = normalized()
        model.compile(SAM(module.Adam(0.01), rho=0.25), keras.losses.MeanSquaredError())
        model.fit(X, Y, verbose=0, shuffle=False)
        path = str(tmp_path / name)
        model.save(path)
        loaded = keras.models.load_model(path)
        assert type(loaded.optimizer) is SAM
        assert loaded.optimizer.rho == 0.25
        assert type(loaded.optimizer.inner_optimizer) is module.Adam
        assert same(arrays(loaded.optimizer.variables), arrays(model.optimizer.variables))
        for each in (model, loaded):
            each.fit(X, Y, verbose=0, shuffle=False)
        for a, b in zip(arrays(model.variables), arrays(loaded.variables)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    @kinds_of_inner
    def test_files_of_weights_are_those_of_the_inner_optimizer(self, inner, tmp_path):
        module = tf_optim_ext if inner == "ours" else keras.optimizers
        makers = [lambda: SAM(module.Adam(0.01)), lambda: module.Adam(0.01)]
        for make_first, make_second in (makers, makers[::-1]):
            model = normalized()
            model.compile(make_first(), "mse")
            model.fit(X, Y, verbose=0)
            path = str(tmp_path / "model.weights.h5")
            model.save_weights(path)
            loaded = normalized()
            loaded.compile(make_second(), "mse")
            if inner != "ours" or isinstance(model.optimizer, SAM):
                loaded.optimizer.build(loaded.trainable_variables)
            loaded.load_weights(path)
            loaded.optimizer.build(loaded.trainable_variables)
            assert same(arrays(loaded.optimizer.variables), arrays(model.optimizer.variables))
            with h5py.File(path) as file:
                assert list(file["optimizer"]) == ["vars"]

    @wrappers
    def test_configurations_hold_every_argument(self, wrapper):
        arguments = {
            "SAM": {"rho": 0.2},
            "ASAM": {"rho": 0.2, "eta": 0.3, "non_adaptive": ["gamma"]},
            "GSAM": {
                "rho": 0.2,
                "alpha": 0.3,
                "rho_min": 0.1,
                "learning_rate_max": 2.0,
                "learning_rate_min": 0.5,
            },
        }[wrapper]
        optimizer = make(wrapper, tf_optim_ext.AdamW(0.5), name="mine", **arguments)
        config = keras.optimizers.serialize(optimizer)
        again = keras.optimizers.deserialize(config)
        for each in (again, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert type(each) is type(optimizer)
            assert each.get_config() == optimizer.get_config()
            assert each.name == "mine"
            assert all(each.get_config()[n] == value for n, value in arguments.items())
            assert each.inner_optimizer is not optimizer.inner_optimizer

    def test_schedules_survive(self):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.9)
        optimizer = SAM(tf_optim_ext.SGD(schedule), rho=schedule)
        again = SAM.from_config(optimizer.get_config())
        assert again.rho.get_config() == schedule.get_config()

    def test_checkpoints(self, tmp_path):
        problem = Problem()
        variables, optimizer = problem.variables(), SAM(tf_optim_ext.Adam(0.1))
        optimizer.minimize(lambda: problem.loss(0, variables), variables)
        saved = tf.train.Checkpoint(optimizer=optimizer, weights=variables)
        path = saved.save(str(tmp_path / "checkpoint"))
        others, restored = problem.variables(), SAM(tf_optim_ext.Adam(0.1), rho=0.7)
        tf.train.Checkpoint(optimizer=restored, weights=others).restore(path)
        restored.build(others)
        assert same(arrays(restored.variables), arrays(optimizer.variables))
        assert restored.rho == 0.7
        for o, v in ((optimizer, variables), (restored, others)):
            o.rho = 0.3
            o.minimize(lambda v=v: problem.loss(1, v), v)
        assert same(arrays(variables), arrays(others))

    def test_arrays_of_the_state(self):
        problem = Problem()
        variables, optimizer = problem.variables(), SAM(tf_optim_ext.Adam(0.1))
        optimizer.minimize(lambda: problem.loss(0, variables), variables)
        other = SAM(tf_optim_ext.Adam(0.1))
        other.build(variables)
        other.set_weights(optimizer.get_weights())
        assert same(other.get_weights(), optimizer.get_weights())

    def test_a_training_step_is_exported(self, tmp_path):
        class Trainer(tf.Module):
            def __init__(self):
                self.weights = tf.Variable([3.0, 4.0])
                self.optimizer = SAM(tf_optim_ext.SGD(0.1), rho=5.0)
                self.optimizer.build([self.weights])

            @tf.function(input_signature=[])
            def train(self):
                self.optimizer.minimize(lambda: tf.reduce_sum(self.weights**2) / 2, [self.weights])
                return tf.identity(self.weights)

        with tf_optim_ext.portable():
            tf.saved_model.save(Trainer(), str(tmp_path))
        loaded = tf.saved_model.load(str(tmp_path))
        np.testing.assert_allclose(loaded.train(), [2.4, 3.2], rtol=1e-6)


class TestArguments:
    @pytest.mark.parametrize("in_function", [False, True])
    def test_may_change_between_steps(self, in_function):
        weights, variable = tf.Variable([3.0, 4.0]), tf.Variable(1.0)
        for optimizer in (
            SAM(tf_optim_ext.SGD(0.1), rho=1.0),
            SAM(tf_optim_ext.SGD(0.1), rho=variable),
        ):

            def step(optimizer=optimizer):
                optimizer.minimize(lambda: tf.reduce_sum(weights**2) / 2, [weights])

            step = tf.function(step) if in_function else step
            for rho in (1.0, 5.0):
                weights.assign([3.0, 4.0])
                if optimizer.rho is variable:
                    variable.assign(rho)
                else:
                    optimizer.rho = rho
                step()
                expected = np.array([3.0, 4.0]) * (1 - 0.1 * (1 + rho / 5))
                np.testing.assert_allclose(weights, expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("make_it", "error", "match"),
        [
            (lambda inner: SAM(inner, rho=-1), ValueError, r"`rho` must be in \[0, inf\)"),
            (lambda inner: SAM(inner, rho="far"), ValueError, "`rho` must be a number"),
            (lambda inner: SAM(inner, rho=None), ValueError, "`rho` must be a number"),
            (lambda inner: ASAM(inner, eta=-1), ValueError, "`eta`"),
            (lambda inner: GSAM(inner, alpha=-1), ValueError, "`alpha`"),
            (lambda inner: GSAM(inner, rho_min=0.1), ValueError, "needs `learning_rate_max`"),
            (
                lambda inner: GSAM(inner, learning_rate_max=0.1, learning_rate_min=0.1),
                ValueError,
                "must be less than",
            ),
            (lambda inner: SAM(SAM(inner)), ValueError, "needs two gradients itself"),
            (lambda inner: SAM(0.1), TypeError, "must be an optimizer of"),
        ],
    )
    def test_are_checked(self, make_it, error, match):
        with pytest.raises(error, match=match):
            make_it(tf_optim_ext.SGD(0.1))

    def test_are_checked_when_set(self):
        optimizer = GSAM(tf_optim_ext.SGD(0.1), rho_min=0.01, learning_rate_max=0.1)
        for name, value in (("rho", -1.0), ("rho_min", "x"), ("learning_rate_max", None)):
            before = getattr(optimizer, name)
            with pytest.raises(ValueError, match=name):
                setattr(optimizer, name, value)
            assert getattr(optimizer, name) == before

    def test_a_number_stays_one_once_it_was_traced(self):
        weights, optimizer = tf.Variable([1.0]), SAM(tf_optim_ext.SGD(0.1))
        tf.function(lambda: optimizer.minimize(lambda: tf.reduce_sum(weights), [weights]))()
        with pytest.raises(ValueError, match="would not see the change"):
            optimizer.rho = tf.Variable(1.0)

    def test_the_inner_optimizer_may_be_a_name(self):
        assert isinstance(SAM("sgd").inner_optimizer, keras.optimizers.SGD)

    def test_answers_of_the_inner_optimizer(self):
        optimizer = SAM(tf_optim_ext.Adam(0.5))
        weights = tf.Variable([1.0])
        assert not optimizer.built
        optimizer.build([weights])
        assert optimizer.built and optimizer.inner_optimizer.built
        assert float(optimizer.learning_rate) == float(optimizer.lr) == 0.5
        optimizer.learning_rate = 0.25
        assert float(optimizer.inner_optimizer.learning_rate) == 0.25
        assert optimizer.iterations is optimizer.inner_optimizer.iterations
        slot = optimizer.inner_optimizer.get_slot(weights, "momentum")
        assert optimizer.get_slot(weights, "momentum") is slot


class TestErrors:
    @pytest.mark.parametrize(
        "call",
        [
            lambda o, w: o.apply_gradients([(tf.ones(2), w)]),
            lambda o, w: o.apply([tf.ones(2)], [w]),
            lambda o, w: o.compute_gradients(lambda: tf.reduce_sum(w), [w]),
            lambda o, w: o.update_step(tf.ones(2), w, 0.1),
        ],
    )
    @wrappers
    def test_one_gradient_is_not_enough(self, wrapper, call):
        weights = tf.Variable([1.0, 2.0])
        optimizer = make(wrapper, tf_optim_ext.SGD(0.1))
        with pytest.raises(RuntimeError, match=f"{wrapper} needs the gradient at a second point"):
            call(optimizer, weights)
        assert weights.numpy().tolist() == [1, 2]
        assert int(optimizer.iterations) == 0

    def test_a_tensor_cannot_be_computed_again(self):
        weights, optimizer = tf.Variable([1.0, 2.0]), SAM(tf_optim_ext.SGD(0.1))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weights)
        for call in (
            lambda: optimizer.minimize(loss, [weights], tape=tape),
            lambda: optimizer.minimize(loss, [weights], tape),
            lambda: optimizer.minimize(loss, [weights]),
            lambda: optimizer.step(loss, [weights]),
        ):
            with pytest.raises(ValueError, match="takes a callable that computes the loss again"):
                call()

    def test_what_is_optimized(self):
        optimizer, weights = SAM(tf_optim_ext.SGD(0.1)), tf.Variable([1.0])
        for given, error in ((5, ValueError), ([5], TypeError), ([weights] * 2, ValueError)):
            with pytest.raises(error):
                optimizer.minimize(lambda: tf.reduce_sum(weights), given)
        with pytest.raises(ValueError, match="No gradients provided"):
            optimizer.minimize(lambda: tf.constant(1.0), [weights])
        assert weights.numpy().tolist() == [1]

    def test_some_variables_without_gradient_are_left_alone(self):
        weights, other = tf.Variable([3.0, 4.0]), tf.Variable([1.0])
        optimizer = SAM(tf_optim_ext.SGD(0.1), rho=5.0)
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.minimize(lambda: tf.reduce_sum(weights**2) / 2, [weights, other])
        np.testing.assert_allclose(weights, [2.4, 3.2], rtol=1e-6)
        assert other.numpy().tolist() == [1]

    def test_graphs_of_sessions(self):
        with tf.Graph().as_default():
            weights = tf.Variable([1.0])
            optimizer = SAM(tf_optim_ext.SGD(0.1))
            with pytest.raises(RuntimeError, match="graph of a session"):
                optimizer.minimize(lambda: tf.reduce_sum(weights), [weights])


class TestCalls:
    def test_weights_of_the_loss(self):
        weights = tf.Variable([3.0, 4.0])
        optimizer = SAM(tf_optim_ext.SGD(0.1), rho=0.0)
        optimizer.minimize(lambda: weights**2 / 2, [weights], grad_loss=[1.0, 0.0])
        np.testing.assert_allclose(weights, [2.7, 4.0], rtol=1e-6)

    def test_step_returns_what_the_first_loss_was(self):
        weights = tf.Variable([3.0, 4.0])
        optimizer = SAM(tf_optim_ext.SGD(0.1), rho=5.0)
        loss, more = optimizer.step(lambda: (tf.reduce_sum(weights**2), weights * 1.0), weights)
        assert float(loss) == 25
        assert more.numpy().tolist() == [3, 4]

    def test_minimize_returns_the_count(self):
        weights = tf.Variable([3.0, 4.0])
        assert int(SAM("sgd").minimize(lambda: tf.reduce_sum(weights), [weights])) == 1

    def test_biases_are_not_adaptive(self):
        optimizer = ASAM("sgd")
        names = {"kernel": True, "bias": False, "dense/bias": False, "beta": False, "beta_2": True}
        for name, adaptive in names.items():
            assert optimizer._is_adaptive(tf.Variable(1.0, name=name)) is adaptive
        model = normalized()
        model.build((None, 3))
        flags = [optimizer._is_adaptive(v) for v in model.trainable_variables]
        assert flags == [True, False, True, False, True, False]

    def test_one_operation_moves_all_variables(self, native_only):
        assert native.has(auxiliary.perturb()) and native.has(auxiliary.perturb_adaptively())
        problem = Problem()
        for wrapper in WRAPPERS:
            variables, optimizer = problem.variables(), make(wrapper, tf_optim_ext.SGD(0.1))

            @tf.function
            def step(variables=variables, optimizer=optimizer):
                optimizer.minimize(lambda: problem.loss(0, variables), variables)

            types = [op.type for op in step.get_concrete_function().graph.get_operations()]
            assert types.count("TfOptimExtStep") == 2  # one moves them, one is the inner step


def test_docstring_examples():
    results = doctest.testmod(sam)
    assert results.attempted >= 15
    assert results.failed == 0


class TestKeras2BesideKeras3:
    @only_keras_3("both are the same there")
    def test_fits(self):
        tf_keras = pytest.importorskip("tf_keras")
        ours = tf_optim_ext.tf_keras
        assert issubclass(ours.GSAM, tf_keras.optimizers.Optimizer)
        assert not issubclass(ours.GSAM, keras.optimizers.Optimizer)
        assert issubclass(ours.GSAM, ours.SAM)
        model = tf_keras.Sequential(
            [tf_keras.layers.Dense(2), tf_keras.layers.BatchNormalization()]
        )
        model.compile(ours.SAM(ours.SGD(0.1)), "mse")
        model.fit(X, Y, verbose=0)
        assert int(model.optimizer.iterations) == 1
        with pytest.raises(TypeError, match="must be an optimizer of tf_keras"):
            ours.SAM(tf_optim_ext.SGD(0.1))


@pytest.mark.long
class TestTwoDevices:
    @pytest.fixture(scope="class")
    def outcomes(self):
        return outcomes_of("two_devices_sam.py", package=PACKAGE)

    @pytest.mark.parametrize(
        "check", ["every replica moves along its own gradient", "fit", "loss scale"]
    )
    def test_mirrored(self, outcomes, check):
        assert outcomes[check] == "equal", outcomes[check]
