"""Tiger."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import lerp, sign


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Tiger(Optimizer):
    r"""Tiger, a *tight-fisted optimizer*: the sign of the momentum, and weight decay.

    `Lion` with one beta for both of its uses: as little memory, and as few hyperparameters, as an
    optimizer for transformers can do with.

    .. math::
        m_t &= \beta m_{t-1} + (1 - \beta) g_t \\
        w_t &= w_{t-1} - \gamma (\operatorname{sign}(m_t) + \lambda w_{t-1})

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`, the size of every step. Start
            near 0.0003, a third to a tenth of the rate for `AdamW`.
        beta: float in [0, 1], :math:`\beta`.
        weight_decay: float or None, :math:`\lambda`.
        **kwargs: see `Optimizer`.

    The author's code also scales the learning rate of each kind of weight by its size, and sums
    gradients in the momentum itself; neither is here (see `gradient_accumulation_steps`).

    Reference:
        Su, *Tiger: A Tight-fisted Optimizer*, https://github.com/bojone/tiger, 2023.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Tiger(0.1, weight_decay=0.5)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.85
    """

    state = [Slot("momentum")]
    hyperparameters = [Hyperparameter("beta", "[0, 1]")]

    def __init__(self, learning_rate=0.001, beta=0.965, weight_decay=0.01, **kwargs):
        super().__init__(learning_rate, beta=beta, weight_decay=weight_decay, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        s.momentum = lerp(g, s.momentum, h.beta)
        return w - h.learning_rate * sign(s.momentum)
