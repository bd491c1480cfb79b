"""Adan."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import divide_no_nan, lerp, sqrt, square, unless_set, where
from tf_optim_ext.rule.transforms import decay_rate


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Adan(Optimizer):
    r"""Adan: Adam with Nesterov momentum, from the differences of successive gradients.

    It takes larger learning rates than Adam and does well for vision transformers, at the price of
    four slots.

    .. math::
        d_t &= g_t - g_{t-1}, \qquad d_1 = 0 \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        \delta_t &= \beta_2 \delta_{t-1} + (1 - \beta_2) d_t \\
        v_t &= \beta_3 v_{t-1} + (1 - \beta_3) (g_t + \beta_2 d_t)^2 \\
        u_t &= \frac{m_t / (1 - \beta_1^t) + \beta_2 \delta_t / (1 - \beta_2^t)}
               {\sqrt{v_t / (1 - \beta_3^t)} + \epsilon} \\
        w_t &= \frac{w_{t-1} - \gamma u_t}{1 + \gamma \lambda}

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001; for large
            batches up to ten times the rate for `AdamW`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`, of the differences.
        beta_3: float in [0, 1), :math:`\beta_3`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, :math:`\lambda`. A typical value is 0.02.
        **kwargs: see `Optimizer`.

    The betas and the bias correction are those of the authors' code: the paper's betas are 1 minus
    these. As in both, the weight decay is proximal: a division after the update instead of a
    subtraction before it. The paper's restarts are left out. The slot `previous_gradient` is NaN
    until the first update of a variable, for which :math:`d_t = 0`, whichever step that is.

    Reference:
        Xie et al., *Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models*,
        arXiv:2208.06677.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Adan(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [
        Slot("momentum"),
        Slot("difference"),
        Slot("velocity"),
        Slot("previous_gradient", math.nan),
    ]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("beta_3", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.98,
        beta_2=0.92,
        beta_3=0.99,
        epsilon=1e-8,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            beta_3=beta_3,
            epsilon=epsilon,
            weight_decay=weight_decay,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        difference = g - unless_set(s.previous_gradient, g, h)
        s.previous_gradient = g
        s.momentum = lerp(g, s.momentum, h.beta_1)
        s.difference = lerp(difference, s.difference, h.beta_2)
        s.velocity = lerp(square(g + h.beta_2 * difference), s.velocity, h.beta_3)
        m = 1 / (1 - h.beta_1**h.step) * s.momentum
        d = h.beta_2 / (1 - h.beta_2**h.step) * s.difference
        root = 1 / sqrt(1 - h.beta_3**h.step) * sqrt(s.velocity)
        moved = w - h.learning_rate * divide_no_nan(m + d, root + h.epsilon)
        # As a subtraction: next to 1, a small decay would lose its digits in float32.
        share = decay_rate(h) / (1 + decay_rate(h))
        return where(h.weight_decay != 0, moved - share * moved, moved)
