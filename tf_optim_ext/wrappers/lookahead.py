"""Lookahead."""

import math

import tensorflow as tf

from tf_optim_ext.base.declaration import Hyperparameter, Slot
from tf_optim_ext.engine.control import cond
from tf_optim_ext.rule import auxiliary
from tf_optim_ext.wrappers.wrapper import Wrapper


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Lookahead(Wrapper):
    r"""Lookahead: `k` steps forward, one step back, around any optimizer.

    The optimizer inside moves the *fast* weights, which the model has. After every `k` updates, the
    *slow* weights go a part :math:`\alpha` of the way towards them, and the fast weights start anew
    from there:

    .. math::
        \phi &\leftarrow \phi + \alpha (\theta - \phi) \\
        \theta &\leftarrow \phi

    The slot `slow` holds :math:`\phi`. It starts from the weights before the first update. The
    state of the optimizer inside is kept, as in the paper's main experiments.

    Args:
        optimizer: the optimizer inside, of this package or Keras' own; or the name of one of Keras'
            own.
        sync_period: integer >= 1, :math:`k`.
        slow_step_size: number in [0, 1], schedule, callable or variable, :math:`\alpha`.
        name: name of the optimizer.

    A step that only accumulates gradients, or that a `LossScaleOptimizer` inside skips, is no
    update, and does not count.

    Raises:
        TypeError: `optimizer` is none, or an argument is not known.
        ValueError: an argument is outside its range.

    Reference:
        Zhang et al., *Lookahead Optimizer: k steps forward, 1 step back*, arXiv:1907.08610.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.Lookahead(tf_optim_ext.SGD(0.1), sync_period=2)
        >>> w = tf.Variable(1.0)
        >>> for _ in range(2):
        ...     _ = optimizer.apply_gradients([(tf.constant(2.0), w)])
        >>> round(float(w), 6)
        0.8
    """

    state = [Slot("slow", math.nan)]
    hyperparameters = [Hyperparameter("slow_step_size", "[0, 1]")]
    counts = {"sync_period": 1}
    following = staticmethod(auxiliary.lookahead)

    def __init__(self, optimizer, sync_period=6, slow_step_size=0.5, name="Lookahead", **kwargs):
        super().__init__(
            optimizer, name, sync_period=sync_period, slow_step_size=slow_step_size, **kwargs
        )

    def _follow(self, count, gradients, variables):
        def synchronise():
            followed = self._untracked.followed
            unused = self._placeholders(gradients, variables)
            self._run(self._program(), followed, unused)

        cond(tf.equal((count + 1) % self.sync_period, 0), synchronise)

    def _placeholders(self, gradients, variables):
        """Tensors in the places of gradients, which the program does not read.

        Not the weights: they would have to be copied before they are written.
        """
        followed = self._untracked.followed
        candidates = self._of(followed, gradients, variables)
        return [g if _fits(g, v) else tf.zeros(v.shape) for g, v in zip(candidates, followed)]


def _fits(gradient, variable):
    return (
        isinstance(gradient, tf.Tensor)
        and gradient.dtype.is_floating
        and gradient.shape == variable.shape
    )
