"""Adagrad."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import sqrt, where
from tf_optim_ext.rule.transforms import squared


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Adagrad(Optimizer):
    r"""Adagrad: each weight's step shrinks with the gradients it has had.

    Good for sparse features: rare ones keep large steps.

    .. math::
        a_t &= a_{t-1} + g_t^2 \\
        w_t &= w_{t-1} - \gamma \frac{g_t}{\sqrt{a_t + \epsilon}}

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.01 to 0.1: as steps
            only ever shrink, it is larger than that of `Adam`.
        initial_accumulator_value: float >= 0, :math:`a_0`.
        epsilon: float, :math:`\epsilon`. With 0, weights whose gradients were all zero stay where
            they are.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    As in Keras, epsilon is inside the square root; the paper's constant is outside, and PyTorch has
    both: its initial value inside and its epsilon outside.

    Reference:
        Duchi, Hazan and Singer, *Adaptive Subgradient Methods for Online Learning and Stochastic
        Optimization*, JMLR 12, 2011.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Adagrad(0.5, initial_accumulator_value=0.0)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.5
    """

    state = [Slot("accumulator", "initial_accumulator_value", row_wise=True)]
    hyperparameters = [
        Hyperparameter("initial_accumulator_value", "[0, inf)"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(self, learning_rate=0.001, initial_accumulator_value=0.1, epsilon=1e-7, **kwargs):
        super().__init__(
            learning_rate,
            initial_accumulator_value=initial_accumulator_value,
            epsilon=epsilon,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        s.accumulator = s.accumulator + squared(g, h)
        total = s.accumulator + h.epsilon
        # Both may be zero, and so is the gradient then.
        return w - where(total == 0, 0.0, h.learning_rate * g / sqrt(total))
