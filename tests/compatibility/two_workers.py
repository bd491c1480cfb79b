"""Checks of `MultiWorkerMirroredStrategy` with two local workers.

Runs from `test_compatibility.py`: `python two_workers.py` starts itself twice, as two workers that
talk over the loopback interface, and prints a JSON object with the outcome of each check. Workers
must have equal bits, and agree with one device that gets the sum of their gradients.
"""

import functools
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback

WORKERS, SECONDS, ROWS = 2, 500, 6
NAMES = (
    "every optimizer",
    "options",
    "eager",
    "sparse exact",
    "sparse lazy",
    "sparse catch_up",
    "fit is refused",
    "saved by one and loaded by the other",
)


def start_workers():
    """Runs the workers, and returns what each of them printed."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(WORKERS)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for index in range(WORKERS):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": addresses}, "task": task}
            command = [sys.executable, __file__, folder]
            environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
            processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            )
        try:
            printed = [process.communicate(timeout=SECONDS)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
    return [json.loads(each.splitlines()[-1]) for each in printed]


def merged(results):
    """The outcome of each check: "equal", or what is wrong."""
    outcome = {}
    for name in NAMES:
        found = [result[name] for result in results]
        errors = [each["error"] for each in found if "error" in each]
        same = len({each.get("digest") for each in found}) == 1
        outcome[name] = "\n".join(errors) or ("equal" if same else "the workers differ")
    return outcome


class Worker:
    """One of the workers, in its process."""

    def __init__(self, folder):
        import tensorflow as tf

        self.folder = folder
        self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
        assert self.strategy.num_replicas_in_sync == WORKERS
        self.index = self.strategy.cluster_resolver.task_id
        self.seen = []

    def compare(self, variables, expected):
        """Compares with one device, and remembers what the other worker must have, too."""
        import numpy as np

        assert len(variables) == len(expected)
        for variable, single in zip(variables, expected):
            value = variable.numpy()
            np.testing.assert_allclose(value, single.numpy(), rtol=2e-5, atol=2e-6)
            self.seen.append(value.tobytes())

    def steps(self, make, eager=False):
        """Takes steps with dense gradients and without the strategy."""
        import common
        import tensorflow as tf

        with self.strategy.scope():
            variables, optimizer = common.make_variables("tf"), make()
            optimizer.build(variables)
        expected, single = common.make_variables("tf"), make()
        gradients = common.make_gradients(0)

        def run(factor):
            self.strategy.run(
                lambda f: optimizer.apply_gradients(
                    [(f * g, v) for g, v in zip(gradients, variables)]
                ),
                args=(factor,),
            )

        run = run if eager else tf.function(run)
        for i in range(4):
            run(tf.constant(1.0 + i + self.index))
            single.apply_gradients([((3.0 + 2 * i) * g, v) for g, v in zip(gradients, expected)])
        assert optimizer.route == single.route
        self.compare([*variables, *optimizer.variables], [*expected, *single.variables])
        return variables, optimizer

    def rows(self, kind):
        """Takes steps with other rows in each worker."""
        import numpy as np
        import tensorflow as tf

        import tf_optim_ext

        def make():
            return tf_optim_ext.AdamW(0.1, weight_decay=0.1, sparse=kind, global_clipnorm=0.5)

        rng = np.random.default_rng(0)
        table = rng.normal(size=(ROWS, 2)).astype("float32")
        indices = np.array([[1, 4, 1], [4, 0, 4]])
        with self.strategy.scope():
            variables, optimizer = [tf.Variable(table), tf.Variable([1.0])], make()
            optimizer.build(variables)
        expected, single = [tf.Variable(table), tf.Variable([1.0])], make()

        @tf.function
        def run(rows, values):
            def step(rows, values):
                slices = tf.IndexedSlices(values, rows, tf.constant([ROWS, 2]))
                optimizer.apply_gradients(zip([slices, tf.constant([0.5])], variables))

            self.strategy.run(step, args=(rows, values))

        for _ in range(4):
            values = rng.normal(size=(2, 3, 2)).astype("float32")
            run(tf.constant(indices[self.index]), tf.constant(values[self.index]))
            both = tf.IndexedSlices(values.reshape(6, 2), tf.constant(indices.reshape(6)))
            single.apply_gradients(zip([both, tf.constant([1.0])], expected))
        self.compare([*variables, *optimizer.variables], [*expected, *single.variables])

    def every_optimizer(self):
        import registry

        for entry in registry.ENTRIES:
            self.steps(entry.make)

    def options(self, eager=False):
        import tf_optim_ext

        arguments = {"gradient_accumulation_steps": 2, "use_ema": True, "clipnorm": 0.5}
        self.steps(functools.partial(tf_optim_ext.Adam, 0.1, **arguments), eager)

    def fit(self):
        """`fit` of Keras 3.15 does not take this strategy, whatever the optimizer."""
        import keras
        import numpy as np
        import pytest

        import tf_optim_ext

        x, y = np.ones((16, 3), "float32"), np.ones((16, 1), "float32")
        for optimizers in (keras.optimizers, tf_optim_ext):
            with self.strategy.scope():
                model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
                model.compile(optimizers.SGD(0.1), "mse")
                with pytest.raises(ValueError, match=r"unsupported type.*PerReplica"):
                    model.fit(x, y, verbose=0)

    def save_and_load(self):
        import tensorflow as tf

        import tf_optim_ext

        def make():
            return tf_optim_ext.AdamW(0.1)

        def checkpoint(variables, optimizer):
            return tf.train.Checkpoint(optimizer=optimizer, weights=variables)

        variables, optimizer = self.steps(make)
        checkpoint(variables, optimizer).write(f"{self.folder}/{self.index}")
        self.barrier()
        with self.strategy.scope():
            restored, other = [tf.Variable(tf.zeros_like(v)) for v in variables], make()
            status = checkpoint(restored, other).read(f"{self.folder}/{1 - self.index}")
            other.build(restored)
        status.assert_consumed()
        self.compare([*restored, *other.variables], [*variables, *optimizer.variables])

    def barrier(self):
        """Waits for the other worker: a sum over both cannot be known before."""
        import tensorflow as tf

        def replica():
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(1.0))

        assert float(tf.function(lambda: self.strategy.run(replica))()) == WORKERS

    def work(self):
        checks = (
            self.every_optimizer,
            self.options,
            functools.partial(self.options, eager=True),
            functools.partial(self.rows, "exact"),
            functools.partial(self.rows, "lazy"),
            functools.partial(self.rows, "catch_up"),
            self.fit,
            self.save_and_load,
        )
        outcome = {}
        for name, check in zip(NAMES, checks, strict=True):
            self.seen.clear()
            try:
                check()
                outcome[name] = {"digest": hashlib.sha256(b"".join(self.seen)).hexdigest()}
            except Exception:
                outcome[name] = {"error": traceback.format_exc()}
        # Whoever leaves first would be missed.
        self.barrier()
        print(json.dumps(outcome))


def main():
    if len(sys.argv) > 1:
        Worker(sys.argv[1]).work()
    else:
        print(json.dumps(merged(start_workers())))


if __name__ == "__main__":
    main()
