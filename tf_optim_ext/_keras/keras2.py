"""Every private name of Keras 2, the package `tf_keras`, that the package uses."""

import contextlib
from typing import Any

import tensorflow as tf

from tf_optim_ext._keras import versions
from tf_optim_ext._keras.adapter import NO_AGGREGATION, Adapter, WrapperAdapter

try:
    import tf_keras
except ImportError as error:
    raise ImportError(versions.needs_tf_keras()) from error

versions.check_keras_2(tf_keras.__version__)


_NAMES_IN_SAVED_MODELS = {"iterations": "_iterations", "learning_rate": "_learning_rate"}


class KerasSchedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """Keras 2's base class of schedules, and the module that it is of."""

    _api = tf_keras


class KerasOptimizer(Adapter, tf_keras.optimizers.Optimizer):
    """Keras 2's optimizer, with our names for what is private in it."""

    _api = tf_keras
    _ignored_arguments = ("jit_compile", "is_legacy_optimizer")
    _unknown_arguments = ("loss_scale_factor", "gradient_accumulation_steps")
    # Whether the name of the counter tells it from that of another optimizer, in one `.h5` file.
    _has_own_scope = False

    def __init__(self, learning_rate, name=None, **kwargs):
        self._hide_from_tracking()
        for argument in self._unknown_arguments:
            kwargs.pop(argument, None)
        super().__init__(name or type(self).__name__, **kwargs)
        self._set_untracked("_variables", list(self._variables))
        self._set_optimized([], {})
        if not callable(learning_rate):
            learning_rate = self._build_learning_rate(learning_rate)
        self._set_untracked("_learning_rate", learning_rate)

    @property
    def built(self):
        """Whether the slots exist."""
        return getattr(self, "_built", False)

    @built.setter
    def built(self, value):
        self._set_untracked("_built", value)

    def _create_iteration_variable(self):
        name = type(self).__name__
        with tf.name_scope(name) if self._has_own_scope else contextlib.nullcontext():
            super()._create_iteration_variable()

    def _new_variable(self, shape, initializer, dtype, name, aggregation=NO_AGGREGATION):
        """Adds an optimizer variable; restores nothing."""
        dtype = tf.as_dtype(dtype or tf_keras.backend.floatx())
        initializer = tf_keras.initializers.get(initializer)
        variable = tf.Variable(
            initializer(shape, dtype), False, dtype=dtype, name=name, aggregation=aggregation
        )
        self._track(variable)
        return variable

    def _name_of_slot(self, variable, slot_name):
        name = variable.name or slot_name
        return f"{slot_name}/{name.partition(':')[0]}"

    def _given_name(self, variable):
        """The name that an optimizer variable was given: without the scope that it was made in."""
        return variable.name.rpartition("/")[2].partition(":")[0]

    def _as_own(self, variable):
        """A variable of the user as one of the optimizer: the same memory."""
        return variable

    def _set_rate(self, value):
        if callable(value):
            self._set_untracked("_learning_rate", value)
        elif callable(self._learning_rate):
            raise TypeError(
                f"{self.name!r} was created with a `LearningRateSchedule` or a callable as its "
                "learning rate, which cannot be set to a number. Create it with a number."
            )
        else:
            self._learning_rate.assign(tf.cast(value, self._learning_rate.dtype))

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        if save_type == "checkpoint":
            return children
        # A loaded SavedModel has an object of Keras 2 in the place of an optimizer: with these
        # attributes, and others that cannot be set.
        children = {_NAMES_IN_SAVED_MODELS.get(n, n): v for n, v in children.items()}
        listed = getattr(self._untracked, "listed", ())
        if len(listed) != len(self._variables):  # else the same object in each call
            listed = tf.__internal__.tracking.wrap(list(self._variables))
            self._untracked.listed = listed
        return {**children, "_variables": listed}

    # Keras 2 has no way of its own to copy and pickle optimizers.

    def __reduce__(self):
        stores: list[dict[str, Any]] = []
        for each in self._with_inside():
            stores.append({})
            each.save_own_variables(stores[-1])
        return _restored, (type(self), self.get_config(), stores)

    def __deepcopy__(self, memo):
        make, arguments = self.__reduce__()
        return make(*arguments)

    def _config_of_generation(self):
        # Without it, Keras 2 would take its own legacy optimizer of the name.
        return {"jit_compile": self.jit_compile, "is_legacy_optimizer": False}

    def _track(self, variable):
        self._variables.append(variable)

    def _untrack(self, variable):
        self._variables[:] = [v for v in self._variables if v is not variable]

    @property
    def _optimized(self):
        """The variables of the model that `build` was given."""
        return self._untracked.optimized

    @property
    def _positions(self):
        """Dict from the key of a variable to its position in `_optimized`."""
        return self._index_dict

    def _set_optimized(self, variables, positions):
        self._set_untracked("_index_dict", positions)
        self._untracked.optimized = variables

    def _set_accumulators(self, accumulators):
        """Keras 2 has none."""

    def _is_overwritten(self, variable):
        """Whether the gradient of a variable is its next value: none in Keras 2."""
        return False

    def _overwrite(self, gradients, variables):
        return gradients, variables

    def _apply_by(self, optimizer, gradients, variables, summed):
        optimizer.apply_gradients(zip(gradients, variables), skip_gradients_aggregation=summed)

    def _model_being_loaded(self):
        """None: Keras 2 builds the optimizer of a file for the right variables."""


def _restored(cls, config, stores):
    optimizer = cls.from_config(config)
    for each, store in zip(optimizer._with_inside(), stores):
        each.load_own_variables(store)
    return optimizer


class KerasWrapper(WrapperAdapter, tf_keras.optimizers.Optimizer):
    """A Keras 2 optimizer without state, around another one; and the parts of a training step."""

    _api = tf_keras

    def __init__(self, name):
        self._hide_from_tracking()
        super().__init__(name or type(self).__name__)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        if save_type == "checkpoint":
            return children
        # As above, a loaded SavedModel has an optimizer of Keras 2 in its place. What that makes by
        # itself are the variables that nobody uses here either.
        return {**children, "_iterations": self._iterations, "_variables": self._variables}

    @classmethod
    def _deserialized(cls, config, custom_objects):
        """The optimizer of a configuration."""
        # Of those in `.h5` files, Keras 2 reads the name alone.
        name = config.get("registered_name") or config["class_name"]
        return tf_keras.optimizers.deserialize(
            {**config, "class_name": name}, custom_objects, use_legacy_optimizer=False
        )

    def _predictions(self, model, x):
        return model(x, training=True)

    def _loss(self, model, x, y, y_pred, sample_weight):
        """The loss of a compiled model, of which gradients are taken; notes it by itself."""
        loss = model.compute_loss(x, y, y_pred, sample_weight)
        model._validate_target_and_loss(y, loss)
        return loss

    def _note_loss(self, model, loss, x):
        """The loss function itself does that."""
