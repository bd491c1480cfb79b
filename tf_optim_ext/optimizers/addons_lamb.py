"""LAMB with the arguments of TensorFlow Addons."""

import tensorflow as tf

from tf_optim_ext.optimizers.lamb import Lamb


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class LAMB(Lamb):
    """`Lamb` with the arguments of TensorFlow Addons.

    For code that used `tfa.optimizers.LAMB`: the import changes and nothing else.

    Args:
        learning_rate: float, schedule or callable. Start near 0.001.
        beta_1: float in [0, 1).
        beta_2: float in [0, 1).
        epsilon: float, see `Lamb`.
        weight_decay: float, see `Lamb`.
        exclude_from_weight_decay: list of regular expressions, or one; variables in whose path or
            name one of them occurs are not decayed.
        exclude_from_layer_adaptation: likewise, for variables whose update is not scaled by the
            ratio of norms. Default: `exclude_from_weight_decay`.
        **kwargs: see `Optimizer`; and `weight_decay_rate`, an older name of `weight_decay`.

    Reference:
        You et al., *Large Batch Optimization for Deep Learning: Training BERT in 76 minutes*,
        arXiv:1904.00962, Algorithm 2.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.LAMB(0.1, exclude_from_layer_adaptation=["bias"])
        >>> w = tf.Variable(2.0, name="bias")
        >>> _ = optimizer.apply_gradients([(tf.constant(3.0), w)])
        >>> round(float(w), 6)
        1.9
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        weight_decay=0.0,
        exclude_from_weight_decay=None,
        exclude_from_layer_adaptation=None,
        **kwargs,
    ):
        rate = kwargs.pop("weight_decay_rate", None)
        if rate is not None:
            if weight_decay:
                raise ValueError(
                    "LAMB: `weight_decay_rate` is an older name of `weight_decay`; give one of "
                    f"them. Received: weight_decay={weight_decay!r}, weight_decay_rate={rate!r}"
                )
            weight_decay = rate
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay, **kwargs
        )
        if exclude_from_layer_adaptation is None:
            exclude_from_layer_adaptation = exclude_from_weight_decay
        if exclude_from_weight_decay:
            self.exclude_from_weight_decay(var_names=exclude_from_weight_decay)
        if exclude_from_layer_adaptation:
            self.exclude_from_layer_adaptation(var_names=exclude_from_layer_adaptation)
