"""Every private name of TensorFlow and Keras that the package uses, and the versions tried.

Checked with TensorFlow 2.21.0 and the newest Keras 3.12, 3.13, 3.14 and 3.15 (`tests/versions.py`).
"""

import contextlib
import sys
import threading
import types
import warnings
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.ops import EagerTensor
from tensorflow.python.saved_model import save

OLDEST_KERAS, NEWEST_KERAS = (3, 12), (3, 15)


def check_keras(version, backend):
    """Refuses a Keras that this package cannot work with, and warns of one that is not tested.

    Args:
        version: that of `tf.keras`; None for Keras 2, which has none.
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
    return _caller(save.save_and_return_nodes) is not None


def model_from_h5():
    """The model that Keras loads from an `.h5` file now, or None.

    Its loader wants to build the optimizer, but passes only the variables that are in no layer:
    usually none.
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


NOT_CALLED = {
    "update_step",
    "_clip_gradients",
    "_clip_by_norm",
    "_filter_empty_gradients",
    "_apply_weight_decay",
    "_backend_apply_gradients",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "_backend_reset_gradient_accumulators",
    "_update_model_variables_moving_average",
    "_resource_apply_dense",
    "_resource_apply_sparse",
    "_resource_apply_sparse_duplicate_indices",
    "_apply_dense",
    "_apply_sparse",
    "_prepare",
    "_distributed_apply",
    "_create_all_weights",
    "_transform_loss",
    "_get_gradients",
    "_transform_unaggregated_gradients",
    "_aggregate_gradients",
    "_transform_gradients",
}
"""Methods of Keras' and of TensorFlow's optimizers that the step does not call."""


class _Names:
    """Our names for what is private in any Keras optimizer."""

    _distribution_strategy: Any
    _var_key: Any

    @property
    def _strategy(self):
        """The distribution strategy under which the optimizer was made."""
        return self._distribution_strategy

    def _key_of(self, variable):
        """What identifies a variable of the model; the same in each replica."""
        return self._var_key(variable)


class DecayHooks(_Names):
    """What Keras' own optimizers call for weight decay; to be inherited before any optimizer."""

    def _use_weight_decay(self, variable):
        return self._decays(variable)

    def _decays(self, variable):
        """Whether weight decay acts on a variable."""
        following: Any = super()
        is_ours = isinstance(self, KerasOptimizer)
        return (following._decays if is_ours else following._use_weight_decay)(variable)

    def _apply_weight_decay(self, variables):
        self._decay(variables)

    def _decay(self, variables):
        """Decays variables, if the optimizer is one of Keras' own."""
        raise NotImplementedError


class KerasOptimizer(_Names, tf.keras.optimizers.Optimizer):
    """Keras' optimizer, with our names for what is private in it.

    Attributes:
        built: whether the slots exist.
    """

    built: bool

    def __init__(self, learning_rate, **kwargs):
        # Keras and TensorFlow track what is assigned to attributes; `tf.train.Checkpoint` refuses
        # slots that are reachable in two ways. They do not see what is in here.
        self._set_untracked("_untracked", types.SimpleNamespace())
        super().__init__(learning_rate, **kwargs)

    _untracked: Any

    def _set_untracked(self, name, value):
        """Sets an attribute that Keras must neither track nor replace."""
        object.__setattr__(self, name, value)

    @property
    def _counter(self):
        """The variable `iterations`."""
        return self._iterations

    def _replace_counter(self, variable):
        self._variables[0] = variable
        self._set_untracked("_iterations", variable)

    @property
    def _given_rate(self):
        """The learning rate: a variable, or the schedule or callable that was given."""
        return self._learning_rate

    def _current_rate(self):
        return self._get_current_learning_rate()

    @property
    def _state_variables(self):
        """All optimizer variables, in the order of their creation: the list itself."""
        return self._variables

    def _track(self, variable):
        self._track_variable(variable)

    def _untrack(self, variable):
        self._untrack_variable(variable)

    @property
    def _optimized(self):
        """The variables of the model that `build` was given."""
        return self._trainable_variables

    @property
    def _positions(self):
        """Dict from the key of a variable to its position in `_optimized`."""
        return self._trainable_variables_indices

    def _set_optimized(self, variables, positions):
        self._set_untracked("_trainable_variables_indices", positions)
        self._set_untracked("_trainable_variables", variables)

    @property
    def _averages(self):
        """The average of each variable, or None, as Keras' callbacks find them; empty before."""
        return vars(self).get("_model_variables_moving_average", [])

    def _set_averages(self, averages):
        self._set_untracked("_model_variables_moving_average", averages)

    def _set_accumulators(self, accumulators):
        self._set_untracked("_accumulated_gradients", accumulators)

    def _is_overwritten(self, variable):
        """Whether the gradient of a variable is its next value: those of Keras' float8 layers."""
        return self._overwrite_variable_with_gradient(variable)

    def _overwrite(self, gradients, variables):
        """Assigns these, and returns the other gradients and variables."""
        return self._overwrite_variables_directly_with_gradients(gradients, variables)

    def _restore_deferred(self, name, variable):
        """Gives a new variable what a checkpoint that was restored before has for it."""
        self._handle_deferred_dependencies(name=name, trackable=variable)

    def _is_deferred(self, name):
        """Whether a checkpoint that was restored holds something that does not exist yet."""
        return name in self._deferred_dependencies

    # What Keras and TensorFlow call.

    def _use_weight_decay(self, variable):
        return self._decays(variable)

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        self._assign_averages(trainable_variables)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        return self._children(save_type == "checkpoint")

    def _lookup_dependency(self, name, cached_dependencies=None):
        if not vars(self._untracked):  # inside Keras' constructor
            return super()._lookup_dependency(name, cached_dependencies)
        return self._child(name)

    def _create_or_restore_slot_variable(
        self, slot_variable_position, slot_name, variable, slot_variable_shape=None
    ):
        return self._restored_slot(slot_variable_position, slot_name, variable)

    def _decays(self, variable):
        """Whether weight decay acts on a variable."""
        raise NotImplementedError

    def _assign_averages(self, variables):
        """Assigns the averages of `use_ema` to the variables of the model."""
        raise NotImplementedError

    def _children(self, of_checkpoint):
        """Variables that a checkpoint, or else a SavedModel, holds: dict from name."""
        raise NotImplementedError

    def _child(self, name):
        """The variable that a checkpoint has under a name, or None."""
        raise NotImplementedError

    def _restored_slot(self, position, slot_name, variable):
        """The slot that a checkpoint has at a position; None if it does not exist yet."""
        raise NotImplementedError


def wrap_swap(swap, finalize):
    """Puts functions around those of `SwapEMAWeights` that exchange weights and averages.

    Args:
        swap, finalize: functions from the method of Keras to what replaces it.
    """
    callback = tf.keras.callbacks.SwapEMAWeights
    callback._tf_swap_variables = swap(callback._tf_swap_variables)
    callback._tf_finalize_ema_values = finalize(callback._tf_finalize_ema_values)


def has_swapped(callback):
    """Whether the model of a `SwapEMAWeights` holds the averages."""
    return callback._ema_weights_in_model
