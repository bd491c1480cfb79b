"""Quasi-hyperbolic momentum."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import lerp


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class QHM(Optimizer):
    r"""Quasi-hyperbolic momentum: the mean of a plain and of a momentum step of gradient descent.

    Nesterov momentum and several other methods are special cases. It allows for a longer average
    than they do.

    .. math::
        m_t &= \beta m_{t-1} + (1 - \beta) g_t \\
        w_t &= w_{t-1} - \gamma ((1 - \nu) g_t + \nu m_t)

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 1.0: the rate
            for `SGD` with momentum :math:`\mu`, divided by :math:`1 - \mu`.
        beta: float in [0, 1), :math:`\beta`.
        nu: float in [0, 1], :math:`\nu`, the share of the momentum step. :math:`\nu = \beta` is
            Nesterov momentum.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    Reference:
        Ma and Yarats, *Quasi-hyperbolic momentum and Adam for deep learning*, arXiv:1810.06801.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.QHM(0.1, beta=0.9)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.926
    """

    state = [Slot("momentum")]
    hyperparameters = [
        Hyperparameter("beta", "[0, 1)"),
        Hyperparameter("nu", "[0, 1]"),
    ]

    def __init__(self, learning_rate=1.0, beta=0.999, nu=0.7, **kwargs):
        super().__init__(learning_rate, beta=beta, nu=nu, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta)
        return w - h.learning_rate * lerp(g, s.momentum, h.nu)
