"""Schedules of the learning rate, of either generation of Keras."""

import sys


def is_schedule(value):
    """Whether a value is a `LearningRateSchedule`, of either generation of Keras."""
    modules = [sys.modules[name] for name in ("keras", "tf_keras") if name in sys.modules]
    return isinstance(value, tuple(m.optimizers.schedules.LearningRateSchedule for m in modules))
