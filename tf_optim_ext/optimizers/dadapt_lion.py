"""D-Adaptation for Lion."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, OptimizerScalar, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import absolute, global_sum, lerp, maximum, sign, sqrt, transforms, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class DAdaptLion(Optimizer):
    r"""D-Adaptation: `Lion` with an estimate of the learning rate that only grows.

    Experimental, in the words of its authors: the estimate :math:`d` may grow without bound. Use a
    learning rate below 1 that falls to 0, and watch `scalars["d"]`; `Prodigy` is more robust.

    .. math::
        \gamma_t &= d_{t-1} \gamma \\
        u_t &= \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) \gamma_t g_t \\
        r_t &= \sqrt{\beta_2} r_{t-1}
               + (1 - \sqrt{\beta_2}) \gamma_t \langle u_t, s_{t-1} \rangle \\
        s_t &= \sqrt{\beta_2} s_{t-1} + (1 - \sqrt{\beta_2}) \gamma_t u_t \\
        d_t &= \max\left(d_{t-1}, \frac{r_t}{(1 - \sqrt{\beta_2}) \lVert s_t \rVert_1}\right) \\
        w_t &= w_{t-1} - \gamma_t \lambda w_{t-1} - \gamma_t u_t

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.3 and let it fall
            to 0; with 1 throughout, :math:`d` often explodes.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        weight_decay: float, :math:`\lambda`.
        initial_d: float > 0, :math:`d_0`; far too small is right.
        **kwargs: see `Optimizer`.

    The inner product and the norm are over all variables. The paper has no Lion; this follows the
    authors' code, where the momentum, but not the gradient beside it, is multiplied by
    :math:`\gamma_t`.

    Reference:
        Defazio and Mishchenko, *Learning-Rate-Free Learning by D-Adaptation*, arXiv:2301.07733;
        code https://github.com/facebookresearch/dadaptation.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.DAdaptLion(initial_d=0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [
        Slot("momentum"),
        Slot("s"),
        OptimizerScalar("d", "initial_d"),
        OptimizerScalar("d_numerator"),
    ]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("initial_d", "(0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=1.0,
        beta_1=0.9,
        beta_2=0.999,
        weight_decay=None,
        initial_d=1e-6,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            weight_decay=weight_decay,
            initial_d=initial_d,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        d, beta = s.d, sqrt(h.beta_2)
        rate = d * h.learning_rate
        update = sign(lerp(g, s.momentum, h.beta_1))
        s.momentum = h.beta_2 * s.momentum + (1 - h.beta_2) * rate * g
        s.d_numerator = lerp(rate * global_sum(update * s.s), s.d_numerator, beta)
        s.s = beta * s.s + (1 - beta) * rate * update
        length = (1 - beta) * global_sum(absolute(s.s))
        # Until the first gradient that is not zero there is nothing to learn from.
        s.d = where(length > 0, maximum(d, s.d_numerator / length), d)
        return transforms.decay(w, h, rate) - rate * update
