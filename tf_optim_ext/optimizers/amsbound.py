"""AMSBound."""

import tensorflow as tf

from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.optimizers.adabound import AdaBound, bounded


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class AMSBound(Optimizer):
    r"""AMSBound: `AdaBound` with the largest second moment so far.

    Step sizes grow only as far as the bounds make them. The maths is that of `AdaBound` with
    `amsgrad=True`:

    .. math::
        \hat v_t &= \max(\hat v_{t-1}, v_t) \\
        w_t &= w_{t-1} - \operatorname{clip}\left(
               \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
               \frac{1}{\sqrt{\hat v_t} + \epsilon},\;
               \alpha^* \left(1 - \frac{1}{\gamma t + 1}\right),\;
               \alpha^* \left(1 + \frac{1}{\gamma t}\right)\right) m_t

    Args:
        learning_rate: float, schedule or callable, :math:`\alpha`. Start near 0.001, the rate
            for `Adam`.
        final_learning_rate: float > 0, :math:`\alpha^*`. Start near 0.1, the rate for
            `SGD`. Not scaled by a schedule, see `AdaBound`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        gamma: float > 0, :math:`\gamma`: the bounds have closed in after :math:`1 / \gamma` steps.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    Reference:
        Luo et al., *Adaptive Gradient Methods with Dynamic Bound of Learning Rate*,
        arXiv:1902.09843.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.AMSBound(0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.9
    """

    state = AdaBound.state
    hyperparameters = [each for each in AdaBound.hyperparameters if each.name != "amsgrad"]

    def __init__(
        self,
        learning_rate=0.001,
        final_learning_rate=0.1,
        beta_1=0.9,
        beta_2=0.999,
        gamma=0.001,
        epsilon=1e-8,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            final_learning_rate=final_learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            gamma=gamma,
            epsilon=epsilon,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        return bounded(w, g, s, h, amsgrad=True)
