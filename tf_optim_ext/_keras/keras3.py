"""Every private name of Keras 3 that the package uses."""

import keras
import tensorflow as tf

from tf_optim_ext._keras import tensorflow, versions
from tf_optim_ext._keras.adapter import NO_AGGREGATION, Adapter, WrapperAdapter

versions.check_keras_3(keras.__version__, keras.backend.backend())
try:
    from keras.src.legacy.saving import legacy_h5_format
except ImportError as error:
    raise ImportError(
        f"tf_optim_ext does not work with Keras {keras.__version__}, which lacks a part that it "
        f"uses; it was tested up to Keras {versions.text(versions.NEWEST_KERAS)}."
    ) from error


class KerasSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Keras 3's base class of schedules, and the module that it is of."""

    _api = keras


class KerasOptimizer(Adapter, keras.optimizers.Optimizer):
    """Keras 3's optimizer, with our names for what is private in it."""

    _api = keras

    def __init__(self, learning_rate, **kwargs):
        self._hide_from_tracking()
        super().__init__(learning_rate, **kwargs)

    def _new_variable(self, shape, initializer, dtype, name, aggregation=NO_AGGREGATION):
        """Adds an optimizer variable; restores nothing."""
        return super().add_variable(
            shape,
            initializer=initializer,
            dtype=dtype,
            aggregation=aggregation.name.lower(),
            name=name,
        )

    def _name_of_slot(self, variable, slot_name):
        name = getattr(variable, "path", None) or variable.name
        return f"{name}_{slot_name}".replace("/", "_").replace(":", "_")

    def _given_name(self, variable):
        """The name that an optimizer variable was given."""
        return variable.name

    def _as_own(self, variable):
        """A variable of the user as one of the optimizer: the same memory."""
        if isinstance(variable, keras.Variable):
            return variable
        name = variable.name.split(":")[0].replace("/", "_")
        own = keras.Variable(variable, dtype=variable.dtype.name, trainable=False, name=name)
        if own.value is not variable:
            raise NotImplementedError("This version of Keras cannot wrap a `tf.Variable`.")
        return own

    def _set_rate(self, value):
        keras.optimizers.Optimizer.learning_rate.fset(self, value)

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

    def _set_accumulators(self, accumulators):
        self._set_untracked("_accumulated_gradients", accumulators)

    def _is_overwritten(self, variable):
        """Whether the gradient of a variable is its next value: those of Keras' float8 layers."""
        return self._overwrite_variable_with_gradient(variable)

    def _overwrite(self, gradients, variables):
        """Assigns these, and returns the other gradients and variables."""
        return self._overwrite_variables_directly_with_gradients(gradients, variables)

    def _apply_by(self, optimizer, gradients, variables, summed):
        context = tf.distribute.get_replica_context()
        if summed and context is not None and context.num_replicas_in_sync > 1:
            raise ValueError(
                f"{optimizer.name!r}, an optimizer of Keras 3 itself, always sums gradients over "
                "the replicas: they cannot be summed before. Use one of `tf_optim_ext`."
            )
        optimizer.apply(gradients, variables)

    def _model_being_loaded(self):
        """The model that Keras loads from an `.h5` file now, or None.

        Its loader wants to build the optimizer, but passes only the variables that are in no layer:
        usually none.
        """
        frame = tensorflow.caller(legacy_h5_format.load_model_from_hdf5)
        return frame and frame.f_locals.get("model")


class KerasWrapper(WrapperAdapter, keras.optimizers.Optimizer):
    """A Keras 3 optimizer without state, around another one; and the parts of a training step."""

    _api = keras

    def __init__(self, name):
        self._hide_from_tracking()
        super().__init__(learning_rate=0.0, name=name)

    @classmethod
    def _deserialized(cls, config, custom_objects):
        """The optimizer of a configuration."""
        return keras.saving.deserialize_keras_object(config, custom_objects)

    def _predictions(self, model, x):
        return model(x, training=True) if model._call_has_training_arg else model(x)

    def _loss(self, model, x, y, y_pred, sample_weight):
        """The loss of a compiled model, of which gradients are taken."""
        return model._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )

    def _note_loss(self, model, loss, x):
        """Updates the mean loss that `fit` shows."""
        # Under a strategy, the loss is a share of the sum over the replicas.
        loss *= tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)
        first = next(each for each in tf.nest.flatten(x) if each is not None)
        model._loss_tracker.update_state(loss, sample_weight=tf.shape(first)[0])
