"""Names of TensorFlow and Keras that are not public, and nothing else.

Checked with TensorFlow 2.21.0 and Keras 3.15.1.
"""

import contextlib
import sys
import types

import tensorflow as tf
from keras.src.utils.tracking import no_automatic_dependency_tracking  # noqa: F401
from tensorflow.python.eager import context
from tensorflow.python.framework.ops import EagerTensor
from tensorflow.python.saved_model import save


def inside_xla():
    """Whether ops created now become part of an XLA program."""
    return tf.__internal__.get_enclosing_xla_context() is not None


@contextlib.contextmanager
def hidden_from_debuggers():
    """`tf.debugging` does not look at the results of ops that are run or made inside.

    For reading slots, where NaN is no error but stands for "nothing yet".
    """
    own = context.context()
    callbacks = list(own.op_callbacks)
    for callback in callbacks:
        own.remove_op_callback(callback)
    try:
        yield
    finally:
        for callback in callbacks:
            own.add_op_callback(callback)


def exporting_saved_model():
    """Whether a SavedModel is being written.

    TensorFlow's own `save_context` is left before the variables are written, so this looks for the
    caller.
    """
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not save.save_and_return_nodes.__code__:
        frame = frame.f_back
    return frame is not None


def tensorflow_variable(variable):
    """The `tf.Variable` inside a `keras.Variable`, or the variable itself."""
    return variable.value if isinstance(variable, tf.keras.Variable) else variable


def are_dense(tensors, shapes, dtypes):
    """Whether things are eager tensors of given shapes, and of one of some dtypes.

    Args:
        tensors: list of anything.
        shapes: list of tuples of sizes, as long.
        dtypes: set of `as_datatype_enum` of dtypes.

    A tenth of the time that the public properties take.
    """
    for tensor, shape in zip(tensors, shapes):
        if (
            type(tensor) is not EagerTensor
            or tensor._shape_tuple() != shape
            or tensor._datatype_enum() not in dtypes
        ):
            return False
    return True


def has_dtype(tensor, dtypes):
    """Whether a tensor is of one of some dtypes.

    Args:
        tensor: a `tf.Tensor`.
        dtypes: set of `as_datatype_enum` of dtypes.
    """
    if type(tensor) is EagerTensor:  # its public property takes three times as long
        return tensor._datatype_enum() in dtypes
    return tensor.dtype.as_datatype_enum in dtypes
