"""What the optimizers that average weights share."""

import math
from typing import Any

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.backends import replica
from tf_optim_ext.base.declaration import Computed, Slot
from tf_optim_ext.base.step import without_autograph
from tf_optim_ext.engine import graphs
from tf_optim_ext.engine.control import cond
from tf_optim_ext.engine.interrupts import DeferredInterrupts
from tf_optim_ext.rule import auxiliary
from tf_optim_ext.state.state import assign_if_set
from tf_optim_ext.wrappers.wrapper import Wrapper


class AveragedOptimizerWrapper(Wrapper):
    """Base class of optimizers that keep averages of the weights that another one trains.

    The slot `average` holds them: float32 also for 16-bit weights, and NaN as long as there is
    none, which means the weights themselves. The model's variables hold the weights, until
    `assign_average_vars` or, for a while, `averaged_weights` puts the averages there.

    A subclass says by `is_due` and `average_momentum` which averages.
    """

    state = [Slot("average", math.nan)]
    hyperparameters = [Computed("momentum")]
    following = staticmethod(auxiliary.mean)

    def is_due(self, count):
        """Whether an update changes the averages.

        Args:
            count: int64 scalar tensor: the number of updates before it.

        Returns:
            Boolean scalar tensor; or True, for every update.
        """
        return True

    def average_momentum(self, count):
        """The weight of the average so far in the new one; that of the new weights is the rest.

        Args:
            count: see `is_due`.

        Returns:
            A number or scalar tensor in [0, 1].
        """
        raise NotImplementedError

    def _follow(self, count, gradients, variables):
        is_due = self.is_due(count)
        if is_due is True:
            self._average()
        else:
            cond(is_due, self._average)

    def _average(self):
        weights = [replica.read(v) for v in self._untracked.followed]
        self._run(self._program(), self._slots_of_followed(), weights)

    def _hyperparameter_values(self, names, variables):
        values = super()._hyperparameter_values(names, variables)
        if "momentum" in names:
            values["momentum"] = self.average_momentum(replica.read(self._counter))
        return values

    # --------------------------------------------------------------------------------- the averages

    @without_autograph
    def assign_average_vars(self, var_list):
        """Assigns to variables their averages.

        Those that this optimizer does not train, such as the statistics of batch normalization,
        keep their values, and so does a variable without average yet.

        Args:
            var_list: list of variables, for example `model.variables`.

        Returns:
            In a graph of a session, the operation that assigns; otherwise None.

        Raises:
            TypeError: something in `var_list` is no variable.
            ValueError: the optimizer is not built.
        """
        self._check_built()
        slots = self._untracked.slots[self._slot]
        pairs = []
        for variable in var_list:
            if hasattr(variable, "get_tensors"):  # the table of a preprocessing layer
                continue
            checks.must_be_variable(variable)
            slot = slots.get(self._key_of(variable))
            if slot is not None:
                pairs.append((variable, slot))
        assigned = self._assigned(pairs)
        return None if _keras.keeps_order() else tf.group(assigned)

    def _assigned(self, pairs):
        with _keras.hidden_from_debuggers(), DeferredInterrupts():
            return [
                self._strategy.extended.update(
                    _keras.tensorflow_variable(variable),
                    assign_if_set,
                    args=(_keras.tensorflow_variable(slot),),
                )
                for variable, slot in pairs
            ]

    def _check_built(self):
        if not self.built:
            raise ValueError(
                f"{self.name!r} has no averages yet, and does not know the variables: take a step, "
                "or call `build(model.trainable_variables)`."
            )

    def use_averaged_weights(self):
        """Assigns the averages to all variables that this optimizer trains."""
        if self.built:
            self.assign_average_vars(self._untracked.followed)

    def averaged_weights(self):
        """Context in which the variables hold the averages.

        Afterwards they hold to the last bit what they held before.
        """
        return _AveragedWeights(self)

    def _values(self):
        return [tf.identity(_keras.tensorflow_variable(v)) for v in self._untracked.followed]


class _AveragedWeights:
    """The context `averaged_weights`, as the callback `AveragedWeights` uses it."""

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self._before: list[Any] = []
        self._inside: list[Any] = []

    def __enter__(self):
        graphs.check_runs_now("`averaged_weights`", "`assign_average_vars`")
        if self._optimizer.built and not self._before:
            self._before = self._optimizer._values()
            self._optimizer.use_averaged_weights()
            self._inside = self._optimizer._values()

    def __exit__(self, *exception):
        with DeferredInterrupts():
            for variable, value in zip(self._optimizer._untracked.followed, self._before):
                variable.assign(value)
        self.forget()

    def forget(self):
        """Leaves the variables as they are, for good."""
        self._before = self._inside = []

    def undisturbed(self):
        """Whether the variables hold what the context assigned."""
        now = self._optimizer._values() if self._before else []
        return bool(now) and all(
            a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(now, self._inside)
        )
