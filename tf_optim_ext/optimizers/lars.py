"""LARS."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Boolean, Hyperparameter, Slot
from tf_optim_ext.base.layerwise import LayerwiseOptimizer, adapted
from tf_optim_ext.rule import norm, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class LARS(LayerwiseOptimizer):
    r"""LARS: momentum with a learning rate for each variable, in proportion to its weights.

    For convolutional networks and very large batches: no layer moves by more than a small part of
    its norm.

    .. math::
        d_t &= g_t + \lambda w_{t-1} \\
        r_t &= \eta \frac{\lVert w_{t-1} \rVert}
               {\lVert g_t \rVert + \lambda \lVert w_{t-1} \rVert + \epsilon} \\
        m_t &= \mu m_{t-1} + \gamma r_t d_t \\
        w_t &= w_{t-1} - m_t \quad\text{or, with Nesterov momentum,}\quad
        w_t = w_{t-1} - \mu m_t - \gamma r_t d_t

    The ratio :math:`r_t` is 1 where the norm of the weights or of the gradient is 0. The norms take
    two passes over memory.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. It is far larger than that of
            `SGD`, as the ratio is small: start near 1 and warm up.
        momentum: float in [0, 1], :math:`\mu`.
        trust_coefficient: float, :math:`\eta`.
        epsilon: float, :math:`\epsilon`. Not needed: where a norm is 0, the ratio is 1.
        nesterov: whether to look ahead.
        weight_decay: float, :math:`\lambda`, within the ratio. Typical values are 1e-5 to 1e-3.
        **kwargs: see `Optimizer`.

    The weight decay is a part of the scaled gradient, as in the paper, and thus not decoupled. The
    paper has no Nesterov momentum and no epsilon. Biases and normalisation weights are usually
    excluded from both, see `exclude_from_weight_decay` and `exclude_from_layer_adaptation`.

    Reference:
        You, Gitman and Ginsburg, *Large Batch Training of Convolutional Networks*,
        arXiv:1708.03888, Algorithm 1.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.LARS(1.0, trust_coefficient=0.1)
        >>> w = tf.Variable(2.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(3.0), w)])
        >>> round(float(w), 6)
        1.8
    """

    state = [Slot("momentum")]
    hyperparameters = [
        Hyperparameter("momentum", "[0, 1]"),
        Hyperparameter("trust_coefficient", "[0, inf)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Boolean("nesterov"),
    ]

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        trust_coefficient=0.001,
        epsilon=0.0,
        nesterov=False,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            momentum=momentum,
            trust_coefficient=trust_coefficient,
            epsilon=epsilon,
            nesterov=nesterov,
            weight_decay=weight_decay,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        d = where(h.weight_decay != 0, g + h.weight_decay * w, g)
        w_norm, g_norm = norm(w), norm(g)
        ratio = h.trust_coefficient * w_norm / (g_norm + h.weight_decay * w_norm + h.epsilon)
        ratio = adapted(ratio, w_norm, g_norm, h)
        step = h.learning_rate * ratio * d
        s.momentum = h.momentum * s.momentum + step
        return w - (h.momentum * s.momentum + step if h.nesterov else s.momentum)
