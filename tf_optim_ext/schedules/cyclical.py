"""The cyclical learning rates of TensorFlow Addons."""

import tensorflow as tf

from tf_optim_ext.schedules.schedule import Schedule, between

SCALE_MODES = ("cycle", "iterations")


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class CyclicalLearningRate(Schedule):
    r"""Triangles between two values, whose height a function of yours scales.

    A cycle takes `2 * step_size` steps: up and down along straight lines.

    .. math::
        \eta(t) = \eta_{min} + (\eta_{max} - \eta_{min}) \Delta(t)\, s

    where :math:`\Delta` is the triangle between 0 and 1, and :math:`s` is what `scale_fn` returns.

    Args:
        initial_learning_rate: number >= 0, the value at the beginning of a cycle,
            :math:`\eta_{min}`.
        maximal_learning_rate: number >= 0, the value in its middle, before it is scaled,
            :math:`\eta_{max}`.
        step_size: number > 0 of steps from one to the other: half a cycle.
        scale_fn: function of a float32 tensor that returns a number or a tensor, :math:`s`. To save
            it with a model, register it with Keras (`register_keras_serializable`).
        scale_mode: what the function gets: "cycle", the number of the cycle, counted from 1; or
            "iterations", the step.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.
        TypeError: `scale_fn` is not a function.

    Reference:
        Smith, *Cyclical Learning Rates for Training Neural Networks*, arXiv:1506.01186. Arguments
        and numbers are those of `tensorflow_addons.optimizers.CyclicalLearningRate`, computed in
        float64; the step, which that passed on as it came, is a float for `scale_fn`, too.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.CyclicalLearningRate(0.0, 1.0, 2, lambda cycle: 1 / cycle)
        >>> [float(schedule(step)) for step in range(8)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]
    """

    def __init__(
        self,
        initial_learning_rate,
        maximal_learning_rate,
        step_size,
        scale_fn,
        scale_mode="cycle",
        name="CyclicalLearningRate",
    ):
        super().__init__(name)
        self.initial_learning_rate = self._number("initial_learning_rate", initial_learning_rate)
        self.maximal_learning_rate = self._number("maximal_learning_rate", maximal_learning_rate)
        self.step_size = self._steps("step_size", step_size)
        self.scale_mode = self._choice("scale_mode", scale_mode, SCALE_MODES)
        if not callable(scale_fn):
            raise TypeError(
                f"{type(self).__name__}: `scale_fn` must be a function of a tensor. "
                f"Received: scale_fn={scale_fn!r}"
            )
        self.scale_fn = scale_fn

    def compute(self, step):
        # A step before 0 stands for 0.
        step = tf.maximum(tf.cast(step, tf.float64), 0.0)
        period = 2 * self.step_size
        height = 1 - tf.abs(tf.math.floormod(step, period) / self.step_size - 1)
        at = tf.floor(step / period) + 1 if self.scale_mode == "cycle" else step
        return between(
            self.initial_learning_rate, self.maximal_learning_rate, height * self._scale(at)
        )

    def _scale(self, at):
        return tf.cast(self.scale_fn(tf.cast(at, tf.float32)), tf.float64)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class TriangularCyclicalLearningRate(CyclicalLearningRate):
    """Triangles of one height between two values.

    Args:
        initial_learning_rate: number >= 0, the value at the beginning of a cycle.
        maximal_learning_rate: number >= 0, the value in its middle.
        step_size: number > 0 of steps from one to the other: half a cycle.
        scale_mode: "cycle" or "iterations"; without effect.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Smith, *Cyclical Learning Rates for Training Neural Networks*, arXiv:1506.01186. Arguments
        and numbers are those of `tensorflow_addons.optimizers.TriangularCyclicalLearningRate`.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.TriangularCyclicalLearningRate(0.25, 0.75, 2)
        >>> [float(schedule(step)) for step in range(6)]
        [0.25, 0.5, 0.75, 0.5, 0.25, 0.5]
    """

    def __init__(
        self,
        initial_learning_rate,
        maximal_learning_rate,
        step_size,
        scale_mode="cycle",
        name="TriangularCyclicalLearningRate",
    ):
        super().__init__(
            initial_learning_rate,
            maximal_learning_rate,
            step_size,
            self._scale,
            scale_mode,
            name,
        )

    def _scale(self, at):
        return tf.ones_like(at)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Triangular2CyclicalLearningRate(CyclicalLearningRate):
    """Triangles between two values, each half as high as the one before.

    Args:
        initial_learning_rate: number >= 0, the value at the beginning of a cycle.
        maximal_learning_rate: number >= 0, the value in the middle of the first.
        step_size: number > 0 of steps from one to the other: half a cycle.
        scale_mode: "cycle"; with "iterations", the height is halved in each step.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Smith, *Cyclical Learning Rates for Training Neural Networks*, arXiv:1506.01186. Arguments
        and numbers are those of `tensorflow_addons.optimizers.Triangular2CyclicalLearningRate`.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.Triangular2CyclicalLearningRate(0.0, 1.0, 2)
        >>> [float(schedule(step)) for step in range(8)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]
    """

    def __init__(
        self,
        initial_learning_rate,
        maximal_learning_rate,
        step_size,
        scale_mode="cycle",
        name="Triangular2CyclicalLearningRate",
    ):
        super().__init__(
            initial_learning_rate,
            maximal_learning_rate,
            step_size,
            self._scale,
            scale_mode,
            name,
        )

    def _scale(self, at):
        return tf.pow(tf.constant(0.5, tf.float64), at - 1)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class ExponentialCyclicalLearningRate(CyclicalLearningRate):
    r"""Triangles between two values, whose height falls exponentially.

    Args:
        initial_learning_rate: number >= 0, the value at the beginning of a cycle.
        maximal_learning_rate: number >= 0, the value in its middle, before it is scaled.
        step_size: number > 0 of steps from one to the other: half a cycle.
        scale_mode: "iterations", the height is :math:`\gamma` to the power of the step; or "cycle",
            to the power of the number of the cycle, counted from 1.
        gamma: number in (0, 1], :math:`\gamma`.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Smith, *Cyclical Learning Rates for Training Neural Networks*, arXiv:1506.01186. Arguments
        and numbers are those of `tensorflow_addons.optimizers.ExponentialCyclicalLearningRate`,
        which also took a `gamma` above 1.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.ExponentialCyclicalLearningRate(0.0, 1.0, 2, gamma=0.5)
        >>> [float(schedule(step)) for step in range(6)]
        [0.0, 0.25, 0.25, 0.0625, 0.0, 0.015625]
    """

    def __init__(
        self,
        initial_learning_rate,
        maximal_learning_rate,
        step_size,
        scale_mode="iterations",
        gamma=1.0,
        name="ExponentialCyclicalLearningRate",
    ):
        super().__init__(
            initial_learning_rate,
            maximal_learning_rate,
            step_size,
            self._scale,
            scale_mode,
            name,
        )
        self.gamma = self._number("gamma", gamma, "(0, 1]")

    def _scale(self, at):
        return tf.pow(tf.constant(self.gamma, tf.float64), at)
