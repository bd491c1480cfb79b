"""Names of TensorFlow and Keras that are not public, and nothing else.

Checked with TensorFlow 2.21.0 and Keras 3.15.1.
"""

import sys
import types

import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils.tracking import no_automatic_dependency_tracking  # noqa: F401
from tensorflow.python.framework.ops import EagerTensor
from tensorflow.python.saved_model import save


def inside_xla():
    """Whether ops created now become part of an XLA program."""
    return tf.__internal__.get_enclosing_xla_context() is not None


def keeps_order():
    """Whether stateful operations run in the order in which they are created now.

    They do eagerly and in a `tf.function`; not in graphs of sessions, nor in the functions there.
    """
    # Not of `tf.compat.v1.wrap_function`, and of `tf.cond` only if it is in one that does.
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return graph is None or graph._add_control_dependencies


def exporting_saved_model():
    """Whether a SavedModel is being written.

    TensorFlow's own `save_context` is left before the variables are written, so this looks for the
    caller.
    """
    return _caller(save.save_and_return_nodes) is not None


def model_from_h5():
    """The model that Keras loads from an `.h5` file now, or None.

    Its loader wants to build the optimizer, but hands over those variables only that are in no
    layer: usually none.
    """
    frame = _caller(legacy_h5_format.load_model_from_hdf5)
    return frame and frame.f_locals.get("model")


def _caller(function):
    """The frame of a function that is running, or None."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame


def maybe_merge_call(function, strategy, *args):
    """`function(strategy, *args)`, once for all replicas if it is called in one of several."""
    return tf.__internal__.distribute.interim.maybe_merge_call(function, strategy, *args)


def has_gpus():
    """Whether TensorFlow may place operations on a GPU."""
    return bool(tf.config.get_visible_devices("GPU"))


def tensorflow_variable(variable):
    """The `tf.Variable` inside a `keras.Variable`, or the variable itself."""
    return variable.value if isinstance(variable, tf.keras.Variable) else variable


def keras_variable(variable):
    """A `keras.Variable` that is the given variable, and no copy of it."""
    if isinstance(variable, tf.keras.Variable):
        return variable
    name = variable.name.split(":")[0].replace("/", "_")
    wrapped = tf.keras.Variable(variable, dtype=variable.dtype.name, trainable=False, name=name)
    if wrapped.value is not variable:
        raise NotImplementedError("This version of Keras cannot wrap a `tf.Variable`.")
    return wrapped


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
