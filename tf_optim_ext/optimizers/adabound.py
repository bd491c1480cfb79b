"""AdaBound."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Boolean, Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import clip, divide_no_nan, lerp, maximum, sqrt, square


def bounded(w, g, s, h, amsgrad):
    """The rule of `AdaBound` and `AMSBound`."""
    s.momentum = lerp(g, s.momentum, h.beta_1)
    s.velocity = lerp(square(g), s.velocity, h.beta_2)
    v = s.velocity
    if amsgrad:
        v = s.velocity_hat = maximum(s.velocity_hat, s.velocity)
    alpha = h.learning_rate * sqrt(1 - h.beta_2**h.step) / (1 - h.beta_1**h.step)
    lowest = h.final_learning_rate * (1 - 1 / (h.gamma * h.step + 1))
    highest = h.final_learning_rate * (1 + 1 / (h.gamma * h.step))
    return w - clip(divide_no_nan(alpha, sqrt(v) + h.epsilon), lowest, highest) * s.momentum


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class AdaBound(Optimizer):
    r"""AdaBound: begins as Adam and becomes SGD with momentum.

    The step size of each weight is clipped to bounds that close in on a final learning rate. For
    those who want Adam's fast beginning and the generalisation of SGD.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \eta_t &= \operatorname{clip}\left(
               \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{1}{\sqrt{v_t} + \epsilon},\;
               \alpha^* \left(1 - \frac{1}{\gamma t + 1}\right),\;
               \alpha^* \left(1 + \frac{1}{\gamma t}\right)\right) \\
        w_t &= w_{t-1} - \eta_t m_t

    With `amsgrad`, the largest :math:`v` so far takes the place of :math:`v_t` in the third line.

    Args:
        learning_rate: float, schedule or callable, :math:`\alpha`. Start near 0.001, the rate
            for `Adam`.
        final_learning_rate: float > 0, :math:`\alpha^*`. Start near 0.1, the rate for
            `SGD`. The lower bound rises to it, whatever the learning rate is.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        gamma: float > 0, :math:`\gamma`: the bounds have closed in after :math:`1 / \gamma` steps.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        amsgrad: whether to use the largest second moment so far (slot `velocity_hat`).
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    This is the authors' code; the paper's algorithm has neither bias correction nor `epsilon`, and
    divides the step size by :math:`\sqrt t`. A schedule acts on `learning_rate` alone: the authors'
    code scales `final_learning_rate` with it, so that there the last steps shrink, too. The
    authors' weight decay is in the gradient.

    Reference:
        Luo et al., *Adaptive Gradient Methods with Dynamic Bound of Learning Rate*,
        arXiv:1902.09843.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.AdaBound(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [Slot("momentum"), Slot("velocity"), Slot("velocity_hat")]
    hyperparameters = [
        Hyperparameter("final_learning_rate", "(0, inf)"),
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("gamma", "(0, inf)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Boolean("amsgrad"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        final_learning_rate=0.1,
        beta_1=0.9,
        beta_2=0.999,
        gamma=0.001,
        epsilon=1e-8,
        amsgrad=False,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            final_learning_rate=final_learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            gamma=gamma,
            epsilon=epsilon,
            amsgrad=amsgrad,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        return bounded(w, g, s, h, h.amsgrad)
