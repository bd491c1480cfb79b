"""Schedule-free optimizers: what they share beside their rules.

They train at one point, y, and are to be evaluated at another one, the average x of their path. The
model's variables can hold either. Everything here is about which of them they hold.
"""

import functools
import math

import numpy as np
import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import replica
from tf_optim_ext.base import keras_hooks
from tf_optim_ext.base.declaration import OptimizerScalar, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.base.step import without_autograph
from tf_optim_ext.engine import route, targets
from tf_optim_ext.engine.interrupts import DeferredInterrupts
from tf_optim_ext.rule import lerp, maximum, where

_TRAINING_WEIGHTS = "training_weights_"
"""Keys of y in files, with the position of the variable."""


def averaging_weight(rate, s, h):
    """The weight of this step in the average x, from the learning rate with warm-up."""
    s.lr_max = maximum(s.lr_max, rate)
    weight = h.step**h.r * s.lr_max**h.weight_lr_power
    s.weight_sum = s.weight_sum + weight
    return where(s.weight_sum > 0, weight / s.weight_sum, 0.0)


def warmed_up_rate(h):
    """The learning rate, rising linearly over the warm-up."""
    rising = h.learning_rate * (h.step / h.warmup_steps)
    return where(h.step < h.warmup_steps, rising, h.learning_rate)


def advance(y, z, direction, rate, weight, beta):
    """The new y and z, without computing x."""
    new_y = lerp(y, z, weight) + rate * (beta * (1 - weight) - 1) * direction
    return new_y, z - rate * direction


class ScheduleFreeOptimizer(Optimizer):
    """Base class of the schedule-free optimizers.

    The model's variables hold y, where gradients are taken, while it trains, and the average x
    otherwise. In a compiled Keras model that happens by itself: `fit` and `train_on_batch` switch
    to y; `evaluate`, `predict`, `save`, `save_weights` and `export` to x, and `fit` leaves x
    behind. In a custom training loop, wrap what uses the model in `averaged_weights`, or call
    `use_averaged_weights` and, before training goes on, `use_training_weights`.

    A step that is taken from x, at which its gradients should not be, is an error: eagerly and when
    a function is traced a `RuntimeError`, when a function runs a
    `tf.errors.InvalidArgumentError`. XLA has no assertions: there, native steps fail in the same
    way, and others (on accelerators, under `portable()`) change nothing, not even `iterations`.

    The slot z is NaN until the first update of a variable, which starts it from the weights.

    Leave out `use_ema`: it would average y.

    Args:
        learning_rate: see `Optimizer`.
        **kwargs: see `Optimizer`.
    """

    state = [Slot("z", math.nan), OptimizerScalar("weight_sum"), OptimizerScalar("lr_max")]

    def __init__(self, learning_rate, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self._untracked.averaged = None
        self._untracked.left = []  # y, while the context `averaged_weights` keeps it
        self._untracked.stored = []  # y from a file, until a switch to it
        keras_hooks.install(self._api)

    @staticmethod
    def decay(w, h):
        return w

    @property
    def _interpolation(self):
        """The part of x in y, the paper's beta."""
        raise NotImplementedError

    def _check_groups(self):
        super()._check_groups()
        for name in ("beta_1", "momentum"):
            if name in self._untracked.groups.overridden:
                raise ValueError(
                    f"{type(self).__name__} needs the same `{name}` for all variables: it is how "
                    "far weights and averages are apart. Leave it out of `groups`."
                )

    def _create_scalars(self, variables):
        super()._create_scalars(variables)
        if variables and self._untracked.averaged is None:
            # Saved with the rest: whoever loads the weights must know which ones they are.
            averaged = self._add_beside(variables[0], "averaged", 0.0, "float64")
            self._untracked.averaged = averaged
            self._restore_deferred("averaged", averaged)

    @property
    def holds_averaged_weights(self):
        """Whether the model's variables hold the average x and not y."""
        return self._untracked.averaged is not None and bool(self._untracked.averaged.numpy())

    def use_averaged_weights(self):
        """Switches the model's variables to the average x. Does nothing if they hold it.

        Raises:
            ValueError: state was loaded, but the optimizer is not built for any variables yet.
        """
        self._check_known()
        if self._untracked.averaged is not None and not self.holds_averaged_weights:
            self._switch(self._average_of(self._model_variables()), averaged=1.0)

    def use_training_weights(self):
        """Switches the model's variables to y. Does nothing if they hold it.

        Raises:
            ValueError: state was loaded, but the optimizer is not built for any variables yet.
        """
        self._check_known()
        if self.holds_averaged_weights:
            values = self._stored_training_weights()
            if values is None:
                values = self._towards_z(self._model_variables(), 1 - self._interpolation)
            self._switch(values, averaged=0.0)

    @property
    def _has_pending_state(self):
        """Whether what was loaded tells which weights the variables hold, and nobody asked yet."""
        return not self.built and (
            bool(self._untracked.pending_store) or self._is_deferred("averaged")
        )

    def _check_known(self):
        if self._has_pending_state:
            raise ValueError(
                f"{self.name!r} has loaded its state, but not seen the variables that it belongs "
                "to: call `build(model.trainable_variables)` before switching them."
            )

    def averaged_weights(self):
        """Context in which the model's variables hold the average x.

        Afterwards they hold to the last bit what they held before.
        """
        return _AveragedWeights(self)

    def save_own_variables(self, store):
        """See `Optimizer`. A file with x has y beside it if that is known, as x and z round it."""
        super().save_own_variables(store)
        left = self._untracked.left if self.built else self._untracked.stored
        for i, value in enumerate(left):
            store[f"{_TRAINING_WEIGHTS}{i}"] = np.asarray(tf.cast(value, _wide(value.dtype)))

    def load_own_variables(self, store):
        """See `Optimizer`."""
        entries = {key: store[key] for key in store.keys()}  # noqa: SIM118 (h5 stores)
        names = [key for key in entries if key.startswith(_TRAINING_WEIGHTS)]
        stored = {
            int(key.removeprefix(_TRAINING_WEIGHTS)): np.asarray(entries.pop(key)) for key in names
        }
        super().load_own_variables(entries)
        if stored:
            self._untracked.stored = [stored[i] for i in sorted(stored)]

    def _stored_training_weights(self):
        """What a file had as y, if it belongs to the x that the variables hold; or None."""
        variables, stored = self._model_variables(), self._untracked.stored
        self._untracked.stored = []
        if [v.shape for v in variables] != [tf.TensorShape(s.shape) for s in stored]:
            return None
        with tf.init_scope():
            values = [tf.cast(s, v.dtype) for s, v in zip(stored, variables)]
            return values if _equal(variables, self._average_of(values)) else None

    def _model_variables(self):
        return [_keras.tensorflow_variable(v) for v in self._optimized]

    def _average_of(self, values):
        return self._towards_z(values, 1 - 1 / self._interpolation)

    def _towards_z(self, values, fraction):
        """Points a fraction of the way from `values` to z."""
        with tf.init_scope():
            if self.iterations.numpy() == 0:  # z is not in use yet, see `unless_set`
                return [tf.identity(value) for value in values]
            moved = []
            for value, variable in zip(values, self._optimized):
                if self._is_frozen(variable):
                    moved.append(tf.identity(value))
                    continue
                with _keras.hidden_from_debuggers():
                    z = tf.convert_to_tensor(self.get_slot(variable, "z"))
                start = tf.cast(value, z.dtype)
                z = tf.where(tf.math.is_nan(z), start, z)
                moved.append(tf.cast(start + fraction * (z - start), value.dtype))
            return moved

    def _switch(self, values, averaged):
        with tf.init_scope(), DeferredInterrupts():
            for variable, value in zip(self._model_variables(), values):
                variable.assign(value)
            self._untracked.averaged.assign(averaged)
        self._untracked.left = []

    # No step is taken from averaged weights: whatever runs it finds out when it runs.

    def _check(self, gradients, variables):
        present_gradients, present, late = super()._check(gradients, variables)
        self.build(variables)  # may restore what says which weights the variables hold
        message = (
            f"The variables hold averaged weights, but {self.name!r} needs gradients at its "
            "training weights: call `use_training_weights()` before computing them."
        )
        with tf.init_scope():  # in a `tf.function`: when it is traced
            if tf.executing_eagerly() and self.holds_averaged_weights:
                raise RuntimeError(message)
        if not tf.executing_eagerly() and not _keras.inside_xla():
            late = [*late, tf.debugging.Assert(self._may_step(), [message])]
        return present_gradients, present, late

    def _may_step(self):
        return tf.equal(replica.read(self._untracked.averaged), 0.0)

    def _accumulate_or_update(self, gradients, variables):
        update = functools.partial(super()._accumulate_or_update, gradients, variables)
        self._unless_averaged(gradients, variables, update)
        if _keras.inside_xla():
            # The caller counts the step, also one that is refused.
            counter = _keras.tensorflow_variable(self._counter)
            refused = tf.where(self._may_step(), 0, 1)
            replica.assign(counter, replica.read(counter) - tf.cast(refused, counter.dtype))

    @without_autograph
    def update_step(self, gradient, variable, learning_rate):
        """See `Optimizer`."""
        if not self.built:
            raise ValueError(
                "`update_step` needs an optimizer that is built: call `build(variables)` first."
            )
        update = functools.partial(super().update_step, gradient, variable, learning_rate)
        self._unless_averaged([gradient], [variable], update)

    def _unless_averaged(self, gradients, variables, update):
        """XLA leaves out assertions: there, native steps fail, and others do nothing."""
        if not _keras.inside_xla() or self._fails_natively(gradients, variables):
            update()
            return
        tf.cond(self._may_step(), lambda: (update(), 0)[1], lambda: 0)

    def _fails_natively(self, gradients, variables):
        obstacles = [targets.obstacle(_keras.tensorflow_variable(v)) for v in variables]
        is_sparse = any(isinstance(g, tf.IndexedSlices) for g in gradients)
        obstacle = next(filter(None, obstacles), None)
        return route.choose_for(self._program(), obstacle, is_sparse).is_native

    def _update_count(self, reader=None):
        count = super()._update_count(reader)
        if not _keras.inside_xla() or self._untracked.averaged is None:
            return count
        # What the native step refuses.
        return tf.where(self._may_step(), count, tf.constant(-1, count.dtype))


class _AveragedWeights:
    """The context `averaged_weights`.

    A generator would do, but one that nobody leaves is run to its end whenever it is collected.
    """

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self._before = None

    def __enter__(self):
        optimizer = self._optimizer
        optimizer._check_known()
        if optimizer.built and not optimizer.holds_averaged_weights:
            self._before = [tf.identity(v) for v in optimizer._model_variables()]
            optimizer.use_averaged_weights()
            optimizer._untracked.left = self._before

    def __exit__(self, *exception):
        if self._before:
            self._optimizer._switch(self._before, averaged=0.0)
            self._before = None

    def forget(self):
        """Leaves the variables as they are, for good."""
        self._before = None
        self._optimizer._untracked.left = []

    def undisturbed(self):
        """Whether the variables hold what they were switched to."""
        optimizer = self._optimizer
        if not self._before or not optimizer.holds_averaged_weights:
            return False
        return _equal(optimizer._model_variables(), optimizer._average_of(self._before))


def _equal(variables, values):
    """Whether they are the same to the bit."""
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(variables, values))


def _wide(dtype):
    """A dtype that files have, and that holds all values of another."""
    return tf.float64 if dtype == tf.float64 else tf.float32
