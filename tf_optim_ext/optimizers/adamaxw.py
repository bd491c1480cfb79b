"""AdamaxW."""

import tensorflow as tf

from tf_optim_ext.optimizers.adamax import Adamax


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class AdamaxW(Adamax):
    r"""Adamax with decoupled weight decay.

    For the uses of `Adamax`, where weights must stay small: the decay is not divided by the norm of
    the gradients.

    .. math::
        w'_{t-1} = w_{t-1} - \gamma \lambda w_{t-1}

    and then the update of `Adamax`, from :math:`w'_{t-1}`.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.002.
        weight_decay: float, :math:`\lambda`. Typical values are 0.004 to 0.1.
        beta_1: float in [0, 1).
        beta_2: float in [0, 1].
        epsilon: float, see `Adamax`.
        **kwargs: see `Optimizer`.

    The decay is multiplied by the learning rate, as in `AdamW`.

    References:
        Kingma and Ba, *Adam: A Method for Stochastic Optimization*, arXiv:1412.6980, Algorithm 2.
        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, arXiv:1711.05101.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.AdamaxW(0.1, weight_decay=0.5)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.85
    """

    required = ("weight_decay",)

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.004,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        **kwargs,
    ):
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay, **kwargs
        )
