"""Schedule-free AdamW."""

import tensorflow as tf

from tf_optim_ext.base import schedule_free
from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.rule import divide_no_nan, lerp, sqrt, square, unless_set, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class ScheduleFreeAdamW(schedule_free.ScheduleFreeOptimizer):
    r"""Schedule-free AdamW: an average of the weights in place of momentum and schedule.

    It needs to know neither the length of the training nor a schedule, and the model is as good at
    any time as if the learning rate had just fallen to zero.

    .. math::
        \gamma_t &= \gamma \min(1, t / T), \quad
        c_t = \frac{t^r \max_{i \le t} \gamma_i^p}{\sum_{k \le t} k^r \max_{i \le k} \gamma_i^p} \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        z_t &= z_{t-1} - \gamma_t \left(\frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
               + \lambda y_{t-1}\right) \\
        x_t &= (1 - c_t) x_{t-1} + c_t z_t \\
        y_t &= (1 - \beta_1) z_t + \beta_1 x_t

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. 1 to 10 times what is good for
            `AdamW`; start near 0.0025.
        beta_1: float in (0, 1], :math:`\beta_1`, where between the last point :math:`z` and the
            average :math:`x` gradients are taken. 0.95 or 0.98 for long trainings.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
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

    Keras' class of this name never switches to :math:`x`, and computes it from the wrong
    :math:`z`; this one follows the paper and the authors' code.

    Reference:
        Defazio et al., *The Road Less Scheduled*, arXiv:2405.15682; code
        https://github.com/facebookresearch/schedule_free.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.ScheduleFreeAdamW(0.25)
        >>> w = tf.Variable(1.0)
        >>> for _ in range(2):
        ...     _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> with optimizer.averaged_weights():
        ...     round(float(w), 6)
        0.625
    """

    state = [Slot("velocity")]
    hyperparameters = [
        Hyperparameter("beta_1", "(0, 1]"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Hyperparameter("warmup_steps", "[0, inf)"),
        Hyperparameter("r", "[0, inf)"),
        Hyperparameter("weight_lr_power", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=0.0025,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        warmup_steps=0,
        r=0.0,
        weight_lr_power=2.0,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
            weight_decay=weight_decay,
            **kwargs,
        )

    @property
    def _interpolation(self):
        return self._current_value("beta_1")

    @staticmethod
    def rule(w, g, s, h):
        rate = schedule_free.warmed_up_rate(h)
        weight = schedule_free.averaging_weight(rate, s, h)
        z = unless_set(s.z, w, h)
        s.velocity = lerp(square(g), s.velocity, h.beta_2)
        root = sqrt(s.velocity) / sqrt(1 - h.beta_2**h.step) + h.epsilon
        direction = divide_no_nan(g, root)
        direction = where(h.weight_decay != 0, direction + h.weight_decay * w, direction)
        y, s.z = schedule_free.advance(w, z, direction, rate, weight, h.beta_1)
        return y
