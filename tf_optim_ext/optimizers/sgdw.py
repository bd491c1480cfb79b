"""SGDW."""

import tensorflow as tf

from tf_optim_ext.optimizers.decoupled_weight_decay import SelectiveWeightDecay
from tf_optim_ext.optimizers.sgd import SGD
from tf_optim_ext.rule import where


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class SGDW(SelectiveWeightDecay, SGD):
    r"""Stochastic gradient descent with decoupled weight decay.

    The decay does not depend on the learning rate, so that the two can be tuned one after the
    other.

    .. math::
        w'_{t-1} = w_{t-1} - \lambda w_{t-1}

    and then the update of `SGD`, from :math:`w'_{t-1}`.

    Args:
        weight_decay: float, :math:`\lambda`, the part of the weights that is lost at each step.
            Required. Typical values are 1e-6 to 1e-4.
        learning_rate: float, schedule or callable, :math:`\gamma`. Start near 0.01 to 0.1.
        momentum: float in [0, 1], :math:`\mu`.
        nesterov: whether to look ahead.
        exclude_from_weight_decay: list of regular expressions, or one; variables in whose path or
            name one of them occurs are not decayed. `decay_var_list` of `apply_gradients` and
            `minimize`, a list of variables, goes before it.
        **kwargs: see `Optimizer`.

    Unlike everywhere else in this package, and as in the paper and TensorFlow Addons, the decay is
    *not* multiplied by the learning rate. The paper multiplies it by the schedule, which cannot be
    told from the learning rate here: with a schedule it stays constant, while that of
    `SGD(weight_decay=...)` falls with the learning rate.

    Reference:
        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, arXiv:1711.05101,
        Algorithm 1.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.SGDW(0.5, learning_rate=0.1)
        >>> w = tf.Variable(1.0)
        >>> _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.3
    """

    required = ("weight_decay",)

    def __init__(
        self,
        weight_decay,
        learning_rate=0.001,
        momentum=0.0,
        nesterov=False,
        exclude_from_weight_decay=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            momentum,
            nesterov,
            weight_decay=weight_decay,
            exclude_from_weight_decay=exclude_from_weight_decay,
            **kwargs,
        )

    @staticmethod
    def decay(w, h):
        return where(h.weight_decay != 0, w - h.weight_decay * w, w)
