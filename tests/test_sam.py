"""SAM, ASAM and GSAM: their maths, arguments and errors."""

import doctest
import itertools

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import arrays, same
from conftest import portable, shortened
from generation import (
    IS_KERAS_2,
    keras,
    only_keras_3,
)
from modes import MODES, wrapped
from references import builtin, sharpness
from sharpness_cases import (
    ALPHA,
    RHO,
    STEPS,
    WRAPPERS,
    Problem,
    X,
    compare,
    kinds_of_inner,
    make,
    normalized,
    of_paper,
    reference_of,
    some_of,
    wrappers,
)

import tf_optim_ext
from tf_optim_ext import ASAM, GSAM, SAM
from tf_optim_ext.backends import native
from tf_optim_ext.rule import auxiliary
from tf_optim_ext.wrappers import sam


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
        assert native.has(auxiliary.accumulate()) and native.has(auxiliary.perturb_adaptively())
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
