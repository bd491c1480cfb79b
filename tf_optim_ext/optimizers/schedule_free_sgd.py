"""Schedule-free gradient descent."""

import tensorflow as tf

from tf_optim_ext.base import schedule_free
from tf_optim_ext.base.declaration import Hyperparameter
from tf_optim_ext.rule import unless_set, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class ScheduleFreeSGD(schedule_free.ScheduleFreeOptimizer):
    r"""Schedule-free gradient descent: an average of the weights in place of a schedule.

    It needs to know neither the length of the training nor a schedule, and the model is as good at
    any time as if the learning rate had just fallen to zero.

    .. math::
        \gamma_t &= \gamma \min(1, t / T), \quad
        c_t = \frac{t^r \max_{i \le t} \gamma_i^p}{\sum_{k \le t} k^r \max_{i \le k} \gamma_i^p} \\
        z_t &= z_{t-1} - \gamma_t (g_t + \lambda y_{t-1}) \\
        x_t &= (1 - c_t) x_{t-1} + c_t z_t \\
        y_t &= (1 - \beta) z_t + \beta x_t

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. 10 to 50 times what is good for
            `SGD` with momentum; start near 1.
        momentum: float in (0, 1], :math:`\beta`, where between the last point :math:`z` and the
            average :math:`x` gradients are taken.
        warmup_steps: number >= 0 of steps in which the rate rises, :math:`T`.
        r: float >= 0, :math:`r`; weighs later steps more in the average.
        weight_lr_power: float >= 0, :math:`p`; the power of the largest learning rate so far in
            the weights of the average.
        weight_decay: float, :math:`\lambda`, of the training weights.
        **kwargs: see `Optimizer`.

    The model's variables hold :math:`y` while it trains and :math:`x` otherwise, see
    `ScheduleFreeOptimizer`: a compiled Keras model switches by itself. With batch normalisation,
    whose averages belong to :math:`y`, run some batches forward in training mode with
    `averaged_weights` before evaluation.

    Reference:
        Defazio et al., *The Road Less Scheduled*, arXiv:2405.15682; code
        https://github.com/facebookresearch/schedule_free.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.ScheduleFreeSGD(0.25)
        >>> w = tf.Variable(1.0)
        >>> for _ in range(2):
        ...     _ = optimizer.apply_gradients([(tf.constant(1.0), w)])
        >>> with optimizer.averaged_weights():
        ...     round(float(w), 6)
        0.625
    """

    hyperparameters = [
        Hyperparameter("momentum", "(0, 1]"),
        Hyperparameter("warmup_steps", "[0, inf)"),
        Hyperparameter("r", "[0, inf)"),
        Hyperparameter("weight_lr_power", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=1.0,
        momentum=0.9,
        warmup_steps=0,
        r=0.0,
        weight_lr_power=2.0,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            momentum=momentum,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
            weight_decay=weight_decay,
            **kwargs,
        )

    @property
    def _interpolation(self):
        return self._current_value("momentum")

    @staticmethod
    def rule(w, g, s, h):
        rate = schedule_free.warmed_up_rate(h)
        weight = schedule_free.averaging_weight(rate, s, h)
        z = unless_set(s.z, w, h)
        direction = where(h.weight_decay != 0, g + h.weight_decay * w, g)
        y, s.z = schedule_free.advance(w, z, direction, rate, weight, h.momentum)
        return y
