"""StableAdamW."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import divide_no_nan, lerp, maximum, reduce_mean, sqrt, square, transforms


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class StableAdamW(Optimizer):
    r"""StableAdamW: AdamW whose learning rate drops where the second moment is out of date.

    Where gradients outgrow their running average, AdamW takes steps that are too large, and the
    loss spikes. Here each variable's learning rate is divided by how far they do, as in Adafactor,
    which takes the place of gradient clipping.

    .. math::
        \hat\beta &= \beta \frac{1 - \beta^{t-1}}{1 - \beta^t} \\
        m_t &= \hat\beta_1 m_{t-1} + (1 - \hat\beta_1) g_t \\
        v_t &= \hat\beta_2 v_{t-1} + (1 - \hat\beta_2) g_t^2 \\
        \eta_t &= \gamma \Big/ \max\left(1,
               \sqrt{\operatorname{mean}(g_t^2 / \max(v_t, \epsilon^2))}\right) \\
        w_t &= w_{t-1} - \eta_t \lambda w_{t-1} - \eta_t \frac{m_t}{\sqrt{v_t} + \epsilon}

    The mean is over one variable; it takes a pass over memory of its own.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001, with what is
            good for `AdamW`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, :math:`\lambda`. Typical values are 0.004 to 0.2.
        **kwargs: see `Optimizer`.

    The slots are bias-corrected averages, as in the paper; `AdamW` corrects them when they are
    used. The weight decay is multiplied by the reduced learning rate.

    Reference:
        Wortsman et al., *Stable and low-precision training for large-scale vision-language
        models*, arXiv:2304.13013, Algorithm 2.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.StableAdamW(0.1, weight_decay=0.5)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.85
    """

    state = [Slot("momentum"), Slot("velocity")]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.99,
        epsilon=1e-8,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        beta_1 = h.beta_1 * (1 - h.beta_1 ** (h.step - 1)) / (1 - h.beta_1**h.step)
        beta_2 = h.beta_2 * (1 - h.beta_2 ** (h.step - 1)) / (1 - h.beta_2**h.step)
        s.momentum = lerp(g, s.momentum, beta_1)
        s.velocity = lerp(square(g), s.velocity, beta_2)
        root = sqrt(s.velocity)
        # Divided before it is squared: the square of epsilon may be no float32.
        rms = sqrt(reduce_mean(square(divide_no_nan(g, maximum(root, h.epsilon)))))
        rate = h.learning_rate / maximum(rms, 1.0)
        return transforms.decay(w, h, rate) - rate * divide_no_nan(s.momentum, root + h.epsilon)
