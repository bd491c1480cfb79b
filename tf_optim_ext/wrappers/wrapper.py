"""Optimizers around one other, whose weights they follow."""

from typing import Any

import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import replica
from tf_optim_ext.engine.control import cond
from tf_optim_ext.rule import auxiliary
from tf_optim_ext.wrappers.container import Container


class Wrapper(Container):
    """Base class of optimizers around one other.

    Its slot, of which it declares one, starts from the weights: right before an update, as they may
    have no value when slots are created; until then, it is NaN. All variables are followed, also
    those that have no gradient in a step.

    Class attributes:
        following: function that makes the `rule.Program` of what follows an update.

    Attributes:
        inner_optimizer: the optimizer that updates the weights.

    Args:
        optimizer: an optimizer, of this package or Keras' own; or the name of one of Keras' own.
        name: name of this one.
        **kwargs: see `Container`.

    Raises:
        ValueError: `optimizer` averages weights itself.
    """

    following: Any = None

    def __init__(self, optimizer, name, **kwargs):
        self._set_untracked("inner_optimizer", self._checked_inside(optimizer))
        super().__init__(name, **kwargs)
        if hasattr(self.inner_optimizer, "use_training_weights"):
            raise ValueError(
                f"{type(self).__name__}: {self.inner_optimizer.name!r} keeps averages of the "
                "weights itself, which would not follow. Use it alone, or wrap another optimizer."
            )
        self._untracked.followed = []  # the variables of the model that have a slot
        self._untracked.always_updates = False

    def _inside(self):
        return [self.inner_optimizer]

    def _named_inside(self):
        return {"inner_optimizer": self.inner_optimizer}

    def _program(self):
        return type(self).following()

    @property
    def _slot(self):
        (name,) = self.declaration().slots
        return name

    def build(self, variables):
        """See `Optimizer`. Builds the optimizer inside, too."""
        super().build(variables)
        if self.built:
            self._untracked.followed = self._own_variables_of(self._slot)
            # Options of the optimizer inside may be set until it is built.
            self._untracked.always_updates = not _skips(self.inner_optimizer)

    def _step(self, gradients, variables):
        count = replica.read(self._counter)
        cond(tf.equal(count, self._first_update()), self._start)
        always = self._untracked.always_updates
        before = None if always else self._updates_inside()
        self._apply_inside(gradients, variables)

        def update():
            self._follow(count, gradients, variables)
            replica.add(self._counter, 1)

        if always:
            update()
        else:
            cond(tf.not_equal(self._updates_inside(), before), update)

    def _first_update(self):
        """The number of updates before the one that the slots start with."""
        return 0

    def _start(self):
        """Starts the slots that have not started yet from the weights."""
        slots = self._slots_of_followed()
        weights = [replica.read(v) for v in self._untracked.followed]
        self._run(auxiliary.start(), slots, weights)

    def _slots_of_followed(self):
        return [self.get_slot(v, self._slot) for v in self._untracked.followed]

    def _updates_inside(self):
        iterations = self.inner_optimizer.iterations
        is_variable = isinstance(iterations, _keras.VARIABLES)
        return replica.read(iterations) if is_variable else tf.convert_to_tensor(iterations)

    def _follow(self, count, gradients, variables):
        """What follows an update of the weights, of which there were `count` before."""
        raise NotImplementedError


def _skips(optimizer):
    """Whether there are steps of an optimizer in which it updates nothing."""
    if isinstance(optimizer, Container):
        return any(map(_skips, optimizer._inside()))
    inner = getattr(optimizer, "inner_optimizer", None)  # of `LossScaleOptimizer`
    options = ("gradient_accumulation_steps", "skip_nonfinite")
    return inner is not None or any(getattr(optimizer, name, None) for name in options)
