"""Yogi."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Choice, Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.optimizers.proximal_adagrad import proximal
from tf_optim_ext.rule import absolute, clip, divide_no_nan, exp, lerp, sign, sqrt, square, where


def tanh(x):
    """Hyperbolic tangent, to the last digits of float64 also for small `x`."""
    x = clip(x, -20.0, 20.0)  # where it is 1 in float64
    y, e = square(x), exp(2.0 * x)
    # The continued fraction of Lambert, as the difference would cancel.
    p = 135135.0 + y * (17325.0 + y * (378.0 + y))
    q = 135135.0 + y * (62370.0 + y * (3150.0 + y * 28.0))
    small = absolute(x) < 0.5
    return where(small, x * p, e - 1.0) / where(small, q, e + 1.0)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Yogi(Optimizer):
    r"""Yogi: Adam whose second moment forgets large gradients slowly.

    For sparse or noisy gradients, after which Adam's second moment would fall, and its steps grow,
    too fast: here it changes by the size of the gradients alone.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= v_{t-1} - (1 - \beta_2) \operatorname{sign}(v_{t-1} - g_t^2) g_t^2 \\
        \eta_t &= \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
                  \frac{1}{\sqrt{v_t} + \epsilon} \\
        p_t &= w_{t-1} - \eta_t m_t \\
        w_t &= \operatorname{sign}(p_t) \frac{\max(|p_t| - \eta_t \lambda_1, 0)}
               {1 + \eta_t \lambda_2}

    With `activation="tanh"`, :math:`\tanh(10 (v_{t-1} - g_t^2))` takes the place of the sign.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.01.
        beta1: float in [0, 1), :math:`\beta_1`.
        beta2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. The paper's is as large as the default. With 0,
            weights without a second moment stay where they are.
        l1_regularization_strength: float, :math:`\lambda_1`; makes weights exactly zero.
        l2_regularization_strength: float, :math:`\lambda_2`.
        initial_accumulator_value: float >= 0, :math:`v_0`.
        activation: "sign" or "tanh", which changes the second moment more gently.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    The arguments are those of TensorFlow Addons, down to their names. The paper has no bias
    correction, penalties or tanh. It starts :math:`v` at the squared gradients of a first batch:
    with another `initial_accumulator_value` than a small one, the correction of :math:`v` makes
    early steps too small.

    Reference:
        Zaheer et al., *Adaptive Methods for Nonconvex Optimization*, NeurIPS 2018, Algorithm 2.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Yogi(0.1, initial_accumulator_value=0.0)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.901557
    """

    state = [
        Slot("momentum", old_name="m"),
        Slot("velocity", "initial_accumulator_value", old_name="v"),
    ]
    hyperparameters = [
        Hyperparameter("beta1", "[0, 1)"),
        Hyperparameter("beta2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Hyperparameter("l1_regularization_strength", "[0, inf)"),
        Hyperparameter("l2_regularization_strength", "[0, inf)"),
        Hyperparameter("initial_accumulator_value", "[0, inf)"),
        Choice("activation", ("sign", "tanh")),
    ]

    def __init__(
        self,
        learning_rate=0.01,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-3,
        l1_regularization_strength=0.0,
        l2_regularization_strength=0.0,
        initial_accumulator_value=1e-6,
        activation="sign",
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            initial_accumulator_value=initial_accumulator_value,
            activation=activation,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta1)
        excess = s.velocity - square(g)
        direction = tanh(10.0 * excess) if h.activation == "tanh" else sign(excess)
        s.velocity = s.velocity - (1 - h.beta2) * direction * square(g)
        alpha = h.learning_rate * sqrt(1 - h.beta2**h.step) / (1 - h.beta1**h.step)
        rate = divide_no_nan(alpha, sqrt(s.velocity) + h.epsilon)
        return proximal(w - rate * s.momentum, rate, h)
