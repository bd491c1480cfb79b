"""Every private name of TensorFlow that the package uses."""

import contextlib
import sys
import threading
import types

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.ops import EagerTensor
from tensorflow.python.saved_model import save


def inside_xla():
    """Whether ops created now become part of an XLA program."""
    return tf.__internal__.get_enclosing_xla_context() is not None


def local_task():
    """The part of the names of devices that those of this process have in common.

    "/job:localhost/replica:0/task:0", unless the process belongs to a cluster.
    """
    return context.context().host_address_space()


def keeps_order():
    """Whether stateful operations run in the order in which they are created now.

    They do eagerly and in a `tf.function`; not in graphs of sessions, nor in the functions there.
    """
    # Not of `tf.compat.v1.wrap_function`, and of `tf.cond` only if it is in one that does.
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return graph is None or graph._add_control_dependencies


@contextlib.contextmanager
def hidden_from_debuggers():
    """`tf.debugging` does not look at the results of ops that are run or made inside.

    For reading slots, where NaN is no error but stands for "nothing yet".
    """
    eager_context = context.context()
    callbacks = list(eager_context.op_callbacks)
    for callback in callbacks:
        eager_context.remove_op_callback(callback)
    try:
        yield
    finally:
        for callback in callbacks:
            eager_context.add_op_callback(callback)


def exporting_saved_model():
    """Whether a SavedModel is being written.

    TensorFlow's own `save_context` is left before the variables are written, so this looks for the
    caller.
    """
    return caller(save.save_and_return_nodes) is not None


def caller(function):
    """The frame of a function that is running, or None."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame


_walks = threading.local()


def objects_being_saved():
    """The objects that `tf.train.Checkpoint` saves now; empty if it does not.

    TensorFlow asks each object for its children while it walks the graph of objects, and does not
    tell what else is in it. So this looks for the walk among the callers, and walks itself.
    """
    if getattr(_walks, "is_walking", False):
        return []
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), tf.train.TrackableView):
        frame = frame.f_back
    if frame is None:
        return []
    view = frame.f_locals["self"]
    _walks.is_walking = True
    try:
        return list(view.descendants())
    finally:
        _walks.is_walking = False


def maybe_merge_call(function, strategy, *args):
    """`function(strategy, *args)`, once for all replicas if it is called in one of several."""
    return tf.__internal__.distribute.interim.maybe_merge_call(function, strategy, *args)


def has_gpus():
    """Whether TensorFlow may place operations on a GPU."""
    return bool(tf.config.get_visible_devices("GPU"))


def are_dense(tensors, shapes, dtypes):
    """Whether things are eager tensors of given shapes, and of one of some dtypes.

    Args:
        tensors: list of anything.
        shapes: list of tuples of sizes, as long.
        dtypes: set of `as_datatype_enum` of dtypes.

    Takes a tenth of the time of the public properties.
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
