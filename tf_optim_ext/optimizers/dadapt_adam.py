"""D-Adaptation for Adam."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, OptimizerScalar, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import (
    absolute,
    global_sum,
    lerp,
    maximum,
    minimum,
    sqrt,
    square,
    transforms,
    where,
)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class DAdaptAdam(Optimizer):
    r"""D-Adaptation: `Adam` with an estimate of the learning rate that only grows.

    Leave the learning rate at 1; a schedule multiplies the estimate :math:`d`. `Prodigy`, its
    successor, adapts faster.

    .. math::
        \gamma_t &= d_{t-1} \gamma \\
        r_t &= \sqrt{\beta_2} r_{t-1} + (1 - \sqrt{\beta_2}) \gamma_t
               \left\langle g_t, \frac{s_{t-1}}{\sqrt{v_{t-1}} + \epsilon} \right\rangle \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \gamma_t g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        s_t &= \sqrt{\beta_2} s_{t-1} + (1 - \sqrt{\beta_2}) \gamma_t g_t \\
        \hat d_t &= \frac{r_t}{(1 - \sqrt{\beta_2}) \lVert s_t \rVert_1}, \quad
        d_t = \max(d_{t-1}, \min(\hat d_t, \rho \, d_{t-1})) \\
        w_t &= w_{t-1} - \gamma_t \lambda w_{t-1} - \frac{m_t}{\sqrt{v_t} + \epsilon}

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Leave it at 1.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float > 0, :math:`\epsilon`.
        weight_decay: float, :math:`\lambda`.
        initial_d: float > 0, :math:`d_0`; far too small is right.
        growth_rate: float >= 1, :math:`\rho`. 1.02 makes a kind of warm-up.
        use_bias_correction: whether :math:`\gamma_t` has Adam's correction of the averages.
        **kwargs: see `Optimizer`.

    The inner product and the norm are over all variables. This follows the authors' code, with its
    option for decoupled weight decay; that acts from the first step on, and there from the first
    gradient that is not zero.

    Reference:
        Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, arXiv:2301.07733,
        Algorithm 5; code https://github.com/facebookresearch/dadaptation.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.DAdaptAdam(initial_d=0.01)
        >>> w = tf.Variable(1.0)
        >>> for _ in range(3):
        ...     _ = optimizer.apply_gradients([(2.0 * w, w)])
        >>> float(optimizer.scalars["d"]) > 0.01
        True
    """

    state = [
        Slot("momentum"),
        Slot("velocity"),
        Slot("s"),
        OptimizerScalar("d", "initial_d"),
        OptimizerScalar("d_numerator"),
        OptimizerScalar("k"),
    ]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "(0, inf)"),
        Hyperparameter("initial_d", "(0, inf)"),
        Hyperparameter("growth_rate", "[1, inf]"),
        Hyperparameter("use_bias_correction", "boolean"),
    ]

    def __init__(
        self,
        learning_rate=1.0,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        weight_decay=None,
        initial_d=1e-6,
        growth_rate=math.inf,
        use_bias_correction=False,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            initial_d=initial_d,
            growth_rate=growth_rate,
            use_bias_correction=use_bias_correction,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        d, k, beta = s.d, s.k + 1, sqrt(h.beta_2)
        bias_correction = sqrt(1 - h.beta_2**k) / (1 - h.beta_1**k)
        rate = d * h.learning_rate * where(h.use_bias_correction != 0, bias_correction, 1.0)
        progress = rate * global_sum(g * (s.s / (sqrt(s.velocity) + h.epsilon)))
        s.momentum = h.beta_1 * s.momentum + (1 - h.beta_1) * rate * g
        s.velocity = lerp(square(g), s.velocity, h.beta_2)
        s.s = beta * s.s + (1 - beta) * rate * g
        s.d_numerator = lerp(progress, s.d_numerator, beta)
        length = (1 - beta) * global_sum(absolute(s.s))
        # Until the first gradient that is not zero there is nothing to learn from.
        s.k = where(length > 0, k, s.k)
        estimate = where(length > 0, s.d_numerator / length, d)
        s.d = maximum(d, minimum(estimate, d * h.growth_rate))
        return transforms.decay(w, h, rate) - s.momentum / (sqrt(s.velocity) + h.epsilon)
