"""COCOB."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import absolute, maximum, unless_set, where
from tf_optim_ext.rule.transforms import subtract_decay


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class COCOB(Optimizer):
    r"""COCOB-Backprop: every weight bets on its gradients; there is no learning rate to tune.

    For training without a search. A weight's distance from where it began is what it bets, a part
    of the reward that earlier bets brought.

    .. math::
        L_t &= \max(L_{t-1}, |g_t|), \quad G_t = G_{t-1} + |g_t| \\
        R_t &= \max(R_{t-1} - (w_{t-1} - w_0) g_t, 0), \quad
        \theta_t = \theta_{t-1} - g_t \\
        w_t &= w_0 + \gamma \frac{\theta_t}{L_t \max(G_t + L_t, \alpha L_t)} (L_t + R_t)

    Args:
        alpha: float >= 0, :math:`\alpha`. The first step of a weight is at most
            :math:`\gamma / \alpha`.
        epsilon: float >= 0, :math:`L_0`. With 0, weights stay where they are until their first
            gradient, and the first one bets as much as all others.
        learning_rate: float, schedule or callable, :math:`\gamma`. Leave it at 1, which is the
            paper's method. It scales the distance from the initial weights and not the step.
        weight_decay: float, decoupled: `learning_rate * weight_decay` of the weights is subtracted
            from the new ones. It does not add up, as each step starts from the initial weights.
        **kwargs: see `Optimizer`.

    The initial weights, :math:`w_0`, are those before a variable's first update, until which their
    slot is NaN. The slot `gradient_sum` is
    :math:`\theta_t`, the negative sum. The paper has no learning rate and no epsilon; the arguments
    are those of TensorFlow Addons, and the learning rate.

    Reference:
        Orabona and Tommasi, *Training Deep Networks without Learning Rates Through Coin Betting*,
        arXiv:1705.07795, Algorithm 2.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.COCOB(alpha=4.0)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.75
    """

    state = [
        Slot("lipschitz", "epsilon"),
        Slot("gradient_norm_sum"),
        Slot("reward"),
        Slot("gradient_sum"),
        Slot("initial_weights", math.nan),
    ]
    hyperparameters = [
        Hyperparameter("alpha", "[0, inf)"),
        Hyperparameter("epsilon", "[0, inf)"),
    ]

    def __init__(self, alpha=100.0, epsilon=1e-8, learning_rate=1.0, **kwargs):
        super().__init__(learning_rate, alpha=alpha, epsilon=epsilon, **kwargs)

    @staticmethod
    def decay(w, h):
        return w

    @staticmethod
    def rule(w, g, s, h):
        start = s.initial_weights = unless_set(s.initial_weights, w, h)
        s.lipschitz = maximum(s.lipschitz, absolute(g))
        s.gradient_norm_sum = s.gradient_norm_sum + absolute(g)
        s.reward = maximum(s.reward - (w - start) * g, 0.0)
        s.gradient_sum = s.gradient_sum - g
        # Two quotients: the product of the denominators, squares of gradients, might overflow.
        scale = s.lipschitz
        wealth = (scale + s.reward) / maximum(s.gradient_norm_sum + scale, h.alpha * scale)
        bet = where(scale == 0, 0.0, s.gradient_sum / scale * wealth)
        return subtract_decay(start + h.learning_rate * bet, w, h)
