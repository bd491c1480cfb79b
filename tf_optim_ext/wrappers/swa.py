"""Stochastic weight averaging."""

import tensorflow as tf

from tf_optim_ext.wrappers.average_wrapper import AveragedOptimizerWrapper


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class SWA(AveragedOptimizerWrapper):
    r"""Stochastic weight averaging: the plain mean of weights along the path of another optimizer.

    After the update that follows `start_averaging` others, and after every `average_period` from
    then on, with :math:`n` weights in the mean so far,

    .. math::
        a \leftarrow \frac{n a + w}{n + 1}

    The slot `average` holds :math:`a`. In the paper, the learning rate is constant and high, or
    cyclical with the weights taken at the end of each cycle.

    Batch normalization: the moving statistics belong to the weights, and not to their mean. After
    `assign_average_vars`, call the model on training data with `training=True`.

    Args:
        optimizer: the optimizer inside, of this package or Keras' own; or the name of one of Keras'
            own.
        start_averaging: integer >= 0.
        average_period: integer >= 1.
        name: name of the optimizer.

    A step that only accumulates gradients, or that a `LossScaleOptimizer` inside skips, is no
    update, and does not count.

    Raises:
        TypeError: `optimizer` is none, or an argument is not known.
        ValueError: an argument is outside its range.

    Reference:
        Izmailov et al., *Averaging Weights Leads to Wider Optima and Better Generalization*,
        arXiv:1803.05407.

    Example:
        >>> import tensorflow as tf
        >>> import tf_optim_ext
        >>> optimizer = tf_optim_ext.SWA(tf_optim_ext.SGD(1.0), average_period=1)
        >>> w = tf.Variable([1.0, 2.0])
        >>> for _ in range(3):
        ...     _ = optimizer.apply_gradients([(tf.constant([0.1, 0.1]), w)])
        >>> optimizer.assign_average_vars([w])
        >>> print([round(float(x), 6) for x in w])
        [0.8, 1.8]
    """

    counts = {"start_averaging": 0, "average_period": 1}

    def __init__(self, optimizer, start_averaging=0, average_period=10, name="SWA", **kwargs):
        super().__init__(
            optimizer,
            name,
            start_averaging=start_averaging,
            average_period=average_period,
            **kwargs,
        )

    def _first_update(self):
        return self.start_averaging

    def is_due(self, count):
        """See `AveragedOptimizerWrapper`."""
        since = count - self.start_averaging
        return (since >= 0) & tf.equal(since % self.average_period, 0)

    def average_momentum(self, count):
        """See `AveragedOptimizerWrapper`."""
        snapshots = tf.cast((count - self.start_averaging) // self.average_period, tf.float64)
        return snapshots / (snapshots + 1.0)
