"""Clients of TensorFlow Probability; see `training.py`."""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from clients import training
from common import arrays, assert_close, route_of_dense

import tf_optim_ext

ROWS, BATCH, STEPS = 64, 16, 6
SEED = (1, 2)  # the noise is the same in each step, so that training can be repeated

rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, 3)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5]] + 0.1 * rng.normal(size=(ROWS, 1))).astype("float32")


def likelihood(y, predicted):
    return -predicted.log_prob(y)


def regression(hidden):
    """A model whose output is a distribution."""
    return tf.keras.Sequential(
        [
            tf.keras.Input((3,)),
            hidden,
            tf.keras.layers.Dense(2),
            tfp.layers.DistributionLambda(
                lambda t: tfp.distributions.Normal(t[..., :1], 0.1 + tf.math.softplus(t[..., 1:]))
            ),
        ]
    )


def client(make):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    return training.Client(make, data, {"loss": likelihood})


def distribution():
    return client(lambda: regression(tf.keras.layers.Dense(4, activation="tanh")))


def posterior(kernel_size, bias_size, dtype):
    size = kernel_size + bias_size
    return tf.keras.Sequential(
        [
            tfp.layers.VariableLayer(2 * size, dtype=dtype, initializer="random_normal"),
            tfp.layers.DistributionLambda(
                lambda t: tfp.distributions.Independent(
                    tfp.distributions.Normal(t[:size], 1e-2 + 0.1 * tf.math.softplus(t[size:])), 1
                ),
                convert_to_tensor_fn=lambda d: d.sample(seed=SEED),
            ),
        ]
    )


def prior(kernel_size, bias_size, dtype):
    size = kernel_size + bias_size
    return tf.keras.Sequential(
        [
            tfp.layers.VariableLayer(size, dtype=dtype),
            tfp.layers.DistributionLambda(
                lambda t: tfp.distributions.Independent(tfp.distributions.Normal(t, 1.0), 1)
            ),
        ]
    )


def variational():
    def make():
        layer = tfp.layers.DenseVariational(
            4, posterior, prior, kl_weight=1 / ROWS, kl_use_exact=True, activation="tanh"
        )
        return regression(layer)

    return client(make)


class Minimized:
    """`tfp.math.minimize`: steps in a loop of a graph, without a model of Keras."""

    def __init__(self, jit_compile=False):
        self.jit_compile = jit_compile

    def run(self, optimizer, steps=(STEPS,)):
        """Losses, and the state after some steps in each of some calls."""
        kernel, scale = tf.Variable(tf.zeros((3, 1)), name="kernel"), tf.Variable(0.5, name="scale")

        def loss():
            noise = tfp.distributions.Normal(X @ kernel, 0.1 + tf.math.softplus(scale))
            return -tf.reduce_mean(noise.log_prob(Y))

        losses = [
            tfp.math.minimize(
                loss,
                num_steps=count,
                optimizer=optimizer,
                trainable_variables=[kernel, scale],
                jit_compile=self.jit_compile,
            )
            for count in steps
        ]
        own = optimizer.variables
        return (
            np.concatenate(losses),
            arrays([kernel, scale]),
            arrays(own() if callable(own) else own),
        )

    def resumes(self, make):
        """Asserts that two calls do what one does."""
        losses, weights, state = self.run(make())
        assert losses[-1] < losses[0]
        optimizer = make()
        again = self.run(optimizer, (STEPS // 2, STEPS // 2))
        assert optimizer.iterations.numpy() == STEPS
        assert str(optimizer.route).startswith(route_of_dense(self.jit_compile))
        assert_close([losses, *weights, *state], [again[0], *again[1], *again[2]])

    def is_keras_own(self, name):
        theirs, ours = (
            getattr(module, name)(**training.TWINS[name])
            for module in (tf.keras.optimizers, tf_optim_ext)
        )
        expected, actual = self.run(theirs), self.run(ours)
        assert_close([actual[0], *actual[1]], [expected[0], *expected[1]])

    checks = training.Client.checks


if __name__ == "__main__":
    training.main(
        {
            "distribution": distribution,
            "variational": variational,
            "minimize": Minimized,
            "minimize in XLA": functools.partial(Minimized, jit_compile=True),
        }
    )
