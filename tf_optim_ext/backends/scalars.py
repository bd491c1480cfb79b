"""The scalars of one step, as the backends take them."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tf_optim_ext.backends import replica

# Instead of infinity, which `tf.debugging.enable_check_numerics` would report; the kernels' float32
# is infinite then.
_LARGEST = float(np.finfo(np.float64).max)


def _gathered(columns, count):
    """Rows of numbers and tensors, each of which is an input of the graph once."""
    different: dict[Any, tuple[int, Any]] = {}
    # Not int32, whose constants TensorFlow keeps on the host, from which a GPU would wait for them.
    positions = np.empty((count, len(columns)), np.int64)
    for k, column in enumerate(columns):
        for i in range(count):
            cell = column[i] if isinstance(column, list) else column
            key = id(cell) if tf.is_tensor(cell) else float(cell)
            positions[i, k] = different.setdefault(key, (len(different), cell))[0]
    values = [
        tf.cast(x, tf.float64) if tf.is_tensor(x) else tf.constant(min(x, _LARGEST), tf.float64)
        for _, x in different.values()
    ]
    return tf.gather(tf.stack(values), positions)


@dataclasses.dataclass
class Scalars:
    """The scalars of one step over a list of variables.

    Attributes:
        finished: the update count before this step: int64 scalar, Python number or tensor; for the
            native op also the handle of a variable.
        learning_rate: Python float, or scalar tensor of float32 or float64, or a list of float64
            tensors, with one for each variable. For the native op also the handle of a variable.
        gradient_scale: factor of all gradients: Python float, or float64 tensor with one element
            or one for each variable.
        hyperparameters: dict from name to a float or scalar tensor, or to a list of these, with one
            for each variable.
        rounding: keys of the stochastic rounding of weights, for each variable; None: to nearest.
        device: where constants are to be, of eager steps: to copy them to a GPU would wait for it.
    """

    finished: Any
    learning_rate: Any
    gradient_scale: Any
    hyperparameters: dict
    rounding: list | None = None
    device: str = "CPU:0"

    @functools.cached_property
    def step(self):
        """What a rule calls `h.step`; counts from 1."""
        return self.finished + 1

    @property
    def rates(self):
        """`learning_rate` as an op takes it."""
        if not isinstance(self.learning_rate, list):
            return self.learning_rate
        return _gathered([self.learning_rate], len(self.learning_rate))[:, 0]

    @property
    def scale(self):
        """`gradient_scale` as an op takes it."""
        if type(self.gradient_scale) is float and tf.executing_eagerly():
            return replica.eager_constant(self.gradient_scale, tf.float64, self.device)
        return self.gradient_scale

    def rows(self, program):
        """Hyperparameters of a program: float64, of shape [1 or variables, names]."""
        columns = [self.hyperparameters[name] for name in program.hyperparameters]
        if tf.executing_eagerly() and all(type(column) in (float, int) for column in columns):
            row = tuple(min(c, _LARGEST) for c in columns)
            return replica.eager_constant((row,), tf.float64, self.device)
        count = max([1, *(len(c) for c in columns if isinstance(c, list))])
        # Asking whether they are tensors would take longer than the step of a small model.
        cells = [x for c in columns for x in (c if isinstance(c, list) else [c])]
        if not all(isinstance(x, (float, int)) for x in cells):
            return _gathered(columns, count)
        rows = np.empty((count, len(columns)), np.float64)
        for k, column in enumerate(columns):
            rows[:, k] = column
        return np.minimum(rows, _LARGEST)

    def of_variable(self, program, i):
        """What a program calls `h`, for variable number `i`; lacks the variable's size."""
        scale = self.gradient_scale
        if isinstance(scale, tf.Tensor) and scale.shape.rank == 1:
            scale = scale[i]
        rate = self.learning_rate
        rate = rate[i] if isinstance(rate, list) else rate
        values = {"step": self.step, "learning_rate": rate, "gradient_scale": scale}
        for name in program.hyperparameters:
            value = self.hyperparameters[name]
            values[name] = value[i] if isinstance(value, list) else value
        return values

    def subset(self, indices):
        """The scalars for some of the variables."""
        several = [v for v in self.hyperparameters.values() if isinstance(v, list)]
        rate = self.learning_rate
        if isinstance(rate, list):
            several.append(rate)
            rate = [rate[i] for i in indices]
        scale = self.gradient_scale
        whole = len(indices) == len(self.rounding or indices)
        if whole and not several and not (isinstance(scale, tf.Tensor) and scale.shape):
            return self
        if isinstance(scale, tf.Tensor) and scale.shape.rank == 1:
            scale = tf.gather(scale, indices)
        hyperparameters = {
            name: [value[i] for i in indices] if isinstance(value, list) else value
            for name, value in self.hyperparameters.items()
        }
        rounding = self.rounding and [self.rounding[i] for i in indices]
        return dataclasses.replace(
            self,
            learning_rate=rate,
            gradient_scale=scale,
            hyperparameters=hyperparameters,
            rounding=rounding,
        )
