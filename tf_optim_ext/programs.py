"""The programs that the native library is built from, and the small rules around every step."""

import contextlib
import functools
import itertools

from tf_optim_ext import frame
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


def all_programs():
    """Pairs of a title and a `Program`, for every optimizer with every setting of its flags."""
    from tf_optim_ext import optimizers

    found = [("average", average()), ("accumulate", accumulate()), ("reset", reset())]
    for cls in optimizers.ALL:
        for settings in itertools.chain.from_iterable(map(_with_options(cls), settings_of(cls))):
            with contextlib.suppress(frame.Unsupported):
                program = cls.program(**settings)
                found.append((f"{cls.__name__}({_text(settings)})", program))
        for name, program in cls.extra_programs().items():
            found.append((f"{cls.__name__}: {name}", program))
    return found


def settings_of(cls):
    """All combinations of an optimizer's flags and choices, as dicts."""
    return _product({**dict.fromkeys(cls.flags, (False, True)), **cls.choices})


def _with_options(cls):
    allowed = (*(frame.FLAGS if "momentum" in cls.slots else ()), "row_wise", "catch_up")
    options = _product(dict.fromkeys(allowed, (False, True)))
    return lambda settings: [{**settings, **option} for option in options]


def _product(allowed):
    return [dict(zip(allowed, values)) for values in itertools.product(*allowed.values())]


def _text(settings):
    return ", ".join(f"{name}={value}" for name, value in settings.items())
