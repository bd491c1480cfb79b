"""What the arguments of an optimizer are in the coming step."""

import tensorflow as tf

from tf_optim_ext import checks
from tf_optim_ext.backends import replica
from tf_optim_ext.base.configuration import Configuration
from tf_optim_ext.engine import hyperparameters


class Values(Configuration):
    """Base of `Optimizer`: numbers, schedules, callables and variables, read in each step."""

    def _current_values(self, names):
        """What some arguments are in this step: dict from names to numbers, tensors, or None."""
        attributes, values, numbers = vars(self), {}, []
        # There are none in a graph of a session.
        is_traced = (
            not tf.executing_eagerly() and self._untracked.traced_numbers.variable is not None
        )
        for name in names:
            value = attributes[name]
            if type(value) is float or type(value) is bool:
                values[name] = float(value)
                if is_traced:
                    numbers.append(name)
            else:
                values[name] = hyperparameters.current(value, self._counter)
        if is_traced:
            values.update(self._untracked.traced_numbers.read(numbers))
        return values

    def _current_value(self, name):
        is_off = getattr(self, name) is None
        return None if is_off else self._current_values([name])[name]

    def _hyperparameter_values(self, names, variables):
        """What a rule may find in `h`: dict from some names to numbers, scalar tensors, or lists of
        these with one for each variable."""
        changeable = self._intervals()
        values = self._current_values([name for name in names if name in changeable])
        if "fully_decoupled_weight_decay" in names:
            values["fully_decoupled_weight_decay"] = float(self.fully_decoupled_weight_decay)
        for name in ("weight_decay", "adaptive_clipping"):
            if name in values:
                values[name] = 0.0 if values[name] is None else values[name]
        if self._untracked.groups.overridden:
            keys = [self._key_of(v) for v in variables]
            values.update(self._untracked.groups.own_values(values, keys, self._counter))
        if "clipvalue" in values:
            bounds = values["clipvalue"]
            are_own = isinstance(bounds, list)
            values["clipvalue"] = [_bound(x) for x in bounds] if are_own else _bound(bounds)
        if "weight_decay" in values and not self._all_decay:
            decays = values["weight_decay"]
            if not isinstance(decays, list):
                decays = [decays] * len(variables)
            if any(tf.is_tensor(decay) or decay for decay in decays):
                values["weight_decay"] = [
                    decay if self._decays(v) else 0.0 for decay, v in zip(decays, variables)
                ]
        return values

    def _rates(self, variables):
        """The learning rate of the step, or a list with one for each variable."""
        rate, groups = self.learning_rate, self._untracked.groups
        if not groups.have_rates:
            return rate
        rate = replica.read(rate) if checks.is_variable(rate) else tf.convert_to_tensor(rate)
        return groups.rates(rate, [self._key_of(v) for v in variables], self._counter)

    def describe(self, print_fn=print):
        """Prints variables, shapes, groups and the hyperparameters of the coming step.

        Args:
            print_fn: function of a text.

        Raises:
            ValueError: the optimizer is not built.
        """
        if not self.built:
            raise ValueError(
                "`describe` needs an optimizer that is built: call `build(variables)`."
            )
        variables = list(self._optimized)
        names = ["weight_decay", *sorted(self._untracked.groups.overridden - {"weight_decay"})]
        values = {"learning_rate": self._rates(variables)}
        values.update(self._hyperparameter_values(names, variables))
        for line in self._untracked.groups.table(variables, self._key_of, values):
            print_fn(line)


def _bound(value):
    """The bound of clipping by value; as in Keras, None and 0 are none."""
    if tf.is_tensor(value):
        return tf.where(value > 0, value, tf.constant(float("inf"), value.dtype))
    return value or float("inf")
