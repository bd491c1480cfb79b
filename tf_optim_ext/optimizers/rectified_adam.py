"""Rectified Adam."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Boolean, Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import divide_no_nan, lerp, maximum, minimum, sqrt, square, transforms, where


def warmed_up_rate(h):
    """The learning rate of a step: linearly up to `learning_rate`, then linearly to `min_lr`."""
    warmup = h.total_steps * h.warmup_proportion
    # At least 1: a shorter warm-up is over before the first step.
    rising = h.learning_rate * h.step / maximum(warmup, 1.0)
    rest = maximum(h.total_steps - warmup, 1.0)
    falling = h.learning_rate + (h.min_lr - h.learning_rate) * (
        minimum(h.step - warmup, rest) / rest
    )
    return where(h.total_steps > 0, where(h.step <= warmup, rising, falling), h.learning_rate)


def approximated_length(h):
    """How many gradients the second moment averages: the paper's rho at infinity and at a step."""
    limit = 2.0 / (1.0 - h.beta_2) - 1.0
    power = h.beta_2**h.step
    return limit, limit - 2.0 * h.step * power / (1.0 - power)


def rectification(limit, length):
    """The factor that makes the variance of the step what it will be in the long run."""
    numerator = (length - 4.0) * (length - 2.0) * limit
    # Short lengths, which may make it negative, are not rectified: any finite factor does.
    return sqrt(maximum(numerator / ((limit - 4.0) * (limit - 2.0) * length), 0.0))


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class RectifiedAdam(Optimizer):
    r"""RAdam: Adam that does without its second moment until it has seen enough gradients.

    Makes the warm-up of `Adam` unnecessary: early steps are those of momentum, and the first
    adaptive ones are small.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \quad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        r_t &= \sqrt{\frac{(\rho_t - 4) (\rho_t - 2) \rho_\infty}
                          {(\rho_\infty - 4) (\rho_\infty - 2) \rho_t}} \\
        w_t &= w_{t-1} - \gamma_t \frac{m_t}{1 - \beta_1^t} \begin{cases}
               \dfrac{r_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} & \rho_t \ge \rho_{\min} \\
               1 & \text{else} \end{cases}

    With `amsgrad`, the largest :math:`v` so far takes the place of :math:`v_t` in the last line.

    With `total_steps`, :math:`\gamma_t` rises linearly from 0 to :math:`\gamma` and then falls
    linearly to `min_lr`; otherwise it is :math:`\gamma`.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        amsgrad: whether to use the largest second moment so far (slot `velocity_hat`).
        sma_threshold: float >= 4, :math:`\rho_{\min}`.
        total_steps: number of steps of the training; 0 for a rate without warm-up.
        warmup_proportion: float in [0, 1], the part of `total_steps` in which the rate rises.
        min_lr: float, the learning rate after `total_steps`.
        weight_decay: float, decoupled: before the update, the weights shrink by
            :math:`\gamma_t` times `weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    The paper's threshold is :math:`\rho_t > 4`; the default is that of the authors' code, as in
    TensorFlow Addons, whose arguments these are.

    Reference:
        Liu et al., *On the Variance of the Adaptive Learning Rate and Beyond*, arXiv:1908.03265,
        Algorithm 2.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.RectifiedAdam(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.8
    """

    state = [
        Slot("momentum", old_name="m"),
        Slot("velocity", old_name="v"),
        Slot("velocity_hat", old_name="vhat"),
    ]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Hyperparameter("sma_threshold", "[4, inf)"),
        Hyperparameter("total_steps", "[0, inf)"),
        Hyperparameter("warmup_proportion", "[0, 1]"),
        Hyperparameter("min_lr", "[0, inf)"),
        Boolean("amsgrad"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        weight_decay=None,
        amsgrad=False,
        sma_threshold=5.0,
        total_steps=0,
        warmup_proportion=0.1,
        min_lr=0.0,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            sma_threshold=sma_threshold,
            total_steps=total_steps,
            warmup_proportion=warmup_proportion,
            min_lr=min_lr,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return transforms.decay(w, h, warmed_up_rate(h))

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta_1)
        s.velocity = lerp(square(g), s.velocity, h.beta_2)
        v = s.velocity
        if h.amsgrad:
            v = s.velocity_hat = maximum(s.velocity_hat, s.velocity)
        limit, length = approximated_length(h)
        adaptive = length >= h.sma_threshold
        alpha = warmed_up_rate(h) / (1 - h.beta_1**h.step)
        alpha = where(adaptive, alpha * rectification(limit, length), alpha)
        root = sqrt(v) / sqrt(1 - h.beta_2**h.step) + h.epsilon
        return w - divide_no_nan(alpha * s.momentum, where(adaptive, root, 1.0))
