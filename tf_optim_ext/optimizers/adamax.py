"""Adamax."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import absolute, divide_no_nan, lerp, maximum


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Adamax(Optimizer):
    r"""Adamax: Adam with the largest recent gradient in place of the second moment.

    For sparse or noisy gradients, such as those of embeddings: rare large ones bound the steps that
    follow, and small ones do not make them longer.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        u_t &= \max(\beta_2 u_{t-1}, |g_t|) \\
        w_t &= w_{t-1} - \frac{\gamma}{1 - \beta_1^t} \frac{m_t}{u_t + \epsilon}

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.002.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1], :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    The paper has no epsilon; as in Keras it is added to the norm, in PyTorch to :math:`|g_t|`.

    Reference:
        Kingma and Ba, *Adam: A Method for Stochastic Optimization*, arXiv:1412.6980, Algorithm 2.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Adamax(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [Slot("momentum", old_name="m"), Slot("norm", old_name="v")]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1]"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, **kwargs):
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta_1)
        s.norm = maximum(h.beta_2 * s.norm, absolute(g))
        alpha = h.learning_rate / (1 - h.beta_1**h.step)
        return w - divide_no_nan(alpha * s.momentum, s.norm + h.epsilon)
