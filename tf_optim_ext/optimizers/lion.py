"""Lion."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import lerp, sign


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Lion(Optimizer):
    r"""Lion: the sign of an interpolation between momentum and gradient.

    One slot instead of Adam's two, and steps of one size for all weights. It shines with large
    batches.

    .. math::
        w_t &= w_{t-1} - \gamma \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) g_t

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. A third to a tenth of the
            rate for `AdamW`.
        beta_1: float in [0, 1], :math:`\beta_1`.
        beta_2: float in [0, 1], :math:`\beta_2`.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves. Three to ten times `AdamW`'s.
        **kwargs: see `Optimizer`.

    Reference:
        Chen et al., *Symbolic Discovery of Optimization Algorithms*, arXiv:2302.06675.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Lion(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [Slot("momentum")]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1]"),
        Hyperparameter("beta_2", "[0, 1]"),
    ]

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.99, **kwargs):
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        update = sign(lerp(g, s.momentum, h.beta_1))
        s.momentum = lerp(g, s.momentum, h.beta_2)
        return w - h.learning_rate * update
