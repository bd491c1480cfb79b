"""MADGRAD."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import cbrt, sqrt, square, unless_set, where
from tf_optim_ext.rule.transforms import subtract_decay


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class MADGRAD(Optimizer):
    r"""MADGRAD: dual averaging with momentum, scaled by the cube root of summed squares.

    Every step is taken from the initial weights, along the sum of all gradients. It generalises
    like SGD where that is the better choice and trains like Adam where that is.

    .. math::
        \lambda_t &= \gamma \sqrt{t} \\
        s_t &= s_{t-1} + \lambda_t g_t \\
        \nu_t &= \nu_{t-1} + \lambda_t g_t^2 \\
        z_t &= w_0 - \frac{s_t}{\sqrt[3]{\nu_t} + \epsilon} \\
        w_t &= \mu w_{t-1} + (1 - \mu) z_t

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.01 and try powers
            of ten: good values are neither `SGD`'s nor `Adam`'s.
        momentum: float in [0, 1), :math:`\mu`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, decoupled: `learning_rate * weight_decay` of the old weights is
            subtracted from the new ones. Good values are smaller than elsewhere, often 0.
        **kwargs: see `Optimizer`.

    The initial weights are those before a variable's first update (slot `initial_weights`, NaN
    until then); every step pulls the weights a little back to them, against the decay. The decay is
    that of the authors' option `decouple_decay`. Their code adds `epsilon` to the learning rate,
    too.

    Reference:
        Defazio and Jelassi, *Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged
        Gradient Method for Stochastic Optimization*, arXiv:2101.11075, Algorithm 1.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.MADGRAD(0.125)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(8.0), w)])
        >>> round(float(w), 6)
        0.95
    """

    state = [
        Slot("gradient_sum"),
        Slot("squared_sum"),
        Slot("initial_weights", math.nan),
    ]
    hyperparameters = [
        Hyperparameter("momentum", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(self, learning_rate=0.01, momentum=0.9, epsilon=1e-6, **kwargs):
        super().__init__(learning_rate, momentum=momentum, epsilon=epsilon, **kwargs)

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        s.initial_weights = unless_set(s.initial_weights, w, h)
        rate = h.learning_rate * sqrt(h.step)
        s.gradient_sum = s.gradient_sum + rate * g
        s.squared_sum = s.squared_sum + rate * square(g)
        root = cbrt(s.squared_sum) + h.epsilon
        # With an epsilon of 0, which suits small gradients, a weight without any has no root.
        z = s.initial_weights - where(root != 0, s.gradient_sum / root, 0.0)
        # No weighted mean, which would round weights that should stay as they are.
        return subtract_decay(w + (1 - h.momentum) * (z - w), w, h)
