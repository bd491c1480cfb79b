"""Where weights are decides which ops compute their norms, sum their rows and update them.

No accelerator and no cluster is needed: weights only say that they are there.
"""

import types

import numpy as np
import pytest
import tensorflow as tf
from common import arrays, assert_close

import tf_optim_ext
from tf_optim_ext import _keras
from tf_optim_ext.backends import native
from tf_optim_ext.backends import tensorflow as tensorflow_lowering
from tf_optim_ext.engine import clipping, sparse, targets

HERE = "/job:localhost/replica:0/task:0/device:CPU:0"
GPU = "/job:localhost/replica:0/task:0/device:GPU:0"
LOCAL = ("", "/device:CPU:0", "CPU:0", HERE, "/job:localhost/task:0/device:CPU:3")
ELSEWHERE = (
    GPU,
    "/GPU:1",
    "/job:localhost/replica:0/task:0/device:TPU:0",
    "/job:ps/replica:0/task:0/device:CPU:0",
    "/job:localhost/replica:0/task:1/device:CPU:0",
    "/job:localhost/replica:1/task:0/device:CPU:0",
)


def weights_on(device, dtype=tf.float32):
    return types.SimpleNamespace(device=device, dtype=dtype)


def native_ops(step):
    """Types of the ops of this package in a traced step, with those of functions it calls."""
    graph = tf.function(step).get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return {node.op for node in nodes if node.op.startswith("TfOptimExt")}


class TestObstacle:
    @pytest.mark.parametrize("device", LOCAL)
    def test_weights_in_the_memory_of_this_process(self, device):
        assert targets.elsewhere(device) is None
        assert targets.obstacle(weights_on(device)) is None
        assert targets.obstacle(weights_on(device, tf.float64)) == "weights of dtype float64"

    @pytest.mark.parametrize("device", ELSEWHERE)
    def test_weights_that_are_not(self, device):
        assert targets.elsewhere(device) == f"weights on {device}"
        assert targets.obstacle(weights_on(device)) == f"weights on {device}"

    @pytest.mark.parametrize(
        "task", ["/job:worker/replica:0/task:1", "/job:chief/replica:0/task:0"]
    )
    def test_in_a_cluster(self, task, monkeypatch):
        monkeypatch.setattr(_keras, "local_task", lambda: task)
        assert targets.elsewhere(f"{task}/device:CPU:0") is None
        assert targets.elsewhere(HERE) == f"weights on {HERE}"
        other = task.replace("task:0", "task:2").replace("task:1", "task:0")
        assert targets.elsewhere(f"{other}/device:CPU:0") == f"weights on {other}/device:CPU:0"

    def test_the_name_of_this_process(self):
        assert tf.Variable(1.0).device == f"{_keras.local_task()}/device:CPU:0"

    def test_only_own_gpus_are_compiled_for(self):
        for device, expected in (
            (GPU, True),
            (HERE, False),
            ("/job:ps/task:0/device:GPU:0", False),
        ):
            on = targets.Targets([weights_on(device)], [], [], [], [], False)
            assert on.are_on_gpus is expected


@pytest.mark.usefixtures("native_only")
class TestNorms:
    @pytest.fixture
    def computed(self, monkeypatch):
        """What each lowering was asked for, and where: pairs of a device and values."""
        found = {"native": [], "tensorflow": []}
        # Where there is no such device, its ops run on a CPU.
        monkeypatch.setattr(tf, "device", lambda name: _Note(devices, name))
        devices = []
        for name, lowering in (("native", native), ("tensorflow", tensorflow_lowering)):
            original = lowering.squared_norms

            def squared_norms(gradients, name=name, original=original):
                place = devices[-1] if devices else None
                found[name].append((place, [float(g[0]) for g in gradients]))
                return original(gradients)

            monkeypatch.setattr(lowering, "squared_norms", squared_norms)
        return found

    def norms(self, devices):
        gradients = [tf.constant([i + 1.0]) for i in range(len(devices))]
        norms = clipping.squared_norms(gradients, [weights_on(d) for d in devices])
        np.testing.assert_array_equal(norms, [(i + 1.0) ** 2 for i in range(len(devices))])

    def test_on_a_cpu(self, computed):
        self.norms([HERE, HERE])
        assert computed == {"native": [(None, [1.0, 2.0])], "tensorflow": []}

    @pytest.mark.parametrize("device", ELSEWHERE)
    def test_elsewhere(self, device, computed):
        self.norms([device, device])
        assert computed == {"native": [], "tensorflow": [(device, [1.0, 2.0])]}

    def test_of_all_kinds(self, computed):
        self.norms([GPU, HERE, ELSEWHERE[3], HERE, GPU])
        assert computed["native"] == [(None, [2.0, 4.0])]
        assert computed["tensorflow"] == [(GPU, [1.0, 5.0]), (ELSEWHERE[3], [3.0])]

    def test_inside_portable_nothing_is_placed(self, computed):
        with tf_optim_ext.portable():
            self.norms([GPU, HERE])
        assert computed == {"native": [], "tensorflow": [(None, [1.0, 2.0])]}


class _Note:
    """In the place of `tf.device`: remembers where."""

    def __init__(self, devices, name):
        self.devices, self.name = devices, name

    def __enter__(self):
        self.devices.append(self.name)

    def __exit__(self, *_):
        self.devices.pop()


@pytest.mark.usefixtures("native_only")
class TestStep:
    """No part of a step is an op of this package where the weights are elsewhere."""

    @pytest.fixture
    def pretended(self, monkeypatch):
        monkeypatch.setattr(targets, "elsewhere", lambda device: f"weights on {device}")

    def step(self, option, kind):
        table, bias = tf.Variable(tf.ones([4, 3])), tf.Variable(tf.ones(3))
        optimizer = tf_optim_ext.AdamW(
            0.1, sparse=kind, use_ema=True, gradient_accumulation_steps=2, **{option: 0.5}
        )
        optimizer.build([table, bias])

        def step():
            rows = tf.IndexedSlices(tf.ones([3, 3]), tf.constant([2, 0, 2]))
            optimizer.apply([rows, tf.constant([1.0, -2.0, 0.5])], [table, bias])

        return step, lambda: arrays([table, bias, *optimizer.variables])

    @pytest.mark.parametrize(
        ("kind", "option"),
        [
            ("exact", "clipnorm"),
            ("lazy", "global_clipnorm"),
            ("catch_up", "clipnorm"),
            pytest.param("exact", "global_clipnorm", marks=pytest.mark.long),
            pytest.param("lazy", "clipnorm", marks=pytest.mark.long),
            pytest.param("catch_up", "global_clipnorm", marks=pytest.mark.long),
        ],
    )
    def test_ops_of_a_graph(self, option, kind, pretended, monkeypatch):
        step, state = self.step(option, kind)
        assert native_ops(step) == set()
        function = tf.function(step)
        for _ in range(4):
            function()
        actual = state()
        monkeypatch.undo()
        step, state = self.step(option, kind)
        beside = {"TfOptimExtSquaredNorms", "TfOptimExtSumRows"}
        steps = {"TfOptimExtStep", "TfOptimExtFusedStep"}
        assert beside <= native_ops(step) <= {*beside, *steps}
        assert native_ops(step) & steps
        for _ in range(4):
            step()
        assert_close(actual, state())

    def test_sums_of_rows(self, pretended, monkeypatch):
        table = tf.Variable(tf.zeros([4, 2]))
        slices = tf.IndexedSlices(tf.ones([3, 2]), tf.constant([2, 0, 2]))
        monkeypatch.setattr(native, "sum_rows", None)
        prepared = sparse.prepared(slices, table, True)
        assert_close(sparse.all_dense([prepared], [table]), [[[1, 1], [0, 0], [2, 2], [0, 0]]])
