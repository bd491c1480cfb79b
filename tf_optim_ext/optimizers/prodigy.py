"""Prodigy."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, OptimizerScalar, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import (
    absolute,
    global_sum,
    maximum,
    minimum,
    sqrt,
    square,
    transforms,
    unless_set,
    where,
)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Prodigy(Optimizer):
    r"""Prodigy: `Adam` that finds its learning rate by itself.

    It estimates how far the solution is, :math:`d`, while it trains. Leave the learning rate at 1;
    a schedule that falls from 1 to 0, such as a cosine, multiplies the estimate.

    .. math::
        \gamma_t &= d_{t-1} \gamma \\
        r_t &= \beta_3 r_{t-1} + \tfrac{d_{t-1}}{d_0} \gamma_t \langle g_t, w_0 - w_{t-1} \rangle \\
        s_t &= \beta_3 s_{t-1} + \tfrac{d_{t-1}}{d_0} \gamma_t g_t \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_{t-1} g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_{t-1}^2 g_t^2 \\
        \hat d_t &= c \, r_t / \lVert s_t \rVert_1, \quad
        d_t = \min(\max_{i \le t} \hat d_i, \rho \, d_{t-1}) \\
        w_t &= w_{t-1} - \gamma_t \lambda w_{t-1}
               - \gamma_t \frac{m_t}{\sqrt{v_t} + d_t \epsilon}

    The inner product and the norm are over all variables; they take a pass over memory of their
    own.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Leave it at 1.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        beta_3: float in [0, 1), :math:`\beta_3`; default: the square root of `beta_2`.
        epsilon: float > 0, :math:`\epsilon`.
        weight_decay: float, :math:`\lambda`.
        initial_d: float > 0, :math:`d_0`; far too small is right.
        d_coefficient: float > 0, :math:`c`. To change the step size, change this and not the
            learning rate.
        growth_rate: float >= 1, :math:`\rho`. 1.02 makes a kind of warm-up.
        use_bias_correction: whether :math:`\gamma_t` has Adam's correction of the averages.
        safeguard_warmup: whether the learning rate is left out of :math:`s_t`, for schedules that
            begin with a warm-up.
        **kwargs: see `Optimizer`.

    The state :math:`d` (`scalars["d"]`), its maximum, the numerator :math:`r` and the count `k` of
    steps from the first gradient that is not zero are scalars that all variables share. The slot
    `initial_weights`, :math:`w_0`, holds the weights before a variable's first update, and NaN
    until then. This follows the authors' code; the maximum of the estimates counts only up to
    `growth_rate`, as there.

    Reference:
        Mishchenko and Defazio, *Prodigy: An Expeditiously Adaptive Parameter-Free Learner*,
        arXiv:2306.06101, Algorithm 4; code https://github.com/konstmish/prodigy.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Prodigy(initial_d=0.1)
        >>> w = tf.Variable(1.0)
        >>> for _ in range(3):
        ...     _ = optimizer.apply_gradients([(2.0 * w, w)])
        >>> float(optimizer.scalars["d"]) > 0.1
        True
    """

    state = [
        Slot("momentum"),
        Slot("velocity"),
        Slot("s"),
        Slot("initial_weights", math.nan),
        OptimizerScalar("d", "initial_d"),
        OptimizerScalar("d_max", "initial_d"),
        OptimizerScalar("d_numerator"),
        OptimizerScalar("k"),
    ]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("beta_3", "[0, 1)"),
        Hyperparameter("epsilon", "(0, inf)"),
        Hyperparameter("initial_d", "(0, inf)"),
        Hyperparameter("d_coefficient", "(0, inf)"),
        Hyperparameter("growth_rate", "[1, inf]"),
        Hyperparameter("use_bias_correction", "boolean"),
        Hyperparameter("safeguard_warmup", "boolean"),
    ]

    def __init__(
        self,
        learning_rate=1.0,
        beta_1=0.9,
        beta_2=0.999,
        beta_3=None,
        epsilon=1e-8,
        weight_decay=None,
        initial_d=1e-6,
        d_coefficient=1.0,
        growth_rate=math.inf,
        use_bias_correction=False,
        safeguard_warmup=False,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            beta_3=math.sqrt(max(beta_2, 0.0)) if beta_3 is None else beta_3,
            epsilon=epsilon,
            weight_decay=weight_decay,
            initial_d=initial_d,
            d_coefficient=d_coefficient,
            growth_rate=growth_rate,
            use_bias_correction=use_bias_correction,
            safeguard_warmup=safeguard_warmup,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        d, k = s.d, s.k + 1
        bias_correction = sqrt(1 - h.beta_2**k) / (1 - h.beta_1**k)
        rate = d * h.learning_rate * where(h.use_bias_correction != 0, bias_correction, 1.0)
        start = s.initial_weights = unless_set(s.initial_weights, w, h)
        s.momentum = h.beta_1 * s.momentum + (1 - h.beta_1) * d * g
        s.velocity = h.beta_2 * s.velocity + (1 - h.beta_2) * square(d * g)
        s.s = h.beta_3 * s.s + d / h.initial_d * where(h.safeguard_warmup != 0, d, rate) * g
        progress = global_sum(g * (start - w))
        s.d_numerator = h.beta_3 * s.d_numerator + d / h.initial_d * rate * progress
        length = global_sum(absolute(s.s))
        # Until the first gradient that is not zero there is nothing to learn from.
        s.k = where(length > 0, k, s.k)
        estimate = where(length > 0, h.d_coefficient * s.d_numerator / length, d)
        current = where(d == h.initial_d, maximum(d, estimate), d)
        s.d_max = maximum(s.d_max, estimate)
        s.d = minimum(s.d_max, current * h.growth_rate)
        decay = transforms.decay_rate(h, rate)
        decayed = where(h.weight_decay != 0, w - where(length > 0, decay, 0.0) * w, w)
        return decayed - rate * s.momentum / (sqrt(s.velocity) + s.d * h.epsilon)
