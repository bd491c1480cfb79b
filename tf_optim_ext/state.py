"""The variables of an optimizer: slots, their names, saving and restoring."""

import math
import warnings

import numpy as np
import tensorflow as tf

from tf_optim_ext import checks, compat, graphs, hyperparameters, restored_slots
from tf_optim_ext.interrupts import DeferredInterrupts

CLASS_NAME = "class_name"
"""Key under which stores hold the name of the optimizer's class, as bytes."""


class VariableList(list):
    """A list that can also be called: `variables` is a property in Keras 3, a method before."""

    def __call__(self):
        return self


class State(tf.keras.optimizers.Optimizer):
    """Base of `Optimizer`: everything about its variables.

    A *slot* is a variable that belongs to one variable of the model, for example its momentum.
    Slots are float32 (float64 for float64 variables), also for 16-bit weights.
    """

    built: bool

    def _init_state(self):
        # Set past `__setattr__`: Keras and TensorFlow would track what is inside as attributes, and
        # `tf.train.Checkpoint` refuses slots that are reachable in two ways.
        self.__dict__.update(
            _slots={},  # name -> {key of a variable: slot}
            _optimizer_scalars={},  # name -> variable
            _pending_store={},  # what was loaded before the slots existed
            _before_pending={},  # what that replaced: key -> value, loaded value
            _pending_positions={},  # (slot name, key of a variable) -> checkpoint positions
            _restored_slots={},  # (slot name, key of a variable) -> slot that `build` will take
            _accumulated_gradients=[],
        )

    @compat.no_automatic_dependency_tracking
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
        checks.variables(variables, self._var_key)
        with tf.init_scope():
            positions = {self._var_key(v): i for i, v in enumerate(variables)}
            self._forget_variables(positions.keys())
            pending = self._pending_state()
            self._create_slots(variables)
            self._sort_slots(positions)
            self.__dict__["_trainable_variables_indices"] = positions
            self.__dict__["_trainable_variables"] = variables
            self.built = True
            try:
                self.load_own_variables(pending)
            except ValueError:
                self.built = False  # rather no step at all than one without the state
                raise
            self.__dict__["_pending_store"] = {}
            self._restored_slots.clear()  # those of variables that are not optimized

    def _forget_variables(self, keys):
        """Drops the slots of variables that are not optimized any more.

        Keras' users set `built` to False to have an optimizer take other variables.
        """
        gone = self._trainable_variables_indices.keys() - keys
        dropped: set[int] = set()
        for slots in self._slots.values():
            dropped.update(id(slots.pop(key)) for key in gone if key in slots)
        for slot in [v for v in self._variables if id(v) in dropped]:
            self._untrack_variable(slot)

    def _sort_slots(self, positions):
        """Brings the slots of each name in the order of the variables, by which they are saved."""
        for name, slots in self._slots.items():
            # Last those that `add_slot` made for other variables.
            order = sorted(slots, key=lambda key: positions.get(key, len(positions)))
            self._slots[name] = {key: slots[key] for key in order}

    def _variables_in_h5_file(self):
        """What this optimizer trains in the model that is being loaded from such a file."""
        model = compat.model_from_h5()
        optimizer = getattr(model, "optimizer", None)
        if self in (optimizer, getattr(optimizer, "inner_optimizer", None)):
            return list(model.trainable_variables)
        return []

    def _create_slots(self, variables):
        of_all, variables = variables, [v for v in variables if checks.is_trainable(v)]
        if self.use_ema:
            averages = dict(zip(map(id, variables), self._add_slots(variables, "average")))
            self.__dict__["_model_variables_moving_average"] = [averages.get(id(v)) for v in of_all]
        if self.gradient_accumulation_steps:
            sums = [self.add_slot(v, "gradient_accumulator") for v in variables]
            self.__dict__["_accumulated_gradients"] = sums
            for variable in variables if self.sparse != "exact" else ():
                self.add_slot(variable, "accumulated_rows", shape=restored_slots.rows(variable))
        # In Keras' order of creation.
        used = self._program().slots
        separate = [name for name in used if name in self.separate_slots]
        together = [name for name in used if name not in separate]
        for names in (together, *([name] for name in separate)):
            for variable in variables:
                for name in names:
                    self._add_slots([variable], name)
        self._create_scalars(variables)

    def _add_slots(self, variables, name):
        return [
            None
            if self._overwrite_variable_with_gradient(v)
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
        initializer = self.slot_initializers.get(name, default)
        if isinstance(initializer, str) and initializer in self.hyperparameters:
            return hyperparameters.current(getattr(self, initializer), self._iterations)
        return initializer

    def _create_scalars(self, variables):
        """Creates the state that is numbers: in float64, whatever the weights are."""
        program = self._program()
        for name in program.variable_scalars:
            for variable in variables:
                if self._var_key(variable) in self._slots.get(name, ()):
                    continue
                value = self._first_value(name)
                if program.by_row:
                    value = hyperparameters.as_tensor(value, "float64")
                    value = tf.fill(restored_slots.rows(variable), value)
                self._new_slot(variable, name, value, "float64")
        missing = [n for n in program.optimizer_scalars if n not in self._optimizer_scalars]
        for name in missing if variables else ():
            value = self._first_value(name)
            scalar = self._add_beside(variables[0], name, value, "float64")
            self._optimizer_scalars[name] = scalar
            self._handle_deferred_dependencies(name=name, trackable=scalar)

    @property
    def scalars(self):
        """The state that is one number for all variables: dict from name to variable."""
        return dict(self._optimizer_scalars)

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
        key = self._var_key(var)
        existing = self._slots.get(slot_name, {}).get(key)
        if existing is not None:
            return existing
        shape = tuple(var.shape if shape is None else shape)
        dtype = _dtype_of_slots(var)
        value = initializer
        if callable(initializer) or isinstance(initializer, (str, dict)):
            value = tf.keras.initializers.get(initializer)(shape, dtype=dtype)
        value = tf.cast(tf.convert_to_tensor(value), dtype)
        if tuple(value.shape) != shape:
            raise ValueError(
                f"The initial value of slot {slot_name!r} of {checks.name_of(var)!r} has shape "
                f"{tuple(value.shape)}, but the slot has shape {shape}."
            )
        return self._new_slot(var, slot_name, value, dtype)

    def _new_slot(self, var, slot_name, value, dtype):
        key = self._var_key(var)
        slot = self._restored_slots.pop((slot_name, key), None)
        if slot is None:
            slot = self._add_beside(var, f"{_path(var)}_{slot_name}", value, dtype)
        else:  # in Keras' order of creation
            self._track_variable(slot)
        slots = self._slots.setdefault(slot_name, {})
        slots[key] = slot
        for position in self._pending_positions.pop((slot_name, key), ()):
            position.restore(slot)
        # Of a checkpoint without the model.
        name = f"{slot_name}.{len(slots) - 1}"
        self._handle_deferred_dependencies(name=name, trackable=slot)
        return slot

    def _add_beside(self, var, name, value, dtype):
        """Adds an optimizer variable on the device and with the distribution of `var`."""
        # `tf.cast` would take a number by way of float32.
        value = tf.cast(value, dtype) if tf.is_tensor(value) else tf.constant(value, dtype)
        colocated = self._distribution_strategy.extended.colocate_vars_with(
            compat.tensorflow_variable(var)
        )
        with colocated:
            return super().add_variable(
                tuple(value.shape), initializer=lambda *a, **k: value, dtype=dtype, name=name
            )

    def add_variable(self, *args, **kwargs):
        """Adds an optimizer variable, as Keras does; restores it if a checkpoint holds it."""
        variable = super().add_variable(*args, **kwargs)
        key = next(key for key, v in self._named_variables().items() if v is variable)
        self._handle_deferred_dependencies(name=key, trackable=variable)
        return variable

    def get_slot(self, var, slot_name):
        """The slot `slot_name` of a model variable.

        Raises:
            KeyError: there is none; the message lists what there is.
        """
        key = self._var_key(var) if checks.is_variable(var) else None
        slot = self._slots.get(slot_name, {}).get(key)
        if slot is None:
            slot = restored_slots.find(self, var, slot_name, key)
        if slot is not None:
            return slot
        names = self._slot_names()
        if slot_name not in names:
            raise KeyError(f"No slot {slot_name!r}. Slots of {self.name!r}: {names}")
        raise KeyError(f"No slot {slot_name!r} for the variable {checks.name_of(var)!r}.")

    def get_slot_names(self):
        """Names of the slots, in the order of their creation."""
        # A SavedModel recreates slots by `add_slot` of an object that it has not, without this
        # package: there they are saved as ordinary variables instead.
        return [] if compat.exporting_saved_model() else self._slot_names()

    def _slot_names(self):
        return list(dict.fromkeys([*self._slots, *(name for name, _ in self._restored_slots)]))

    def _replace_iterations(self, variable):
        self._variables[0] = variable
        self.__dict__["_iterations"] = variable
        self._handle_deferred_dependencies(name="iterations", trackable=variable)

    @property
    def variables(self):
        """All optimizer variables in the order of their creation; `variables()` works, too."""
        return VariableList(self._variables)

    @property
    def weights(self):
        """Same as `variables`."""
        return self.variables

    def _named_variables(self):
        """Dict of all variables, keyed by names that do not depend on the model's names."""
        named = {"iterations": self._iterations}
        if isinstance(self._learning_rate, tf.keras.Variable):
            named["learning_rate"] = self._learning_rate
        named.update(self._optimizer_scalars)
        for name, slots in self._slots.items():
            named.update({f"{name}.{i}": slot for i, slot in enumerate(slots.values())})
        known = {id(v) for v in named.values()}
        for variable in self._variables:
            if id(variable) not in known:
                key, count = variable.name, 0
                while key in named:
                    count += 1
                    key = f"{variable.name}.{count}"
                named[key] = variable
        return named

    def _keyed_variables(self, stored):
        """The variables under the keys of a store: their names, or their positions in Keras."""
        if not stored or not all(key.isdigit() for key in stored):
            return self._named_variables()
        # Whether the second one is a learning rate, only their number tells.
        variables = self._variables if self.built else self._variables[:1]
        return {str(i): v for i, v in enumerate(variables)}

    def _pending_state(self):
        """What was loaded before the slots existed, and what was assigned since."""
        stored = self._pending_store
        now = {k: np.asarray(v) for k, v in self._keyed_variables(stored).items() if k in stored}
        return {**stored, **now}

    def _misfit(self, stored):
        """How a stored state does not fit the one that there is: a text, or None if it does.

        Raises:
            ValueError: it is of an optimizer like this one, over as many variables of the same
                shapes, but not whole.
        """
        variables = self._keyed_variables(stored)
        # A number and a schedule may replace each other.
        missing = sorted(variables.keys() - stored.keys() - {"learning_rate"})
        unexpected = sorted(stored.keys() - variables.keys() - {"learning_rate"})
        shapes = [
            f"{key} {stored[key].shape} instead of {tuple(v.shape)}"
            for key, v in variables.items()
            if key in stored and stored[key].shape != tuple(v.shape)
        ]
        # What was saved before the first step may lack slots.
        steps = stored.get("iterations", stored.get("0"))
        is_whole = not unexpected and not (missing and steps)
        if is_whole and not shapes:
            return None
        parts = {"missing": missing, "not known": unexpected, "of another shape": shapes}
        text = "; ".join(f"{what}: {some[:10]}" for what, some in parts.items() if some)
        there, expected = _counts(stored), _counts(variables)
        if not shapes and there.keys() == expected.keys() and _damaged(there):
            raise ValueError(
                f"The stored state of {self.name!r} is not whole. Of its entries, {text}."
            )
        return text

    def get_weights(self):
        """The state as a list of NumPy arrays, in the order of `variables`."""
        graphs.check_has_values("`get_weights`", "run `[v.value for v in optimizer.variables]`")
        return [np.asarray(variable) for variable in self.variables]

    def set_weights(self, weights):
        """Sets the state to what `get_weights` returned.

        Raises:
            ValueError: another number of arrays, or another shape; nothing is changed then.
        """
        graphs.check_runs_now("`set_weights`", "a `tf.compat.v1.train.Saver` of `variables`")
        weights = [np.asarray(w) for w in weights]
        if len(weights) != len(self.variables):
            raise ValueError(
                f"{self.name!r} has {len(self.variables)} variables"
                f"{'' if self.built else ' (it is not built yet: call `build(variables)`)'}, "
                f"but {len(weights)} arrays were given."
            )
        _assign_all(self._distribution_strategy, list(zip(self.variables, weights)))

    def save_own_variables(self, store):
        """Writes the state into a dict-like store, keyed by slot and position."""
        graphs.check_has_values("Saving", "use a `tf.compat.v1.train.Saver` of `variables`")
        state = {key: np.asarray(v) for key, v in self._named_variables().items()}
        for key, value in (self._pending_state() or state).items():
            store[key] = value
        store[CLASS_NAME] = np.frombuffer(type(self).__name__.encode(), np.uint8)

    def load_own_variables(self, store):
        """Restores what `save_own_variables` wrote, or what Keras' own optimizers write.

        Slots that do not exist yet get their values in `build`. The state of another optimizer, of
        one with other options or of other variables is not used, with a warning.

        Raises:
            ValueError: the state is of such an optimizer, but not whole; nothing is changed then.
        """
        stored = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118 (h5 stores)
        if stored:
            graphs.check_runs_now("Loading", "a `tf.compat.v1.train.Saver` of `variables`")
        own = np.frombuffer(type(self).__name__.encode(), np.uint8)
        if not np.array_equal(name := stored.pop(CLASS_NAME, own), own):
            self._warn_unused(f"It is the state of {name.tobytes().decode(errors='replace')!r}")
            return
        if self.built and (misfit := self._misfit(stored)):
            self._revert(self._before_pending)
            self._warn_unused(f"Of its entries, {misfit}")
            return
        variables = self._keyed_variables(stored)
        if not self.built:
            self.__dict__["_pending_store"] = stored
            self.__dict__["_before_pending"] = {
                key: (np.asarray(v), stored[key]) for key, v in variables.items() if key in stored
            }
        self._warn_of_other_rate(variables, stored)
        found = [(v, stored[key]) for key, v in variables.items() if key in stored]
        _assign_all(self._distribution_strategy, found)

    def _warn_unused(self, reason):
        steps = int(self._iterations.numpy())
        goes_on = f"keeps its own state of {steps} steps" if steps else "starts afresh"
        warnings.warn(
            f"The stored optimizer state is not used, and {self.name!r} ({type(self).__name__}) "
            f"{goes_on}. {reason}. To resume a training, use the same optimizer with the same "
            "options and variables.",
            stacklevel=3,
        )

    def _warn_of_other_rate(self, variables, stored):
        rate = variables.get("learning_rate", self._learning_rate)
        key = next((k for k, v in variables.items() if v is rate and k in stored), None)
        if key is not None and stored[key].size == 1 and stored[key] != np.asarray(rate):
            warnings.warn(
                f"{self.name!r} takes the stored learning rate {float(stored[key]):.6g} instead of "
                f"{float(np.asarray(rate)):.6g}. Set `optimizer.learning_rate` after loading to "
                "have another one.",
                stacklevel=3,
            )

    def _revert(self, before):
        """Undoes what was assigned for a state that turned out not to fit."""
        variables = self._keyed_variables(before)
        for key, (value, loaded) in before.items():
            if np.array_equal(np.asarray(variables[key]), loaded):
                _assign_all(self._distribution_strategy, [(variables[key], value)])
        self.__dict__["_before_pending"] = {}

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        named = self._named_variables()
        if save_type != "checkpoint":
            return {**named, **self._variables_of_functions()}
        # TensorFlow itself asks for the slots of those variables that are in the checkpoint.
        keys = {self._var_key(v) for v in compat.variables_being_saved()}
        of_saved = {
            id(slot) for slots in self._slots.values() for key, slot in slots.items() if key in keys
        }
        return {key: v for key, v in named.items() if id(v) not in of_saved}

    def _variables_of_functions(self):
        """More variables that traced steps read: dict from name."""
        return {}

    def _lookup_dependency(self, name, cached_dependencies=None):
        if "_slots" not in self.__dict__:  # inside Keras' constructor
            return super()._lookup_dependency(name, cached_dependencies)
        return self._named_variables().get(name)

    def _create_or_restore_slot_variable(
        self, slot_variable_position, slot_name, variable, slot_variable_shape=None
    ):
        """Called by `tf.train.Checkpoint` for every slot that it holds."""
        key = self._var_key(variable)
        slot = self._slots.get(slot_name, {}).get(key)
        if slot is None:
            slot = restored_slots.create(self, variable, slot_name, key, slot_variable_position)
        if slot is None:
            positions = self._pending_positions.setdefault((slot_name, key), [])
            positions.append(slot_variable_position)
        return slot

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        averages = self.__dict__.get("_model_variables_moving_average", [])
        if len(trainable_variables) != len(averages):
            raise ValueError(
                f"{len(trainable_variables)} variables were given, but there are averages of "
                f"{len(averages)}: was {self.name!r} built for these variables?"
            )
        for variable, average in zip(trainable_variables, averages):
            if average is not None:
                variable = compat.tensorflow_variable(variable)
                self._distribution_strategy.extended.update(
                    variable,
                    _assign_if_set,
                    args=(average.value,),
                )


def _counts(keys):
    """How many positions there are of each slot: dict from name; 1 for what has no position."""
    positions: dict[str, list[int]] = {}
    for key in keys:
        name, _, position = key.rpartition(".")
        has_position = name and position.isdigit()
        positions.setdefault(name if has_position else key, []).append(
            int(position) if has_position else 0
        )
    return {name: (len(found), max(found) + 1) for name, found in positions.items()}


def _damaged(stored):
    """Whether positions are missing in between, or some slots have fewer than others."""
    lengths = {length for _, length in stored.values() if length > 1}
    return any(count != length for count, length in stored.values()) or len(lengths) > 1


def _assign_if_set(variable, average):
    # Before the first update there is no average.
    value = tf.cast(average, variable.dtype)
    variable.assign(tf.where(tf.math.is_nan(value), variable, value))


def _dtype_of_slots(variable):
    return "float64" if tf.as_dtype(variable.dtype) == tf.float64 else "float32"


def _path(variable):
    return checks.name_of(variable).replace("/", "_").replace(":", "_")


def _assign_all(strategy, assignments):
    for variable, value in assignments:
        if tuple(variable.shape) != value.shape:
            raise ValueError(
                f"The optimizer variable {variable.path!r} has shape {tuple(variable.shape)}, but "
                f"an array of shape {value.shape} was given. Nothing was changed."
            )
    values = [tf.convert_to_tensor(value, variable.dtype) for variable, value in assignments]
    with DeferredInterrupts():
        for (variable, _), value in zip(assignments, values):
            # One by one, as the first step may do this in one replica while the others wait.
            for local in strategy.experimental_local_results(variable.value):
                local.assign(value)
