"""RMSprop."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Boolean, Derived, Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import lerp, maximum, sqrt, square, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class RMSprop(Optimizer):
    r"""RMSprop: gradients divided by the root of their mean square.

    Long the standard for recurrent networks and reinforcement learning.

    .. math::
        v_t &= \rho v_{t-1} + (1 - \rho) g_t^2 \\
        w_t &= w_{t-1} - \gamma \frac{g_t}{\sqrt{v_t + \epsilon}}

    If `centered`, the square of the mean gradient :math:`\bar g_t = \rho \bar g_{t-1} + (1 - \rho)
    g_t` is subtracted from :math:`v_t` under the root. With `momentum` :math:`\mu`, the step is
    added to :math:`\mu` times the one before.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001.
        rho: float in [0, 1], :math:`\rho`.
        momentum: float in [0, 1], :math:`\mu`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        centered: whether to normalise by the variance.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    The variance is kept from rounding below zero, which Keras' is not. Where it and epsilon are 0,
    there is no step, where Keras' is NaN.

    References:
        Hinton, *Neural Networks for Machine Learning*, lecture 6e, 2012. Graves, *Generating
        Sequences With Recurrent Neural Networks*, arXiv:1308.0850, for the centered form.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.RMSprop(0.1, rho=0.75)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.8
    """

    state = [
        Slot("velocity", separate=True, old_name="rms"),
        Slot("momentum", separate=True),
        Slot("average_gradient", separate=True, old_name="mg"),
    ]
    hyperparameters = [
        Hyperparameter("rho", "[0, 1]"),
        Hyperparameter("momentum", "[0, 1]"),
        Hyperparameter("epsilon", "[0, inf)"),
        Boolean("centered"),
        Derived("has_momentum", "momentum", 0.0, False),
    ]

    def __init__(
        self, learning_rate=0.001, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False, **kwargs
    ):
        super().__init__(
            learning_rate,
            rho=rho,
            momentum=momentum,
            epsilon=epsilon,
            centered=centered,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        s.velocity = lerp(square(g), s.velocity, h.rho)
        variance = s.velocity
        if h.centered:
            s.average_gradient = lerp(g, s.average_gradient, h.rho)
            variance = maximum(s.velocity - square(s.average_gradient), 0.0)
        variance = variance + h.epsilon
        # Without epsilon, or with one that is no float32, there may be no gradient to divide.
        step = where(variance == 0, 0.0, h.learning_rate * g / sqrt(variance))
        if h.has_momentum:
            step = s.momentum = h.momentum * s.momentum + step
        return w - step
