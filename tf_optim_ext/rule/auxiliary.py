"""The small rules that run beside those of optimizers: averages and sums of arrays."""

import functools

from tf_optim_ext.rule import is_set, lerp, trace, unless_set, where


def _average(w, g, s, h):
    """Exponential moving average `w` of the model's weights `g`; the first one is a copy."""
    return where(is_set(w, h) != 0, lerp(g, unless_set(w, g, h), h.ema_momentum), g)


def _accumulate(w, g, s, h):
    """Sum `w` of the gradients `g`."""
    return w + g * h.gradient_scale


def _reset(w, g, s, h):
    """Zero, also where the sum was infinite."""
    return where(h.step > 0, 0.0, w)


@functools.cache
def average():
    return trace(_average, hyperparameters=("ema_momentum",))


@functools.cache
def accumulate():
    return trace(_accumulate)


@functools.cache
def reset():
    return trace(_reset)


ALL = (average, accumulate, reset)
