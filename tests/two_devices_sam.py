"""Checks of SAM under `MirroredStrategy`, in a process of its own: see `two_devices.py`."""

import common
import numpy as np
import tensorflow as tf
from generation import LossScaleOptimizer, keras, scale_of
from references import sharpness
from two_devices import start

import tf_optim_ext
from tf_optim_ext import _keras

WRAPPERS = {
    "SAM": lambda inner: tf_optim_ext.SAM(inner, rho=0.3),
    "ASAM": lambda inner: tf_optim_ext.ASAM(inner, rho=0.3, eta=0.02),
    "GSAM": lambda inner: tf_optim_ext.GSAM(inner, rho=0.3, alpha=0.7),
}


def replicas_of(strategy, variable):
    local = strategy.experimental_local_results(_keras.tensorflow_variable(variable))
    return [v.numpy() for v in local]


def check_m_sharpness(strategy):
    """The sum of what each replica computes alone, from its part of the data."""
    a = np.float64([[1.0, -2.0, 0.5], [0.3, 1.0, 2.0]])
    initial = np.float64([0.7, -0.4, 1.1])

    def gradient(i, w):
        return a[i] * np.cos(a[i] * w) + w

    for name, make in WRAPPERS.items():
        with strategy.scope():
            weights = tf.Variable(initial.astype("f"))
            optimizer = make(tf_optim_ext.SGD(0.1))

        @tf.function
        def step(optimizer=optimizer, weights=weights):
            def run():
                i = tf.distribute.get_replica_context().replica_id_in_sync_group
                own = tf.gather(tf.constant(a, tf.float32), i)

                def loss():
                    return tf.reduce_sum(tf.sin(own * weights) + weights**2 / 2)

                optimizer.minimize(loss, [weights])

            strategy.run(run)

        step()
        total = 0.0
        for i in range(2):
            g = gradient(i, initial)
            if name == "ASAM":
                (e,) = sharpness.asam([initial], [g], 0.3, 0.02, [True])
            else:
                (e,) = sharpness.sam([initial], [g], 0.3)
            h = gradient(i, initial + e)
            total = total + (sharpness.gsam_direction([g], [h], 0.7)[0] if name == "GSAM" else h)
        first, second = replicas_of(strategy, weights)
        assert first.tobytes() == second.tobytes(), name
        np.testing.assert_allclose(first, initial - 0.1 * total, rtol=1e-4, err_msg=name)


def model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


def fit(strategy, rho):
    """A model that is trained, with SAM unless rho is None."""
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("f")
    with strategy.scope():
        trained = model()
        optimizer = tf_optim_ext.SGD(0.1)
        trained.compile(
            optimizer if rho is None else tf_optim_ext.SAM(optimizer, rho=rho),
            "mse",
            metrics=["mae"],
        )
    history = trained.fit(x, x[:, :1], batch_size=8, epochs=2, shuffle=False, verbose=0).history
    for variable in trained.trainable_variables:
        first, second = replicas_of(strategy, variable)
        assert first.tobytes() == second.tobytes()
    return history, common.arrays(trained.variables)


def check_fit(strategy):
    history, weights = fit(strategy, 0.0)
    expected_history, expected = fit(strategy, None)
    for key, values in expected_history.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-4, err_msg=key)
    for a, b in zip(weights, expected):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    _, others = fit(strategy, 0.5)
    assert not np.allclose(others[0], expected[0])


def check_loss_scale(strategy):
    with strategy.scope():
        inner = tf_optim_ext.SAM(tf_optim_ext.SGD(0.1), rho=5.0)
        scaled = LossScaleOptimizer(inner, initial_scale=8.0)
        trained = model()
        trained.compile(scaled, "mse")
    x = np.ones((4, 3), np.float32)
    trained.fit(x, x[:, :1], verbose=0)
    assert replicas_of(strategy, inner.iterations) == [1, 1]
    assert replicas_of(strategy, scale_of(scaled))[0] == 8


if __name__ == "__main__":
    common.print_outcomes(
        {
            "every replica moves along its own gradient": check_m_sharpness,
            "fit": check_fit,
            "loss scale": check_loss_scale,
        },
        start(),
    )
