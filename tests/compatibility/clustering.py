"""A native step in a function whose other ops XLA compiles by itself.

Runs in a process of its own, from `test_compatibility.py`, with `TF_XLA_FLAGS` set: prints a JSON
object.
"""

import common
import numpy as np
import tensorflow as tf

import tf_optim_ext


def native_step():
    weights, table = tf.Variable(tf.ones([8, 8])), tf.Variable(tf.ones([5, 8]))
    optimizer = tf_optim_ext.SGD(0.5, global_clipnorm=1e6)
    optimizer.build([weights, table])

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.matmul(tf.gather(table, [1, 1]), weights) * x)
        gradients = tape.gradient(loss, [weights, table])
        optimizer.apply([2.0 * gradients[0] + 1.0, gradients[1]], [weights, table])
        return loss

    assert float(step(tf.ones([2, 8]))) == 128.0
    np.testing.assert_allclose(weights, np.full((8, 8), 1 - 0.5 * 5))
    np.testing.assert_allclose(table[:, 0], [1, 1 - 0.5 * 16, 1, 1, 1])
    assert optimizer.route.is_native


if __name__ == "__main__":
    common.print_outcomes({"native step": native_step})
