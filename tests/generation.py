"""The Keras of the tests: that of `tf.keras`, which TF_USE_LEGACY_KERAS=1 makes Keras 2.

    TF_USE_LEGACY_KERAS=1 pytest

runs them with Keras 2, but for those that are about what only Keras 3 has: `only_keras_3`.
"""

import pytest
import tensorflow as tf

IS_KERAS_2 = tf.keras.__name__.startswith("tf_keras")

if IS_KERAS_2:
    import tf_keras as keras
else:
    import keras

__all__ = [
    "FIRST_SLOT",
    "IS_KERAS_2",
    "QUIET",
    "KerasVariable",
    "LossScaleOptimizer",
    "dtype_policy",
    "keras",
    "only_keras_3",
    "path_of",
    "scale_of",
    "set_dtype_policy",
]

# Of `optimizer.variables`: in Keras 3, the learning rate is one of them.
FIRST_SLOT = 1 if IS_KERAS_2 else 2
KerasVariable = getattr(keras, "Variable", tf.Variable)
LossScaleOptimizer = (keras.mixed_precision if IS_KERAS_2 else keras.optimizers).LossScaleOptimizer


def set_dtype_policy(name):
    """Sets the policy for layers made from now on."""
    if IS_KERAS_2:
        keras.mixed_precision.set_global_policy(name)
    else:
        keras.config.set_dtype_policy(name)


def dtype_policy():
    """The policy for layers made from now on."""
    return keras.mixed_precision.global_policy() if IS_KERAS_2 else keras.config.dtype_policy()


def scale_of(optimizer):
    """The loss scale of a `LossScaleOptimizer`."""
    return float(optimizer.loss_scale if IS_KERAS_2 else optimizer.dynamic_scale)


# For `export`, which prints a lot in Keras 3.
QUIET = {} if IS_KERAS_2 else {"verbose": False}


def path_of(variable):
    """What tells a variable from others: its path in Keras 3, its name in Keras 2."""
    return getattr(variable, "path", None) or variable.name


def only_keras_3(reason):
    """A mark of tests that Keras 2 has nothing for."""
    return pytest.mark.skipif(IS_KERAS_2, reason=f"Keras 2: {reason}")
