"""Warm-up in front of a schedule."""

import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.schedules.schedule import SHAPES, Schedule, between, elapsed


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Warmup(Schedule):
    r"""Warm-up in front of another schedule, or of a constant.

    The other schedule :math:`f` begins when the warm-up of :math:`W` steps is over, at its own
    step 0, and the warm-up leads up to its first value:

    .. math::
        \eta(t) = \eta_0 + (f(0) - \eta_0)\, s(t / W) \text{ for } t < W,
        \qquad f(t - W) \text{ from then on}

    with :math:`s(x) = x` for `shape="linear"` and :math:`s(x) = \tfrac12 (1 - \cos \pi x)` for
    `"cosine"`. `"exponential"` rises by the same factor in each step,
    :math:`\eta_0 (f(0) / \eta_0)^{t / W}`; `"constant"` stays at :math:`\eta_0`.

    Step 0 has the value :math:`\eta_0`: with the default, 0, the first update changes nothing.

    Args:
        learning_rate: number >= 0, or a `LearningRateSchedule` of this package, of Keras or of your
            own, :math:`f`. It gets the step minus `warmup_steps`, an integer if the step is one.
        warmup_steps: number >= 0 of steps, :math:`W`. 0: there is no warm-up.
        initial_learning_rate: number >= 0, the value at step 0, :math:`\eta_0`; > 0 for
            `shape="exponential"`.
        shape: "linear", "cosine", "exponential" or "constant".
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range, or `learning_rate` is neither a number nor a
            schedule of the same generation of Keras.

    Reference:
        Goyal et al., *Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour*,
        arXiv:1706.02677, for "linear" (gradual warm-up) and "constant".

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.Warmup(schedules.Linear(0.5, decay_steps=2), warmup_steps=4)
        >>> [float(schedule(step)) for step in range(8)]
        [0.0, 0.125, 0.25, 0.375, 0.5, 0.25, 0.0, 0.0]
    """

    def __init__(
        self, learning_rate, warmup_steps, initial_learning_rate=0.0, shape="linear", name=None
    ):
        super().__init__(name)
        self.learning_rate = self._checked(learning_rate)
        self.warmup_steps = self._steps("warmup_steps", warmup_steps, "[0, inf)")
        self.shape = self._choice("shape", shape, (*SHAPES, "exponential", "constant"))
        interval = "(0, inf)" if shape == "exponential" else "[0, inf)"
        self.initial_learning_rate = self._number(
            "initial_learning_rate", initial_learning_rate, interval
        )

    def _checked(self, value):
        if isinstance(value, self._api.optimizers.schedules.LearningRateSchedule):
            return value
        if _keras.is_schedule(value):
            raise ValueError(
                f"{type(self).__name__}: `learning_rate` must be a schedule of the same Keras, "
                f"`{self._api.__name__}`. Received: learning_rate={value!r}. Schedules of this "
                "package for Keras 2 are in `tf_optim_ext.tf_keras.schedules`."
            )
        return self._number("learning_rate", value)

    def compute(self, step):
        warmup_steps = tf.cast(self.warmup_steps, _dtype(step, self.warmup_steps))
        shifted = tf.maximum(tf.cast(step, warmup_steps.dtype) - warmup_steps, 0)
        # In the warm-up, this is where it leads to.
        following = self.learning_rate
        if callable(following):
            following = tf.cast(following(shifted), tf.float64)
        if self.warmup_steps == 0:
            return following + tf.zeros_like(step, tf.float64)
        rising = self._rising(following, elapsed(step, 0, self.warmup_steps))
        return tf.where(tf.cast(step, tf.float64) < self.warmup_steps, rising, following)

    def _rising(self, target, part):
        initial = self.initial_learning_rate
        if self.shape == "constant":
            return tf.fill(tf.shape(part), tf.constant(initial, tf.float64))
        if self.shape == "exponential":
            return initial * tf.pow(tf.cast(target / initial, tf.float64), part)
        return between(initial, target, SHAPES[self.shape](part))


def _dtype(step, warmup_steps):
    """The dtype of the shifted step: steps stay integers if the warm-up is a whole number."""
    return step.dtype if isinstance(warmup_steps, int) else tf.float64
