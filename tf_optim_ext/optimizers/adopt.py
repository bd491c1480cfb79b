"""ADOPT."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Boolean, Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import (
    clip,
    divide_no_nan,
    is_set,
    lerp,
    maximum,
    sqrt,
    square,
    unless_set,
    where,
)
from tf_optim_ext.rule.transforms import decay_rate


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class ADOPT(Optimizer):
    r"""ADOPT: Adam that divides by the second moment of the gradients before this one.

    It converges for every :math:`\beta_2`, where Adam needs one that suits the problem. The first
    step only measures the gradients: it changes no weight.

    .. math::
        v_1 &= g_1^2 \\
        n_t &= \operatorname{clip}\left(\frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)},
               \pm (t - 1)^{1/4}\right) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) n_t \\
        w_t &= w_{t-1} - \gamma m_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2

    The last four lines are for :math:`t > 1`. Without `clipped`, the second one does not clip. The
    first line is for the first gradient of a variable, whichever step that is in; until then, its
    slot `velocity` is NaN.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001, with what is
            good for `Adam`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        clipped: whether to clip the normalised gradients. Without, a weight whose first gradients
            were tiny may take a huge step.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves; not in the first step.
        **kwargs: see `Optimizer`.

    Reference:
        Taniguchi et al., *ADOPT: Modified Adam Can Converge with Any* :math:`\beta_2` *with the
        Optimal Rate*, arXiv:2411.02853, Algorithm 2 of version 3.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.ADOPT(0.1)
        >>> w = tf.Variable(1.0)
        >>> for _ in range(2):
        ...     _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.99
    """

    state = [Slot("momentum"), Slot("velocity", math.nan)]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Boolean("clipped"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.9999,
        epsilon=1e-6,
        clipped=True,
        **kwargs,
    ):
        super().__init__(
            learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, clipped=clipped, **kwargs
        )

    @staticmethod
    def stateful_decay(w, s, h):
        share = is_set(s.velocity, h) * decay_rate(h)
        return where(share != 0, w - share * w, w)

    @staticmethod
    def rule(w, g, s, h):
        begun, velocity = is_set(s.velocity, h), unless_set(s.velocity, square(g), h)
        normalized = divide_no_nan(g, maximum(sqrt(velocity), h.epsilon))
        if h.clipped:
            bound = (h.step - 1) ** 0.25
            normalized = clip(normalized, -bound, bound)
        s.momentum = where(begun != 0, lerp(normalized, s.momentum, h.beta_1), s.momentum)
        s.velocity = where(begun != 0, lerp(square(g), velocity, h.beta_2), velocity)
        return w - where(begun != 0, h.learning_rate * s.momentum, 0.0)
