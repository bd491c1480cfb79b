"""AdamW."""

import tensorflow as tf

from tf_optim_ext.optimizers.adam import Adam


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class AdamW(Adam):
    r"""Adam with decoupled weight decay.

    The standard for transformers. The decay acts on the weights and not through the gradient, so
    that it is not divided by the second moment.

    .. math::
        w'_{t-1} = w_{t-1} - \gamma \lambda w_{t-1}

    and then the update of `Adam`, from :math:`w'_{t-1}`.

    Args:
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.001, for large
            transformers near 0.0003.
        weight_decay: float, :math:`\lambda`. Typical values are 0.004 to 0.1.
        beta_1: float in [0, 1).
        beta_2: float in [0, 1).
        epsilon: float, see `Adam`.
        amsgrad: whether to use the largest second moment so far.
        **kwargs: see `Optimizer`.

    The decay is multiplied by the learning rate, as in Keras and PyTorch; the paper's
    :math:`\eta_t \lambda` is multiplied by the schedule only. Biases and normalisation weights are
    usually excluded: `exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])`.

    Reference:
        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, arXiv:1711.05101.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.AdamW(0.1, weight_decay=0.5)
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
        amsgrad=False,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            amsgrad,
            weight_decay=weight_decay,
            **kwargs,
        )
