"""What this package calls of a Keras optimizer by names of its own, and what Keras calls of it."""

import types
from typing import Any

import tensorflow as tf

from tf_optim_ext._keras.schedules import is_schedule

NO_AGGREGATION = tf.VariableAggregation.NONE
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


class Names:
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


class DecayHooks(Names):
    """What Keras' own optimizers call for weight decay; to be inherited before any optimizer."""

    def _use_weight_decay(self, variable):
        return self._decays(variable)

    def _decays(self, variable):
        """Whether weight decay acts on a variable."""
        following: Any = super()
        is_ours = isinstance(self, Adapter)
        return (following._decays if is_ours else following._use_weight_decay)(variable)

    def _apply_weight_decay(self, variables):
        self._decay(variables)

    def _decay(self, variables):
        """Decays variables, if the optimizer is one of Keras' own."""
        raise NotImplementedError


class Adapter(Names):
    """To be inherited before the optimizer of a generation of Keras.

    Attributes:
        built: whether the slots exist.
        _api: the module `keras` or `tf_keras`.
        _ignored_arguments: names of what the generation's constructor takes and this package not.
        _unknown_arguments: names of common arguments that the generation's optimizers lack.
    """

    built: bool
    _api: Any
    _ignored_arguments: tuple[str, ...] = ()
    _unknown_arguments: tuple[str, ...] = ()
    _untracked: Any
    _iterations: Any
    _learning_rate: Any
    _variables: Any
    _handle_deferred_dependencies: Any
    _deferred_dependencies: Any

    def _hide_from_tracking(self):
        # Keras and TensorFlow track what is assigned to attributes; `tf.train.Checkpoint` refuses
        # slots that are reachable in two ways. They do not see what is in here.
        self._set_untracked("_untracked", types.SimpleNamespace())

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
        """The learning rate of the coming step, a variable or what the given callable returns."""
        rate = self._learning_rate
        if not callable(rate):
            return rate
        return rate(self._iterations) if is_schedule(rate) else rate()

    @property
    def _state_variables(self):
        """All optimizer variables, in the order of their creation: the list itself."""
        return self._variables

    @property
    def _averages(self):
        """The average of each variable, or None, as Keras' callbacks find them; empty before."""
        return vars(self).get("_model_variables_moving_average", [])

    def _set_averages(self, averages):
        self._set_untracked("_model_variables_moving_average", averages)

    def _restore_deferred(self, name, variable):
        """Gives a new variable what a checkpoint that was restored before has for it."""
        self._handle_deferred_dependencies(name=name, trackable=variable)

    def _is_deferred(self, name):
        """Whether a checkpoint that was restored holds something that does not exist yet."""
        return name in self._deferred_dependencies

    def _config_of_generation(self):
        """What only configurations of this generation hold."""
        return {}

    # Of other optimizers, those of Keras itself.

    def _clipped_by(self, optimizer, gradients):
        """Gradients as another optimizer clips them."""
        return optimizer._clip_gradients(gradients)

    def _assign_averages_of(self, optimizer, variables):
        """Assigns the averages of `use_ema` of another optimizer to the variables of the model."""
        optimizer._overwrite_model_variables_with_average_value(variables)

    def _apply_by(self, optimizer, gradients, variables, summed):
        """Has an optimizer of Keras itself update variables.

        Args:
            optimizer: the optimizer.
            gradients, variables: lists.
            summed: whether the gradients are summed over the replicas of a strategy.
        """
        raise NotImplementedError

    def _with_inside(self):
        """The optimizer, and those that it holds."""
        return [self]

    # What Keras and TensorFlow call.

    def _use_weight_decay(self, variable):
        return self._decays(variable)

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        self._assign_averages(trainable_variables)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        return self._children(save_type == "checkpoint")

    def _lookup_dependency(self, name, cached_dependencies=None):
        if not vars(self._untracked):  # inside Keras' constructor
            following: Any = super()
            return following._lookup_dependency(name, cached_dependencies)
        return self._child(name)

    def _create_or_restore_slot_variable(
        self, slot_variable_position, slot_name, variable, slot_variable_shape=None
    ):
        return self._restored_slot(slot_variable_position, slot_name, variable)

    # Provided by the package.

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


class WrapperAdapter(Names):
    """To be inherited before the optimizer of a generation of Keras, by one around another one.

    The optimizer that Keras makes has no state: that of the inner one is all there is.
    """

    _api: Any
    _untracked: Any
    inner_optimizer: Any

    def _hide_from_tracking(self):
        object.__setattr__(self, "_untracked", types.SimpleNamespace())

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        return self._children(save_type == "checkpoint")

    def _children(self, of_checkpoint):
        """What a checkpoint, or else a SavedModel, holds: dict from name."""
        raise NotImplementedError
