"""Everywhere TensorFlow runs: what `docs/compatibility.md` promises.

A row of its table names the tests that prove it, here or in other files; `TestTable` checks that
they exist, and that none of these here is missing from the table.
"""

import ast
import concurrent.futures
import functools
import pathlib
import re

import conftest
import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    SHAPES,
    arrays,
    assert_close,
    has_multi_optimizer,
    make_gradients,
    make_variables,
    outcomes_of,
    same,
    train,
    unchanged,
)
from compatibility import own_process, parameter_servers, two_replicas, two_workers
from generation import (
    IS_KERAS_2,
    QUIET,
    dtype_policy,
    keras,
    only_keras_3,
    path_of,
    scale_of,
    set_dtype_policy,
)
from tensorflow.core.protobuf import saved_model_pb2
from test_keras import ADAM, SGD, TOLERANCE, X, Y, expect_route, fit, make_model
from test_state import Training, load_elsewhere

import tf_optim_ext
from tf_optim_ext import _keras

TESTS = pathlib.Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "compatibility.md"


class TestXla:
    def test_clusters_leave_the_native_step_out(self, native_only):
        options = ("auto_jit=2", "cpu_global_jit", "min_cluster_size=2")
        flags = " ".join(f"--tf_xla_{option}" for option in options)
        assert outcomes_of("compatibility/clustering.py", TF_XLA_FLAGS=flags) == {
            "native step": "equal"
        }

    @pytest.mark.few
    def test_nested_cond_and_while_loop(self, entry):
        # Only the outermost function asks for XLA.
        optimizer, variables = entry.make(), make_variables("tf", SHAPES[:2])
        alone, expected = entry.make(), make_variables("tf", SHAPES[:2])
        optimizer.build(variables)
        gradients = [tf.constant(g) for g in make_gradients(0, SHAPES[:2])]

        @tf.function
        def nested(factor):
            optimizer.apply_gradients([(factor * g, v) for g, v in zip(gradients, variables)])
            return 0

        @tf.function(jit_compile=True)
        def run(count):
            def body(i):
                factor = 1.0 + tf.cast(i, tf.float32)
                tf.cond(tf.equal(i, 2), lambda: 0, lambda: nested(factor))
                return [i + 1]

            tf.while_loop(lambda i: i < count, body, [tf.constant(0)])

        run(tf.constant(4))
        expect_route(optimizer, inside_xla=True)
        for factor in (1.0, 2.0, 4.0):
            alone.apply_gradients([(factor * g, v) for g, v in zip(gradients, expected)])
        expect_route(alone)
        assert_close(variables, expected, **TOLERANCE)
        assert_close(optimizer.variables, alone.variables, **TOLERANCE)

    def test_the_same_optimizer_inside_and_outside(self):
        optimizer, variables = ADAM.make(), make_variables("tf", SHAPES[:2])
        alone, expected = ADAM.make(), make_variables("tf", SHAPES[:2])

        def step(*gradients):
            optimizer.apply_gradients(zip(gradients, variables))

        compiled = tf.function(step, jit_compile=True)
        for i, run in enumerate((step, compiled, tf.function(step))):
            run(*map(tf.constant, make_gradients(i, SHAPES[:2])))
            expect_route(optimizer, inside_xla=run is compiled)
        train(alone, expected)
        assert_close(variables, expected, **TOLERANCE)

    def test_tracing_again_inside_is_the_remedy(self):
        optimizer, variables = ADAM.make(), make_variables("tf")
        step = tf.function(lambda *g: optimizer.apply_gradients(zip(g, variables)) + 0)
        gradients = [tf.constant(g) for g in make_gradients(0)]
        step(*gradients)
        again = tf.function(step.python_function)
        tf.function(lambda *g: again(*g), jit_compile=True)(*gradients)
        expect_route(optimizer, inside_xla=True)
        assert int(optimizer.iterations) == 2


@functools.cache
def with_two_replicas(is_representative):
    """What `two_replicas.py` found, for the optimizers of `REPRESENTATIVE` or for all others."""
    entries = [e for e in registry.BY_NAME if (e in registry.REPRESENTATIVE) == is_representative]
    return outcomes_of("compatibility/two_replicas.py", *entries)


@pytest.mark.few
@pytest.mark.parametrize("check", two_replicas.CHECKS)
def test_two_replicas(entry, check):
    found = with_two_replicas(entry.name in registry.REPRESENTATIVE)
    assert found[f"{entry.name}: {check}"] == "equal"


@pytest.fixture(scope="module")
def with_two_workers():
    return outcomes_of("compatibility/two_workers.py")


@pytest.mark.long
@pytest.mark.parametrize("check", two_workers.NAMES)
def test_multi_worker_mirrored_strategy(with_two_workers, check):
    assert with_two_workers[check] == "equal"


@pytest.fixture(scope="module")
def with_a_parameter_server():
    return outcomes_of("compatibility/parameter_servers.py")


@pytest.mark.long
@pytest.mark.parametrize("check", parameter_servers.NAMES)
def test_parameter_server_strategy(with_a_parameter_server, check):
    assert with_a_parameter_server[check] == "equal"


@pytest.fixture
def policy(request):
    """The global policy of dtypes while a test runs."""
    set_dtype_policy(request.param)
    yield dtype_policy()
    set_dtype_policy("float32")


def policies(*names):
    return pytest.mark.parametrize("policy", names, indirect=True)


class TestMixedPrecision:
    @pytest.mark.few
    @policies("bfloat16")
    def test_bfloat16(self, entry, policy):
        self.check_bfloat16(entry, policy)

    @policies("mixed_bfloat16")
    def test_mixed_bfloat16(self, policy):
        self.check_bfloat16(ADAM, policy)

    @pytest.mark.few
    @policies("bfloat16", "mixed_bfloat16")
    def test_bfloat16_to_the_bit(self, entry, policy):
        self.check_same_steps(entry)

    def check_bfloat16(self, entry, policy):
        model, optimizer = make_model(), entry.make()
        before = arrays(model.trainable_variables)
        fit(optimizer, model)
        expect_route(optimizer)
        assert type(model.optimizer) is entry.cls
        dtypes = {tf.as_dtype(v.dtype).name for v in model.trainable_variables}
        assert dtypes == {policy.variable_dtype}
        for variable in model.trainable_variables:
            for name in set(entry.slots) - {*entry.cls.declaration().variable_scalars}:
                assert optimizer.get_slot(variable, name).dtype == "float32"
        moved = [np.abs(a.astype(float) - b) for a, b in zip(arrays(model.variables), before)]
        assert all(np.all(np.isfinite(m)) for m in moved)
        assert any(np.any(m) for m in moved)

    def check_same_steps(self, entry):
        """A loop with the gradients that `fit` computed takes the same steps."""
        taken, optimizer = [], entry.make()
        apply = optimizer.apply

        def keeping(gradients, variables=None):
            taken.append(gradients)
            apply(gradients, variables)

        object.__setattr__(optimizer, "apply", keeping)
        model = fit(optimizer, run_eagerly=True)
        alone, expected = entry.make(), make_model()
        for gradients in taken:
            alone.apply_gradients(zip(gradients, expected.trainable_variables))
        assert len(taken) == 8
        if hasattr(alone, "use_averaged_weights"):
            alone.use_averaged_weights()  # as `fit` in the end
        assert same(alone.get_weights(), optimizer.get_weights())
        assert same(arrays(model.trainable_variables), arrays(expected.trainable_variables))

    @pytest.mark.few
    @policies("mixed_float16")
    def test_skipped_step_in_fit_leaves_everything(self, entry, policy):
        self.check_skipping(entry, run_eagerly=True)

    @pytest.mark.few
    @policies("mixed_float16")
    def test_skipped_step_in_a_function(self, entry, policy):
        self.check_skipping(entry)

    @pytest.mark.long
    @policies("mixed_float16")
    def test_skipped_step_inside_xla(self, policy):
        self.check_skipping(ADAM, jit_compile=True)

    def check_skipping(self, entry, **mode):
        model, expected = make_model(), make_model()
        optimizers = [entry.make(), entry.make()]
        for each, optimizer in zip((model, expected), optimizers):
            each.compile(optimizer, "mse", **mode)
            assert each.optimizer.inner_optimizer is optimizer
            each.train_on_batch(X, Y)
        assert {tf.as_dtype(v.dtype) for v in model.trainable_variables} == {tf.float32}
        optimizer = optimizers[0]
        scale = scale_of(model.optimizer)
        usual = float(scale)
        scale.assign(2.0**100)
        with unchanged(optimizer, model.trainable_variables):
            model.train_on_batch(X, Y)
            if IS_KERAS_2:  # which counts the steps that it leaves out
                optimizer.iterations.assign_sub(1)
        assert float(scale) == 2.0**99
        assert int(optimizer.iterations) == 1
        scale.assign(usual)
        for each in (model, expected):
            each.train_on_batch(X, Y)
        assert int(optimizer.iterations) == 2
        assert same(arrays(model.trainable_variables), arrays(expected.trainable_variables))
        assert same(optimizer.get_weights(), optimizers[1].get_weights())

    @pytest.mark.few
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_gradients_are_not_cast(self, entry, dtype, native_only):
        # The op reads them as they are, also for float32 weights: there is no sweep before it.
        for weights in ("float32", dtype):
            variables = make_variables("tf", SHAPES[:2], dtype=weights)
            optimizer = entry.make(use_ema=True, clipnorm=1.0)
            optimizer.build(variables)
            step = tf.function(lambda *g, v=variables, o=optimizer: o.apply(list(g), v))
            graph = step.get_concrete_function(
                *(tf.TensorSpec(shape, dtype) for shape in SHAPES[:2])
            ).graph
            (update,) = (op for op in graph.get_operations() if is_update(op, graph.inputs[0]))
            assert is_update(update, graph.inputs[1])
            casts = [op for op in graph.get_operations() if op.type == "Cast"]
            assert not [op.inputs[0] for op in casts if op.inputs[0].shape.rank != 0]

    @policies("mixed_bfloat16", "mixed_float16")
    def test_the_only_casts_of_gradients_are_those_of_layers(self, policy, native_only):
        # Layers cast float32 weights, and the tape casts the gradients back.
        model, optimizer = make_model(), ADAM.make()
        variables = model.trainable_variables
        optimizer.build(variables)

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x) - tf.cast(y, policy.compute_dtype)))
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

        ops = step.get_concrete_function(X, Y).graph.get_operations()
        casts = [op for op in ops if op.type == "Cast" and op.inputs[0].shape.rank != 0]
        assert [op for op in casts if op.name.startswith("gradient_tape")]
        assert not [op for op in casts if op.name.startswith(optimizer.name)]


def is_update(op, gradient):
    """Whether an op is a native step with this gradient."""
    is_step = op.type in ("TfOptimExtStep", "TfOptimExtFusedStep")
    return is_step and any(t is gradient for t in op.inputs)


@has_multi_optimizer
class TestMultiOptimizer:
    @pytest.mark.few
    def test_one_op_for_each_part(self, entry, native_only):
        variables = make_variables()
        for_others, for_kernel = SGD.make(), entry.make()
        by_path = keras.optimizers.OptimizerMap(for_others, {".*kernel.*": for_kernel})
        optimizer = keras.optimizers.MultiOptimizer(by_path)
        optimizer.build(variables)
        gradients = [tf.constant(g) for g in make_gradients(0)]
        step = tf.function(lambda: optimizer.apply(gradients, variables))
        ops = [op.type for op in step.get_concrete_function().graph.get_operations()]
        assert ops.count("TfOptimExtStep") == 2
        expected = make_variables()
        step()
        entry.make().apply(gradients[:1], expected[:1])
        SGD.make().apply(gradients[1:], expected[1:])
        assert_close(variables, expected, **TOLERANCE)

    def test_saved_and_loaded(self, tmp_path):
        model = make_model()
        last = path_of(model.layers[-1].kernel).split("/")[-2]
        by_path = keras.optimizers.OptimizerMap(ADAM.make(), {f".*{last}/.*": SGD.make()})
        fit(keras.optimizers.MultiOptimizer(by_path), model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        inner = loaded.optimizer.optimizers
        assert [type(o) for o in inner] == [tf_optim_ext.SGD, tf_optim_ext.Adam]
        for each in (model, loaded):
            each.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        assert_close(loaded.variables, model.variables, rtol=1e-6)


class TestFit:
    @pytest.mark.parametrize("mode", [{}, {"steps_per_execution": 3}, {"run_eagerly": True}])
    def test_dataset(self, mode):
        model, optimizer = make_model(), ADAM.make()
        model.compile(optimizer, "mse", **mode)
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).repeat(2)
        model.fit(data.prefetch(1), shuffle=False, verbose=0)
        assert int(optimizer.iterations) == 8
        assert_close(model.variables, fit(ADAM.make()).variables, **TOLERANCE)

    def test_variables_added_later(self, entry):
        optimizer, variables = entry.make(), make_variables()
        train(optimizer, variables)
        added = tf.Variable([1.0, 2.0], name="added")
        pairs = zip(make_gradients(0, (*SHAPES, (2,))), [*variables, added])
        with (
            unchanged(optimizer, [*variables, added]),
            pytest.raises(ValueError, match=r"not built for the variables \['added:0'\].*new opt"),
        ):
            optimizer.apply_gradients(pairs)

    def test_layer_added_between_fits(self):
        model, optimizer = make_model(), ADAM.make()
        fit(optimizer, model)
        model.add(keras.layers.Dense(1, name="added"))
        model.compile(optimizer, "mse")
        with (
            unchanged(optimizer, model.trainable_variables),
            pytest.raises(ValueError, match=r"not built for the variables.*added/kernel"),
        ):
            model.train_on_batch(X, Y)
        before = arrays(model.trainable_variables)
        fit(ADAM.make(), model)
        assert not any(same([a], [b]) for a, b in zip(arrays(model.trainable_variables), before))

    @pytest.mark.few
    def test_frozen_between_fits(self, entry):
        # Compiling again makes it so; the optimizer may be the same, and keeps its state.
        optimizer, once = entry.make(), {"epochs": 1, "run_eagerly": True}
        model = fit(optimizer, **once)
        frozen = model.layers[0]
        frozen.trainable = False
        before, others = arrays(frozen.variables), arrays(model.layers[1].variables)
        slots = [arrays(self.slots_of(optimizer, v)) for v in frozen.variables]
        fit(optimizer, model, **once)
        assert same(arrays(frozen.variables), before)
        for variable, values in zip(frozen.variables, slots):
            assert same(arrays(self.slots_of(optimizer, variable)), values)
        assert not any(same([a], [b]) for a, b in zip(arrays(model.layers[1].variables), others))
        frozen.trainable = True
        fit(optimizer, model, **once)
        assert not same(arrays(frozen.variables), before)
        assert int(optimizer.iterations) == 12

    @staticmethod
    def slots_of(optimizer, variable):
        return [optimizer.get_slot(variable, name) for name in optimizer.get_slot_names()]

    @pytest.mark.parametrize("eagerly", [False, True])
    def test_frozen_without_compiling(self, eagerly):
        # A train function that is traced stays as it is, as with every optimizer.
        model = fit(ADAM.make(), run_eagerly=eagerly)
        frozen = model.layers[0]
        frozen.trainable = False
        before = arrays(frozen.variables)
        model.fit(X, Y, batch_size=4, verbose=0)
        assert same(arrays(frozen.variables), before) == (eagerly and not IS_KERAS_2)

    def test_unfrozen_between_fits(self):
        model = make_model()
        model.layers[0].trainable = False
        optimizer = ADAM.make()
        fit(optimizer, model)
        model.layers[0].trainable = True
        model.compile(optimizer, "mse")
        with (
            unchanged(optimizer, model.trainable_variables),
            pytest.raises(ValueError, match=r"not built for the variables.*kernel.*new optimizer"),
        ):
            model.train_on_batch(X, Y)
        before = arrays(model.trainable_variables)
        fit(ADAM.make(), model)
        assert not any(same([a], [b]) for a, b in zip(arrays(model.trainable_variables), before))


class Interruption(keras.callbacks.Callback):
    """Fails in the third epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("interrupted")


# Without slots, with slots, with numbers for all variables, and with averaged weights, which have
# tests with callbacks of their own.
@pytest.fixture(
    params=conftest.shortened(("SGD", "AdamW", "Prodigy", "ScheduleFreeAdamW"), ("AdamW",))
)
def kind(request):
    return registry.BY_NAME[request.param]


def fit_eagerly(optimizer, *args, **kwargs):
    # Tracing would take most of the time.
    return fit(optimizer, *args, run_eagerly=True, **kwargs)


def assert_same_training(model, expected):
    assert_close(model.variables, expected.variables, **TOLERANCE)
    assert_close(model.optimizer.variables, expected.optimizer.variables, **TOLERANCE)


@pytest.mark.once
class TestCallbacks:
    @pytest.mark.long  # see `test_keras.py`
    def test_learning_rate_scheduler(self, kind):
        schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
        model = fit_eagerly(kind.make(learning_rate=0.5), callbacks=[schedule])
        optimizer, expected = kind.make(), make_model()
        for rate in (0.25, 0.125):
            optimizer.learning_rate = rate
            fit_eagerly(optimizer, expected, epochs=1)
        assert_same_training(model, expected)

    @pytest.mark.long  # see `test_keras.py`
    def test_reduce_on_plateau(self, kind):
        reduce = keras.callbacks.ReduceLROnPlateau("loss", 0.1, patience=1, min_delta=1e9)
        model = fit_eagerly(kind.make(learning_rate=0.5), epochs=3, callbacks=[reduce])
        optimizer, expected = kind.make(), make_model()
        for rate in (0.5, 0.5, 0.05):
            optimizer.learning_rate = rate
            fit_eagerly(optimizer, expected, epochs=1)
        optimizer.learning_rate = 0.005
        assert_same_training(model, expected)

    def test_backup_and_restore(self, kind, tmp_path):
        def backup():
            return keras.callbacks.BackupAndRestore(tmp_path / "backup")

        with pytest.raises(RuntimeError, match="interrupted"):
            fit_eagerly(kind.make(), epochs=4, callbacks=[backup(), Interruption()])
        resumed = fit_eagerly(kind.make(), make_model(seed=1), epochs=4, callbacks=[backup()])
        assert int(resumed.optimizer.iterations) == 16
        assert_same_training(resumed, fit_eagerly(kind.make(), epochs=4))

    @pytest.mark.long  # see `test_keras.py`
    def test_checkpoint_of_models(self, kind, tmp_path):
        path = str(tmp_path / "{epoch}.keras")
        save = keras.callbacks.ModelCheckpoint(path)
        fit_eagerly(kind.make(), epochs=2, callbacks=[save])
        resumed = keras.models.load_model(path.format(epoch=2))
        resumed.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        assert_same_training(resumed, fit_eagerly(kind.make(), epochs=4))

    def test_checkpoint_of_weights(self, kind, tmp_path):
        path = str(tmp_path / "{epoch}.weights.h5")
        save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
        fit_eagerly(kind.make(), epochs=2, callbacks=[save])
        model, optimizer = make_model(seed=1), kind.make()
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, "mse", run_eagerly=True)
        model.load_weights(path.format(epoch=2))
        assert int(optimizer.iterations) == 8
        model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        assert_same_training(model, fit_eagerly(kind.make(), epochs=4))

    def test_early_stopping(self, kind):
        # Nothing is ever better than the first epoch. The optimizer's state is that of the last.
        stop = keras.callbacks.EarlyStopping(
            "loss", min_delta=1e9, patience=2, restore_best_weights=True
        )
        optimizer = kind.make()
        model = fit_eagerly(optimizer, epochs=9, callbacks=[stop])
        assert int(optimizer.iterations) == 12
        assert_close(model.variables, fit_eagerly(kind.make(), epochs=1).variables, **TOLERANCE)

    @only_keras_3("has no `SwapEMAWeights`")
    def test_swap_ema_weights_of_schedule_free_optimizers(self):
        # They average by themselves: another average would take their training weights away.
        optimizer = registry.BY_NAME["ScheduleFreeAdamW"].make(use_ema=True)
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        with pytest.raises(ValueError, match=r"averages its weights itself.*leave out"):
            fit_eagerly(optimizer, callbacks=[swap])

    @only_keras_3("writes the learning rate otherwise")
    def test_tensorboard(self, kind, tmp_path, monkeypatch):
        # `tf.summary.scalar` needs the package tensorboard; all else is TensorFlow's.
        def scalar(name, value, step):
            seen.append((name, float(value), step))

        seen, board = [], keras.callbacks.TensorBoard(tmp_path)
        monkeypatch.setattr(board.summary, "scalar", scalar)
        rate = keras.optimizers.schedules.ExponentialDecay(0.5, 4, 0.5)
        model = fit_eagerly(kind.make(learning_rate=rate), callbacks=[board])
        assert [s for s in seen if s[0] == "epoch_learning_rate"] == [
            ("epoch_learning_rate", 0.25, 0),
            ("epoch_learning_rate", 0.125, 1),
        ]
        assert list((tmp_path / "train").glob("events.*"))
        assert_same_training(model, fit_eagerly(kind.make(learning_rate=rate)))


def ops_in(path):
    """Names of all ops in a SavedModel, and in its functions."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {node.op for node in nodes}


def save_model(model, path):
    tf.saved_model.save(model, path)


def export(model, path):
    model.export(path, **QUIET)


def export_archive(model, path):
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", model.call, [tf.TensorSpec((None, 3))])
    archive.write_out(path, **QUIET)


class TestExport:
    @pytest.mark.once
    @pytest.mark.parametrize("write", [save_model, export, export_archive])
    def test_inference(self, write, tmp_path):
        self.check_inference(ADAM, write, tmp_path)

    @pytest.mark.long
    def test_inference_of_every_optimizer(self, entry, tmp_path):
        self.check_inference(entry, export, tmp_path)

    def check_inference(self, entry, write, path):
        model = fit(entry.make(), epochs=1)
        write(model, str(path))
        ops = ops_in(path)
        assert "MatMul" in ops
        assert not [op for op in ops if op.startswith("TfOptimExt")]
        loaded = tf.saved_model.load(str(path))
        serve = loaded.signatures["serving_default"]
        (name,) = serve.structured_input_signature[1]
        (result,) = serve(**{name: tf.constant(X)}).values()
        assert_close([result], [model(X)])

    def test_training_step(self, tmp_path):
        training = Training(ADAM.make(), make_step_portable=True)
        training.step(1.0)
        tf.saved_model.save(training, str(tmp_path), signatures={"train": training.step})
        assert not [op for op in ops_in(tmp_path) if op.startswith("TfOptimExt")]
        step = tf.saved_model.load(str(tmp_path)).signatures["train"]
        for factor in (2.0, 0.5):
            expected = training.step(factor)
            actual = step(factor=tf.constant(factor))
        for key, value in expected.items():
            assert_close([actual[key]], [value], rtol=1e-6)

    @pytest.mark.long
    def test_training_steps_where_the_package_is_not(self, tmp_path):
        factors, trainings, requests = (2.0, 0.5), {}, []
        for each in registry.ENTRIES:
            training = trainings[each.name] = Training(each.make(), make_step_portable=True)
            training.step(1.0)
            path = tmp_path / each.name
            tf.saved_model.save(training, str(path), signatures={"train": training.step})
            assert not [op for op in ops_in(path) if op.startswith("TfOptimExt")]
            requests.append((each.name, path, factors))
        results = load_elsewhere(*requests)
        for name, training in trainings.items():
            assert isinstance(results[name], dict), results[name]
            for factor in factors:
                expected = training.step(factor)
            for key, value in expected.items():
                np.testing.assert_allclose(results[name][key], value, rtol=1e-6, err_msg=name)

    def test_native_step_has_our_op(self, tmp_path, native_only):
        training = Training(ADAM.make())
        training.step(1.0)
        tf.saved_model.save(training, str(tmp_path), signatures={"train": training.step})
        assert "TfOptimExtStep" in ops_in(tmp_path)


class OnDevice(tf.Module):
    """A training step for TFLite, which does not set variables of Keras by itself."""

    def __init__(self, optimizer):
        super().__init__()
        self.weights = tf.Variable([1.0, 2.0])
        self.optimizer = optimizer
        optimizer.build([self.weights])
        variables = [self.weights, *map(_keras.tensorflow_variable, optimizer.variables)]
        self.initial = [(v, v.numpy()) for v in variables]

    @tf.function(input_signature=[])
    def initialize(self):
        for variable, value in self.initial:
            variable.assign(value)
        return {"count": tf.constant(len(self.initial))}

    @tf.function(input_signature=[tf.TensorSpec([2])])
    def train(self, gradient):
        self.optimizer.apply_gradients([(gradient, self.weights)])
        return {"weights": tf.identity(self.weights)}


# The interpreter of this TensorFlow announces its successor.
@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
class TestTFLite:
    @staticmethod
    def interpreter(module, path):
        with tf_optim_ext.portable():
            signatures = {"train": module.train, "initialize": module.initialize}
            tf.saved_model.save(module, str(path), signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        converter.experimental_enable_resource_variables = True
        return tf.lite.Interpreter(model_content=converter.convert())

    def test_training_step(self, tmp_path):
        module, expected = (OnDevice(tf_optim_ext.SGD(0.25)) for _ in range(2))
        interpreter = self.interpreter(module, tmp_path)
        interpreter.get_signature_runner("initialize")()
        step = interpreter.get_signature_runner("train")
        for gradient in ([1.0, -1.0], [0.5, 2.0]):
            actual = step(gradient=np.float32(gradient))
            wanted = expected.train(tf.constant(gradient))
        assert_close([actual["weights"]], [wanted["weights"]])

    @pytest.mark.long
    def test_every_optimizer_is_converted(self, entry, tmp_path):
        interpreter = self.interpreter(OnDevice(entry.make()), tmp_path)
        assert set(interpreter.get_signature_list()) == {"train", "initialize"}

    @pytest.mark.skipif(tf.__version__.startswith("2.19."), reason="TensorFlow 2.19 has it")
    def test_float64_needs_the_flex_delegate(self, tmp_path):
        # Converted, but TensorFlow's wheel has no delegate to run it with.
        interpreter = self.interpreter(OnDevice(tf_optim_ext.AdamW(0.25)), tmp_path)
        with pytest.raises(RuntimeError, match="Flex delegate"):
            interpreter.get_signature_runner("train")(gradient=np.ones(2, np.float32))


@pytest.mark.long
def test_determinism():
    # For every case the digests of two trainings in a process, with 1, 2 and 4 threads.
    outcomes = [
        outcomes_of("compatibility/determinism.py", threads) for threads in ("1", "2", "4", "4")
    ]
    for name in outcomes[0]:
        digests = [digest for outcome in outcomes for digest in outcome[name]]
        assert len(set(digests)) == 1, (name, digests)


def in_threads(work, count=4, seconds=120):
    """Runs `work(i)` in threads at the same time; what they raise is raised here."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, i) for i in range(count)]:
            future.result(timeout=seconds)


class TestThreads:
    STEPS = 10

    @pytest.mark.few
    @pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "function"])
    def test_one_optimizer(self, entry, wrap, native_only):
        # All elements start equal and have equal gradients: a torn step would tell them apart.
        variables = [tf.Variable(tf.fill([40, 50], 0.5)) for _ in range(3)]
        optimizer = entry.make()
        optimizer.build(variables)
        step = wrap(lambda g: optimizer.apply_gradients([(g, v) for v in variables]) + 0)
        step(tf.fill([40, 50], 0.1))

        def work(thread):
            for i in range(self.STEPS):
                step(tf.fill([40, 50], 0.1 * (thread - 1.5) + 0.01 * i))

        in_threads(work)
        assert int(optimizer.iterations) == 1 + 4 * self.STEPS
        slots = [[optimizer.get_slot(v, name) for v in variables] for name in entry.slots]
        for each in (variables, *slots):
            values = np.stack(arrays(each))
            assert np.all(np.isfinite(values))
            assert np.all(values == values.flat[0])

    @pytest.mark.parametrize("kind", ["exact", "lazy"])
    def test_several_optimizers_and_rows(self, kind, native_only):
        # Sums of powers of two are exact in any order, so that a lost step is seen.
        variable = tf.Variable(tf.zeros([100, 8]))
        optimizers = [tf_optim_ext.SGD(0.25, sparse=kind) for _ in range(4)]
        for optimizer in optimizers:
            optimizer.build([variable])
        rows = tf.IndexedSlices(tf.ones([4, 8]), tf.constant([3, 5, 5, 99]), tf.constant([100, 8]))
        dense = tf.ones([100, 8])

        def work(thread):
            for i in range(self.STEPS):
                gradient = rows if (i + thread) % 2 else dense
                optimizers[thread].apply_gradients([(gradient, variable)])

        in_threads(work)
        count = 4 * self.STEPS // 2
        expected = np.full([100, 8], -0.25 * count, np.float32)
        expected[[3, 99]] -= 0.25 * count
        expected[5] -= 0.5 * count
        np.testing.assert_array_equal(variable, expected)

    @pytest.mark.few
    def test_two_optimizers_take_turns(self, entry):
        results = []
        for wrap in (lambda f: f, tf.function):
            variables, first, second = make_variables("tf"), entry.make(), ADAM.make()
            first.build(variables), second.build(variables)

            def step(*gradients, pair=(first, second), variables=variables):
                for optimizer in pair:
                    optimizer.apply_gradients(zip(gradients, variables))

            run = wrap(step)
            for i in range(3):
                run(*map(tf.constant, make_gradients(i)))
            results.append([*variables, *first.variables, *second.variables])
        assert_close(*results, **TOLERANCE)


@functools.cache
def in_own_process(names):
    return outcomes_of("compatibility/own_process.py", *names)


@pytest.mark.parametrize("check", own_process.CHECKS)
def test_own_process(check):
    assert in_own_process(("AdamW", "NovoGrad", "Prodigy"))[check] == "equal"


# With debuggers, all of them would take too long in one process.
@pytest.mark.long
@pytest.mark.parametrize("check", own_process.CHECKS)
@pytest.mark.parametrize("part", range(8))
def test_own_process_of_every_optimizer(part, check):
    assert in_own_process(tuple(registry.BY_NAME)[part::8])[check] == "equal"


@functools.cache
def names_in(path):
    """The tests of a file: "TestClass.test_name" or "test_name"."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        names |= {
            prefix + each.name
            for each in inside
            if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
        }
    return names


class TestTable:
    LINK = re.compile(r"\[`([\w.]+)`\]\((\.\./tests/\w+\.py)\)")

    def named(self):
        return self.LINK.findall(DOCUMENT.read_text())

    def test_every_test_named_exists(self):
        for name, path in self.named():
            assert name in names_in(DOCUMENT.parent / path), (name, path)

    def test_every_row_names_a_test(self):
        rows = [row for row in DOCUMENT.read_text().splitlines() if row.startswith("| ")]
        assert len(rows) > 20
        for row in rows:
            assert self.LINK.search(row) or row.startswith(("| --- ", "| where ")), row

    def test_every_test_here_is_named(self):
        here = {name for name, path in self.named() if path.endswith("/test_compatibility.py")}
        assert here == {n for n in names_in(pathlib.Path(__file__)) if "TestTable" not in n}
