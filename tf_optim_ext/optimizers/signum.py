"""Signum."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import lerp, sign


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Signum(Optimizer):
    r"""Signum: the sign of the momentum.

    `SignSGD` with less noise, and steps of one size for all weights. Compare `Lion`, which looks at
    the newest gradient more closely.

    .. math::
        m_t &= \mu m_{t-1} + (1 - \mu) g_t \\
        w_t &= w_{t-1} - \gamma \operatorname{sign}(m_t)

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`, the size of every step. Start
            near 0.0001, a tenth of the rate for `Adam`.
        momentum: float in [0, 1], :math:`\mu`.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    Reference:
        Bernstein et al., *signSGD: Compressed Optimisation for Non-Convex Problems*,
        arXiv:1802.04434, Algorithm 2.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Signum(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [Slot("momentum")]
    hyperparameters = [Hyperparameter("momentum", "[0, 1]")]

    def __init__(self, learning_rate=0.001, momentum=0.9, **kwargs):
        super().__init__(learning_rate, momentum=momentum, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.momentum)
        return w - h.learning_rate * sign(s.momentum)
