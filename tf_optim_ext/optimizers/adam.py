"""Adam."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Boolean, Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import divide_no_nan, lerp, maximum, sqrt
from tf_optim_ext.rule.transforms import squared


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Adam(Optimizer):
    r"""Adam: steps scaled by running averages of the gradient and of its square.

    The usual first choice: it works with little tuning for most networks.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        w_t &= w_{t-1} - \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
               \frac{m_t}{\sqrt{v_t} + \hat\epsilon}

    With `amsgrad`, the largest :math:`v` so far takes the place of :math:`v_t` in the last line.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\hat\epsilon`. With 0, weights whose gradients were all zero stay
            where they are: 0 / 0 is no update.
        amsgrad: whether to use the largest second moment so far (slot `velocity_hat`).
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves. See `AdamW`.
        **kwargs: see `Optimizer`.

    As in Keras, `epsilon` is the paper's *epsilon hat* (the formula before section 2.1) and not the
    epsilon of its Algorithm 1, which PyTorch has; with `amsgrad` the second moments are compared
    before bias correction.

    References:
        Kingma and Ba, *Adam: A Method for Stochastic Optimization*, arXiv:1412.6980. Reddi et al.,
        *On the Convergence of Adam and Beyond*, arXiv:1904.09237, for `amsgrad`.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Adam(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = [
        Slot("momentum", old_name="m"),
        Slot("velocity", row_wise=True, old_name="v"),
        Slot("velocity_hat", row_wise=True, separate=True, old_name="vhat"),
    ]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Boolean("amsgrad"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
        **kwargs,
    ):
        super().__init__(
            learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, amsgrad=amsgrad, **kwargs
        )

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta_1)
        s.velocity = lerp(squared(g, h), s.velocity, h.beta_2)
        v = s.velocity
        if h.amsgrad:
            v = s.velocity_hat = maximum(s.velocity_hat, s.velocity)
        alpha = h.learning_rate * sqrt(1 - h.beta_2**h.step) / (1 - h.beta_1**h.step)
        return w - divide_no_nan(alpha * s.momentum, sqrt(v) + h.epsilon)
