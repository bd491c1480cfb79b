"""`python -m tf_optim_ext` reports what is installed and in use."""

import contextlib
import platform

import tensorflow as tf

from tf_optim_ext import _keras, catalogue, optimizers
from tf_optim_ext.backends import native
from tf_optim_ext.rule import transforms
from tf_optim_ext.version import __version__

HEADER = (
    "Optimizer",
    "Slots",
    "Bytes of state per weight",
    "Scalar state",
    "Passes over memory",
    "Sparse gradients",
    "Backend",
)


def rows():
    """The table of optimizers: one row for each state that an optimizer may have."""
    for cls in optimizers.ALL:
        seen, choices = set(), cls.declaration().choices
        for settings in _variants(cls):
            program = cls.program(**settings)
            state = (program.slots, program.passes, program.state_scalars)
            if state in seen:
                continue
            seen.add(state)
            options = ", ".join(
                value if name in choices else name.removeprefix("has_")
                for name, value in settings.items()
                if value and value != choices.get(name, (None,))[0]
            )
            yield (
                f"{cls.__name__} ({options})" if options else cls.__name__,
                ", ".join(program.slots) or "none",
                str(4 * len(program.slots)),
                ", ".join(_scalars(program)) or "none",
                str(1 if program.by_row else program.passes),
                ", ".join(_sparse(cls, settings)),
                "native" if native.has(program) else "TensorFlow",
            )


def _variants(cls):
    for settings in catalogue.settings_of(cls):
        yield settings
        if cls.declaration().row_wise_slots:
            yield {**settings, "row_wise": True}


def _scalars(program):
    what = "row" if program.by_row else "variable"
    yield from (f"{name} of each {what}" for name in program.variable_scalars)
    yield from program.optimizer_scalars


def _sparse(cls, settings):
    yield "exact"
    if cls.treats_rows_alone(**settings):
        yield "lazy"
        with contextlib.suppress(transforms.Unsupported):
            cls.program(**settings, catch_up=True)
            yield "catch_up"


def _keras_version():
    """That of `tf.keras`, on which the optimizers are based."""
    keras = _keras.KerasOptimizer._api
    return f"{'Keras' if keras.__name__ == 'keras' else keras.__name__} {keras.__version__}"


def main():
    print(f"tf_optim_ext {__version__}")
    print(f"TensorFlow {tf.__version__}, {_keras_version()}, ", end="")
    print(f"Python {platform.python_version()}, {platform.machine()}")
    reason = native.why_not()
    used = f"{native.instruction_set()}, built for TensorFlow {native.built_for()}"
    print(f"Native library: {f'not in use: {reason}' if reason else used}")
    reason = native.why_not_inside_xla()
    print(f"Inside XLA on a CPU: {f'not native: {reason}' if reason else 'native'}")
    table = [HEADER, *rows()]
    widths = [max(map(len, column)) for column in zip(*table)]
    print()
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


if __name__ == "__main__":
    main()
