"""D-Adaptation for gradient descent."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, OptimizerScalar, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import (
    global_norm,
    global_sum,
    maximum,
    minimum,
    sqrt,
    square,
    unless_set,
    where,
)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class DAdaptSGD(Optimizer):
    r"""D-Adaptation: gradient descent with an estimate of the learning rate that only grows.

    Leave the learning rate at 1; a schedule multiplies the estimate :math:`d`. For convolutional
    networks, where `SGD` works well.

    .. math::
        \gamma_t &= d_{t-1} \gamma / \lVert g_1 \rVert, \quad g'_t = g_t + \lambda w_{t-1} \\
        r_t &= r_{t-1} + \gamma_t \langle g'_t, s_{t-1} \rangle, \quad
        s_t = s_{t-1} + \gamma_t g'_t \\
        \hat d_t &= 2 r_t / \lVert s_t \rVert, \quad
        d_t = \max(d_{t-1}, \min(\hat d_t, \rho \, d_{t-1})) \\
        w_t &= \mu w_{t-1} + (1 - \mu) (w_0 - s_t)

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Leave it at 1.
        momentum: float in [0, 1), :math:`\mu`. With much of it, :math:`d` may overshoot: start
            with 0.
        weight_decay: float, :math:`\lambda`, added to the gradient.
        initial_d: float > 0, :math:`d_0`; far too small is right.
        growth_rate: float >= 1, :math:`\rho`. 1.02 makes a kind of warm-up.
        **kwargs: see `Optimizer`.

    Inner product and norms are over all variables; :math:`g_1` is the first gradient that is not
    zero. This follows the authors' code, whose weight decay is not decoupled. The slot
    `initial_weights`, :math:`w_0`, holds the weights before a variable's first update, and NaN
    until then.

    Reference:
        Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, arXiv:2301.07733,
        Algorithm 4; code https://github.com/facebookresearch/dadaptation.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.DAdaptSGD(initial_d=0.01)
        >>> w = tf.Variable(1.0)
        >>> for _ in range(3):
        ...     _ = optimizer.apply_gradients([(2.0 * w, w)])
        >>> float(optimizer.scalars["d"]) > 0.01
        True
    """

    state = [
        Slot("s"),
        Slot("initial_weights", math.nan),
        OptimizerScalar("d", "initial_d"),
        OptimizerScalar("d_numerator"),
        OptimizerScalar("initial_gradient_norm"),
    ]
    hyperparameters = [
        Hyperparameter("momentum", "[0, 1)"),
        Hyperparameter("initial_d", "(0, inf)"),
        Hyperparameter("growth_rate", "[1, inf]"),
    ]

    def __init__(
        self,
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=None,
        initial_d=1e-6,
        growth_rate=math.inf,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            initial_d=initial_d,
            growth_rate=growth_rate,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        d = s.d
        first = s.initial_gradient_norm
        first = s.initial_gradient_norm = where(first > 0, first, global_norm(g))
        rate = where(first > 0, d * h.learning_rate / first, 0.0)
        start = s.initial_weights = unless_set(s.initial_weights, w, h)
        g = where(h.weight_decay != 0, g + h.weight_decay * w, g)
        s.d_numerator = s.d_numerator + rate * global_sum(g * s.s)
        s.s = s.s + rate * g
        length = sqrt(global_sum(square(s.s)))
        estimate = where(length > 0, 2 * s.d_numerator / length, d)
        s.d = maximum(d, minimum(estimate, d * h.growth_rate))
        # This way, weights at rest are not rounded.
        return w + (1 - h.momentum) * (start - s.s - w)
