"""Checks of `ParameterServerStrategy` with a local worker and a local parameter server.

Runs from `test_compatibility.py`: `python parameter_servers.py` starts the two servers, which know
nothing of this package, coordinates them over the loopback interface, and prints a JSON object with
the outcome of each check. Trained variables and state must agree with those of one device.
"""

import functools
import json
import socket
import subprocess
import sys
import tempfile

import common
import numpy as np
import pytest
import registry
import tensorflow as tf
from generation import keras

import tf_optim_ext

JOBS, ROWS, STEPS = ("worker", "ps"), 6, 4
OPTIMIZERS = registry.REPRESENTATIVE
# One server is one Python process that waits for requests; it ends with its input.
SERVER = """
import json, sys
import tensorflow as tf
cluster, job = json.loads(sys.argv[1]), sys.argv[2]
server = tf.distribute.Server(cluster, job_name=job, task_index=0, protocol="grpc")
print("started", flush=True)
sys.stdin.read()
"""


def start_servers():
    """Starts the servers; returns the strategy's cluster and their processes."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in JOBS]
    cluster = {
        job: [f"127.0.0.1:{s.getsockname()[1]}"] for job, s in zip(JOBS, sockets, strict=True)
    }
    for s in sockets:
        s.close()
    processes = []
    for job in JOBS:
        command = [sys.executable, "-c", SERVER, json.dumps(cluster), job]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
    return cluster, processes


class Coordinator:
    """This process, which gives work to the others."""

    def __init__(self, cluster):
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster), rpc_layer="grpc"
        )
        self.strategy = tf.distribute.ParameterServerStrategy(resolver)
        self.work = tf.distribute.coordinator.ClusterCoordinator(self.strategy)

    def make(self, values, make):
        """Variables on the server, and an optimizer for them."""
        with self.strategy.scope():
            variables = [tf.Variable(v) for v in values]
            optimizer = make()
            optimizer.build(variables)
        assert "/job:ps/" in variables[0].device
        return variables, optimizer

    def steps(self, optimizer, variables, gradients_of):
        """Takes steps on the worker, one after the other."""

        @tf.function
        def run(i):
            def replica(i):
                optimizer.apply_gradients(zip(gradients_of(i, variables), variables))

            self.strategy.run(replica, args=(i,))

        for i in range(STEPS):
            self.work.schedule(run, args=(tf.constant(float(i)),))
            self.work.join()

    def compare(self, values, make, gradients_of, takes=None):
        """Trains on the servers and on one device; returns both optimizers."""
        variables, optimizer = self.make(values, make)
        (takes or self.steps)(optimizer, variables, gradients_of)
        expected, single = [tf.Variable(v) for v in values], make()
        for i in range(STEPS):
            gradients = gradients_of(tf.constant(float(i)), expected)
            single.apply_gradients(zip(gradients, expected))
        assert str(optimizer.route) == f"tensorflow: weights on {variables[0].device}"
        assert single.route.is_native or tf_optim_ext.native.why_not()
        assert int(np.asarray(optimizer.iterations)) == int(np.asarray(single.iterations)) > 0
        common.assert_close(
            [v.numpy() for v in variables], [v.numpy() for v in expected], 2e-5, 2e-6
        )
        common.assert_close(
            [v.numpy() for v in optimizer.variables],
            [v.numpy() for v in single.variables],
            2e-5,
            2e-6,
        )
        return (optimizer, variables), (single, expected)


def dense_gradients(i, variables):
    return [
        (1.0 + i) * tf.constant(g) + 0.1 * v for g, v in zip(common.make_gradients(0), variables)
    ]


def rows_gradients(i, variables):
    table, bias = variables
    values = (1.0 + i) * tf.gather(tf.convert_to_tensor(table), [1, 4, 1]) + 0.5
    return [tf.IndexedSlices(values, tf.constant([1, 4, 1]), tf.constant([ROWS, 2])), bias * 0.5]


def dense_values():
    return [v.numpy() for v in common.make_variables("tf")]


def check_optimizer(coordinator, name):
    coordinator.compare(dense_values(), registry.BY_NAME[name].make, dense_gradients)


def check_options(coordinator):
    for option in ("clipnorm", "global_clipnorm"):
        arguments = {"weight_decay": 0.1, "gradient_accumulation_steps": 2, "use_ema": True}
        make = functools.partial(tf_optim_ext.AdamW, 0.1, **arguments, **{option: 0.5})
        coordinator.compare(dense_values(), make, dense_gradients)


def check_schedule(coordinator):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    coordinator.compare(
        dense_values(), functools.partial(tf_optim_ext.AdamW, schedule), dense_gradients
    )


def check_rows(coordinator, kind):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(ROWS, 2)).astype("float32"), np.ones(1, "float32")]
    make = functools.partial(
        tf_optim_ext.AdamW, 0.1, weight_decay=0.1, sparse=kind, global_clipnorm=0.5
    )
    coordinator.compare(values, make, rows_gradients)


def check_schedule_free(coordinator):
    (optimizer, variables), (single, expected) = coordinator.compare(
        dense_values(), functools.partial(tf_optim_ext.ScheduleFreeAdamW, 0.1), dense_gradients
    )
    with optimizer.averaged_weights(), single.averaged_weights():
        averages = [v.numpy() for v in variables]
        common.assert_close(averages, [v.numpy() for v in expected], 2e-5, 2e-6)
    assert not np.allclose(averages[0], variables[0].numpy())
    optimizer.use_averaged_weights()
    common.assert_close([v.numpy() for v in variables], averages)
    optimizer.use_training_weights()
    coordinator.steps(optimizer, variables, dense_gradients)


def check_eager_steps(coordinator):
    """Steps that the coordinator itself takes."""

    def steps(optimizer, variables, gradients_of):
        for i in range(STEPS):
            gradients = gradients_of(tf.constant(float(i)), variables)
            optimizer.apply_gradients(zip(gradients, variables))

    make = functools.partial(tf_optim_ext.AdamW, 0.1, clipnorm=0.5)
    coordinator.compare(dense_values(), make, dense_gradients, steps)


def check_weights_here(coordinator):
    """Weights of the coordinator itself are still updated natively."""
    if tf_optim_ext.native.why_not():
        return
    variable, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.SGD(0.5, clipnorm=10.0)
    optimizer.apply_gradients([(tf.ones(2), variable)])
    np.testing.assert_array_equal(variable, [0.5, 1.5])
    assert "/job:chief/" in variable.device
    assert optimizer.route.is_native


def check_checkpoint(coordinator):
    make = functools.partial(tf_optim_ext.AdamW, 0.1)
    variables, optimizer = coordinator.make(dense_values(), make)
    coordinator.steps(optimizer, variables, dense_gradients)
    expected, single = [tf.Variable(tf.zeros(v.shape)) for v in variables], make()
    single.build(expected)
    with tempfile.TemporaryDirectory() as folder:
        saved = tf.train.Checkpoint(optimizer=optimizer, weights=variables)
        path = saved.write(f"{folder}/checkpoint")
        tf.train.Checkpoint(optimizer=single, weights=expected).read(path).assert_consumed()
    common.assert_close(
        [v.numpy() for v in single.variables], [v.numpy() for v in optimizer.variables]
    )


def check_fit(coordinator):
    """`fit` of Keras 3.15 does not take this strategy, whatever the optimizer."""
    x, y = np.ones((16, 3), "float32"), np.ones((16, 1), "float32")
    for optimizers in (keras.optimizers, tf_optim_ext):
        with coordinator.strategy.scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            model.compile(optimizers.SGD(0.1), "mse")
        with pytest.raises(ValueError, match="create_per_worker_dataset"):
            model.fit(x, y, verbose=0)


CHECKS = {
    **{name: functools.partial(check_optimizer, name=name) for name in OPTIMIZERS},
    "options": check_options,
    "schedule": check_schedule,
    **{f"sparse {k}": functools.partial(check_rows, kind=k) for k in ("exact", "lazy", "catch_up")},
    "schedule-free": check_schedule_free,
    "eager steps": check_eager_steps,
    "weights of the coordinator": check_weights_here,
    "checkpoint": check_checkpoint,
    "fit is refused": check_fit,
}
NAMES = tuple(CHECKS)


def main():
    cluster, processes = start_servers()
    try:
        for process in processes:
            assert process.stdout.readline() == "started\n"
        common.print_outcomes(CHECKS, Coordinator(cluster))
        sys.stdout.flush()
    finally:
        for process in processes:
            process.kill()


if __name__ == "__main__":
    main()
