"""Centralized gradients and adaptive clipping, against float64 maths written from the papers."""

import json

import numpy as np
import pytest
import tensorflow as tf
from common import arrays, assert_close, make_gradients, make_variable, make_variables, same
from conftest import portable
from generation import keras
from modes import MODES, RATE, check_route, dense, fit, in_mode, modes

import tf_optim_ext
from tf_optim_ext import SGD, Adam, Group

MOMENTUM = 0.8
# Kernels of dense and convolutional layers, some with a single input or unit, vectors, a scalar.
SHAPES = ((3, 2), (2, 3, 2, 4), (5,), (), (1, 4), (4, 1), (2, 2, 3))
LIMIT = 0.4
BOTH = {"centralize_gradients": True, "adaptive_clipping": LIMIT}
OPTIONS = (
    {"centralize_gradients": True},
    {"adaptive_clipping": LIMIT},
    BOTH,
    {**BOTH, "clipnorm": 0.3},
    {**BOTH, "global_clipnorm": 0.5},
    {**BOTH, "clipvalue": 0.1},
)


def centralized(g, by_row=False):
    """Yong et al., arXiv:2004.01461, section 3.1: the mean of each column is subtracted."""
    g = np.asarray(g).astype(np.float64)
    if g.ndim < 2:
        return g
    if by_row:
        return np.stack([row - row.mean() for row in g])
    columns = g.reshape(-1, g.shape[-1])
    return (columns - columns.mean(0)).reshape(g.shape)


def adaptively_clipped(g, w, limit, by_row=False):
    """Brock et al., arXiv:2102.06171, equation 3, with eps = 1e-3: each unit for itself."""
    g, w = (np.asarray(x).astype(np.float64) for x in (g, w))
    if by_row:
        units = [(row,) for row in range(len(g))]
    elif sum(size > 1 for size in g.shape) <= 1:
        units = [(...,)]
    else:
        units = [(..., unit) for unit in range(g.shape[-1])]
    result = g.copy()
    for unit in units:
        most = limit * max(np.linalg.norm(np.ravel(w[unit])), 1e-3)
        norm = np.linalg.norm(np.ravel(g[unit]))
        if norm > most:
            result[unit] = g[unit] * (most / max(norm, 1e-6))
    return result


def changed(gradients, weights, options, by_row=()):
    """Gradients of a step as the options change them, clipping by norm and value included."""
    result = []
    for i, (g, w) in enumerate(zip(gradients, weights)):
        if options.get("centralize_gradients"):
            g = centralized(g, i in by_row)
        if options.get("adaptive_clipping"):
            g = adaptively_clipped(g, w, options["adaptive_clipping"], i in by_row)
        result.append(np.asarray(g).astype(np.float64))
    norms = [np.linalg.norm(np.ravel(g)) for g in result]
    if "clipnorm" in options:
        limit = options["clipnorm"]
        result = [g * (limit / max(n, limit)) for g, n in zip(result, norms)]
    if "global_clipnorm" in options:
        factor = min(1.0, options["global_clipnorm"] / np.linalg.norm(norms))
        result = [g * factor for g in result]
    if "clipvalue" in options:
        result = [np.clip(g, -options["clipvalue"], options["clipvalue"]) for g in result]
    return result


def path(weights, steps, options, by_row=()):
    """The weights after every step of SGD with momentum, in float64."""
    weights = [w.astype(np.float64) for w in weights]
    momenta = [np.zeros_like(w) for w in weights]
    for gradients in steps:
        gradients = changed(gradients, weights, options, by_row)
        momenta = [MOMENTUM * m - RATE * g for m, g in zip(momenta, gradients)]
        weights = [w + m for w, m in zip(weights, momenta)]
        yield weights


def variables_of(shapes=SHAPES, kind="tf"):
    rng = np.random.default_rng(3)
    return [make_variable(kind, rng.normal(size=s).astype(np.float32)) for s in shapes]


def steps_of(count, shapes=SHAPES):
    """Gradients some of which are clipped and some not, one of them zero."""
    steps = [make_gradients(i, shapes) for i in range(count)]
    for i, gradients in enumerate(steps):
        gradients[0] = gradients[0] * np.float32([0.1, 3.0])
        gradients[2] = gradients[2] * np.float32(i % 2)
    return steps


def sgd(**options):
    return SGD(RATE, momentum=MOMENTUM, **options)


def check_every_step(mode, options, steps, by_row=(), given=None, **arguments):
    """Compares a run with `path`; `given`: function from arrays to what the optimizer gets."""
    variables = variables_of([np.shape(g) for g in steps[0]])
    optimizer = sgd(**options, **arguments)
    optimizer.build(variables)
    step = in_mode(mode, optimizer, variables)
    for gradients, weights in zip(steps, path(arrays(variables), steps, options, by_row)):
        step([tf.constant(g) for g in gradients] if given is None else given(gradients))
        assert_close(variables, weights)
    return optimizer


class TestNumbers:
    @pytest.mark.parametrize("options", OPTIONS, ids="+".join)
    def test_every_step(self, options):
        optimizer = check_every_step("function", options, steps_of(4))
        check_route("function", optimizer)

    @modes
    def test_modes(self, mode):
        optimizer = check_every_step(mode, OPTIONS[3], steps_of(3))
        check_route(mode, optimizer)

    def test_centralized_by_hand(self):
        variables = [tf.Variable(tf.zeros(s)) for s in ((2, 2), (2,), (1, 2))]
        gradients = [[[1.0, 2.0], [3.0, 8.0]], [1.0, 2.0], [[1.0, 2.0]]]
        SGD(1.0, centralize_gradients=True).apply(list(map(tf.constant, gradients)), variables)
        assert variables[0].numpy().tolist() == [[1.0, 3.0], [-1.0, -3.0]]
        assert variables[1].numpy().tolist() == [-1.0, -2.0]
        assert variables[2].numpy().tolist() == [[0.0, 0.0]]  # the mean of one element

    def test_clipped_by_hand(self):
        # Norms of the units' weights: 5 and, as the least, 1e-3.
        variables = [tf.Variable([[3.0, 0.0], [4.0, 0.0]]), tf.Variable([3.0, 4.0])]
        gradients = [tf.constant([[0.0, 0.0], [4.0, 2.0]]), tf.constant([0.6, 0.8])]
        SGD(1.0, adaptive_clipping=0.5).apply(gradients, variables)
        assert_close(variables, [[[3.0, 0.0], [1.5, -5e-4]], [2.4, 3.2]], rtol=1e-6)

    @pytest.mark.parametrize("kind", ["eager", "function"])
    def test_accumulated(self, kind):
        self.check_accumulated(kind)

    @pytest.mark.long
    @modes
    def test_accumulated_in_every_mode(self, mode):
        self.check_accumulated(mode)

    def check_accumulated(self, mode):
        # Clipping the mean is not the mean of clipped gradients.
        pairs = steps_of(4)
        means = [[(a + b) / 2 for a, b in zip(*pair)] for pair in zip(pairs[::2], pairs[1::2])]
        variables = variables_of()
        optimizer = sgd(**BOTH, gradient_accumulation_steps=2, loss_scale_factor=8.0)
        step = in_mode(mode, optimizer, variables)
        optimizer.build(variables)
        for i, weights in enumerate(path(arrays(variables), means, BOTH)):
            for gradients in pairs[2 * i : 2 * i + 2]:
                step([tf.constant(8.0 * g) for g in gradients])
            assert_close(variables, weights)

    def test_both_kinds_of_variables_in_a_model(self):
        model = dense()
        model.compile(sgd(**BOTH), "mse", run_eagerly=False)
        before = arrays(model.trainable_variables)
        x = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - x[:, :1]))
        gradients = tape.gradient(loss, model.trainable_variables)
        (expected,) = path(before, [gradients], BOTH)
        fit(model, 1)
        assert_close(model.trainable_variables, expected)

    @pytest.mark.family
    def test_every_optimizer(self, entry):
        # As without the option, with the gradients that it would make.
        self.check_optimizer(entry, lambda step: step)

    @pytest.mark.long
    def test_every_optimizer_in_a_function(self, entry):
        self.check_optimizer(entry, tf.function)

    def check_optimizer(self, entry, wrap):
        variables, expected = make_variables("tf"), make_variables("tf")
        optimizer, plain = entry.make(**BOTH), entry.make()
        optimizer.build(variables)
        step = wrap(lambda *given: optimizer.apply(list(given), variables))
        for i in range(3):
            gradients = make_gradients(i)
            step(*map(tf.constant, gradients))
            given = changed(gradients, arrays(expected), BOTH)
            plain.apply([tf.constant(g, tf.float32) for g in given], expected)
            assert_close(variables, expected, rtol=1e-4, atol=1e-5)


class TestMagnitudes:
    SHAPES = ((3, 2), (4,))

    def check(self, dtype, magnitude, tolerance, **arguments):
        rng = np.random.default_rng(0)
        # From small weights, so that the update is what is left of them.
        variables = [tf.Variable(tf.fill(s, tf.constant(1e-4, dtype))) for s in self.SHAPES]
        before = arrays(variables)
        gradients = [tf.constant(magnitude * rng.normal(size=s), dtype) for s in self.SHAPES]
        optimizer = SGD(1.0, **BOTH, **arguments)
        optimizer.apply(gradients, variables)
        scale = optimizer.loss_scale_factor or 1.0
        given = [np.asarray(g).astype(np.float64) / scale for g in gradients]
        expected = changed(given, before, BOTH)
        for v, w, g in zip(variables, before, expected):
            wanted = w.astype(np.float64) - g
            bound = tolerance * np.max(np.abs(wanted))
            np.testing.assert_allclose(np.asarray(v).astype(np.float64), wanted, atol=bound)

    @pytest.mark.parametrize("magnitude", [1e38, 1e30, 1.0, 1e-4, 1e-30, 1e-38, 0.0])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_float32_and_bfloat16(self, dtype, magnitude):
        self.check(dtype, magnitude, {"float32": 1e-6, "bfloat16": 1e-2}[dtype])

    @pytest.mark.parametrize("magnitude", [2e4, 1.0, 1e-6])
    def test_float16(self, magnitude):
        self.check("float16", magnitude, 2e-3)

    @pytest.mark.parametrize("magnitude", [1e100, 1.0, 1e-100])
    def test_float64(self, magnitude):
        self.check("float64", magnitude, 1e-14)

    def test_scaled_losses(self):
        self.check("float32", 1e30, 1e-6, loss_scale_factor=2.0**20)
        self.check("float16", 2e4, 2e-3, loss_scale_factor=2.0**10)

    @pytest.mark.parametrize("option", BOTH)
    def test_not_finite(self, option):
        # The other units and variables do not notice.
        variables = [tf.Variable(tf.ones(s)) for s in self.SHAPES]
        gradients = [np.full(s, 0.5, np.float32) for s in self.SHAPES]
        gradients[0][0, 0] = np.nan
        SGD(1.0, **{option: BOTH[option]}).apply(list(map(tf.constant, gradients)), variables)
        assert np.isnan(variables[0].numpy()[0, 0])
        assert np.all(np.isfinite(variables[0].numpy()[:, 1]))
        assert np.all(np.isfinite(variables[1]))

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
    def test_empty(self, shape):
        variable = tf.Variable(tf.zeros(shape))
        sgd(**BOTH).apply([tf.zeros(shape)], [variable])


class TestRows:
    """`tf.IndexedSlices`: each row is a unit and has a mean of its own."""

    SHAPES = ((6, 3), (4, 2))

    def steps(self, count):
        """Gradients in which some rows are zero."""
        steps = [make_gradients(i, self.SHAPES) for i in range(count)]
        for i, gradients in enumerate(steps):
            gradients[0][[0, 1 + i % 3]] = 0.0
        return steps

    @staticmethod
    def given(gradients):
        """The first one as rows, of which one comes in two parts, in no order."""
        g, rows = gradients[0], np.flatnonzero(np.any(gradients[0] != 0, axis=1))[::-1]
        values = np.concatenate([g[rows], g[rows[:1]]])
        values[0] *= 0.25
        values[-1] *= 0.75
        indices = tf.constant([*rows, rows[0]])
        slices = tf.IndexedSlices(tf.constant(values), indices, tf.constant(g.shape))
        return [slices, tf.constant(gradients[1])]

    @modes
    def test_exact(self, mode):
        self.check(mode, "exact")

    @pytest.mark.parametrize("mode", ["eager", "function"])
    def test_lazy(self, mode):
        self.check(mode, "lazy")

    def check(self, mode, sparse, **arguments):
        # Without momentum, a row without a gradient stays.
        variables, steps = variables_of(self.SHAPES), self.steps(3)
        optimizer = SGD(RATE, **BOTH, sparse=sparse, **arguments)
        optimizer.build(variables)
        step = in_mode(mode, optimizer, variables)
        weights = [w.astype(np.float64) for w in arrays(variables)]
        for gradients in steps:
            step(self.given(gradients))
            changes = changed(gradients, weights, BOTH, by_row={0})
            weights = [w - RATE * g for w, g in zip(weights, changes)]
            assert_close(variables, weights)

    @pytest.mark.parametrize(
        ("mode", "sparse"), [*[(mode, "exact") for mode in MODES], ("eager", "lazy")]
    )
    def test_accumulated(self, mode, sparse):
        variables, steps = variables_of(self.SHAPES), self.steps(2)
        optimizer = SGD(RATE, **BOTH, sparse=sparse, gradient_accumulation_steps=2)
        optimizer.build(variables)
        step = in_mode(mode, optimizer, variables)
        before = arrays(variables)
        for gradients in steps:
            step(self.given(gradients))
        means = [(a + b) / 2 for a, b in zip(*steps)]
        changes = changed(means, before, BOTH, by_row={0})
        assert_close(variables, [w - RATE * g for w, g in zip(before, changes)])

    def test_catch_up(self):
        variables, steps = variables_of(self.SHAPES), self.steps(1)
        before = arrays(variables)
        Adam(RATE, epsilon=1e-3, sparse="catch_up", **BOTH).apply(self.given(steps[0]), variables)
        (changes, _) = changed(steps[0], before, BOTH, by_row={0})
        # The first update of Adam, with bias correction.
        expected = before[0] - RATE * changes / (np.abs(changes) + 1e-3 / np.sqrt(1e-3))
        assert_close(variables[:1], [expected])

    def test_of_a_vector(self):
        variable = tf.Variable([1.0, 2.0, 4.0])
        slices = tf.IndexedSlices(tf.constant([5.0, 1.0]), tf.constant([2, 1]), tf.constant([3]))
        SGD(1.0, adaptive_clipping=0.5, centralize_gradients=True).apply([slices], [variable])
        np.testing.assert_allclose(variable, [1.0, 1.0, 2.0])


class TestArguments:
    def run(self, optimizer, steps, change=lambda i: None, mode="function"):
        variables = variables_of()
        optimizer.build(variables)
        step = in_mode(mode, optimizer, variables)
        for i, gradients in enumerate(steps):
            change(i)
            step([tf.constant(g) for g in gradients])
        return variables

    def expected(self, steps, limits):
        weights = [w.astype(np.float64) for w in arrays(variables_of())]
        for gradients, limit in zip(steps, limits):
            changes = changed(gradients, weights, {"adaptive_clipping": limit})
            weights = [w - RATE * g for w, g in zip(weights, changes)]
        return weights

    @pytest.mark.parametrize("mode", ["eager", "function"])
    def test_set_between_steps(self, mode):
        steps, limits = steps_of(3), [0.4, 0.0, 0.1]
        optimizer = SGD(RATE, adaptive_clipping=0.4)

        def change(i):
            optimizer.adaptive_clipping = limits[i]

        variables = self.run(optimizer, steps, change, mode)
        assert_close(variables, self.expected(steps, limits))

    def test_schedule(self):
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.4, 0.1, 0.05])
        steps = steps_of(3)
        variables = self.run(SGD(RATE, adaptive_clipping=schedule), steps)
        assert_close(variables, self.expected(steps, [0.4, 0.1, 0.05]))

    @pytest.mark.parametrize("is_callable", [False, True])
    def test_variable_and_callable(self, is_callable):
        limit, steps = tf.Variable(0.4), steps_of(2)
        optimizer = SGD(RATE, adaptive_clipping=(lambda: limit) if is_callable else limit)
        variables = self.run(optimizer, steps, lambda i: limit.assign(0.4 / (1 + i)))
        assert_close(variables, self.expected(steps, [0.4, 0.2]))

    def test_zero_and_none_clip_nothing(self):
        steps = steps_of(2)
        expected = arrays(self.run(SGD(RATE), steps))
        for limit in (0.0, None):
            variables = self.run(SGD(RATE, adaptive_clipping=limit), steps)
            assert_close(variables, expected, rtol=1e-7, atol=0)

    @pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1"])
    def test_bad_limits(self, value):
        with pytest.raises(ValueError, match=r"adaptive_clipping.*\[0, inf\)"):
            SGD(adaptive_clipping=value)
        optimizer = SGD(adaptive_clipping=0.5)
        with pytest.raises(ValueError, match="adaptive_clipping"):
            optimizer.adaptive_clipping = value
        assert optimizer.adaptive_clipping == 0.5

    def test_centralize_gradients_is_a_boolean_and_stays(self):
        with pytest.raises(ValueError, match="centralize_gradients"):
            SGD(centralize_gradients=2)
        optimizer = SGD()
        optimizer.centralize_gradients = True
        optimizer.build(variables_of())
        with pytest.raises(AttributeError, match="cannot be changed"):
            optimizer.centralize_gradients = False

    @pytest.mark.parametrize(
        "options", [BOTH, {"adaptive_clipping": 0.0}, {"centralize_gradients": True}]
    )
    def test_config(self, options):
        optimizer = sgd(**options)
        config = json.loads(json.dumps(optimizer.get_config()))
        assert options.items() <= config.items()
        clone = SGD.from_config(config)
        assert clone.get_config() == optimizer.get_config()
        assert not set(BOTH) & set(sgd().get_config())

    def test_config_of_a_schedule_and_a_variable(self):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.5)
        for limit, value in ((schedule, 0.5), (tf.Variable(0.25), 0.25)):
            config = json.loads(json.dumps(SGD(adaptive_clipping=limit).get_config()))
            found = SGD.from_config(config).adaptive_clipping
            assert float(found(0) if callable(found) else found) == value

    @pytest.mark.parametrize("common", [LIMIT, None])
    def test_groups(self, common):
        groups = [
            Group(lambda v: tuple(v.shape) == (3, 2), adaptive_clipping=None),
            Group(lambda v: tuple(v.shape) == (5,), adaptive_clipping=0.01),
        ]
        steps = steps_of(2)
        optimizer = SGD(RATE, adaptive_clipping=common, groups=groups)
        lines = []
        variables = self.run(optimizer, steps)
        optimizer.describe(lines.append)
        assert "adaptive_clipping" in lines[0]
        weights = [w.astype(np.float64) for w in arrays(variables_of())]
        limits = [0.0, common, 0.01, *[common] * 4]
        for gradients in steps:
            changes = [
                adaptively_clipped(g, w, limit) if limit else g
                for g, w, limit in zip(gradients, weights, limits)
            ]
            weights = [w - RATE * g for w, g in zip(weights, changes)]
        assert_close(variables, weights)


class TestOtherCalls:
    @pytest.mark.parametrize(
        "options",
        [*(pytest.param(o, marks=pytest.mark.long) for o in OPTIONS[:3]), *OPTIONS[3:]],
        ids="+".join,
    )
    def test_symbolic_gradients_agree_with_a_step(self, options):
        optimizer, variables = SGD(1.0, **options), variables_of(((6, 3), (3, 2), (5,)))
        before = arrays(variables)

        def loss():
            rows = tf.gather(variables[0], [4, 1, 4])
            return (
                tf.reduce_sum(tf.square(rows @ variables[1]))
                + tf.reduce_sum(tf.exp(variables[2]))
                + tf.reduce_sum(rows[0] ** 3)
            )

        symbolic = tf.function(lambda: optimizer.get_gradients(loss(), variables))()
        tf.function(lambda: optimizer.minimize(loss, variables) + 0)()
        assert_close([b - g for b, g in zip(before, symbolic)], variables)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    def test_symbolic_gradients_keep_their_dtype(self, dtype):
        optimizer, variable = SGD(1.0, **BOTH), tf.Variable(tf.ones((2, 3), dtype))
        (gradient,) = tf.function(
            lambda: optimizer.get_gradients(tf.reduce_sum(variable**2), [variable])
        )()
        assert gradient.dtype == dtype

    def test_update_step_is_the_rule_alone(self):
        results = []
        for options in ({}, BOTH):
            variable = tf.Variable([[1.0, 2.0], [3.0, 4.0]])
            optimizer = SGD(**options)
            optimizer.build([variable])
            optimizer.update_step(tf.constant([[8.0, 1.0], [0.0, 1.0]]), variable, 0.5)
            results.append(arrays([variable]))
        assert same(*results)

    def test_symbolic_gradients_of_a_wrapper(self):
        optimizer = tf_optim_ext.Lookahead(SGD(1.0, **BOTH))
        variable = tf.Variable([[1.0, 2.0], [3.0, 4.0]])
        (found,) = tf.function(
            lambda: optimizer.get_gradients(tf.reduce_sum(variable**3), [variable])
        )()
        (expected,) = changed([3 * variable.numpy() ** 2], arrays([variable]), BOTH)
        assert_close([found], [expected])

    @pytest.mark.parametrize("steps", [None, 2])
    def test_conditional_gradient_with_a_nuclear_norm(self, steps):
        # It looks at whole gradients itself.
        given = make_gradients(0, ((3, 2),))
        results = []
        for options in ({"gradient_accumulation_steps": steps, **BOTH}, {}):
            variables = make_variables("tf", ((3, 2),))
            optimizer = tf_optim_ext.ConditionalGradient(0.1, lambda_=2.0, ord="nuclear", **options)
            gradients = given if options else changed(given, arrays(variables), BOTH)
            for _ in range(steps or 1) if options else range(1):
                optimizer.apply([tf.constant(g, tf.float32) for g in gradients], variables)
            results.append(variables)
        assert_close(*results)

    def test_portable_in_a_function(self):
        variables, (gradients,) = variables_of(), steps_of(1)
        optimizer = sgd(**BOTH)
        optimizer.build(variables)
        (expected,) = path(arrays(variables), [gradients], BOTH)
        step = portable(lambda *given: optimizer.apply(list(given), variables))
        tf.function(step)(*map(tf.constant, gradients))
        assert str(optimizer.route) == "tensorflow: inside portable()"
        assert_close(variables, expected)
