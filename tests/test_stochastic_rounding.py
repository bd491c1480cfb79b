"""Stochastic rounding of weights of 16 bits."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from common import route_of_dense, same
from conftest import portable
from generation import keras

import tf_optim_ext
from tf_optim_ext.backends import rounding

DTYPES = ("bfloat16", "float16")
# Gradients and rates whose products and sums are exact in float32, so that all routes hand the same
# numbers on to be rounded.
RATE = 2.0**-14
SHAPES = ((40, 5), (7,), (), (0, 3), (3000,))


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


def neighbours(x, dtype):
    """The nearest numbers of a dtype below and above a float32."""
    down = np.asarray(x).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    up = down.copy()
    high, low = down.astype(np.float64) > x, down.astype(np.float64) < x
    down[high] = np.nextafter(down[high], down.dtype.type(-np.inf))
    up[low] = np.nextafter(up[low], up.dtype.type(np.inf))
    return down.astype(np.float64), up.astype(np.float64)


class TestRounded:
    def test_to_a_neighbour_and_right_on_average(self, dtype):
        rng = np.random.default_rng(0)
        x = np.float32(rng.normal(size=60) * 10.0 ** rng.integers(-9, 4, 60))
        down, up = neighbours(x, dtype)
        repeated = np.repeat(x[:, None], 4000, axis=1)
        positions = tf.reshape(tf.range(repeated.size), repeated.shape)
        key = rounding.key(0, 0)
        found = rounding.rounded(repeated, tf.as_dtype(dtype), key, tf.constant(3), positions)
        found = tf.cast(found, tf.float64).numpy()
        assert np.all((found == down[:, None]) | (found == up[:, None]))
        unit = np.maximum(up - down, 1e-300)
        probability = (x - down) / unit
        deviation = np.sqrt(probability * (1 - probability) / 4000)
        mean = ((found - down[:, None]) / unit[:, None]).mean(axis=1)
        # Float16 has steps of 2^-13 of its smallest distance here.
        assert np.all(np.abs(mean - probability) < 5 * deviation + 2e-4)

    def test_what_has_no_neighbours(self, dtype):
        x = np.float32([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan])
        found = rounding.rounded(x, tf.as_dtype(dtype), 1, tf.constant(1), tf.range(7))
        np.testing.assert_array_equal(tf.cast(found, tf.float32), x)

    def test_beyond_the_largest_float16(self):
        found = rounding.rounded(np.float32([1e6, -7e4]), tf.float16, 1, 1, tf.range(2))
        np.testing.assert_array_equal(found, np.float16([np.inf, -np.inf]))

    def test_steps_variables_and_seeds_are_independent(self):
        x, positions = np.full(10_000, 1.002, np.float32), tf.range(10_000)

        def ups(seed, variable, step):
            key = rounding.key(seed, variable)
            found = rounding.rounded(x, tf.bfloat16, key, step, positions)
            return tf.cast(found, tf.float64).numpy() > 1.001

        runs = [ups(0, 0, 1), ups(0, 0, 2), ups(0, 1, 1), ups(1, 0, 1), ups(1, 1, 1), ups(0, 1, 2)]
        np.testing.assert_array_equal(runs[0], ups(0, 0, 1))
        correlation = np.corrcoef(runs)[~np.eye(len(runs), dtype=bool)]
        assert np.abs(correlation).max() < 0.05
        # Nor do neighbours in the variable know of each other.
        assert abs(np.corrcoef(runs[0][1:], runs[0][:-1])[0, 1]) < 0.05


def make_variables(dtype, shapes=SHAPES):
    rng = np.random.default_rng(1)
    values = [rng.integers(-64, 64, shape) / 64 for shape in shapes]
    return [tf.Variable(tf.cast(v, dtype)) for v in values]


def gradients_of(step, shapes=SHAPES):
    rng = np.random.default_rng(10 + step)
    return [tf.constant(rng.integers(-16, 16, s) / 16, tf.float32) for s in shapes]


def sgd(**arguments):
    return tf_optim_ext.SGD(RATE, stochastic_rounding=True, **arguments)


def after_steps(dtype, run=lambda step: step, make=sgd, steps=5):
    variables, optimizer = make_variables(dtype), make()
    optimizer.build(variables)
    step = run(lambda gradients: optimizer.apply(gradients, variables))
    for i in range(steps):
        step(gradients_of(i))
    return [v.numpy() for v in variables], str(optimizer.route)


class TestSteps:
    def test_every_route_has_the_same_bits(self, dtype):
        expected, _ = after_steps(dtype)
        xla = tf.function(jit_compile=True)
        others = [
            after_steps(dtype, wrap)
            for wrap in (tf.function, xla, portable, lambda step: xla(portable(step)))
        ]
        routes = [route_of_dense(), route_of_dense(inside_xla=True)]
        routes += 2 * ["tensorflow: inside portable()"]
        assert [route for _, route in others] == routes
        for other, _ in others:
            for a, b in zip(other, expected):
                np.testing.assert_array_equal(a.astype(np.float32), b.astype(np.float32))

    def test_seeds(self, dtype):
        first, _ = after_steps(dtype, make=lambda: sgd(seed=5))
        again, _ = after_steps(dtype, make=lambda: sgd(seed=5))
        other, _ = after_steps(dtype, make=lambda: sgd(seed=6))
        assert same(again, first)
        assert not same(other, first)

    def test_instruction_sets(self, dtype, native_only):
        results = []
        chosen = tf_optim_ext.native.instruction_set()
        for name in ("baseline", "avx2", "avx512"):
            try:
                tf_optim_ext.native.use(name)
            except ValueError:
                continue
            results.append(after_steps(dtype)[0])
        tf_optim_ext.native.use(chosen)
        assert results
        assert all(same(result, results[0]) for result in results)

    def test_resumed(self, dtype, tmp_path):
        expected, _ = after_steps(dtype)
        variables, optimizer = make_variables(dtype), sgd()
        for i in range(2):
            optimizer.apply(gradients_of(i), variables)
        path = tf.train.Checkpoint(o=optimizer, v=variables).save(tmp_path / "c")
        variables, optimizer = make_variables(dtype), sgd()
        optimizer.build(variables)
        tf.train.Checkpoint(o=optimizer, v=variables).restore(path).assert_consumed()
        for i in range(2, 5):
            optimizer.apply(gradients_of(i), variables)
        assert same([v.numpy() for v in variables], expected)

    def test_a_variable_without_gradient_changes_nothing_for_others(self, dtype):
        expected, _ = after_steps(dtype, steps=1)
        variables, optimizer = make_variables(dtype), sgd()
        optimizer.build(variables)
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply([None, *gradients_of(0)[1:]], variables)
        assert same([v.numpy() for v in variables[1:]], expected[1:])

    @pytest.mark.parametrize("jit_compile", [False, True], ids=["", "xla"])
    @pytest.mark.parametrize("portable", [False, True], ids=["", "portable"])
    def test_rows(self, dtype, portable, jit_compile):
        # Updates of some rows round as the updates of all of them do.
        rows = np.array([30, 2, 17, 18])
        values = gradients_of(0, [(4, 5)])[0]
        dense = np.zeros((40, 5), np.float32)
        dense[rows] = values
        (whole,), optimizer = make_variables(dtype, [(40, 5)]), sgd()
        optimizer.apply([tf.constant(dense)], [whole])
        for sparse in ("exact", "lazy", "catch_up"):
            (variable,), optimizer = make_variables(dtype, [(40, 5)]), sgd(sparse=sparse)
            optimizer.build([variable])

            def step(values, indices, optimizer=optimizer, variable=variable):
                optimizer.apply([tf.IndexedSlices(values, indices)], [variable])

            step = tf.function(step, jit_compile=True) if jit_compile else step
            if portable:
                with tf_optim_ext.portable():
                    step(values, tf.constant(rows))
            else:
                step(values, tf.constant(rows))
            assert same([variable.numpy()], [whole.numpy()]), sparse

    def test_float32_is_not_rounded(self):
        rounded, plain = make_variables("float32"), make_variables("float32")
        a, b = sgd(), tf_optim_ext.SGD(RATE)
        for i in range(3):
            a.apply(gradients_of(i), rounded)
            b.apply(gradients_of(i), plain)
        assert same([v.numpy() for v in rounded], [v.numpy() for v in plain])

    def test_slots_are_not_rounded(self, dtype):
        make = {
            True: lambda: sgd(momentum=0.5),
            False: lambda: tf_optim_ext.SGD(RATE, momentum=0.5),
        }
        slots = []
        for stochastic in (True, False):
            variables, optimizer = make_variables(dtype), make[stochastic]()
            for i in range(3):
                optimizer.apply(gradients_of(i), variables)
            slots.append([optimizer.get_slot(v, "momentum").numpy() for v in variables])
        assert same(*slots)


class TestTraining:
    # Each step moves the weights by a few thousandths of themselves, less than half the distance
    # of neighbouring bfloat16.
    @pytest.mark.parametrize(
        "name", ["Adam", *(pytest.param(n, marks=pytest.mark.long) for n in ("SGD", "Lion"))]
    )
    def test_trains_where_plain_rounding_stalls(self, name):
        rng = np.random.default_rng(0)
        x = tf.constant(rng.normal(size=(256, 20)), tf.float32)
        target = rng.uniform(1, 2, (20, 1))
        y = x @ tf.constant(target, tf.float32)
        rates = {"SGD": 2e-3, "Adam": 1e-3, "Lion": 1e-3}

        def error(dtype, **arguments):
            w = tf.Variable(tf.ones((20, 1), dtype))
            optimizer = getattr(tf_optim_ext, name)(rates[name], **arguments)

            @tf.function
            def step():
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((x @ tf.cast(w, tf.float32) - y) ** 2)
                optimizer.apply_gradients([(tape.gradient(loss, w), w)])

            optimizer.build([w])
            for _ in range(2500):
                step()
            return np.abs(tf.cast(w, tf.float64).numpy() - target).mean()

        precise = error("float32")
        plain = error("bfloat16")
        stochastic = error("bfloat16", stochastic_rounding=True)
        # The distance of neighbours between 1 and 2 is 2^-7.
        assert precise < 0.01
        assert stochastic < 2**-7
        assert plain > 0.1
        assert stochastic < plain / 10

    @pytest.mark.long
    def test_fit(self):
        keras.utils.set_random_seed(0)
        x = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
        y = x @ np.linspace(1, 2, 8)[:, None]
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, dtype="bfloat16")])
        model.compile(tf_optim_ext.Adam(2e-3, stochastic_rounding=True), "mse")
        losses = model.fit(x, y, epochs=100, batch_size=16, verbose=0).history["loss"]
        assert losses[-1] < losses[0] / 10


class TestConfiguration:
    def test_round_trip(self):
        optimizer = tf_optim_ext.AdamW(stochastic_rounding=True, seed=7)
        config = optimizer.get_config()
        assert (config["stochastic_rounding"], config["seed"]) == (True, 7)
        again = tf_optim_ext.AdamW.from_config(config)
        assert (again.stochastic_rounding, again.seed) == (True, 7)
        assert "seed" not in tf_optim_ext.AdamW().get_config()

    @pytest.mark.parametrize("seed", [-1, 1.5, "1", None])
    def test_bad_seeds(self, seed):
        with pytest.raises((TypeError, ValueError), match="seed"):
            tf_optim_ext.AdamW(seed=seed)
