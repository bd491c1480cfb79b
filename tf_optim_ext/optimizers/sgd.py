"""Stochastic gradient descent."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Boolean, Derived, Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class SGD(Optimizer):
    r"""Stochastic gradient descent with momentum and Nesterov momentum.

    The plain method, with which all others are compared. With momentum 0.9 and a well-tuned,
    decaying learning rate it is hard to beat for convolutional networks.

    .. math::
        m_t &= \mu m_{t-1} - \gamma g_t \\
        w_t &= w_{t-1} + m_t \quad\text{or, with Nesterov momentum,}\quad
        w_t = w_{t-1} + \mu m_t - \gamma g_t

    Without momentum there is no slot, and :math:`w_t = w_{t-1} - \gamma g_t`.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.01 to 0.1.
        momentum: float in [0, 1], :math:`\mu`.
        nesterov: whether to look ahead.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    The learning rate is inside the momentum, as in Keras; in PyTorch it is outside. Both are the
    same while it is constant.

    Reference:
        Sutskever et al., *On the importance of initialization and momentum in deep learning*,
        ICML 2013.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.SGD(0.1, momentum=0.9)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.8
    """

    state = [Slot("momentum")]
    hyperparameters = [
        Hyperparameter("momentum", "[0, 1]"),
        Boolean("nesterov"),
        Derived("has_momentum", "momentum", 0.0, False),
    ]

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, **kwargs):
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        step = h.learning_rate * g
        if not h.has_momentum:
            return w - step
        s.momentum = h.momentum * s.momentum - step
        return w + (h.momentum * s.momentum - step if h.nesterov else s.momentum)
