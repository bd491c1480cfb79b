"""Warm-up, a constant value, a short decay."""

import tensorflow as tf

from tf_optim_ext.schedules.schedule import SHAPES, Schedule, between, elapsed, remaining


def one_minus_sqrt(left):
    """1 - sqrt(1 - left), without the cancellation."""
    return left / (1 + tf.sqrt(1 - left))


DECAYS = {**SHAPES, "1-sqrt": one_minus_sqrt}


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class WarmupStableDecay(Schedule):
    r"""Linear warm-up, a constant value, then a short decay: WSD, also called trapezoidal.

    As good as a cosine of the same length if the decay takes 10 to 20 % of the steps. The length
    need not be known before: train on at the constant value, and start a decay from any checkpoint.

    From the end of the constant phase, with :math:`x` the part of the decay that is over,

    .. math::
        \eta = \eta_T + (\eta_{max} - \eta_T) d(x), \quad
        d(x) = 1 - x,\ \tfrac12 (1 + \cos \pi x) \text{ or } 1 - \sqrt x

    Args:
        peak_learning_rate: number >= 0, the constant value, :math:`\eta_{max}`.
        warmup_steps: number >= 0 of steps in which the value rises from `initial_learning_rate`.
        stable_steps: number >= 0 of steps at the constant value.
        decay_steps: number >= 0 of steps of the decay.
        decay: "linear", "cosine" or "1-sqrt", which the authors found best.
        initial_learning_rate: number >= 0, the value at step 0.
        end_learning_rate: number >= 0, the value at the end, :math:`\eta_T`.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Hägele et al., *Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations*,
        arXiv:2405.18392; Hu et al., *MiniCPM*, arXiv:2404.06395, for the name.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.WarmupStableDecay(1.0, 2, 2, 4, decay="1-sqrt")
        >>> [float(schedule(step)) for step in (0, 1, 2, 4, 5, 8)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        peak_learning_rate,
        warmup_steps,
        stable_steps,
        decay_steps,
        decay="linear",
        initial_learning_rate=0.0,
        end_learning_rate=0.0,
        name=None,
    ):
        super().__init__(name)
        self.peak_learning_rate = self._number("peak_learning_rate", peak_learning_rate)
        self.warmup_steps = self._steps("warmup_steps", warmup_steps, "[0, inf)")
        self.stable_steps = self._steps("stable_steps", stable_steps, "[0, inf)")
        self.decay_steps = self._steps("decay_steps", decay_steps, "[0, inf)")
        self.decay = self._choice("decay", decay, tuple(DECAYS))
        self.initial_learning_rate = self._number("initial_learning_rate", initial_learning_rate)
        self.end_learning_rate = self._number("end_learning_rate", end_learning_rate)

    def compute(self, step):
        decay_from = self.warmup_steps + self.stable_steps
        rising = between(
            self.initial_learning_rate,
            self.peak_learning_rate,
            elapsed(step, 0, self.warmup_steps),
        )
        left = remaining(step, decay_from, decay_from + self.decay_steps)
        falling = between(self.end_learning_rate, self.peak_learning_rate, DECAYS[self.decay](left))
        return tf.where(tf.cast(step, tf.float64) < self.warmup_steps, rising, falling)
