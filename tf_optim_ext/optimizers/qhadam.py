"""QHAdam."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import divide_no_nan, lerp, sqrt, square, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class QHAdam(Optimizer):
    r"""QHAdam: Adam with quasi-hyperbolic averages, part average and part latest gradient.

    The average can then be a long one without making the optimizer slow to react. With both
    :math:`\nu` at 1 it is Adam.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
        \hat m_t = m_t / (1 - \beta_1^t) \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad
        \hat v_t = v_t / (1 - \beta_2^t) \\
        w_t &= w_{t-1} - \gamma \frac{(1 - \nu_1) g_t + \nu_1 \hat m_t}
               {\sqrt{(1 - \nu_2) g_t^2 + \nu_2 \hat v_t} + \epsilon}

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001, with what is
            good for `Adam`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        nu_1: float in [0, 1], :math:`\nu_1`, the share of the average in the numerator.
        nu_2: float in [0, 1], :math:`\nu_2`, the share of the average in the denominator. Slightly
            less than 1 bounds the step that a single large gradient causes.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    Reference:
        Ma and Yarats, *Quasi-hyperbolic momentum and Adam for deep learning*, arXiv:1810.06801.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.QHAdam(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [Slot("momentum"), Slot("velocity")]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("nu_1", "[0, 1]"),
        Hyperparameter("nu_2", "[0, 1]"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.995,
        beta_2=0.999,
        nu_1=0.7,
        nu_2=1.0,
        epsilon=1e-8,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            nu_1=nu_1,
            nu_2=nu_2,
            epsilon=epsilon,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta_1)
        s.velocity = lerp(square(g), s.velocity, h.beta_2)
        numerator = (1 - h.nu_1) * g + h.nu_1 / (1 - h.beta_1**h.step) * s.momentum
        averaged = h.nu_2 / (1 - h.beta_2**h.step) * s.velocity
        # Nothing of a square that overflowed must stay nothing, and not become 0 * inf.
        v = where(h.nu_2 != 1, (1 - h.nu_2) * square(g) + averaged, averaged)
        return w - h.learning_rate * divide_no_nan(numerator, sqrt(v) + h.epsilon)
