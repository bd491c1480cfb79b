"""Names of TensorFlow and Keras that are not public, and the versions that have them.

Checked with TensorFlow 2.21.0 and the newest Keras 3.12, 3.13, 3.14 and 3.15 (`tests/versions.py`).
"""

import contextlib
import sys
import threading
import types
import warnings

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.ops import EagerTensor
from tensorflow.python.saved_model import save

OLDEST_KERAS, NEWEST_KERAS = (3, 12), (3, 15)


def check_keras(version, backend):
    """Refuses a Keras that this package cannot work with, and warns of one that is not tested.

    Args:
        version: that of `tf.keras`; None: it is Keras 2, which says none.
        backend: name of its backend.

    Raises:
        ImportError: this package does not work with it; the message says what to do.
    """
    tested = f"Keras {_text(OLDEST_KERAS)} to {_text(NEWEST_KERAS)}"
    if version is None:
        raise ImportError(
            f"tf_optim_ext works with {tested}, but `tf.keras` is Keras 2, as the environment "
            "variable TF_USE_LEGACY_KERAS says: remove it."
        )
    if backend != "tensorflow":
        raise ImportError(
            f"tf_optim_ext works with Keras' backend 'tensorflow', but Keras uses {backend!r}: set "
            "the environment variable KERAS_BACKEND=tensorflow."
        )
    number = tuple(int(part) for part in version.split(".")[:2])
    if number < OLDEST_KERAS:
        raise ImportError(
            f"tf_optim_ext works with {tested}, but Keras {version} is installed: "
            f'pip install -U "keras>={_text(OLDEST_KERAS)}"'
        )
    if number > NEWEST_KERAS:
        warnings.warn(
            f"tf_optim_ext was tested with {tested}, but not with Keras {version}, which is "
            "installed: what it uses of Keras may have changed.",
            stacklevel=2,
        )


def _text(number):
    return ".".join(map(str, number))


check_keras(getattr(tf.keras, "__version__", None), tf.keras.backend.backend())

try:
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.utils.tracking import no_automatic_dependency_tracking  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"tf_optim_ext does not work with Keras {tf.keras.__version__}, which lacks a part that it "
        f"uses; it was tested up to Keras {_text(NEWEST_KERAS)}."
    ) from error


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


_walks = threading.local()


def variables_being_saved():
    """The variables of the objects that `tf.train.Checkpoint` saves; empty if it does not.

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
        return [x for x in view.descendants() if isinstance(x, (tf.Variable, tf.keras.Variable))]
    finally:
        _walks.is_walking = False


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
