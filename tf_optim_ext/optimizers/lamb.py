"""LAMB."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.layerwise import LayerwiseOptimizer, adapted
from tf_optim_ext.rule import divide_no_nan, lerp, norm, sqrt, square, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Lamb(LayerwiseOptimizer):
    r"""LAMB: Adam's direction, scaled per variable to the length of the weights.

    For very large batches: every variable moves by the same fraction of its norm.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
               + \lambda w_{t-1} \\
        w_t &= w_{t-1} - \gamma \frac{\lVert w_{t-1} \rVert}{\lVert u_t \rVert} u_t

    The ratio of norms is 1 where either norm is 0, and for variables that
    `exclude_from_layer_adaptation` excludes. The norms take two passes over memory.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, :math:`\lambda`.
        **kwargs: see `Optimizer`.

    The weight decay is inside the ratio, as in the paper; Keras applies it outside. The paper's
    bounding function :math:`\phi` is the identity, as in the authors' code.

    Reference:
        You et al., *Large Batch Optimization for Deep Learning: Training BERT in 76 minutes*,
        arXiv:1904.00962, Algorithm 2.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Lamb(0.1)
        >>> w = tf.Variable(2.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(3.0), w)])
        >>> round(float(w), 6)
        1.8
    """

    state = [Slot("momentum", old_name="m"), Slot("velocity", old_name="v")]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, **kwargs):
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **kwargs)

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta_1)
        s.velocity = lerp(square(g), s.velocity, h.beta_2)
        m = 1 / (1 - h.beta_1**h.step) * s.momentum
        v = 1 / (1 - h.beta_2**h.step) * s.velocity
        r = divide_no_nan(m, sqrt(v) + h.epsilon)
        u = where(h.weight_decay != 0, r + h.weight_decay * w, r)
        w_norm, u_norm = norm(w), norm(u)
        ratio = adapted(w_norm / u_norm, w_norm, u_norm, h)
        return w - h.learning_rate * ratio * u
