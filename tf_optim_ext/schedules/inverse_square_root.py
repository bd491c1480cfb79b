"""The inverse square root of the number of the update, as of the Transformer and of T5."""

import tensorflow as tf

from tf_optim_ext.schedules.schedule import Schedule


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class InverseSquareRoot(Schedule):
    r"""Warm-up, then a decay with the inverse square root of the number of updates.

    It does not need to know when training ends. With :math:`n = t + 1`, the number of the update,
    counted from 1 as in both papers, and :math:`W` warm-up steps,

    .. math::
        \eta(t) = \eta_W \sqrt{\frac{W}{\max(n, W)}} \cdot
        \begin{cases}
        \min(n / W, 1) & \text{`warmup="linear"`, as in the Transformer} \\
        1 & \text{`warmup="constant"`, as in T5}
        \end{cases}

    The Transformer's own is `InverseSquareRoot((d_model * warmup_steps) ** -0.5, warmup_steps)`,
    that of T5 `InverseSquareRoot(0.01, 10_000, "constant")`; T5's code counts from 0, one less.

    Args:
        peak_learning_rate: number >= 0, the value at the end of the warm-up, :math:`\eta_W`.
        warmup_steps: number >= 1 of steps, :math:`W`.
        warmup: "linear" or "constant".
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Vaswani et al., *Attention Is All You Need*, arXiv:1706.03762, section 5.3; Raffel et al.,
        *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*,
        arXiv:1910.10683, section 3.1.2.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.InverseSquareRoot(0.5, warmup_steps=4)
        >>> [float(schedule(step)) for step in (0, 1, 2, 3, 15)]
        [0.125, 0.25, 0.375, 0.5, 0.25]
    """

    def __init__(self, peak_learning_rate, warmup_steps, warmup="linear", name=None):
        super().__init__(name)
        self.peak_learning_rate = self._number("peak_learning_rate", peak_learning_rate)
        self.warmup_steps = self._steps("warmup_steps", warmup_steps, "[1, inf)")
        self.warmup = self._choice("warmup", warmup, ("linear", "constant"))

    def compute(self, step):
        # A step before 0 stands for 0.
        update = tf.maximum(tf.cast(step, tf.float64), 0.0) + 1.0
        decayed = self.peak_learning_rate * tf.sqrt(
            self.warmup_steps / tf.maximum(update, self.warmup_steps)
        )
        if self.warmup == "constant":
            return decayed
        return decayed * tf.minimum(update / self.warmup_steps, 1.0)
