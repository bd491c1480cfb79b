"""AdEMAMix."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import divide_no_nan, exp, lerp, log, maximum, minimum, sqrt, square, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class AdEMAMix(Optimizer):
    r"""AdEMAMix: Adam with a second, much slower momentum.

    Gradients stay useful for tens of thousands of steps; one average cannot both remember those
    and react to the latest. Meant for long training, of language models above all.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        n_t &= \beta_{3,t} n_{t-1} + (1 - \beta_{3,t}) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        w_t &= w_{t-1} - \gamma \frac{m_t / (1 - \beta_1^t) + \alpha_t n_t}
               {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    During :math:`T` steps of warm-up, with :math:`r = t / T`, :math:`\alpha` and :math:`\beta_3`
    grow from 0 and from :math:`\beta_1`, the latter so that the half-life of the average grows
    linearly:

    .. math::
        \alpha_t = r \alpha, \qquad
        \beta_{3,t} = \min\left(\exp\left(\frac{\ln \beta_1 \ln \beta_3}
        {(1 - r) \ln \beta_3 + r \ln \beta_1}\right), \beta_3\right)

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001, with what is
            good for `AdamW`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        beta_3: float in [0, 1), :math:`\beta_3`, of the slow momentum.
        alpha: float, :math:`\alpha`, the weight of the slow momentum. Typical values are 4 to 10.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        alpha_warmup_steps: number of steps, :math:`T` of :math:`\alpha`; 0 for no warm-up.
        beta_3_warmup_steps: number of steps, :math:`T` of :math:`\beta_3`; 0 for no warm-up. The
            paper uses the length of the whole training for both; without them, early training may
            diverge.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves. A typical value is 0.1.
        **kwargs: see `Optimizer`.

    The slow momentum has no bias correction, as in the paper.

    Reference:
        Pagliardini, Ablin and Grangier, *The AdEMAMix Optimizer: Better, Faster, Older*,
        arXiv:2409.03137.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.AdEMAMix(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.89995
    """

    state = [Slot("momentum"), Slot("slow_momentum"), Slot("velocity")]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("beta_3", "[0, 1)"),
        Hyperparameter("alpha", "[0, inf)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Hyperparameter("alpha_warmup_steps", "[0, inf)"),
        Hyperparameter("beta_3_warmup_steps", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        beta_3=0.9999,
        alpha=5.0,
        epsilon=1e-8,
        alpha_warmup_steps=0,
        beta_3_warmup_steps=0,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            beta_3=beta_3,
            alpha=alpha,
            epsilon=epsilon,
            alpha_warmup_steps=alpha_warmup_steps,
            beta_3_warmup_steps=beta_3_warmup_steps,
            weight_decay=weight_decay,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        # Steps count from 1, so that 0 steps of warm-up and 1 are the same.
        alpha = h.alpha * minimum(h.step / maximum(h.alpha_warmup_steps, 1.0), 1.0)
        r = h.step / maximum(h.beta_3_warmup_steps, 1.0)
        # The documented fraction, cancelled: a beta of 0 has an infinite logarithm.
        warm = exp(1 / ((1 - r) / log(h.beta_1) + r / log(h.beta_3)))
        beta_3 = where(r < 1, minimum(warm, h.beta_3), h.beta_3)
        s.momentum = lerp(g, s.momentum, h.beta_1)
        s.slow_momentum = lerp(g, s.slow_momentum, beta_3)
        s.velocity = lerp(square(g), s.velocity, h.beta_2)
        m = 1 / (1 - h.beta_1**h.step) * s.momentum + alpha * s.slow_momentum
        root = 1 / sqrt(1 - h.beta_2**h.step) * sqrt(s.velocity)
        return w - h.learning_rate * divide_no_nan(m, root + h.epsilon)
