"""AdaBelief."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Boolean
from tf_optim_ext.optimizers.rectified_adam import (
    RectifiedAdam,
    approximated_length,
    rectification,
    warmed_up_rate,
)
from tf_optim_ext.rule import divide_no_nan, lerp, maximum, sqrt, square, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class AdaBelief(RectifiedAdam):
    r"""AdaBelief: long steps where the gradient is what its average predicts, short ones elsewhere.

    Adam with the distance of the gradient from its running average in place of its square. Said to
    generalise like momentum and to be as fast as Adam; used for training GANs.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        s_t &= \beta_2 s_{t-1} + (1 - \beta_2) (g_t - m_t)^2 + \epsilon \\
        w_t &= w_{t-1} - \gamma_t \frac{m_t}{1 - \beta_1^t}
               \frac{r_t}{\sqrt{s_t / (1 - \beta_2^t)} + \epsilon}

    If `rectify`, :math:`r_t` is that of `RectifiedAdam`, and while :math:`\rho_t` is below the
    threshold, the last fraction is 1; otherwise :math:`r_t = 1`. With `amsgrad`, the largest
    :math:`s` so far takes the place of :math:`s_t` in the last line. :math:`\gamma_t` is the
    learning rate with the warm-up of `RectifiedAdam`.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. Smaller than that of `Adam`, as it is added to the slot:
            1e-16 to 1e-12; for image classification without `rectify`, 1e-8. With 0, weights whose
            gradients were all as predicted stay where they are.
        amsgrad: whether to use the largest second moment so far (slot `velocity_hat`).
        rectify: whether to rectify as `RectifiedAdam` does.
        sma_threshold: float >= 4, :math:`\rho_{\min}` of `RectifiedAdam`.
        total_steps: number of steps of the training; 0 for a rate without warm-up.
        warmup_proportion: float in [0, 1], the part of `total_steps` in which the rate rises.
        min_lr: float, the learning rate after `total_steps`.
        weight_decay: float, decoupled: before the update, the weights shrink by
            :math:`\gamma_t` times `weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    The arguments and their defaults are those of TensorFlow Addons. As there and in the authors'
    code, epsilon is added twice, and what is added to :math:`s_t` is kept.

    Reference:
        Zhuang et al., *AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed
        Gradients*, arXiv:2010.07468, Algorithm 2.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.AdaBelief(0.1, beta_1=0.5, rectify=False)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.8
    """

    hyperparameters = [Boolean("rectify")]

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-14,
        weight_decay=None,
        amsgrad=False,
        rectify=True,
        sma_threshold=5.0,
        total_steps=0,
        warmup_proportion=0.1,
        min_lr=0.0,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            amsgrad,
            sma_threshold,
            total_steps,
            warmup_proportion,
            min_lr,
            rectify=rectify,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta_1)
        s.velocity = lerp(square(g - s.momentum), s.velocity, h.beta_2) + h.epsilon
        v = s.velocity
        if h.amsgrad:
            v = s.velocity_hat = maximum(s.velocity_hat, s.velocity)
        alpha = warmed_up_rate(h) / (1 - h.beta_1**h.step)
        root = sqrt(v) / sqrt(1 - h.beta_2**h.step) + h.epsilon
        if h.rectify:
            limit, length = approximated_length(h)
            adaptive = length >= h.sma_threshold
            alpha = where(adaptive, alpha * rectification(limit, length), alpha)
            root = where(adaptive, root, 1.0)
        return w - divide_no_nan(alpha * s.momentum, root)
