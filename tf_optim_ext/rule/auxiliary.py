"""The small rules that run beside those of optimizers: averages, sums, perturbed weights."""

import functools

from tf_optim_ext.rule import absolute, is_set, lerp, trace, unless_set, where


def _average(w, g, s, h):
    """Exponential moving average `w` of the model's weights `g`; the first one is a copy."""
    return where(is_set(w, h) != 0, lerp(g, unless_set(w, g, h), h.ema_momentum), g)


def _accumulate(w, g, s, h):
    """Sum `w` of the gradients `g`; or weights `w` that are moved along them."""
    return w + g * h.gradient_scale


def _reset(w, g, s, h):
    """Zero, also where the sum was infinite."""
    return where(h.step > 0, 0.0, w)


def _perturb_adaptively(w, g, s, h):
    """Weights `w` moved along `T g`, T their magnitude; or 1, if not `adaptive`."""
    magnitude = where(h.adaptive != 0, absolute(w) + h.eta, 1.0)
    return w + magnitude * (g * h.gradient_scale)


def _start(w, g, s, h):
    """The weights `g`, where `w` is not set yet."""
    return where(w != w, g, w)


def _mean(w, g, s, h):
    """Average `w` of the weights `g`; unlike `_average`, it may start after any number of steps."""
    return where(w != w, g, lerp(g, w, h.momentum))


def _lookahead(w, g, s, h):
    """Both the slow weights and the fast ones `w` go to a point between them."""
    s.slow = where(s.slow != s.slow, w, lerp(s.slow, w, h.slow_step_size))
    return s.slow


@functools.cache
def average():
    return trace(_average, hyperparameters=("ema_momentum",))


@functools.cache
def accumulate():
    return trace(_accumulate)


@functools.cache
def reset():
    return trace(_reset)


@functools.cache
def perturb_adaptively():
    return trace(_perturb_adaptively, hyperparameters=("adaptive", "eta"))


@functools.cache
def start():
    return trace(_start)


@functools.cache
def mean():
    return trace(_mean, hyperparameters=("momentum",))


@functools.cache
def lookahead():
    return trace(_lookahead, slots=("slow",), hyperparameters=("slow_step_size",))


ALL = (
    average,
    accumulate,
    reset,
    perturb_adaptively,
    start,
    mean,
    lookahead,
)
