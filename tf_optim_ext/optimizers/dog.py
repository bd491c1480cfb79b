"""DoG."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, OptimizerScalar, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import global_norm, global_sum, maximum, sqrt, square, unless_set, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class DoG(Optimizer):
    r"""Distance over gradients: gradient descent without a learning rate to tune.

    The step is the largest distance from the initial weights so far, over the root of the sum of
    all squared gradients. Meant to be evaluated with an average of the weights: `use_ema=True`.

    .. math::
        g'_t &= g_t + \lambda w_{t-1} \\
        r_t &= \max(r_{t-1}, \lVert w_{t-1} - w_0 \rVert), \quad
        r_1 = r_\epsilon (1 + \lVert w_0 \rVert) \\
        G_t &= G_{t-1} + \lVert g'_t \rVert^2 \\
        w_t &= w_{t-1} - \gamma \frac{r_t}{\sqrt{G_t + \epsilon}} g'_t

    The norms are over all variables; they take a pass over memory of their own.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Leave it at 1.
        reps_rel: float > 0, :math:`r_\epsilon`, the first distance relative to the weights.
        epsilon: float > 0, :math:`\epsilon`.
        weight_decay: float, :math:`\lambda`, added to the gradient.
        **kwargs: see `Optimizer`.

    The argument names are those of the authors' code, and so is the weight decay, which is not
    decoupled. The slot `initial_weights`, :math:`w_0`, holds the weights before the first update of
    their variable, and NaN until then. The paper averages the weights with a polynomial decay; the
    average here is that of `use_ema`. `LDoG` does the same for each variable by itself.

    Reference:
        Ivgi, Hinder and Carmon, *DoG is SGD's Best Friend*, arXiv:2302.12022; code
        https://github.com/formll/dog.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.DoG(reps_rel=0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.8
    """

    state = [
        Slot("initial_weights", math.nan),
        OptimizerScalar("max_distance"),
        OptimizerScalar("squared_norm_sum"),
    ]
    hyperparameters = [
        Hyperparameter("reps_rel", "(0, inf)"),
        Hyperparameter("epsilon", "(0, inf)"),
    ]

    def __init__(self, learning_rate=1.0, reps_rel=1e-6, epsilon=1e-8, **kwargs):
        super().__init__(learning_rate, reps_rel=reps_rel, epsilon=epsilon, **kwargs)

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        start = s.initial_weights = unless_set(s.initial_weights, w, h)
        g = where(h.weight_decay != 0, g + h.weight_decay * w, g)
        first = h.reps_rel * (1 + global_norm(w))
        s.max_distance = where(h.step > 1, maximum(s.max_distance, global_norm(w - start)), first)
        s.squared_norm_sum = s.squared_norm_sum + global_sum(square(g))
        eta = h.learning_rate * s.max_distance / sqrt(s.squared_norm_sum + h.epsilon)
        return w - eta * g
