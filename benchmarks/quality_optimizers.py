"""Who competes in the suite `quality`, around which learning rate each is tuned, its schedule.

The centre of a grid is where the docstring of an optimizer says to start; of a range, the
geometric middle. Other arguments keep their defaults, but where they are required or where the
docstring says that the default is not for networks.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from tf_optim_ext.schedule_free import ScheduleFreeOptimizer

import tf_optim_ext
from tf_optim_ext import optimizers

# Of those that find their own rate, what is tuned is the multiplier of it, which is 1 by default.
CENTRES = {
    "SGD": 0.03,
    "SGDW": 0.03,
    "QHM": 1.0,
    "SignSGD": 1e-4,
    "Signum": 1e-4,
    "Lion": 2e-4,
    "Tiger": 3e-4,
    "Adamax": 2e-3,
    "AdamaxW": 2e-3,
    "Adagrad": 0.03,
    "Adadelta": 1.0,
    "ProximalAdagrad": 0.03,
    "Ftrl": 0.05,
    "Yogi": 0.01,
    "LaProp": 4e-4,
    "MADGRAD": 0.01,
    "MARS": 3e-3,
    "Sophia": 2e-4,
    "LARS": 1.0,
    "NovoGrad": 0.01,
    "ConditionalGradient": 0.01,
    "COCOB": 1.0,
    "DoG": 1.0,
    "LDoG": 1.0,
    "DAdaptAdam": 1.0,
    "DAdaptLion": 0.3,
    "DAdaptSGD": 1.0,
    "Prodigy": 1.0,
    "ScheduleFreeAdamW": 2.5e-3,
    "ScheduleFreeRAdam": 2.5e-3,
    "ScheduleFreeSGD": 1.0,
}
USUAL_CENTRE = 1e-3
ARGUMENTS = {
    "SGDW": {"weight_decay": 1e-4},  # required
    "Ftrl": {"initial_accumulator_value": 0.0},  # what its docstring gives for networks
    "ConditionalGradient": {"lambda_": 100.0},  # its docstring: 10 to 100 for layers of networks
}
NOTES = {
    "Sophia": "without estimates of the Hessian, as nobody else gets a second gradient",
    "ConditionalGradient": "the rate is 1 - learning_rate, the part of the weights it replaces",
}
BUILT_IN = ("SGD", "Adam", "AdamW", "Nadam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Lion")
MOMENTUM = " (momentum)"
WARM_UP_PART = 0.05


def warm_up_and_cosine(steps: int) -> np.ndarray:
    """Factors of the learning rate: a linear warm-up, then half a cosine to zero.

    For all but few. A constant rate would favour optimizers whose steps shrink by themselves over
    those that can use longer ones at first.
    """
    warm_up = round(WARM_UP_PART * steps)
    progress = np.maximum(0, np.arange(steps) - warm_up) / (steps - warm_up)
    return warm_up_only(steps) * 0.5 * (1 + np.cos(np.pi * progress))


def warm_up_only(steps: int) -> np.ndarray:
    """For the schedule-free, whose averages take the place of the decay, as in their paper."""
    return np.minimum(1.0, (np.arange(steps) + 1) / max(1, round(WARM_UP_PART * steps)))


def constant(steps: int) -> np.ndarray:
    """For rates that are not the length of a step: see `CONSTANT`."""
    return np.ones(steps)


# With these, the rate scales the whole way from the start (COCOB) or from zero (Ftrl): if it fell
# to zero, all that was learned would be lost. The distance from which DoG takes its steps grows
# from almost nothing, and its paper has no schedule.
CONSTANT = ("COCOB", "Ftrl", "DoG", "LDoG")


@dataclasses.dataclass(frozen=True)
class Competitor:
    """An optimizer with all of its arguments but the learning rate."""

    name: str
    make: Callable[..., keras.optimizers.Optimizer]
    centre: float
    schedule: Callable[[int], np.ndarray] = warm_up_and_cosine
    note: str = ""
    rate_is_what_is_replaced: bool = False


def _competitor(name: str) -> Competitor:
    plain = name.removesuffix(MOMENTUM)
    kind = plain.removeprefix("keras.")
    package = keras.optimizers if plain != kind else tf_optim_ext
    arguments: dict[str, Any] = dict(ARGUMENTS.get(kind, {}))
    if plain != name:
        arguments["momentum"] = 0.9
    make = getattr(package, kind)
    return Competitor(
        name=name,
        make=functools.partial(make, **arguments),
        centre=CENTRES.get(kind, USUAL_CENTRE),
        note=NOTES.get(kind, ""),
        schedule=_schedule(make),
        rate_is_what_is_replaced=kind == "ConditionalGradient",
    )


def _schedule(kind: type) -> Callable[[int], np.ndarray]:
    if issubclass(kind, ScheduleFreeOptimizer):
        return warm_up_only
    return constant if kind.__name__ in CONSTANT else warm_up_and_cosine


def names() -> list[str]:
    """All competitors: ours, and the built-in ones of Keras that ours have the arguments of."""
    ours = [kind.__name__ for kind in optimizers.ALL]
    ours.insert(1, "SGD" + MOMENTUM)
    built_in = [f"keras.{name}" for name in BUILT_IN]
    built_in.insert(1, "keras.SGD" + MOMENTUM)
    return ours + built_in


def select(wanted: Sequence[str] | None) -> list[Competitor]:
    allowed = names()
    unknown = [name for name in wanted or () if name not in allowed]
    if unknown:
        raise SystemExit(
            f"quality: there is no optimizer {', '.join(unknown)}; choose from {', '.join(allowed)}"
        )
    return [_competitor(name) for name in wanted or allowed]
