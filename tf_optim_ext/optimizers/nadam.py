"""Nadam."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, OptimizerScalar, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import divide_no_nan, lerp, sqrt, square


def nesterov_adam(w, g, s, h, psi):
    """The rule of `Nadam` and `NAdamW`; they differ in how fast the momentum rises, `psi`."""
    mu = h.beta_1 * (1 - 0.5 * 0.96 ** (psi * h.step))
    next_mu = h.beta_1 * (1 - 0.5 * 0.96 ** (psi * (h.step + 1)))
    s.momentum_product = s.momentum_product * mu
    s.momentum = lerp(g, s.momentum, h.beta_1)
    s.velocity = lerp(square(g), s.velocity, h.beta_2)
    of_momentum = next_mu / (1 - s.momentum_product * next_mu)
    of_gradient = (1 - mu) / (1 - s.momentum_product)
    m = of_momentum * s.momentum + of_gradient * g
    root = sqrt(s.velocity) / sqrt(1 - h.beta_2**h.step) + h.epsilon
    return w - divide_no_nan(h.learning_rate * m, root)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Nadam(Optimizer):
    r"""Nadam as Keras has it: `Adam` with Nesterov momentum that rises within a hundred steps.

    For those who train with Keras' `Nadam` and want the same results. `NAdamW` is the method of the
    literature.

    .. math::
        \mu_t &= \beta_1 \left(1 - \tfrac12 \, 0.96^t\right) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \hat m_t &= \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i}
                    + \frac{(1 - \mu_t) g_t}{1 - \prod_{i=1}^{t} \mu_i} \\
        w_t &= w_{t-1} - \gamma \frac{\hat m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    The product is a scalar that all variables share, kept in float64
    (`scalars["momentum_product"]`).

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    Dozat's schedule is :math:`0.96^{t/250}`, with which the momentum rises over thousands of steps;
    Keras' has lost the divisor.

    Reference:
        Dozat, *Incorporating Nesterov Momentum into Adam*, ICLR 2016 workshop.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Nadam(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 4)
        0.8937
    """

    state = [
        Slot("momentum", old_name="m"),
        Slot("velocity", old_name="v"),
        OptimizerScalar("momentum_product", 1.0),
    ]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, **kwargs):
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        return nesterov_adam(w, g, s, h, psi=1.0)
