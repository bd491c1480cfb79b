"""Schedule-free RAdam."""

import tensorflow as tf

from tf_optim_ext.base import schedule_free
from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.optimizers.rectified_adam import approximated_length, rectification
from tf_optim_ext.rule import divide_no_nan, lerp, sqrt, square, unless_set, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class ScheduleFreeRAdam(schedule_free.ScheduleFreeOptimizer):
    r"""Schedule-free RAdam: `ScheduleFreeAdamW` that needs no warm-up either.

    The learning rate rises as that of `RectifiedAdam` does, by how much is known of the second
    moment.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \gamma_t &= r_t \gamma, \quad d_t = \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
                   \quad\text{if } \rho_t > 4 \\
        \gamma_t &= 0 \text{ or } \gamma, \quad d_t = g_t \quad\text{else} \\
        z_t &= z_{t-1} - \gamma_t (d_t + \lambda y_{t-1}) \\
        x_t &= (1 - c_t) x_{t-1} + c_t z_t, \quad y_t = (1 - \beta_1) z_t + \beta_1 x_t

    with :math:`\rho_t` and the rectification :math:`r_t` of `RectifiedAdam`, and :math:`c_t` of
    `ScheduleFreeAdamW`.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. 1 to 10 times what is good for
            `AdamW`; start near 0.0025.
        beta_1: float in (0, 1], :math:`\beta_1`, where between the last point :math:`z` and the
            average :math:`x` gradients are taken. 0.95 or 0.98 for long trainings.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        silent_sgd_phase: whether the weights stay where they are while :math:`\rho_t \le 4`, and
            do not move by gradient descent.
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

        Liu et al., arXiv:1908.03265, for the rectification.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.ScheduleFreeRAdam(0.25, silent_sgd_phase=False)
        >>> w = tf.Variable(1.0)
        >>> for _ in range(2):
        ...     _ = optimizer.apply_gradients([(tf.constant(1.0), w)])
        >>> with optimizer.averaged_weights():
        ...     round(float(w), 6)
        0.625
    """

    state = [Slot("velocity")]
    hyperparameters = [
        Hyperparameter("beta_1", "(0, 1]"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Hyperparameter("silent_sgd_phase", "boolean"),
        Hyperparameter("r", "[0, inf)"),
        Hyperparameter("weight_lr_power", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=0.0025,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        silent_sgd_phase=True,
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
            silent_sgd_phase=silent_sgd_phase,
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
        limit, length = approximated_length(h)
        adaptive = length > 4
        early = where(h.silent_sgd_phase != 0, 0.0, 1.0)
        rate = h.learning_rate * where(adaptive, rectification(limit, length), early)
        weight = schedule_free.averaging_weight(rate, s, h)
        z = unless_set(s.z, w, h)
        s.velocity = lerp(square(g), s.velocity, h.beta_2)
        root = sqrt(s.velocity) / sqrt(1 - h.beta_2**h.step) + h.epsilon
        direction = divide_no_nan(g, where(adaptive, root, 1.0))
        direction = where(h.weight_decay != 0, direction + h.weight_decay * w, direction)
        y, s.z = schedule_free.advance(w, z, direction, rate, weight, h.beta_1)
        return y
