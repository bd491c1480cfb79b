"""SignSGD."""

import tensorflow as tf

from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import sign


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class SignSGD(Optimizer):
    r"""SignSGD: the sign of the gradient.

    No slots, and steps of one size for all weights. It wants large batches, in which the signs are
    not noise; otherwise take `Signum`.

    .. math::
        w_t = w_{t-1} - \gamma \operatorname{sign}(g_t)

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`, the size of every step. Start
            near 0.0001, a tenth of the rate for `Adam`.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    The paper's vote of several workers is not here: gradients of replicas are summed before their
    sign is taken.

    Reference:
        Bernstein et al., *signSGD: Compressed Optimisation for Non-Convex Problems*,
        arXiv:1802.04434, Algorithm 1.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.SignSGD(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    def __init__(self, learning_rate=0.001, **kwargs):
        super().__init__(learning_rate, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        return w - h.learning_rate * sign(g)
