"""Checks of `MirroredStrategy` on two logical CPUs.

A process can have two logical CPUs only if it asks for them before TensorFlow starts; so this runs
in a process of its own, from `test_keras.py`: `python tests/two_devices.py` prints a JSON object
with the outcome of each check. Replicas must be equal to each other, and to a single device that
gets the sum of their gradients.
"""

import copy
import functools
import itertools
import sys
import tempfile

import common
import numpy as np
import pytest
import registry
import tensorflow as tf
from generation import FIRST_SLOT, keras

import tf_optim_ext
from tf_optim_ext import _keras

FRAMES = {
    "clipnorm": {"clipnorm": 0.5},
    "overwriting average": {
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 2,
    },
    "average and accumulation": {
        "gradient_accumulation_steps": 2,
        "use_ema": True,
        "ema_overwrite_frequency": 2,
    },
}
ADAM = registry.BY_NAME["Adam"]


def start():
    """The strategy. Ends the possibility to configure devices."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    return strategy


def check_equal(strategy, variables, expected, what):
    for variable, single in zip(variables, expected, strict=True):
        value = _keras.tensorflow_variable(variable)
        first, second = (v.numpy() for v in strategy.experimental_local_results(value))
        assert first.tobytes() == second.tobytes(), f"{what}: the replicas differ"
        np.testing.assert_allclose(first, single.numpy(), rtol=2e-5, atol=2e-6, err_msg=what)


def compare(
    strategy,
    make,
    what,
    kind="keras",
    eager=False,
    constraint=None,
    change=lambda optimizer, i: None,
):
    """Takes four steps with a strategy and without; before each, `change` gets the optimizers."""
    with strategy.scope():
        variables, optimizer = common.make_variables(kind), make()
    expected, single = common.make_variables(kind), make()
    for variable in [*variables, *expected] if constraint else []:
        variable.constraint = constraint
    gradients = common.make_gradients(0)

    def step(factor):
        optimizer.apply_gradients([(factor * g, v) for g, v in zip(gradients, variables)])

    def run(factors):
        strategy.run(step, args=(factors,))

    run = run if eager else tf.function(run)
    for i in range(4):
        factors = strategy.experimental_distribute_values_from_function(
            lambda context, i=i: tf.constant(float(1 + i + context.replica_id_in_sync_group))
        )
        change(optimizer, i)
        change(single, i)
        run(factors)
        single.apply_gradients([((3.0 + 2 * i) * g, v) for g, v in zip(gradients, expected)])
    check_equal(strategy, variables, expected, what)
    check_equal(strategy, optimizer.variables[FIRST_SLOT:], single.variables[FIRST_SLOT:], what)
    assert optimizer._iterations.numpy() == 4, what
    assert optimizer.route == single.route, what
    assert common.same(optimizer.get_weights()[:FIRST_SLOT], single.get_weights()[:FIRST_SLOT]), (
        what
    )


def kinds_of_variables(strategy):
    for kind in common.KINDS:
        compare(strategy, ADAM.make, kind, kind)


def options(strategy):
    for what, arguments in FRAMES.items():
        compare(strategy, functools.partial(ADAM.make, **arguments), what)


def eager(strategy):
    what = "average and accumulation"
    compare(strategy, functools.partial(ADAM.make, **FRAMES[what]), what, eager=True)


def without_strategy(strategy):
    # The number of steps and the learning rate are on the first device.
    def trained(places):
        variables = []
        for i, place in enumerate(places):
            with tf.device(f"CPU:{place}"):
                variables.append(tf.Variable(tf.range(2.0 + i)))
        optimizer = ADAM.make()
        for step in range(3):
            gradients = [tf.cos(v + step) for v in variables]
            optimizer.apply_gradients(zip(gradients, variables))
        for v, place in zip(variables, places):
            assert v.device.endswith(f"CPU:{place}")
            for name in optimizer.get_slot_names():
                slot = optimizer.get_slot(v, name)
                assert _keras.tensorflow_variable(slot).device == v.device
        return optimizer, [v.numpy() for v in variables]

    single, expected = trained([0, 0, 0])
    for places in ([1, 1, 1], [0, 1, 0], [1, 0, 1]):
        optimizer, found = trained(places)
        assert optimizer.route == single.route
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=f"{places}")


def constraints(strategy):
    # With accumulation, they are applied in a branch of `tf.cond`.
    for arguments in ({}, {"gradient_accumulation_steps": 2}):
        make = functools.partial(ADAM.make, learning_rate=1.0, **arguments)
        compare(strategy, make, f"{arguments}", constraint=keras.constraints.NonNeg())


def portable(strategy):
    def make():
        return ADAM.make(use_ema=True, gradient_accumulation_steps=2)

    with tf_optim_ext.portable():
        compare(strategy, make, "portable")


def fit(strategy):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 3)).astype("float32"), rng.normal(size=(16, 1)).astype("float32")

    def trained(optimizer):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(optimizer, "mse")
        model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        return model

    arguments = {
        "use_ema": True,
        "ema_overwrite_frequency": 2,
        "gradient_accumulation_steps": 2,
        "global_clipnorm": 0.1,
    }
    with strategy.scope():
        model = trained(ADAM.make(**arguments))
    expected = trained(ADAM.make(**arguments))
    check_equal(strategy, model.variables, expected.variables, "fit")
    assert model.optimizer._iterations.numpy() == 6


def late_fit(strategy, names=("Prodigy",)):
    """A model that is built in its first step, by optimizers whose slots start from the weights."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")

    def trained(entry):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
        model.compile(entry.make(use_ema=entry.name == "Adan"), "mse")
        model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        return model

    for name in names:
        with strategy.scope():
            model = trained(registry.BY_NAME[name])
        expected = trained(registry.BY_NAME[name])
        check_equal(strategy, model.variables, expected.variables, name)
        assert model.optimizer._iterations.numpy() == 3


def global_norm(strategy):
    """Of the summed gradients; Keras clips those of each replica before they are summed."""

    def moved(make):
        with strategy.scope():
            variable, optimizer = tf.Variable([0.0, 0.0]), make(1.0, global_clipnorm=1.0)

        def step(gradient):
            optimizer.apply_gradients([(gradient, variable)])

        gradients = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                [[30.0, 0.0], [0.0, 40.0]][context.replica_id_in_sync_group]
            )
        )
        tf.function(lambda g: strategy.run(step, args=(g,)))(gradients)
        return -variable.numpy()

    np.testing.assert_allclose(moved(tf_optim_ext.SGD), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(moved(keras.optimizers.SGD), [1.0, 1.0], rtol=1e-6)


def norms_of_large_gradients(strategy):
    """Their squares are no float32; of the sum of the replicas' gradients, dense and sparse."""
    for option in ("clipnorm", "global_clipnorm"):
        for dtype in ("float32", "float64"):
            with strategy.scope():
                table, bias = (tf.Variable(tf.zeros(s, dtype)) for s in ([3, 2], [2]))
                optimizer = tf_optim_ext.SGD(1.0, sparse="lazy", **{option: 1.0})
                optimizer.build([table, bias])
            values = tf.constant([[3e29, 0.0], [0.0, 2e29]], dtype)

            @tf.function
            def step(values=values, optimizer=optimizer, table=table, bias=bias):
                def replica():
                    rows = tf.IndexedSlices(values, tf.constant([1, 1]), tf.constant([3, 2]))
                    optimizer.apply_gradients([(rows, table), (values[0], bias)])

                strategy.run(replica)

            step()
            gradients = [np.array([[0, 0], [6e29, 4e29], [0, 0]]), np.array([6e29, 0])]
            norms = [np.linalg.norm(g) for g in gradients]
            norms = [np.linalg.norm(norms)] * 2 if option == "global_clipnorm" else norms
            expected = [tf.constant(-g / n, dtype) for g, n in zip(gradients, norms, strict=True)]
            check_equal(strategy, [table, bias], expected, f"{option} {dtype}")


def sparse_and_checkpoint(strategy):
    with strategy.scope():
        variable, optimizer = tf.Variable(tf.ones((4, 2))), ADAM.make()
    expected, single = tf.Variable(tf.ones((4, 2))), ADAM.make()

    @tf.function
    def step():
        def replica():
            last = 1 + 2 * tf.distribute.get_replica_context().replica_id_in_sync_group
            rows = tf.stack([1, last])
            slices = tf.IndexedSlices(tf.ones((2, 2)), rows, tf.constant([4, 2]))
            optimizer.apply_gradients([(slices, variable)])

        strategy.run(replica)

    for _ in range(2):
        step()
        both = tf.IndexedSlices(tf.ones((4, 2)), tf.constant([1, 1, 1, 3]))
        single.apply_gradients([(both, expected)])
    check_equal(strategy, [variable], [expected], "sparse")

    with tempfile.TemporaryDirectory() as folder:
        path = tf.train.Checkpoint(o=optimizer, v=variable).save(f"{folder}/ckpt")
        with strategy.scope():
            restored, other = tf.Variable(tf.zeros((4, 2))), ADAM.make()
            status = tf.train.Checkpoint(o=other, v=restored).restore(path)
            other.build([restored])
        status.assert_consumed()
        with strategy.scope():
            unbuilt, early = tf.Variable(tf.zeros((4, 2))), ADAM.make()
        # Out of its scope, and before the slots are built.
        tf.train.Checkpoint(o=early, v=unbuilt).restore(path).assert_consumed()
    slots = [early.get_slot(unbuilt, name) for name in ("momentum", "velocity")]
    check_equal(strategy, slots, single.variables[FIRST_SLOT:], "restored early")
    check_equal(strategy, [restored], [expected], "restored")
    check_equal(strategy, other.variables[FIRST_SLOT:], single.variables[FIRST_SLOT:], "restored")
    assert common.same(other.get_weights(), single.get_weights())


def sparse_of_all_kinds(strategy):
    """Replicas whose gradients have different rows, with all that surrounds the rule."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 2)).astype("float32")
    indices = np.array([[1, 4, 1], [4, 0, 4]])
    steps = [rng.normal(size=(2, 3, 2)).astype("float32") for _ in range(4)]
    arguments = {"weight_decay": 0.1, "use_ema": True, "global_clipnorm": 0.5}
    for kind, count, eagerly in (
        ("exact", None, False),
        ("lazy", None, False),
        ("lazy", None, True),
        ("lazy", 2, False),
        ("catch_up", None, False),
        ("catch_up", 2, False),
    ):
        what = f"{kind}, {count}, {eagerly}"
        make = functools.partial(
            tf_optim_ext.AdamW, 0.1, sparse=kind, gradient_accumulation_steps=count, **arguments
        )
        with strategy.scope():
            variables, optimizer = [tf.Variable(table), tf.Variable([1.0])], make()
            optimizer.build(variables)
        expected, single = [tf.Variable(table), tf.Variable([1.0])], make()

        def replica(i, v, optimizer=optimizer, variables=variables):
            slices = tf.IndexedSlices(v, i, tf.constant([6, 2]))
            optimizer.apply_gradients(zip([slices, tf.constant([0.5])], variables))

        def run(i, v, replica=replica):
            strategy.run(replica, args=(i, v))

        run = run if eagerly else tf.function(run)
        for values in steps:
            run(
                *(
                    strategy.experimental_distribute_values_from_function(
                        lambda context, x=x: tf.constant(x[context.replica_id_in_sync_group])
                    )
                    for x in (indices, values)
                )
            )
            both = tf.IndexedSlices(values.reshape(6, 2), tf.constant(indices.reshape(6)))
            single.apply_gradients(zip([both, tf.constant([1.0])], expected))
        check_equal(strategy, variables, expected, what)
        check_equal(strategy, optimizer.variables[FIRST_SLOT:], single.variables[FIRST_SLOT:], what)


def sparse_in_fit(strategy):
    ids = np.random.default_rng(0).integers(0, 20, size=(16, 3))

    def trained(optimizer):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((3,)), keras.layers.Embedding(20, 2), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(optimizer, "mse")
        model.fit(ids, np.ones((16, 3, 1)), batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model

    for kind in ("exact", "lazy", "catch_up"):
        with strategy.scope():
            model = trained(tf_optim_ext.Adam(0.1, sparse=kind))
        expected = trained(tf_optim_ext.Adam(0.1, sparse=kind))
        check_equal(strategy, model.variables, expected.variables, kind)


def copies(strategy):
    """The state of a copy is restored by its first step, in the replicas."""
    with strategy.scope():
        variables, original = common.make_variables(), ADAM.make()
    expected, single = common.make_variables(), ADAM.make()
    gradients = common.make_gradients(0)

    def two_steps(optimizer):
        def step():
            optimizer.apply_gradients(zip(gradients, variables))

        run = tf.function(lambda: strategy.run(step))
        for _ in range(2):
            run()
            single.apply_gradients([(2 * g, v) for g, v in zip(gradients, expected)])

    two_steps(original)
    with strategy.scope():
        clone = copy.deepcopy(original)
    two_steps(clone)
    check_equal(strategy, variables, expected, "copy")
    check_equal(strategy, clone.variables[FIRST_SLOT:], single.variables[FIRST_SLOT:], "copy")
    assert clone.iterations.numpy() == 4


def hyperparameters(strategy):
    def change(optimizer, step):
        if step:
            optimizer.beta_1, optimizer.weight_decay = 0.2 * step, 0.1 * step

    for what in (False, True):
        make = functools.partial(ADAM.make, weight_decay=0.0)
        compare(strategy, make, f"eager: {what}", eager=what, change=change)


def selected_weight_decay(strategy):
    """The replicas run in threads, of which each makes the call with its argument."""
    extend = tf_optim_ext.extend_with_decoupled_weight_decay
    for cls in (tf_optim_ext.SGDW, extend(tf_optim_ext.SGD), extend(keras.optimizers.SGD)):
        with strategy.scope():
            variables = [tf.Variable(1.0, name=name) for name in ("kernel", "bias")]
            optimizer = cls(0.5, learning_rate=0.1, exclude_from_weight_decay=["bias"])
            optimizer.build(variables)

        def step(decayed, optimizer=optimizer, variables=variables):
            pairs = [(tf.constant(0.0), v) for v in variables]
            if decayed is None:
                optimizer.apply_gradients(pairs)
            else:
                optimizer.apply_gradients(pairs, decay_var_list=decayed)

        for decayed in ([variables[1]], None, variables):
            for run in (strategy.run, tf.function(strategy.run)):
                run(step, args=(decayed,))
        found = [v.numpy() for v in variables]
        np.testing.assert_allclose(found, [0.5**4, 0.5**4], err_msg=cls.__name__)
        check_equal(strategy, variables, variables, cls.__name__)


def summed_by_the_caller(strategy):
    """Gradients that are summed already are not summed again."""

    def all_reduce(optimizer, pairs):
        gradients, variables = zip(*pairs)
        context = tf.distribute.get_replica_context()
        return list(zip(context.all_reduce(tf.distribute.ReduceOp.SUM, gradients), variables))

    def slices(optimizer, pairs):
        # Of the first variable, whose rows they are.
        (gradient, variable), *rest = optimizer.aggregate_gradients(pairs)
        rows = tf.IndexedSlices(gradient, tf.range(variable.shape[0]), tf.shape(gradient))
        return [(rows, variable), *rest]

    sums = {
        "by aggregate_gradients": lambda optimizer, pairs: optimizer.aggregate_gradients(pairs),
        "by all_reduce": all_reduce,
        "slices": slices,
    }
    gradients = common.make_gradients(0)
    skips = ({"skip_gradients_aggregation": True}, {"experimental_aggregate_gradients": False})
    for (what, summed), skip in itertools.product(sums.items(), skips):
        with strategy.scope():
            variables, optimizer = common.make_variables("tf"), ADAM.make()
        expected, single = common.make_variables("tf"), ADAM.make()

        def step(
            optimizer=optimizer,
            variables=variables,
            gradients=gradients,
            summed=summed,
            skip=skip,
        ):
            factor = tf.distribute.get_replica_context().replica_id_in_sync_group
            factor = 1.0 + tf.cast(factor, tf.float32)
            pairs = [(factor * g, v) for g, v in zip(gradients, variables)]
            optimizer.apply_gradients(summed(optimizer, pairs), **skip)

        run = tf.function(lambda step=step: strategy.run(step))
        for _ in range(2):
            run()
            single.apply_gradients([(3.0 * g, v) for g, v in zip(gradients, expected)])
        check_equal(strategy, variables, expected, f"{what}, {skip}")
        check_equal(
            strategy,
            optimizer.variables[FIRST_SLOT:],
            single.variables[FIRST_SLOT:],
            f"{what}, {skip}",
        )
    with pytest.raises(RuntimeError, match=r"strategy\.run"), strategy.scope():
        optimizer.aggregate_gradients(zip(gradients, variables))


def skipped(strategy):
    # What one replica gets decides for both, and so does a sum that overflows.
    with strategy.scope():
        variables, optimizer = (
            common.make_variables(),
            ADAM.make(skip_nonfinite=True, clipnorm=0.5, use_ema=True),
        )
    single, expected = ADAM.make(clipnorm=0.5, use_ema=True), common.make_variables()
    gradients = common.make_gradients(0)

    def run(of_first, of_second):
        factors = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant([of_first, of_second][context.replica_id_in_sync_group])
        )
        step = lambda f: optimizer.apply([f * g for g in gradients], variables)  # noqa: E731
        tf.function(lambda: strategy.run(step, args=(factors,)))()

    run(1.0, 2.0)
    for pair in [(1.0, float("nan")), (float("inf"), 1.0), (3e38, 3e38)]:
        run(*pair)
    run(1.0, 2.0)
    for _ in range(2):
        single.apply([3.0 * g for g in gradients], expected)
    check_equal(strategy, variables, expected, "skipped")
    count = optimizer.skipped_steps
    others = [v for v in optimizer.variables[FIRST_SLOT:] if v is not count]
    check_equal(strategy, others, single.variables[FIRST_SLOT:], "skipped")
    check_equal(strategy, [count], [tf.constant(3)], "skipped")
    assert int(np.asarray(optimizer.iterations)) == 2


def transformed(strategy):
    for what, arguments in {
        "clipped adaptively": {"adaptive_clipping": 0.1},
        "centralized": {"centralize_gradients": True, "gradient_accumulation_steps": 2},
    }.items():
        compare(strategy, functools.partial(ADAM.make, **arguments), what)


def outside_of_a_replica(strategy):
    with strategy.scope():
        variable, optimizer = tf.Variable([1.0]), ADAM.make()
        with (
            common.unchanged(optimizer),
            pytest.raises(RuntimeError, match=r"strategy\.run"),
        ):
            optimizer.apply_gradients([(tf.ones(1), variable)])


CHECKS = {
    "kinds of variables": kinds_of_variables,
    "options": options,
    "eager": eager,
    "without strategy": without_strategy,
    "constraints": constraints,
    "portable": portable,
    "fit": fit,
    "fit of a model that is built late": late_fit,
    "fits of others": functools.partial(late_fit, names=("Adan", "NovoGrad")),
    "global norm": global_norm,
    "norms of large gradients": norms_of_large_gradients,
    "sparse gradients and checkpoints": sparse_and_checkpoint,
    "sparse gradients of all kinds": sparse_of_all_kinds,
    "sparse gradients in fit": sparse_in_fit,
    "copies": copies,
    "hyperparameters": hyperparameters,
    "selected weight decay": selected_weight_decay,
    "summed by the caller": summed_by_the_caller,
    "skipped steps": skipped,
    "transformed gradients": transformed,
    "outside of a replica": outside_of_a_replica,
}
# The others are long tests.
SOME = {
    "kinds of variables",
    "options",
    "without strategy",
    "fit",
    "fit of a model that is built late",
    "sparse gradients and checkpoints",
    "skipped steps",
}


if __name__ == "__main__":
    common.print_outcomes({name: CHECKS[name] for name in sys.argv[1:]}, start())
