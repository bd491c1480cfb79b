"""MARS."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import divide_no_nan, lerp, maximum, norm, sqrt, square


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class MARS(Optimizer):
    r"""MARS: AdamW with variance reduction, from the differences of successive gradients.

    For training of large models: it reaches the loss of AdamW in fewer steps.

    .. math::
        c_t &= g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1}), \qquad g_0 = 0 \\
        \tilde c_t &= c_t / \max(1, \lVert c_t \rVert) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \tilde c_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \tilde c_t^2 \\
        w_t &= w_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    The norm is that of one variable; it takes a pass over memory of its own.

    Args:
        learning_rate: float, schedule or callable, :math:`\eta`. Start near 0.003, about twice of
            what is good for `AdamW`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        gamma: float, :math:`\gamma`, the strength of the correction; 0 for none.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves. Typical values are 0.01 to 0.1.
        **kwargs: see `Optimizer`.

    This is the paper's MARS-AdamW in the approximate form: the previous gradient is that of the
    previous batch, where the exact form computes a second gradient of this batch. The authors' code
    leaves variables with less than two dimensions to AdamW; here all are treated alike. With
    :math:`g_0 = 0`, as in both, a variable's first gradient is corrected by itself; timm leaves out
    that correction.

    Reference:
        Yuan et al., *MARS: Unleashing the Power of Variance Reduction for Training Large Models*,
        arXiv:2411.10438.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.MARS(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [Slot("momentum"), Slot("velocity"), Slot("previous_gradient")]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("gamma", "[0, inf)"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=0.003,
        beta_1=0.95,
        beta_2=0.99,
        gamma=0.025,
        epsilon=1e-8,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            gamma=gamma,
            epsilon=epsilon,
            weight_decay=weight_decay,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        c = g + h.gamma * h.beta_1 / (1 - h.beta_1) * (g - s.previous_gradient)
        c = 1 / maximum(norm(c), 1.0) * c
        s.previous_gradient = g
        s.momentum = lerp(c, s.momentum, h.beta_1)
        s.velocity = lerp(square(c), s.velocity, h.beta_2)
        m = 1 / (1 - h.beta_1**h.step) * s.momentum
        root = 1 / sqrt(1 - h.beta_2**h.step) * sqrt(s.velocity)
        return w - h.learning_rate * divide_no_nan(m, root + h.epsilon)
