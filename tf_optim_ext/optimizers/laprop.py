"""LaProp."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import divide_no_nan, lerp, sqrt, square


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class LaProp(Optimizer):
    r"""LaProp: Adam that normalises each gradient first and averages afterwards.

    Momentum and adaptivity no longer interfere, so that every :math:`\beta_2` is stable, also one
    below :math:`\beta_1`. More robust than Adam where gradients are noisy.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)
               \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} \\
        w_t &= w_{t-1} - \gamma \frac{m_t}{1 - \beta_1^t}

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.0004.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. It has only to prevent a division by zero. With 0,
            weights whose gradients were all zero stay where they are.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    The learning rate is outside the momentum, as in the paper's algorithm; the authors' code has it
    inside. Both are the same while it is constant. The authors' code applies the decay after the
    update, to the new weights.

    Reference:
        Ziyin, Wang and Ueda, *LaProp: Separating Momentum and Adaptivity in Adam*,
        arXiv:2002.04839.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.LaProp(0.1)
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

    def __init__(self, learning_rate=0.0004, beta_1=0.9, beta_2=0.999, epsilon=1e-15, **kwargs):
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        s.velocity = lerp(square(g), s.velocity, h.beta_2)
        root = 1 / sqrt(1 - h.beta_2**h.step) * sqrt(s.velocity)
        s.momentum = lerp(divide_no_nan(g, root + h.epsilon), s.momentum, h.beta_1)
        return w - h.learning_rate / (1 - h.beta_1**h.step) * s.momentum
