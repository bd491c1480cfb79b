"""Adadelta."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import lerp, sqrt, square


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Adadelta(Optimizer):
    r"""Adadelta: steps in units of earlier steps, so that no learning rate has to be chosen.

    Insensitive to the scale of the loss. It starts slowly: the first steps are about
    :math:`\sqrt{\epsilon}` long.

    .. math::
        a_t &= \rho a_{t-1} + (1 - \rho) g_t^2 \\
        \Delta_t &= -\frac{\sqrt{d_{t-1} + \epsilon}}{\sqrt{a_t + \epsilon}} g_t \\
        d_t &= \rho d_{t-1} + (1 - \rho) \Delta_t^2 \\
        w_t &= w_{t-1} + \gamma \Delta_t

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start at 1, the paper's; the
            default is Keras'.
        rho: float in [0, 1], :math:`\rho`.
        epsilon: float > 0, :math:`\epsilon`. Decides how long the first steps are; with 0, there
            would be none.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves.
        **kwargs: see `Optimizer`.

    The paper has no learning rate; as in Keras and PyTorch it multiplies what is added to the
    weights and not what is averaged.

    Reference:
        Zeiler, *ADADELTA: An Adaptive Learning Rate Method*, arXiv:1212.5701.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Adadelta(1.0, epsilon=0.01)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.563564
    """

    state = [
        Slot("accumulated_grad", old_name="accum_grad"),
        Slot("accumulated_delta_var", old_name="accum_var"),
    ]
    hyperparameters = [
        Hyperparameter("rho", "[0, 1]"),
        Hyperparameter("epsilon", "(0, inf)"),
    ]

    def __init__(self, learning_rate=0.001, rho=0.95, epsilon=1e-7, **kwargs):
        super().__init__(learning_rate, rho=rho, epsilon=epsilon, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        s.accumulated_grad = lerp(square(g), s.accumulated_grad, h.rho)
        rms = sqrt(s.accumulated_delta_var + h.epsilon)
        delta = rms * g / sqrt(s.accumulated_grad + h.epsilon)
        s.accumulated_delta_var = lerp(square(delta), s.accumulated_delta_var, h.rho)
        return w - h.learning_rate * delta
