"""Grams."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import absolute, divide_no_nan, lerp, sign, sqrt, square


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Grams(Optimizer):
    r"""Grams: the length of Adam's step for each weight, the direction of its latest gradient.

    A weight never moves against its gradient. The paper reports faster convergence than AdamW,
    Lion and their cautious variants.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} \\
        w_t &= w_{t-1} - \gamma |u_t| \operatorname{sign}(g_t)

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001, with what is
            good for `AdamW`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    A weight whose gradient is exactly zero does not move, whatever its momentum.

    Reference:
        Cao, Li and Song, *Grams: Gradient Descent with Adaptive Momentum Scaling*,
        arXiv:2412.17107.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Grams(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [Slot("momentum"), Slot("velocity")]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-6, **kwargs):
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta_1)
        s.velocity = lerp(square(g), s.velocity, h.beta_2)
        m = 1 / (1 - h.beta_1**h.step) * absolute(s.momentum)
        root = 1 / sqrt(1 - h.beta_2**h.step) * sqrt(s.velocity)
        return w - h.learning_rate * divide_no_nan(m, root + h.epsilon) * sign(g)
