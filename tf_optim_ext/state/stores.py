"""The state as arrays: lists of weights, and dict-like stores of `.keras` and `.h5` files."""

import warnings

import numpy as np
import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.engine import graphs
from tf_optim_ext.engine.interrupts import DeferredInterrupts
from tf_optim_ext.state.slots import SKIPPED_STEPS, Slots

CLASS_NAME = "class_name"
"""Key under which stores hold the name of the optimizer's class, as bytes."""


class Stores(Slots):
    """Writes the state, and reads it where it fits."""

    def __init__(self, learning_rate, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self._untracked.pending_store = {}  # what was loaded before the slots existed
        self._untracked.before_pending = {}  # what that replaced: key -> value, loaded value

    def _keyed_variables(self, stored):
        """The variables under the keys of a store: their names, or their positions in Keras."""
        if not stored or not all(key.isdigit() for key in stored):
            return self._named_variables()
        # Whether the second one is a learning rate, only their number tells.
        variables = self._state_variables if self.built else self._state_variables[:1]
        return {str(i): v for i, v in enumerate(variables)}

    def _pending_state(self):
        """What was loaded before the slots existed, and what was assigned since."""
        stored = self._untracked.pending_store
        now = {k: np.asarray(v) for k, v in self._keyed_variables(stored).items() if k in stored}
        return {**stored, **now}

    def _misfit(self, stored):
        """How a stored state differs from what this optimizer needs: a text, or None if it fits.

        Raises:
            ValueError: it is of an optimizer like this one, over as many variables of the same
                shapes, but not whole.
        """
        variables = self._keyed_variables(stored)
        # A number and a schedule may replace each other, and a count may begin or end at any time.
        missing = sorted(variables.keys() - stored.keys() - {"learning_rate", SKIPPED_STEPS})
        unexpected = sorted(stored.keys() - variables.keys() - {"learning_rate", SKIPPED_STEPS})
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
        _assign_all(self._strategy, list(zip(self.variables, weights)))

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
        class_name = np.frombuffer(type(self).__name__.encode(), np.uint8)
        if not np.array_equal(name := stored.pop(CLASS_NAME, class_name), class_name):
            self._warn_unused(f"It is the state of {name.tobytes().decode(errors='replace')!r}")
            return
        if self.built and (misfit := self._misfit(stored)):
            self._revert(self._untracked.before_pending)
            self._warn_unused(f"Of its entries, {misfit}")
            return
        variables = self._keyed_variables(stored)
        if not self.built:
            self._untracked.pending_store = stored
            self._untracked.before_pending = {
                key: (np.asarray(v), stored[key]) for key, v in variables.items() if key in stored
            }
        self._warn_of_other_rate(variables, stored)
        assignments = [(v, stored[key]) for key, v in variables.items() if key in stored]
        _assign_all(self._strategy, assignments)

    def _warn_unused(self, reason):
        steps = int(self._counter.numpy())
        goes_on = f"keeps its own state of {steps} steps" if steps else "starts afresh"
        warnings.warn(
            f"The stored optimizer state is not used, and {self.name!r} ({type(self).__name__}) "
            f"{goes_on}. {reason}. To resume a training, use the same optimizer with the same "
            "options and variables.",
            stacklevel=3,
        )

    def _warn_of_other_rate(self, variables, stored):
        rate = variables.get("learning_rate", self._given_rate)
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
                _assign_all(self._strategy, [(variables[key], value)])
        self._untracked.before_pending = {}


def _counts(keys):
    """How many positions there are of each slot: dict from name; 1 for what has no position."""
    positions: dict[str, list[int]] = {}
    for key in keys:
        name, _, position = key.rpartition(".")
        has_position = name and position.isdigit()
        positions.setdefault(name if has_position else key, []).append(
            int(position) if has_position else 0
        )
    return {name: (len(numbers), max(numbers) + 1) for name, numbers in positions.items()}


def _damaged(stored):
    """Whether positions are missing in between, or some slots have fewer than others."""
    lengths = {length for _, length in stored.values() if length > 1}
    return any(count != length for count, length in stored.values()) or len(lengths) > 1


def _assign_all(strategy, assignments):
    for variable, value in assignments:
        if tuple(variable.shape) != value.shape:
            raise ValueError(
                f"The optimizer variable {checks.name_of(variable)!r} has shape "
                f"{tuple(variable.shape)}, but an array of shape {value.shape} was given. Nothing "
                "was changed."
            )
    values = [tf.convert_to_tensor(value, variable.dtype) for variable, value in assignments]
    with DeferredInterrupts():
        for (variable, _), value in zip(assignments, values):
            # One by one, as the first step may do this in one replica while the others wait.
            for local in strategy.experimental_local_results(_keras.tensorflow_variable(variable)):
                local.assign(value)
