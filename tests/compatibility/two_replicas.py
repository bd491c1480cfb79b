"""Checks of single optimizers under `MirroredStrategy`: two replicas against one device.

Runs in a process of its own, from `test_compatibility.py`: `python two_replicas.py NAME...` prints
a JSON object with the outcomes of all checks of these optimizers of the registry. Gradients are
small multiples of powers of two, whose sum over replicas is exact: one device must have the same
bits.
"""

import functools
import sys
import tempfile

import common
import numpy as np
import registry
import tensorflow as tf
import two_devices

import tf_optim_ext
from tf_optim_ext import _keras

STEPS = 3
# What the replicas multiply the gradient by, in sum.
SUM = 1.0 + 2.0


class Training:
    """Variables and their optimizer, under a strategy or without."""

    def __init__(self, make, strategy=None, dtype="float32", wrap=lambda step: step):
        self.strategy = strategy or tf.distribute.get_strategy()
        self.factor = tf.constant(1.0 if strategy else SUM)
        with self.strategy.scope():
            self.variables, self.optimizer = common.make_variables("tf", dtype=dtype), make()
            self.optimizer.build(self.variables)
        self.step = wrap(lambda *gradients: self.strategy.run(self.replica, gradients))

    def replica(self, *gradients):
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        factor = self.factor * tf.cast(1 + index, tf.float32)
        self.optimizer.apply_gradients(zip([factor * g for g in gradients], self.variables))

    @staticmethod
    def gradients(step):
        rng = np.random.default_rng(step)
        return [tf.constant(rng.integers(-16, 16, s) / 16, tf.float32) for s in common.SHAPES]

    def train(self, first=0, steps=STEPS):
        for i in range(first, first + steps):
            self.step(*self.gradients(i))

    def count(self, op):
        """How often a step has an op."""
        graph = self.step.get_concrete_function(*self.gradients(0)).graph.as_graph_def()
        functions = (node for f in graph.library.function for node in f.node_def)
        return [node.op for node in (*graph.node, *functions)].count(op)

    def everything(self):
        """Weights and state of each replica."""
        values = [*self.variables, *map(_keras.tensorflow_variable, self.optimizer.variables)]
        local = [self.strategy.experimental_local_results(value) for value in values]
        return [common.arrays(of_replica) for of_replica in zip(*local, strict=True)]


def check_same(mirrored, single):
    replicas, (expected,) = mirrored.everything(), single.everything()
    assert len(replicas) == 2, "the variables are not mirrored"
    assert common.same(*replicas), "the replicas differ"
    if not tf_optim_ext.native.why_not():
        assert common.same(replicas[0], expected), "one device has other bits"
    common.assert_close(replicas[0], expected, rtol=2e-5, atol=2e-6)


def steps(strategy, entry):
    """Also the order: clipping by the global norm before the sum would give twice the norm."""
    make = functools.partial(entry.make, global_clipnorm=0.5)
    mirrored, single = (Training(make, s, wrap=tf.function) for s in (strategy, None))
    for each in (mirrored, single):
        each.train()
    check_same(mirrored, single)
    assert mirrored.optimizer.route == single.optimizer.route
    is_native = mirrored.optimizer.route.is_native
    assert mirrored.count("TfOptimExtStep") == (2 if is_native else 0)


def summed_gradients(strategy, entry):
    """Without clipping, which would hide a wrong factor; eagerly."""
    mirrored, single = Training(entry.make, strategy), Training(entry.make)
    for each in (mirrored, single):
        each.train()
    check_same(mirrored, single)


def checkpoint(source, target, folder):
    path = tf.train.Checkpoint(o=source.optimizer, v=source.variables).write(f"{folder}/checkpoint")
    tf.train.Checkpoint(o=target.optimizer, v=target.variables).read(path).assert_consumed()


def store(source, target, _folder):
    """What `.keras` and `.weights.h5` files hold."""
    state = {}
    source.optimizer.save_own_variables(state)
    target.optimizer.load_own_variables(state)
    for variable, value in zip(target.variables, common.arrays(source.variables)):
        variable.assign(value)


def saving(strategy, entry):
    sources = {strategy: Training(entry.make, strategy), None: Training(entry.make)}
    for source in sources.values():
        source.train()
    targets = {}
    for first, second in ((strategy, None), (None, strategy)):
        targets[second] = [Training(entry.make, second) for _ in range(2)]
        for save, target in zip((checkpoint, store), targets[second]):
            with tempfile.TemporaryDirectory() as folder:
                save(sources[first], target, folder)
    for each in (*sources.values(), *targets[strategy], *targets[None]):
        each.train(STEPS, 1)
    for target in targets[strategy]:
        check_same(target, sources[None])
    for target in targets[None]:
        check_same(sources[strategy], target)


def stochastic_rounding(strategy, entry):
    make = functools.partial(entry.make, stochastic_rounding=True)
    mirrored, single = (Training(make, s, "bfloat16") for s in (strategy, None))
    nearest = Training(entry.make, None, "bfloat16")
    for each in (mirrored, single, nearest):
        each.train()
    check_same(mirrored, single)
    pairs = zip(common.arrays(single.variables), common.arrays(nearest.variables))
    assert any(np.any(a != b) for a, b in pairs), "all was rounded to the nearest"


CHECKS = {
    "steps": steps,
    "summed gradients": summed_gradients,
    "saving": saving,
    "stochastic rounding": stochastic_rounding,
}


def main():
    checks = {
        f"{name}: {title}": functools.partial(check, entry=registry.BY_NAME[name])
        for name in sys.argv[1:]
        for title, check in CHECKS.items()
    }
    common.print_outcomes(checks, two_devices.start())


if __name__ == "__main__":
    main()
