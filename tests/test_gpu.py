"""Weights on a GPU: the step is one function that XLA compiles.

That function is also tested on the CPU, for weights that only say that they are on a GPU; what is
marked `gpu` needs one.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from common import (
    arrays,
    assert_close,
    make_gradients,
    make_variables,
    run_in_function,
    same,
    train,
)

import tf_optim_ext
from tf_optim_ext.backends import native
from tf_optim_ext.engine import targets

COMPILED = ", compiled by XLA"
EAGERLY_OR_NOT = pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])


@pytest.fixture
def pretended(monkeypatch):
    """Weights that are not where the native library can update them, but on a GPU."""
    monkeypatch.setattr(targets.Targets, "are_on_gpus", True)
    monkeypatch.setattr(targets.Targets, "obstacle", "weights on GPU:0")
    monkeypatch.setattr(targets, "obstacle", lambda variable: "weights on GPU:0")
    monkeypatch.setattr(targets, "elsewhere", lambda device: "weights on GPU:0")


def trained(make, graph=False, steps=3, rate=None):
    variables, optimizer = make_variables("tf"), make()
    optimizer.build(variables)
    step = optimizer.apply
    step = tf.function(step) if graph else step
    for i in range(steps):
        if rate:
            optimizer.learning_rate = rate(i)
        step([tf.constant(g) for g in make_gradients(i)], variables)
    return arrays([*variables, *optimizer.variables]), str(optimizer.route)


class TestCompiledStep:
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
        assert str(optimizer.route) == f"tensorflow: {native.why_not() or 'weights on GPU:0'}"


@pytest.fixture(scope="module")
def gpu():
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees no GPU")
    return "GPU:0"


@pytest.mark.gpu
class TestOnAGpu:
    @EAGERLY_OR_NOT
    def test_every_optimizer(self, entry, graph, gpu):
        with tf.device(gpu):
            actual, route = trained(entry.make, graph)
        assert route.endswith(COMPILED)
        with tf.device("CPU:0"):
            expected, _ = trained(entry.make, graph)
        assert_close(actual, expected, rtol=1e-4, atol=1e-5)

    def test_state_is_where_the_weights_are(self, gpu):
        with tf.device(gpu):
            variables = make_variables("tf")
            optimizer = tf_optim_ext.AdamW(0.1)
            train(optimizer, variables)
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
        assert optimizer.route.kind == "tensorflow"

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
        assert not [node.name for node in nodes if node.op.startswith("TfOptimExt")]
        squares = [node.device for node in graph.node if node.op == "Square"]
        assert squares
        assert all("GPU:0" in device for device in squares)
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
