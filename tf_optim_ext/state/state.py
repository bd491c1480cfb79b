"""The state of an optimizer: created by `build`, restored from checkpoints."""

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.state import restored_slots
from tf_optim_ext.state.stores import Stores


class State(Stores):
    """Base of `Optimizer`: everything about its variables."""

    def build(self, variables):
        """Creates the slots of the given model variables.

        Args:
            variables: list of `keras.Variable` or `tf.Variable`; the only ones that this optimizer
                can update from then on.

        Raises:
            TypeError, ValueError: something is no variable, not of a floating-point dtype, or given
                twice.
        """
        if self.built:
            return
        variables = self._variables_in_h5_file() or list(variables)
        if not variables:
            return
        checks.variables(variables, self._key_of)
        with tf.init_scope():
            positions = {self._key_of(v): i for i, v in enumerate(variables)}
            self._resolve_groups(variables)
            self._forget_variables(positions.keys())
            pending = self._pending_state()
            self._create_slots(variables)
            self._sort_slots(positions)
            self._set_optimized(variables, positions)
            self.built = True
            try:
                self.load_own_variables(pending)
            except ValueError:
                self.built = False  # rather no step at all than one without the state
                raise
            self._untracked.pending_store = {}
            self._untracked.restored_slots.clear()  # those of variables that are not optimized

    def _children(self, of_checkpoint):
        named = self._named_variables()
        if not of_checkpoint:
            return {**named, **self._variables_of_functions()}
        # TensorFlow itself asks for the slots of those variables that are in the checkpoint.
        saved = _keras.objects_being_saved()
        keys = {self._key_of(x) for x in saved if isinstance(x, _keras.VARIABLES)}
        of_saved = {
            id(slot)
            for slots in self._untracked.slots.values()
            for key, slot in slots.items()
            if key in keys
        }
        return {key: v for key, v in named.items() if id(v) not in of_saved}

    def _variables_of_functions(self):
        """More variables that traced steps read: dict from name."""
        return {}

    def _child(self, name):
        return self._named_variables().get(name)

    def _restored_slot(self, position, slot_name, variable):
        key = self._key_of(variable)
        slot = self._untracked.slots.get(slot_name, {}).get(key)
        if slot is None:
            slot = restored_slots.create(self, variable, slot_name, key, position)
        if slot is None:
            self._untracked.pending_positions.setdefault((slot_name, key), []).append(position)
        return slot

    def _assign_averages(self, variables):
        averages = self._averages
        if len(variables) != len(averages):
            raise ValueError(
                f"{len(variables)} variables were given, but there are averages of "
                f"{len(averages)}: was {self.name!r} built for these variables?"
            )
        for variable, average in zip(variables, averages):
            if average is not None:
                variable = _keras.tensorflow_variable(variable)
                self._strategy.extended.update(
                    variable,
                    assign_if_set,
                    args=(_keras.tensorflow_variable(average),),
                )

    def _resolve_groups(self, variables):
        """Finds the parameter group of each variable, or raises a `ValueError`."""
        raise NotImplementedError

    def _replace_iterations(self, variable):
        self._replace_counter(variable)
        self._restore_deferred("iterations", variable)


def assign_if_set(variable, average):
    # Before the first update there is no average.
    value = tf.cast(average, variable.dtype)
    return variable.assign(tf.where(tf.math.is_nan(value), variable, value))
