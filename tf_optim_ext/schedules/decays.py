"""Schedules that lead from one value to another: along a line, a cosine, a polynomial, REX."""

import tensorflow as tf

from tf_optim_ext.schedules.schedule import Schedule, between, cosine, remaining


class Decay(Schedule):
    r"""Base class of schedules from one value to another, over a number of steps.

    With :math:`T` steps, the value at step :math:`t` is

    .. math::
        \eta_T + (\eta_0 - \eta_T) f(1 - t / T)

    and :math:`\eta_T` afterwards. A subclass defines :math:`f`, with :math:`f(0) = 0` and
    :math:`f(1) = 1`. The value may rise as well as fall.

    Args:
        initial_learning_rate: number >= 0, the value at step 0, :math:`\eta_0`.
        decay_steps: number > 0 of steps, :math:`T`.
        end_learning_rate: number >= 0, the value from step `decay_steps` on, :math:`\eta_T`.
        name: see `Schedule`.
    """

    def __init__(self, initial_learning_rate, decay_steps, end_learning_rate=0.0, name=None):
        super().__init__(name)
        self.initial_learning_rate = self._number("initial_learning_rate", initial_learning_rate)
        self.decay_steps = self._steps("decay_steps", decay_steps)
        self.end_learning_rate = self._number("end_learning_rate", end_learning_rate)

    def compute(self, step):
        part = self.shape(remaining(step, 0, self.decay_steps))
        return between(self.end_learning_rate, self.initial_learning_rate, part)

    def shape(self, left):
        """The function f, of a float64 tensor in [0, 1]: the part of the steps that is left."""
        raise NotImplementedError


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Linear(Decay):
    r"""A straight line from one value to another, then constant.

    The shape of budgeted training, and hard to beat for its last step. Note that it reaches
    `end_learning_rate`, 0 by default.

    .. math::
        f(x) = x

    Args:
        initial_learning_rate: number >= 0, the value at step 0.
        decay_steps: number > 0 of steps.
        end_learning_rate: number >= 0, the value from step `decay_steps` on.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Li, Yumer and Ramanan, *Budgeted Training: Rethinking Deep Neural Network Training Under
        Resource Constraints*, arXiv:1905.04753.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.Linear(0.5, decay_steps=4)
        >>> [float(schedule(step)) for step in range(6)]
        [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]
    """

    def shape(self, left):
        return left


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Cosine(Decay):
    r"""Half a period of a cosine from one value to another, then constant.

    Keras' `CosineDecay` with the last value itself and not as a fraction `alpha` of the first.

    .. math::
        f(x) = \tfrac12 (1 - \cos \pi x)

    Args:
        initial_learning_rate: number >= 0, the value at step 0.
        decay_steps: number > 0 of steps.
        end_learning_rate: number >= 0, the value from step `decay_steps` on.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*,
        arXiv:1608.03983, without restarts.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.Cosine(0.5, decay_steps=2, end_learning_rate=0.25)
        >>> [float(schedule(step)) for step in range(4)]
        [0.5, 0.375, 0.25, 0.25]
    """

    def shape(self, left):
        return cosine(left)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class Polynomial(Decay):
    r"""A power of what is left, from one value to another, then constant.

    Keras' `PolynomialDecay` without its cycles; the last value is 0 by default, not 0.0001.

    .. math::
        f(x) = x^p

    Args:
        initial_learning_rate: number >= 0, the value at step 0.
        decay_steps: number > 0 of steps.
        end_learning_rate: number >= 0, the value from step `decay_steps` on.
        power: number > 0, :math:`p`: above 1 the value falls fast at first, below 1 at last.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Liu, Rabinovich and Berg, *ParseNet: Looking Wider to See Better*, arXiv:1506.04579, for
        the learning rate "poly".

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.Polynomial(1.0, decay_steps=4, power=2.0)
        >>> [float(schedule(step)) for step in range(6)]
        [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    def __init__(
        self, initial_learning_rate, decay_steps, end_learning_rate=0.0, power=1.0, name=None
    ):
        super().__init__(initial_learning_rate, decay_steps, end_learning_rate, name)
        self.power = self._number("power", power, "(0, inf)")

    def shape(self, left):
        return tf.pow(left, self.power)


@tf.keras.utils.register_keras_serializable("tf_optim_ext")
class REX(Decay):
    r"""REX, a reflected exponential: slow at first and fast at last, for any budget of steps.

    Between a constant value and a straight line: the authors found it good for few and for many
    steps.

    .. math::
        f(x) = \frac{x}{\tfrac12 + \tfrac12 x}

    Args:
        initial_learning_rate: number >= 0, the value at step 0.
        decay_steps: number > 0 of steps.
        end_learning_rate: number >= 0, the value from step `decay_steps` on; 0 in the paper.
        name: see `Schedule`.

    Raises:
        ValueError: an argument is outside its range.

    Reference:
        Chen, Wolfe and Kyrillidis, *REX: Revisiting Budgeted Training with an Improved Schedule*,
        arXiv:2107.04197.

    Example:
        >>> from tf_optim_ext import schedules
        >>> schedule = schedules.REX(1.0, decay_steps=3)
        >>> [round(float(schedule(step)), 4) for step in range(5)]
        [1.0, 0.8, 0.5, 0.0, 0.0]
    """

    def shape(self, left):
        return left / (0.5 + 0.5 * left)
