"""What all schedules share: their steps, arguments and configuration."""

import functools
import inspect
import math
import numbers

import tensorflow as tf

from tf_optim_ext import _keras, checks


class Schedule(_keras.KerasSchedule):
    """Base class of the schedules: a `LearningRateSchedule` whose maths is in float64.

    A subclass keeps each argument of its constructor in an attribute of that name, and overrides
    `compute`. Its configuration follows from that.

    Steps count from 0, the first update. A schedule takes them as numbers, tensors or variables of
    any integer or floating-point dtype. Integers are counted in int64, and everything else is
    computed in float64, which holds all integers up to 2**53; only the result is rounded to
    float32. So step 2**31 is as far from its neighbours as step 1, where a cast to float32, as in
    Keras' own schedules, no longer tells steps apart beyond 2**24. Tensors of steps give tensors of
    rates. Before step 0 a schedule stays at its first value, and after its end at its last.

    Args:
        name: name of its operations; by default that of the class.
    """

    def __init__(self, name=None):
        super().__init__()
        self.name = name

    def __call__(self, step):
        """The value at a step, a float32 tensor of the same shape."""
        with tf.name_scope(self.name or type(self).__name__):
            return tf.cast(self.compute(_as_tensor(step)), tf.float32)

    def compute(self, step):
        """The value at a step.

        Args:
            step: int64 or float64 tensor.

        Returns:
            A tensor of a floating-point dtype.
        """
        raise NotImplementedError

    def get_config(self):
        """A dict of the arguments, which `from_config` makes the same schedule from."""
        values = {name: getattr(self, name) for name in self._arguments()}
        serialize = self._api.saving.serialize_keras_object
        return {n: serialize(v) if _keras.is_schedule(v) else v for n, v in values.items()}

    @classmethod
    def from_config(cls, config):
        """The schedule that `get_config` described."""
        deserialize = cls._api.saving.deserialize_keras_object
        return cls(**{n: deserialize(v) if isinstance(v, dict) else v for n, v in config.items()})

    def __repr__(self):
        given = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._arguments())
        return f"{type(self).__name__}({given})"

    @classmethod
    @functools.cache
    def _arguments(cls):
        return tuple(inspect.signature(cls).parameters)

    def _number(self, name, value, interval="[0, inf)"):
        return checks.number(type(self).__name__, name, value, interval)

    def _steps(self, name, value, interval="(0, inf)"):
        """A number of steps: an int if it is whole, so that differences to steps are integers."""
        value = self._number(name, value, interval)
        return int(value) if value.is_integer() else value

    def _choice(self, name, value, allowed):
        return checks.choice(type(self).__name__, name, value, allowed)


def _as_tensor(step):
    if isinstance(step, numbers.Integral):
        return tf.constant(int(step), tf.int64)
    if isinstance(step, numbers.Real):
        return tf.constant(float(step), tf.float64)
    step = tf.convert_to_tensor(step)
    return tf.cast(step, tf.int64 if step.dtype.is_integer else tf.float64)


# Near the end of a phase, what is left of it is more precise than 1 minus what is over.


def elapsed(step, start, end):
    """How much of the phase between two steps is over, in [0, 1]; float64."""
    step = tf.cast(step, tf.float64)
    if end <= start:
        return tf.cast(step >= start, tf.float64)
    return tf.clip_by_value((step - start) / (end - start), 0.0, 1.0)


def remaining(step, start, end):
    """How much of the phase between two steps is left, in [0, 1]; float64."""
    step = tf.cast(step, tf.float64)
    if end <= start:
        return tf.cast(step < start, tf.float64)
    return tf.clip_by_value((end - step) / (end - start), 0.0, 1.0)


def between(first, last, part):
    """The point that is `part` of the way from `first` to `last`."""
    return first + (last - first) * part


def linear(part):
    """A straight line from 0 to 1."""
    return part


def cosine(part):
    """Half a period of a cosine, from 0 to 1."""
    return tf.square(tf.sin(math.pi / 2 * part))


SHAPES = {"linear": linear, "cosine": cosine}
