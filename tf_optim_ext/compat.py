"""Names of TensorFlow and Keras that are not public, and nothing else.

Checked with TensorFlow 2.21.0 and Keras 3.15.1.
"""

import tensorflow as tf
from keras.src.utils.tracking import no_automatic_dependency_tracking  # noqa: F401
from tensorflow.python.saved_model import save_context


def inside_xla():
    """Whether ops created now become part of an XLA program."""
    return tf.__internal__.get_enclosing_xla_context() is not None


def exporting_saved_model():
    """Whether a SavedModel is being written."""
    return save_context.in_save_context()


def tensorflow_variable(variable):
    """The `tf.Variable` inside a `keras.Variable`, or the variable itself."""
    return variable.value if isinstance(variable, tf.keras.Variable) else variable
