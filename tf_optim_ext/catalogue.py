"""The programs that the native library has kernels for: those of every optimizer, and others."""

import contextlib
import itertools

from tf_optim_ext import optimizers
from tf_optim_ext.backends.native import self_test
from tf_optim_ext.rule import auxiliary, transforms


def all_programs():
    """Pairs of a title and a `Program`, for every optimizer with every setting of its flags."""
    programs = [(f"probe {i}", program) for i, program in enumerate(self_test.PROBES)]
    programs += [(make.__name__, make()) for make in auxiliary.ALL]
    for cls in optimizers.ALL:
        for settings in itertools.chain.from_iterable(map(_with_options(cls), settings_of(cls))):
            with contextlib.suppress(transforms.Unsupported):
                program = cls.program(**settings)
                programs.append((f"{cls.__name__}({_text(settings)})", program))
        for name, program in cls.extra_programs().items():
            programs.append((f"{cls.__name__}: {name}", program))
    return programs


def settings_of(cls):
    """All combinations of an optimizer's flags and choices, as dicts."""
    declared = cls.declaration()
    return _product({**dict.fromkeys(declared.flags, (False, True)), **declared.choices})


def _with_options(cls):
    allowed = (
        *(transforms.FLAGS if "momentum" in cls.declaration().slots else ()),
        "row_wise",
        "catch_up",
    )
    options = _product(dict.fromkeys(allowed, (False, True)))
    return lambda settings: [{**settings, **option} for option in options]


def _product(allowed):
    return [dict(zip(allowed, values)) for values in itertools.product(*allowed.values())]


def _text(settings):
    return ", ".join(f"{name}={value}" for name, value in settings.items())
