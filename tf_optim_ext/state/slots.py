"""The variables of an optimizer: which there are, and what they belong to."""

import math

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.engine import hyperparameters
from tf_optim_ext.state import restored_slots

SKIPPED_STEPS = "skipped_steps"
"""Name and key of the variable that counts them."""


class VariableList(list):
    """A list that can also be called: `variables` is a property in Keras 3, a method before."""

    def __call__(self):
        return self


class Slots(_keras.KerasOptimizer):
    """Slots and other state: created, found, named.

    A *slot* is a variable that belongs to one variable of the model, for example its momentum.
    Slots are float32, also for 16-bit weights, and float64 for float64 weights.
    """

    def __init__(self, learning_rate, **kwargs):
        super().__init__(learning_rate, **kwargs)
        untracked = self._untracked
        untracked.slots = {}  # name -> {key of a variable: slot}
        untracked.optimizer_scalars = {}  # name -> variable
        untracked.skipped_steps = None
        # Of a checkpoint that was restored before the slots existed: by slot name and key.
        untracked.pending_positions = {}
        untracked.restored_slots = {}  # those that `build` will take
        self._set_accumulators([])

    def _is_frozen(self, variable):
        """Whether a variable stays as it is."""
        raise NotImplementedError

    def _forget_variables(self, keys):
        """Drops the slots of variables that are not optimized any more.

        Keras' users set `built` to False to have an optimizer take other variables.
        """
        gone = self._positions.keys() - keys
        dropped: set[int] = set()
        for slots in self._untracked.slots.values():
            dropped.update(id(slots.pop(key)) for key in gone if key in slots)
        for slot in [v for v in self._state_variables if id(v) in dropped]:
            self._untrack(slot)

    def _sort_slots(self, positions):
        """Sorts the slots of each name by the order of the variables, in which they are saved."""
        for name, slots in self._untracked.slots.items():
            # Last those that `add_slot` made for other variables.
            order = sorted(slots, key=lambda key: positions.get(key, len(positions)))
            self._untracked.slots[name] = {key: slots[key] for key in order}

    def _variables_in_h5_file(self):
        """What this optimizer trains in the model that is being loaded from such a file."""
        model = self._model_being_loaded()
        optimizer = getattr(model, "optimizer", None)
        if self in (optimizer, getattr(optimizer, "inner_optimizer", None)):
            return list(model.trainable_variables)
        return []

    def _create_slots(self, variables):
        of_all = variables
        variables = [v for v in variables if checks.is_trainable(v) and not self._is_frozen(v)]
        if self.use_ema:
            averages = dict(zip(map(id, variables), self._add_slots(variables, "average")))
            self._set_averages([averages.get(id(v)) for v in of_all])
        if self.gradient_accumulation_steps:
            sums = [self.add_slot(v, "gradient_accumulator") for v in variables]
            self._set_accumulators(sums)
            for variable in variables if self.sparse != "exact" else ():
                self.add_slot(variable, "accumulated_rows", shape=restored_slots.rows(variable))
        # In Keras' order of creation.
        used, declared = self._program().slots, self.declaration().slots
        separate = [name for name in used if declared[name].separate]
        together = [name for name in used if name not in separate]
        for names in (together, *([name] for name in separate)):
            for variable in variables:
                for name in names:
                    self._add_slots([variable], name)
        self._create_scalars(variables)

    def _add_slots(self, variables, name):
        return [
            None
            if self._is_overwritten(v)
            else self.add_slot(v, name, self._initial_value(v, name))
            for v in variables
        ]

    def _initial_value(self, variable, name):
        initializer = self._first_value(name, math.nan if name == "average" else 0.0)
        if isinstance(initializer, (int, float)) or hyperparameters.is_scalar(initializer):
            # In the dtype of the slot: a cast of NaN would be reported by TensorFlow's debugger.
            value = hyperparameters.as_tensor(initializer, _dtype_of_slots(variable))
            return tf.fill(variable.shape, value)
        if isinstance(initializer, str) and initializer == "weights":
            raise ValueError(
                f"{type(self).__name__} has the slot {name!r} start from the weights, which may "
                "have no value yet. Start it as NaN, `math.nan`, and let the rule read "
                f"`unless_set(s.{name}, w, h)`; see `tf_optim_ext.rule`."
            )
        return initializer

    def _first_value(self, name, default=0.0):
        declaration = self.declaration()
        initializer = declaration.initial.get(name, default)
        if isinstance(initializer, str) and initializer in declaration.intervals:
            return hyperparameters.current(getattr(self, initializer), self._counter)
        return initializer

    def _create_scalars(self, variables):
        """Creates the scalar state: in float64, whatever the dtype of the weights."""
        program = self._program()
        for name in program.variable_scalars:
            for variable in variables:
                if self._key_of(variable) in self._untracked.slots.get(name, ()):
                    continue
                value = self._first_value(name)
                if program.by_row:
                    value = hyperparameters.as_tensor(value, "float64")
                    value = tf.fill(restored_slots.rows(variable), value)
                self._new_slot(variable, name, value, "float64")
        missing = [
            n for n in program.optimizer_scalars if n not in self._untracked.optimizer_scalars
        ]
        for name in missing if variables else ():
            value = self._first_value(name)
            scalar = self._add_beside(variables[0], name, value, "float64")
            self._untracked.optimizer_scalars[name] = scalar
            self._restore_deferred(name, scalar)
        if variables and self.skip_nonfinite and self._untracked.skipped_steps is None:
            skipped = self._add_beside(variables[0], SKIPPED_STEPS, 0, "int64")
            self._untracked.skipped_steps = skipped
            self._restore_deferred(SKIPPED_STEPS, skipped)

    @property
    def skipped_steps(self):
        """How many steps `skip_nonfinite` left out: an int64 variable; 0 without that option, and
        before the optimizer is built."""
        skipped = self._untracked.skipped_steps
        return 0 if skipped is None else skipped

    @property
    def scalars(self):
        """The scalar state that all variables share: dict from name to variable."""
        return dict(self._untracked.optimizer_scalars)

    def add_slot(self, var, slot_name, initializer="zeros", shape=None):
        """Creates the slot `slot_name` of `var`, or returns it if it exists.

        Args:
            var: the `keras.Variable` or `tf.Variable` it belongs to; the slot gets its device and
                distribution.
            slot_name: name of the slot.
            initializer: a Keras initializer, its name, a callable (shape, dtype) -> tensor, or the
                initial value itself.
            shape: shape of the slot; default: that of `var`.

        Returns:
            The slot, a `keras.Variable`.

        Raises:
            TypeError: `var` is no variable.
            ValueError: the initializer is unknown, or the shape of its value is not the slot's.
        """
        checks.must_be_variable(var)
        key = self._key_of(var)
        existing = self._untracked.slots.get(slot_name, {}).get(key)
        if existing is not None:
            return existing
        shape = tuple(var.shape if shape is None else shape)
        dtype = _dtype_of_slots(var)
        value = initializer
        if callable(initializer) or isinstance(initializer, (str, dict)):
            value = self._api.initializers.get(initializer)(shape, dtype=dtype)
        value = tf.cast(tf.convert_to_tensor(value), dtype)
        if tuple(value.shape) != shape:
            raise ValueError(
                f"The initial value of slot {slot_name!r} of {checks.name_of(var)!r} has shape "
                f"{tuple(value.shape)}, but the slot has shape {shape}."
            )
        return self._new_slot(var, slot_name, value, dtype)

    def _new_slot(self, var, slot_name, value, dtype):
        key = self._key_of(var)
        slot = self._untracked.restored_slots.pop((slot_name, key), None)
        if slot is None:
            slot = self._add_beside(var, self._name_of_slot(var, slot_name), value, dtype)
        else:  # in Keras' order of creation
            self._track(slot)
        slots = self._untracked.slots.setdefault(slot_name, {})
        slots[key] = slot
        for position in self._untracked.pending_positions.pop((slot_name, key), ()):
            position.restore(slot)
        # Of a checkpoint without the model.
        name = f"{slot_name}.{len(slots) - 1}"
        self._restore_deferred(name, slot)
        return slot

    def _add_beside(self, var, name, value, dtype):
        """Adds an optimizer variable on the device and with the distribution of `var`."""
        # `tf.cast` would take a number by way of float32.
        value = tf.cast(value, dtype) if tf.is_tensor(value) else tf.constant(value, dtype)
        colocated = self._strategy.extended.colocate_vars_with(_keras.tensorflow_variable(var))
        with colocated:
            return self._new_variable(tuple(value.shape), lambda *a, **k: value, dtype, name)

    def add_variable(self, *args, **kwargs):
        """Adds an optimizer variable, as Keras does; restores it if a checkpoint holds it."""
        return self._restored(super().add_variable(*args, **kwargs))

    def _restored(self, variable):
        """A new variable of no slot, with the value that a checkpoint has for it."""
        key = next(key for key, v in self._named_variables().items() if v is variable)
        self._restore_deferred(key, variable)
        return variable

    def get_slot(self, var, slot_name):
        """The slot `slot_name` of a model variable; by its name here or in `OptimizerV2`.

        Raises:
            KeyError: there is none; the message lists what there is.
        """
        key = self._key_of(var) if checks.is_variable(var) else None
        slot = self._untracked.slots.get(slot_name, {}).get(key)
        if slot is None:
            slot = restored_slots.find(self, var, slot_name, key)
        if slot is not None:
            return slot
        name = self.declaration().old_names.get(slot_name)
        if name is not None:
            return self.get_slot(var, name)
        names = self._slot_names()
        if slot_name not in names:
            raise KeyError(f"No slot {slot_name!r}. Slots of {self.name!r}: {names}")
        raise KeyError(f"No slot {slot_name!r} for the variable {checks.name_of(var)!r}.")

    def get_slot_names(self):
        """Names of the slots, in the order of their creation."""
        # A SavedModel recreates slots by `add_slot` of an object that it has not, without this
        # package: there they are saved as ordinary variables instead.
        return [] if _keras.exporting_saved_model() else self._slot_names()

    def _slot_names(self):
        return list(
            dict.fromkeys(
                [*self._untracked.slots, *(name for name, _ in self._untracked.restored_slots)]
            )
        )

    @property
    def variables(self):
        """All optimizer variables in the order of their creation; `variables()` works, too."""
        return VariableList(self._state_variables)

    @property
    def weights(self):
        """Same as `variables`."""
        return self.variables

    def _named_variables(self):
        """Dict of all variables, keyed by names that do not depend on the model's names."""
        named = {"iterations": self._counter}
        if checks.is_variable(self._given_rate):
            named["learning_rate"] = self._given_rate
        named.update(self._untracked.optimizer_scalars)
        for name, slots in self._untracked.slots.items():
            named.update({f"{name}.{i}": slot for i, slot in enumerate(slots.values())})
        ids = {id(v) for v in named.values()}
        for variable in self._state_variables:
            if id(variable) not in ids:
                key = name = self._given_name(variable)
                count = 0
                while key in named:
                    count += 1
                    key = f"{name}.{count}"
                named[key] = variable
        return named


def _dtype_of_slots(variable):
    return "float64" if tf.as_dtype(variable.dtype) == tf.float64 else "float32"
