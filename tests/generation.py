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

__all__ = ["FIRST_SLOT", "IS_KERAS_2", "KerasVariable", "keras", "only_keras_3", "path_of"]

# Of `optimizer.variables`: in Keras 3, the learning rate is one of them.
FIRST_SLOT = 1 if IS_KERAS_2 else 2
KerasVariable = getattr(keras, "Variable", tf.Variable)


def path_of(variable):
    """What tells a variable from others: its path in Keras 3, its name in Keras 2."""
    return getattr(variable, "path", None) or variable.name


def only_keras_3(reason):
    """A mark of tests that Keras 2 has nothing for."""
    return pytest.mark.skipif(IS_KERAS_2, reason=f"Keras 2: {reason}")
