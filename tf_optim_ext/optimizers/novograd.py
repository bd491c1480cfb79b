"""NovoGrad."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Boolean, Hyperparameter, Slot, VariableScalar
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import is_set, lerp, maximum, reduce_sum, sqrt, square, unless_set, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class NovoGrad(Optimizer):
    r"""NovoGrad: momentum of gradients that are normalised per variable.

    For speech and image networks: as robust as `Adam` against the choice of the learning rate, with
    the memory of momentum, as the second moment is a scalar for each variable.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \lVert g_t \rVert^2, \quad
        v_1 = \lVert g_1 \rVert^2 \\
        m_t &= \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon} + \lambda w_{t-1} \\
        w_t &= w_{t-1} - \gamma m_t

    With `grad_averaging`, what is added to the momentum after the first step is multiplied by
    :math:`1 - \beta_1`; with
    `amsgrad`, the largest :math:`v` so far takes the place of :math:`v_t` in the second line. The
    norm takes a pass over memory of its own.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.01.
        beta_1: float in [0, 1), :math:`\beta_1`. The paper has 0.95.
        beta_2: float in [0, 1), :math:`\beta_2`. The paper has 0.98.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        grad_averaging: whether the momentum is an average.
        amsgrad: whether to use the largest second moment so far (`velocity_hat`).
        weight_decay: float, :math:`\lambda`.
        **kwargs: see `Optimizer`.

    The weight decay goes through the momentum, as in the paper. Arguments and defaults are those of
    TensorFlow Addons. There and in the paper, :math:`v_1` is of the first step; here it is of a
    variable's first gradient, until which its `velocity` is NaN. The authors' code waits for the
    first gradient that is not zero; otherwise, as here, :math:`v_1 = 0` after one of zeros, and the
    next update is up to :math:`1 / \sqrt{1 - \beta_2}` times as long.

    Reference:
        Ginsburg et al., *Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training
        of Deep Networks*, arXiv:1905.11286, Algorithm 1.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.NovoGrad(0.1)
        >>> w = tf.Variable([1.0, 1.0])
        >>> _ = optimizer.apply_gradients([(tf.constant([3.0, 4.0]), w)])
        >>> [round(float(x), 6) for x in w]
        [0.94, 0.92]
    """

    state = [
        Slot("momentum"),
        VariableScalar("velocity", math.nan),
        VariableScalar("velocity_hat"),
    ]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Boolean("grad_averaging"),
        Boolean("amsgrad"),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        weight_decay=None,
        grad_averaging=False,
        amsgrad=False,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            grad_averaging=grad_averaging,
            amsgrad=amsgrad,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        squared_norm = reduce_sum(square(g))
        begun = is_set(s.velocity, h) != 0
        before = unless_set(s.velocity, squared_norm, h)
        s.velocity = where(begun, lerp(squared_norm, before, h.beta_2), squared_norm)
        v = s.velocity
        if h.amsgrad:
            v = s.velocity_hat = maximum(s.velocity_hat, s.velocity)
        # Without epsilon, a variable whose gradients were all zero stays where it is.
        root = sqrt(v) + h.epsilon
        d = where(root > 0, g / root, 0.0)
        d = where(h.weight_decay != 0, d + h.weight_decay * w, d)
        if h.grad_averaging:
            d = where(begun, 1 - h.beta_1, 1.0) * d
        s.momentum = h.beta_1 * s.momentum + d
        return w - h.learning_rate * s.momentum
