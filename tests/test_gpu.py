"""Weights on a GPU: kernels that are compiled at run time, or one function that XLA compiles.

That function is also tested on the CPU, for weights that only say that they are on a GPU, and the
kernels in `test_cuda.py`; what is marked `gpu` needs one.
"""

import numpy as np
import pytest
import tensorflow as tf
from common import (
    SHAPES,
    arrays,
    assert_close,
    make_gradients,
    make_variables,
    run_in_function,
    same,
    train,
)
from generation import keras

import tf_optim_ext
from tf_optim_ext.backends import native
from tf_optim_ext.engine import targets

COMPILED = ", compiled by XLA"
ODD_SHAPES = ((), (1,), (7,), (3, 5), (0, 4), (8193,), (300, 113))
EAGERLY_OR_NOT = pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])


@pytest.fixture
def pretended(monkeypatch):
    """Weights that are not where the native library can update them, but on a GPU."""
    monkeypatch.setattr(targets.Targets, "are_on_gpus", True)
    monkeypatch.setattr(targets.Targets, "obstacle", "weights on GPU:0")
    monkeypatch.setattr(targets, "obstacle", lambda variable: "weights on GPU:0")
    monkeypatch.setattr(targets, "elsewhere", lambda device: "weights on GPU:0")


def trained(
    make,
    graph=False,
    steps=3,
    rate=None,
    shapes=None,
    dtype="float32",
    of_gradients="float32",
    jit_compile=None,
):
    if shapes:
        values = make_gradients(99, shapes, dtype)
        variables = [tf.Variable(value, name=f"variable_{i}") for i, value in enumerate(values)]
    else:
        variables, shapes = make_variables("tf", dtype=dtype), SHAPES
    optimizer = make()
    optimizer.build(variables)
    step = optimizer.apply
    step = tf.function(step, jit_compile=jit_compile) if graph else step
    for i in range(steps):
        if rate:
            optimizer.learning_rate = rate(i)
        step([tf.constant(g) for g in make_gradients(i, shapes, of_gradients)], variables)
    return arrays([*variables, *optimizer.variables]), str(optimizer.route)


class TestCompiledStep:
    @pytest.mark.few("Prodigy")
    @EAGERLY_OR_NOT
    def test_equals_the_native_one(self, entry, graph, pretended, monkeypatch):
        actual, route = trained(entry.make, graph)
        assert route.startswith("tensorflow: ")
        assert route.endswith(COMPILED)
        monkeypatch.undo()
        expected, _ = trained(entry.make, graph)
        assert_close(actual, expected, rtol=2e-5, atol=2e-6)

    def test_is_compiled_once(self, pretended, monkeypatch):
        made = []
        function = tf.function
        monkeypatch.setattr(
            tf,
            "function",
            lambda *args, **kwargs: (made.append(kwargs), function(*args, **kwargs))[1],
        )
        expected, _ = trained(tf_optim_ext.SGD, rate=lambda i: 0.1 / (1 + i))
        assert made == [{"jit_compile": True, "autograph": False}]
        monkeypatch.undo()
        actual, _ = trained(tf_optim_ext.SGD, rate=lambda i: 0.1 / (1 + i))
        assert_close(actual, expected)

    @EAGERLY_OR_NOT
    @pytest.mark.parametrize("sparse", ["exact", "lazy"])
    def test_sparse_gradients(self, sparse, graph, pretended, monkeypatch):
        def run():
            table, optimizer = tf.Variable(tf.ones([5, 3])), tf_optim_ext.Adam(0.1, sparse=sparse)
            optimizer.build([table])

            def step():
                rows = tf.IndexedSlices(tf.ones([3, 3]), tf.constant([4, 1, 4]))
                optimizer.apply([rows], [table])

            (run_in_function if graph else lambda step: step())(step)
            return arrays([table, *optimizer.variables]), str(optimizer.route)

        actual, route = run()
        assert route.endswith(COMPILED) == (sparse == "exact")
        monkeypatch.undo()
        expected, _ = run()
        assert_close(actual, expected)

    def test_with_everything_around(self, pretended, monkeypatch):
        def make():
            return tf_optim_ext.AdamW(
                0.1, global_clipnorm=0.5, gradient_accumulation_steps=2, use_ema=True
            )

        actual, route = trained(make, steps=4)
        assert route.endswith(COMPILED)
        monkeypatch.undo()
        expected, _ = trained(make, steps=4)
        assert_close(actual, expected)

    def test_stochastic_rounding(self, pretended, monkeypatch):
        def run():
            variables = make_variables("tf", dtype="bfloat16")
            # Of powers of 2, which no route rounds.
            optimizer = tf_optim_ext.SGD(2.0**-10, stochastic_rounding=True)
            gradients = [tf.fill(v.shape, 0.25) for v in variables]
            for _ in range(3):
                optimizer.apply(gradients, variables)
            return arrays(variables)

        actual = run()
        monkeypatch.undo()
        assert same(actual, run())

    def test_not_under_portable(self, pretended):
        with tf_optim_ext.portable():
            _, route = trained(tf_optim_ext.SGD)
        assert COMPILED not in route

    def test_inside_xla_it_is_a_part_of_the_program(self, pretended):
        variables, optimizer = make_variables("tf"), tf_optim_ext.SGD(0.1)
        optimizer.build(variables)
        gradients = [tf.constant(g) for g in make_gradients(0)]
        tf.function(lambda: optimizer.apply(gradients, variables), jit_compile=True)()
        route = str(optimizer.route)
        assert route.startswith(f"tensorflow: {native.why_not() or 'weights on GPU:0'}")
        assert COMPILED not in route


@pytest.fixture(scope="module")
def gpu():
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees no GPU")
    return "GPU:0"


ON_GPUS = "native (cuda)"
ON_GPUS_INSIDE_XLA = f"{ON_GPUS} inside XLA"


def why_not_inside_xla():
    return native.why_not_inside_xla_on_gpu(tf.config.list_logical_devices("GPU")[0].name)


@pytest.fixture
def compiled_by_xla(monkeypatch):
    """Steps on GPUs without kernels of their own."""
    monkeypatch.setattr(native, "why_not_on_gpu", lambda device: "off")


def on_both(make, gpu, **kwargs):
    """What training gives on a GPU, where kernels of this package update, and on the CPU."""
    with tf.device(gpu):
        actual, route = trained(make, **kwargs)
    assert route == ON_GPUS
    with tf.device("CPU:0"):
        expected, _ = trained(make, **kwargs)
    return actual, expected


@pytest.mark.gpu
class TestOnAGpu:
    def test_has_kernels(self, gpu):
        assert native.why_not_on_gpu(tf.config.list_logical_devices("GPU")[0].name) is None

    @EAGERLY_OR_NOT
    def test_every_optimizer(self, entry, graph, gpu):
        with tf.device(gpu):
            actual, route = trained(entry.make, graph)
        by_row = entry.make()._program().by_row
        assert route.endswith(COMPILED) if by_row else route == ON_GPUS, route
        with tf.device("CPU:0"):
            expected, _ = trained(entry.make, graph)
        assert_close(actual, expected, rtol=1e-4, atol=1e-5)

    @EAGERLY_OR_NOT
    def test_compiled_by_xla(self, entry, graph, gpu, compiled_by_xla):
        with tf.device(gpu):
            actual, route = trained(entry.make, graph)
        assert route.endswith(COMPILED)
        with tf.device("CPU:0"):
            expected, _ = trained(entry.make, graph)
        assert_close(actual, expected, rtol=1e-4, atol=1e-5)

    def test_has_kernels_inside_xla(self, gpu):
        assert why_not_inside_xla() is None

    def test_inside_xla(self, entry, gpu):
        with tf.device(gpu):
            actual, route = trained(entry.make, graph=True, jit_compile=True)
        if why_not_inside_xla() is None and not entry.make()._program().by_row:
            assert route == ON_GPUS_INSIDE_XLA
        with tf.device("CPU:0"):
            expected, _ = trained(entry.make, graph=True)
        assert_close(actual, expected, rtol=1e-4, atol=1e-5)

    @EAGERLY_OR_NOT
    def test_elements_as_on_the_cpu(self, graph, gpu):
        # Not to the last bit: numbers as beta^t are another library's there.
        actual, expected = on_both(tf_optim_ext.AdamW, gpu, graph=graph, shapes=ODD_SHAPES)
        assert_close(actual, expected, rtol=5e-7, atol=1e-9)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    @pytest.mark.parametrize("of_gradients", ["float32", "bfloat16", "float16"])
    def test_sixteen_bits(self, dtype, of_gradients, gpu):
        kwargs = {"shapes": ODD_SHAPES, "dtype": dtype, "of_gradients": of_gradients}
        actual, expected = on_both(tf_optim_ext.SGD, gpu, **kwargs)
        assert same(actual, expected)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_stochastic_rounding(self, dtype, gpu):
        def make():
            return tf_optim_ext.SGD(1e-3, stochastic_rounding=True, seed=3)

        actual, expected = on_both(make, gpu, shapes=ODD_SHAPES, dtype=dtype)
        assert same(actual, expected)

    @EAGERLY_OR_NOT
    @pytest.mark.parametrize(
        "cls",
        [tf_optim_ext.AdamW, tf_optim_ext.LAMB, tf_optim_ext.Prodigy],
        ids=lambda c: c.__name__,
    )
    @pytest.mark.parametrize("count", [100, 1000])
    def test_many_variables(self, cls, count, graph, gpu):
        shapes = tuple((i % 3 + 1, 5) for i in range(count))
        actual, expected = on_both(cls, gpu, graph=graph, shapes=shapes)
        assert_close(actual, expected, rtol=1e-4, atol=1e-5)

    @EAGERLY_OR_NOT
    @pytest.mark.parametrize(
        "options",
        [
            {"clipnorm": 0.5},
            {"global_clipnorm": 0.5},
            {"clipvalue": 0.5},
            {"use_ema": True, "ema_overwrite_frequency": 2},
            {"gradient_accumulation_steps": 2},
            {"loss_scale_factor": 4.0},
            {"cautious": True},
            {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)},
        ],
        ids=lambda options: "-".join(options),
    )
    def test_options(self, options, graph, gpu):
        def make():
            return tf_optim_ext.AdamW(**options)

        actual, expected = on_both(make, gpu, graph=graph, steps=4)
        assert_close(actual, expected, rtol=1e-5, atol=1e-6)

    @EAGERLY_OR_NOT
    def test_numbers_of_each_variable(self, graph, gpu):
        def make():
            optimizer = tf_optim_ext.AdamW(0.1, weight_decay=0.1)
            optimizer.exclude_from_weight_decay(var_names=["bias"])
            return optimizer

        actual, expected = on_both(make, gpu, graph=graph)
        assert_close(actual, expected, rtol=1e-6, atol=1e-8)

    def test_large_variables(self, gpu):
        shapes = ((1000, 3001), (1,), (123_457,))
        for cls in (tf_optim_ext.AdamW, tf_optim_ext.LAMB):
            actual, expected = on_both(cls, gpu, shapes=shapes)
            assert_close(actual, expected, rtol=1e-4, atol=1e-6)

    def test_reductions_are_always_the_same(self, gpu):
        with tf.device(gpu):
            first, _ = trained(tf_optim_ext.LAMB, shapes=((1000, 301), (77_777,)))
            second, _ = trained(tf_optim_ext.LAMB, shapes=((1000, 301), (77_777,)))
        assert same(first, second)

    def test_what_was_read_before_keeps_its_value(self, gpu):
        with tf.device(gpu):
            variable, optimizer = tf.Variable(tf.ones([100_000])), tf_optim_ext.SGD(0.5)
            optimizer.build([variable])

            @tf.function
            def step():
                before = variable.read_value()
                optimizer.apply([tf.ones([100_000])], [variable])
                return before

            before = step()
            kept = variable.read_value()
            optimizer.apply([tf.ones([100_000])], [variable])
        assert np.all(before.numpy() == 1.0)
        assert np.all(kept.numpy() == 0.5)
        assert np.all(variable.numpy() == 0.0)

    @pytest.mark.parametrize("sparse", ["exact", "lazy"])
    def test_sparse_gradients(self, sparse, gpu):
        def run(device):
            with tf.device(device):
                table, optimizer = tf.Variable(tf.ones([5, 3])), tf_optim_ext.Adam(sparse=sparse)
                optimizer.build([table])
                rows = tf.IndexedSlices(tf.ones([3, 3]), tf.constant([4, 1, 4]))
                optimizer.apply([rows], [table])
                return arrays([table, *optimizer.variables]), str(optimizer.route)

        actual, route = run(gpu)
        assert (route == ON_GPUS) == (sparse == "exact")
        expected, _ = run("CPU:0")
        assert_close(actual, expected)

    @EAGERLY_OR_NOT
    def test_weights_on_two_devices(self, graph, gpu):
        with tf.device(gpu):
            first = tf.Variable(tf.ones([7]))
        with tf.device("CPU:0"):
            second = tf.Variable(tf.ones([7]))
        optimizer = tf_optim_ext.AdamW(0.1)
        optimizer.build([first, second])
        step = tf.function(optimizer.apply) if graph else optimizer.apply
        for _ in range(3):
            step([tf.ones([7]), tf.ones([7])], [first, second])
        assert_close([first], [second])

    @EAGERLY_OR_NOT
    def test_weights_on_the_cpu_are_left_there(self, graph, gpu):
        def make():
            return tf_optim_ext.AdamW(0.1, global_clipnorm=0.1)

        with tf.device("CPU:0"):
            actual, route = trained(make, graph)
        assert route == f"native ({native.instruction_set()})"
        actual_on_gpu, expected = on_both(make, gpu, graph=graph)
        assert same(actual, expected)
        assert_close(actual_on_gpu, expected)

    @EAGERLY_OR_NOT
    def test_gradients_elsewhere(self, graph, gpu):
        with tf.device(gpu):
            there = tf.ones([7])
        with tf.device("CPU:0"):
            variable, here = tf.Variable(tf.ones([7])), tf.ones([7])
        expected = tf.Variable(tf.ones([7]))
        for gradient, weights in ((there, variable), (here, expected)):
            optimizer = tf_optim_ext.AdamW(0.1, global_clipnorm=0.1)
            optimizer.build([weights])
            step = tf.function(optimizer.apply) if graph else optimizer.apply
            step([gradient], [weights])
        assert_close([variable], [expected])

    def test_state_is_where_the_weights_are(self, gpu):
        with tf.device(gpu):
            variables = make_variables("tf")
            optimizer = tf_optim_ext.AdamW(0.1)
            train(optimizer, variables)
        assert str(optimizer.route) == ON_GPUS
        for slot in optimizer.variables[2:]:
            assert "GPU:0" in slot.value.device

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_fit(self, jit_compile, gpu):
        x = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
        y = x @ np.ones((8, 1), np.float32)
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        optimizer = tf_optim_ext.AdamW(0.05)
        model.compile(optimizer, "mse", jit_compile=jit_compile)
        losses = model.fit(x, y, epochs=20, batch_size=32, verbose=0).history["loss"]
        assert losses[-1] < losses[0] / 10
        if not jit_compile:
            assert str(optimizer.route) == ON_GPUS
        elif why_not_inside_xla() is None:
            assert str(optimizer.route) == ON_GPUS_INSIDE_XLA

    def test_checkpoint(self, gpu, tmp_path):
        with tf.device(gpu):
            variables, optimizer = make_variables("tf"), tf_optim_ext.AdamW(0.1)
            train(optimizer, variables)
            checkpoint = tf.train.Checkpoint(optimizer=optimizer, variables=variables)
            path = checkpoint.save(tmp_path / "checkpoint")
            train(optimizer, variables, first=3)
            expected = arrays([*variables, *optimizer.variables])
            checkpoint.restore(path).assert_consumed()
            train(optimizer, variables, first=3)
        assert same(arrays([*variables, *optimizer.variables]), expected)

    @pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
    def test_gradients_are_not_copied_for_their_norms(self, sparse, gpu):
        with tf.device(gpu):
            table = tf.Variable(tf.ones([4, 3]))
            optimizer = tf_optim_ext.AdamW(0.1, global_clipnorm=0.1, sparse="lazy")
            optimizer.build([table])

        @tf.function
        def step(values, rows):
            gradient = tf.IndexedSlices(values, rows) if sparse else values
            optimizer.apply([gradient], [table])

        with tf.device(gpu):
            values, rows = tf.ones([4, 3]), tf.constant([3, 0, 2, 1])
        graph = step.get_concrete_function(values, rows).graph.as_graph_def()
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        norms = [n.device for n in nodes if n.op in ("TfOptimExtSquaredNorms", "Square")]
        assert norms
        assert all("GPU:0" in device for device in norms)
        step(values, rows)
        assert np.all(np.isfinite(table))

    def test_mirrored_strategy(self, gpu):
        strategy = tf.distribute.MirroredStrategy()
        with strategy.scope():
            variables, optimizer = make_variables("tf"), tf_optim_ext.AdamW(0.1)
            optimizer.build(variables)
        gradients = [tf.constant(g) for g in make_gradients(0)]

        @tf.function
        def step():
            strategy.run(lambda: optimizer.apply(gradients, variables))

        step()
        count = strategy.num_replicas_in_sync
        expected, single = make_variables("tf"), tf_optim_ext.AdamW(0.1)
        single.apply([count * g for g in gradients], expected)
        for variable, value in zip(variables, expected):
            for local in strategy.experimental_local_results(variable):
                assert_close([local], [value], rtol=1e-4, atol=1e-5)
