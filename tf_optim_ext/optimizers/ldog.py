"""LDoG."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot, VariableScalar
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import maximum, norm, reduce_sum, sqrt, square, unless_set, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class LDoG(Optimizer):
    r"""Layer-wise `DoG`: distance over gradients, for each variable by itself.

    For networks whose layers differ much in the size of their weights or gradients, such as
    transformers, where one step size for all is that of the most sensitive one. Meant to be
    evaluated with an average of the weights: `use_ema=True`.

    .. math::
        g'_t &= g_t + \lambda w_{t-1} \\
        r_t &= \max(r_{t-1}, \lVert w_{t-1} - w_0 \rVert), \quad
        r_1 = r_\epsilon (1 + \lVert w_0 \rVert) \\
        G_t &= G_{t-1} + \lVert g'_t \rVert^2 \\
        w_t &= w_{t-1} - \gamma \frac{r_t}{\sqrt{G_t + \epsilon}} g'_t

    The norms are those of one variable; they take a pass over memory of their own.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Leave it at 1.
        reps_rel: float > 0, :math:`r_\epsilon`, the first distance relative to the weights.
        epsilon: float > 0, :math:`\epsilon`.
        weight_decay: float, :math:`\lambda`, added to the gradient.
        **kwargs: see `Optimizer`.

    The argument names are those of the authors' code, and so is the weight decay, which is not
    decoupled. The slot `initial_weights`, :math:`w_0`, holds the weights before the first update of
    their variable, and NaN until then. The paper averages the weights with a polynomial decay; the
    average here is that of `use_ema`.

    Reference:
        Ivgi, Hinder and Carmon, *DoG is SGD's Best Friend*, arXiv:2302.12022; code
        https://github.com/formll/dog.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.LDoG(reps_rel=0.1)
        >>> v, w = tf.Variable(1.0), tf.Variable(3.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), v), (tf.constant(2.0), w)])
        >>> [round(float(x), 6) for x in (v, w)]
        [0.8, 2.6]
    """

    state = [
        Slot("initial_weights", math.nan),
        VariableScalar("max_distance"),
        VariableScalar("squared_norm_sum"),
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
        # It is 0 before the variable's first update only.
        distance = maximum(s.max_distance, norm(w - start))
        first = h.reps_rel * (1 + norm(w))
        s.max_distance = where(s.max_distance > 0, distance, first)
        s.squared_norm_sum = s.squared_norm_sum + reduce_sum(square(g))
        return w - h.learning_rate * s.max_distance / sqrt(s.squared_norm_sum + h.epsilon) * g
