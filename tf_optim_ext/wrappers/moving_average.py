"""Exponential moving averages of the weights."""

import numbers

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.backends import replica
from tf_optim_ext.base.declaration import Boolean, Hyperparameter
from tf_optim_ext.engine import graphs
from tf_optim_ext.engine.interrupts import DeferredInterrupts
from tf_optim_ext.wrappers.average_wrapper import AveragedOptimizerWrapper


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class MovingAverage(AveragedOptimizerWrapper):
    r"""Keeps an exponential moving average of the weights that another optimizer trains.

    After each update,

    .. math::
        a \leftarrow d\, a + (1 - d)\, w

    where :math:`a`, the slot `average`, starts from the weights before the first update. Unlike
    `use_ema`, which every optimizer has, the model keeps its weights at the end of `fit`, and the
    decay may warm up.

    Args:
        optimizer: the optimizer inside, of this package or Keras' own; or the name of one of Keras'
            own.
        average_decay: number in [0, 1], schedule, callable or variable, :math:`d`.
        num_updates: integer >= 0, or an integer variable, :math:`n`, which is read in each step;
            if given, :math:`d` is at most :math:`(1 + n) / (10 + n)`.
        start_step: number of updates after which averaging begins; until then, the average is the
            weights.
        dynamic_decay: whether :math:`d` is at most :math:`(1 + n) / (10 + n)`, where :math:`n` is
            the number of updates since `start_step`.
        name: name of the optimizer.

    A step that only accumulates gradients, or that a `LossScaleOptimizer` inside skips, is no
    update.

    Raises:
        TypeError: `optimizer` is none, `num_updates` is no integer, or an argument is not known.
        ValueError: an argument is outside its range.

    Reference:
        Polyak and Juditsky, *Acceleration of stochastic approximation by averaging*, SIAM J.
        Control Optim. 30, 1992, for averages of iterates; the class is TensorFlow Addons'.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.MovingAverage(tf_optim_ext.SGD(2.0), average_decay=0.5)
        >>> w = tf.Variable([1.0, 2.0])
        >>> for _ in range(2):
        ...     _ = optimizer.apply_gradients([(tf.constant([0.1, 0.1]), w)])
        >>> with optimizer.averaged_weights():
        ...     print([round(float(x), 6) for x in w])
        [0.75, 1.75]
        >>> print([round(float(x), 6) for x in w])
        [0.6, 1.6]
    """

    hyperparameters = [Hyperparameter("average_decay", "[0, 1]"), Boolean("dynamic_decay")]
    counts = {"start_step": 0}

    def __init__(
        self,
        optimizer,
        average_decay=0.99,
        num_updates=None,
        start_step=0,
        dynamic_decay=False,
        name="MovingAverage",
        **kwargs,
    ):
        super().__init__(
            optimizer,
            name,
            average_decay=average_decay,
            start_step=start_step,
            dynamic_decay=dynamic_decay,
            **kwargs,
        )
        self._untracked.num_updates = self._checked_updates(num_updates)

    def _checked_updates(self, value):
        is_variable = value is not None and checks.is_variable(value)
        is_integer = (
            tf.as_dtype(value.dtype).is_integer
            if is_variable
            else isinstance(value, numbers.Integral) and not isinstance(value, bool)
        )
        if value is not None and not is_integer:
            raise TypeError(
                f"{type(self).__name__}: `num_updates` must be an integer, an integer variable, or "
                f"None. Received: num_updates={value!r}"
            )
        if value is None or is_variable:
            return value
        return checks.whole_number(type(self).__name__, "num_updates", value, 0)

    @property
    def num_updates(self):
        """The argument of the constructor."""
        return self._untracked.num_updates

    def _first_update(self):
        return self.start_step

    def is_due(self, count):
        """See `AveragedOptimizerWrapper`."""
        return count >= self.start_step if self.start_step else True

    def average_momentum(self, count):
        """See `AveragedOptimizerWrapper`."""
        decay = self._current_value("average_decay")
        limits = [count - self.start_step] if self.dynamic_decay else []
        if self.num_updates is not None:
            is_variable = checks.is_variable(self.num_updates)
            limits.append(replica.read(self.num_updates) if is_variable else self.num_updates)
        for updates in limits:
            updates = tf.cast(updates, tf.float64)
            decay = tf.minimum(tf.cast(decay, tf.float64), (1.0 + updates) / (10.0 + updates))
        return decay

    def get_config(self):
        """See `Optimizer`. Of a variable, it holds the current value."""
        updates = self.num_updates
        if updates is not None and checks.is_variable(updates):
            updates = int(_keras.tensorflow_variable(updates).numpy())
        return {**super().get_config(), "num_updates": updates}

    # -------------------------------------------------------------- what TensorFlow Addons has, too

    @property
    def has_shadow_copy(self):
        """Whether the averages' variables exist."""
        return self.built

    def shadow_copy(self, model_weights):
        """Creates the averages' variables before the first step; same as `build`."""
        self.build(model_weights)

    def swap_weights(self):
        """Exchanges the weights of the model and their averages, in all replicas.

        Twice gives the weights back to the last bit. Averages of 16-bit weights are rounded.

        Raises:
            ValueError: the optimizer is not built.
        """
        self._check_built()
        graphs.check_runs_now("`swap_weights`", "`assign_average_vars`")
        pairs = list(zip(self._untracked.followed, self._slots_of_followed()))
        weights = self._values()
        with DeferredInterrupts():
            self._assigned(pairs)
            for (_, slot), value in zip(pairs, weights):
                slot.assign(tf.cast(value, slot.dtype))
