"""Conditional gradient."""

import tensorflow as tf

from tf_optim_ext.base.declaration import Choice, Hyperparameter
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.engine import sparse
from tf_optim_ext.rule import divide_no_nan, norm


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class ConditionalGradient(Optimizer):
    r"""Conditional gradient (Frank-Wolfe): moves towards the corner of a ball of weights.

    For weights that must stay within a norm: with the Frobenius norm, whose ball has radius
    :math:`\lambda`, or with the nuclear norm, for matrices of low rank.

    .. math::
        w_t &= \gamma w_{t-1} - (1 - \gamma) \lambda s_t \\
        s_t &= \frac{g_t}{\lVert g_t \rVert_F + \epsilon} \quad\text{or}\quad s_t = u_1 v_1^\top

    where :math:`u_1` and :math:`v_1` are the singular vectors of :math:`g_t` for its largest
    singular value.

    Args:
        learning_rate: float in [0, 1], schedule or callable, :math:`\gamma`: what is kept of the
            weights. Start near 0.99 and let it rise to 1.
        lambda_: float, :math:`\lambda`, the radius of the ball. It must be larger than the norms
            that the weights shall have: for a layer of a network 10 to 100, not the default.
        epsilon: float, :math:`\epsilon`. With 0, :math:`s_t` is 0 for a gradient of zeros.
        ord: "fro" for the Frobenius norm, "nuclear" for the nuclear norm. The latter takes
            gradients of two or more axes, the last two of which are matrices, those of fewer as
            with "fro", and is computed by TensorFlow.
        weight_decay: float, decoupled: before the update, the weights shrink by
            `learning_rate * weight_decay` of themselves. Rarely of use, as they shrink anyway.
        **kwargs: see `Optimizer`.

    Arguments and defaults are those of TensorFlow Addons. A gradient of zeros still moves the
    weights: with the Frobenius norm, they shrink to :math:`\gamma` times themselves; with the
    nuclear norm, they move to the corner of whatever singular vectors a matrix of zeros is given.

    Reference:
        Ravi et al., *Constrained Deep Learning using Conditional Gradient and Applications in
        Computer Vision*, arXiv:1803.06453.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.ConditionalGradient(0.5, 10.0)
        >>> w = tf.Variable([1.0, 1.0])
        >>> _ = optimizer.apply_gradients([(tf.constant([3.0, -4.0]), w)])
        >>> [round(float(x), 5) for x in w]
        [-2.5, 4.5]
    """

    hyperparameters = [
        Hyperparameter("lambda_", "[0, inf)"),
        Hyperparameter("epsilon", "[0, inf)"),
        Choice("ord", ("fro", "nuclear")),
    ]

    def __init__(self, learning_rate=0.1, lambda_=0.01, epsilon=1e-7, ord="fro", **kwargs):
        super().__init__(learning_rate, lambda_=lambda_, epsilon=epsilon, ord=ord, **kwargs)

    @staticmethod
    def rule(w, g, s, h):
        # With the nuclear norm, the gradient was replaced by the corner already.
        corner = g if h.ord == "nuclear" else divide_no_nan(g, norm(g) + h.epsilon)
        return h.learning_rate * w - (1 - h.learning_rate) * h.lambda_ * corner

    @classmethod
    def treats_rows_alone(cls, **settings):
        """See `Optimizer`."""
        return settings.get("ord") != "nuclear" and super().treats_rows_alone(**settings)

    def _check_groups(self):
        super()._check_groups()
        if self.ord == "nuclear" and self._untracked.groups.overridden:
            raise ValueError(
                'ConditionalGradient: with `ord="nuclear"`, groups may have a learning rate of '
                "their own, and nothing else."
            )

    @property
    def _changes_gradients(self):
        return self.ord == "nuclear" or super()._changes_gradients

    def _run(self, program, variables, gradients, gradient_scale=1.0, *args, **kwargs):
        if self.ord == "nuclear" and program is self._program():
            gradients = sparse.all_dense(gradients, variables)
            scales = tf.unstack(tf.broadcast_to(gradient_scale, [len(gradients)]))
            gradients = [self._corner(g, scale) for g, scale in zip(gradients, scales)]
            gradient_scale = 1.0
        super()._run(program, variables, gradients, gradient_scale, *args, **kwargs)

    def _hyperparameter_values(self, names, variables):
        values = super()._hyperparameter_values(names, variables)
        if self.ord == "nuclear" and "clipvalue" in values:
            values["clipvalue"] = float("inf")  # of the gradient, not of the corner
        return values

    def _corner(self, gradient, scale):
        """The rank-1 matrix with singular value 1 in whose direction the gradient is largest."""
        # In float64, as what clips a large norm may be smaller than any float32.
        g = tf.cast(gradient, tf.float64) * tf.cast(scale, tf.float64)
        g = tf.cast(g, tf.float64 if gradient.dtype == tf.float64 else tf.float32)
        values = super()._hyperparameter_values(("clipvalue", "epsilon"), [])
        bound, epsilon = (tf.cast(values[name], g.dtype) for name in ("clipvalue", "epsilon"))
        if self.clipvalue is not None:
            g = tf.clip_by_value(g, -bound, bound)
        if g.shape.rank < 2:
            return tf.math.divide_no_nan(g, tf.norm(g) + epsilon)
        _, u, v = tf.linalg.svd(g)
        return tf.matmul(u[..., :1], v[..., :1], transpose_b=True)
