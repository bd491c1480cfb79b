"""Proximal Adagrad."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import absolute, maximum, sqrt, square, where


def proximal(p, rate, h):
    """Where weights `p` end up that are pulled to 0 by both penalties for a step of `rate`."""
    threshold = rate * h.l1_regularization_strength
    magnitude = maximum(absolute(p) - threshold, 0.0)
    shrunk = where(p < 0, -magnitude, magnitude)
    return shrunk / (1.0 + rate * h.l2_regularization_strength)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class ProximalAdagrad(Optimizer):
    r"""Adagrad with L1 and L2 penalties that are solved for, not differentiated.

    For sparse models: the L1 penalty makes weights exactly zero.

    .. math::
        a_t &= a_{t-1} + g_t^2, \quad \eta_t = \frac{\gamma}{\sqrt{a_t}} \\
        p_t &= w_{t-1} - \eta_t g_t \\
        w_t &= \operatorname{sign}(p_t) \frac{\max(|p_t| - \eta_t \lambda_1, 0)}
               {1 + \eta_t \lambda_2}

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.01 to 0.1.
        initial_accumulator_value: float >= 0, :math:`a_0`.
        l1_regularization_strength: float, :math:`\lambda_1`.
        l2_regularization_strength: float, :math:`\lambda_2`.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    There is no epsilon, as in TensorFlow's `ResourceApplyProximalAdagrad`. With
    `initial_accumulator_value=0`, a weight stays as it is until its first gradient; TensorFlow's
    becomes NaN.

    Reference:
        Duchi, Hazan and Singer, *Adaptive Subgradient Methods for Online Learning and Stochastic
        Optimization*, JMLR 12, 2011, whose proximal
        form (composite mirror descent) this is.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.ProximalAdagrad(
        ...     0.5, initial_accumulator_value=0.0, l1_regularization_strength=0.5
        ... )
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.375
    """

    state = [Slot("accumulator", "initial_accumulator_value")]
    hyperparameters = [
        Hyperparameter("initial_accumulator_value", "[0, inf)"),
        Hyperparameter("l1_regularization_strength", "[0, inf)"),
        Hyperparameter("l2_regularization_strength", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        initial_accumulator_value=0.1,
        l1_regularization_strength=0.0,
        l2_regularization_strength=0.0,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            initial_accumulator_value=initial_accumulator_value,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        s.accumulator = s.accumulator + square(g)
        rate = where(s.accumulator == 0, 0.0, h.learning_rate / sqrt(s.accumulator))
        return proximal(w - rate * g, rate, h)
