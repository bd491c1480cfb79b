"""FTRL-Proximal."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Derived, Hyperparameter, Slot
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import clip, maximum, sqrt, square, where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Ftrl(Optimizer):
    r"""FTRL-Proximal: follow the regularised leader, for sparse linear models.

    L1 regularisation makes weights exactly zero. Used for click prediction on huge sparse data.

    .. math::
        n_t &= n_{t-1} + g_t^2 \\
        z_t &= z_{t-1} + g_t + 2 s w_{t-1} - \frac{n_t^{p} - n_{t-1}^{p}}{\gamma} w_{t-1} \\
        w_t &= \begin{cases} 0 & |z_t| \le \lambda_1 \\
               \dfrac{\operatorname{sign}(z_t) \lambda_1 - z_t}
                     {(\beta + n_t^{p}) / \gamma + 2 \lambda_2} & \text{else} \end{cases}

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.05.
        learning_rate_power: float <= 0, :math:`-p`. Other values than -0.5 are slower.
        initial_accumulator_value: float >= 0, :math:`n_0`. For networks 0, with which the first
            step starts from the weights: otherwise it takes them to almost zero.
        l1_regularization_strength: float, :math:`\lambda_1`.
        l2_regularization_strength: float, :math:`\lambda_2`.
        l2_shrinkage_regularization_strength: float, :math:`s`; a penalty on the loss, which unlike
            :math:`\lambda_2` does not act where the gradient is zero.
        beta: float, :math:`\beta`.
        weight_decay: float, decoupled; it changes only :math:`w_{t-1}`, of which little remains in
            this method. Regularise by the arguments above.
        **kwargs: see `Optimizer`.

    As in Keras, :math:`\lambda_2` enters twice, and the initial weights are forgotten at once: a
    weight whose gradient is zero in the first step becomes zero. Unlike Keras', a weight becomes 0
    and not NaN where the denominator is 0, and a step whose learning rate is 0 changes nothing.

    Reference:
        McMahan et al., *Ad Click Prediction: a View from the Trenches*, KDD 2013, Algorithm 1.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Ftrl(0.5, initial_accumulator_value=0.0)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.5
    """

    state = [Slot("accumulator", "initial_accumulator_value"), Slot("linear")]
    hyperparameters = [
        Hyperparameter("learning_rate_power", "(-inf, 0]"),
        Hyperparameter("initial_accumulator_value", "[0, inf)"),
        Hyperparameter("l1_regularization_strength", "[0, inf)"),
        Hyperparameter("l2_regularization_strength", "[0, inf)"),
        Hyperparameter("l2_shrinkage_regularization_strength", "[0, inf)"),
        Hyperparameter("beta", "[0, inf)"),
        Derived("square_root", "learning_rate_power", -0.5, True),
    ]

    def __init__(
        self,
        learning_rate=0.001,
        learning_rate_power=-0.5,
        initial_accumulator_value=0.1,
        l1_regularization_strength=0.0,
        l2_regularization_strength=0.0,
        l2_shrinkage_regularization_strength=0.0,
        beta=0.0,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            learning_rate_power=learning_rate_power,
            initial_accumulator_value=initial_accumulator_value,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            l2_shrinkage_regularization_strength=l2_shrinkage_regularization_strength,
            beta=beta,
            **kwargs,
        )

    @staticmethod
    def rule(w, g, s, h):
        # A schedule may begin at 0, by which everything here would be divided.
        resting = h.learning_rate == 0
        g = where(resting, 0.0, g)
        inverse_rate = where(resting, 0.0, 1 / h.learning_rate)
        n = s.accumulator + square(g)
        if h.square_root:
            power, before = sqrt(n), sqrt(s.accumulator)
            # The difference of the roots, which are nearly equal, without their subtraction.
            growth = square(g) / maximum(power + before, 1e-30)
        else:
            power, before = n ** (-h.learning_rate_power), s.accumulator ** (-h.learning_rate_power)
            growth = power - before
        shrinkage = where(resting, 0.0, 2 * h.l2_shrinkage_regularization_strength) * w
        z = s.linear + g + shrinkage - growth * inverse_rate * w
        denominator = (h.beta + power) * inverse_rate + 2 * h.l2_regularization_strength
        l1 = h.l1_regularization_strength
        new = where(denominator == 0, 0.0, (clip(z, -l1, l1) - z) / denominator)
        s.accumulator, s.linear = n, z
        return where(resting, w, new)
