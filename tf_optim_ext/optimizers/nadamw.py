"""NAdamW."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, OptimizerScalar, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.optimizers.nadam import nesterov_adam


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class NAdamW(Optimizer):
    r"""NAdamW: `AdamW` with Nesterov momentum.

    Often a little faster than `AdamW` at the same cost, and with its hyperparameters.

    .. math::
        \mu_t &= \beta_1 \left(1 - \tfrac12 \, 0.96^{\psi t}\right) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \hat m_t &= \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i}
                    + \frac{(1 - \mu_t) g_t}{1 - \prod_{i=1}^{t} \mu_i} \\
        w_t &= w_{t-1} - \gamma \lambda w_{t-1}
               - \gamma \frac{\hat m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001.
        weight_decay: float, :math:`\lambda`.
        beta_1: float in [0, 1), :math:`\beta_1`.
        beta_2: float in [0, 1), :math:`\beta_2`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        momentum_decay: float, :math:`\psi`, how fast the momentum rises from half of
            :math:`\beta_1` to :math:`\beta_1`.
        **kwargs: see `Optimizer`.

    This is PyTorch's `NAdam` with decoupled weight decay; `Nadam` is Keras' variant.

    Reference:
        Dozat, *Incorporating Nesterov Momentum into Adam*, ICLR 2016 workshop, for the update;
        Loshchilov and Hutter, arXiv:1711.05101, for the decay.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.NAdamW(0.1, weight_decay=0.0)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 4)
        0.8944
    """

    state = [
        Slot("momentum", old_name="m"),
        Slot("velocity", old_name="v"),
        OptimizerScalar("momentum_product", 1.0),
    ]
    hyperparameters = [
        Hyperparameter("beta_1", "[0, 1)"),
        Hyperparameter("beta_2", "[0, 1)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Hyperparameter("momentum_decay", "[0, inf)"),
    ]

    def __init__(
        self,
        learning_rate=0.002,
        weight_decay=0.004,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        momentum_decay=0.004,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            momentum_decay=momentum_decay,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        return nesterov_adam(w, g, s, h, psi=h.momentum_decay)
