"""Who competes in the suite `quality`, around which learning rate each is tuned, its schedule.

The centre of a grid is where the docstring of an optimizer says to start; of a range, the
geometric middle. Other arguments keep their defaults, but where they are required or where the
docstring says that the default is not for networks.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import tf_optim_ext
from benchmarks import arguments
from tf_optim_ext import optimizers

# Of those that find their own rate, what is tuned is the multiplier of it, which is 1 by default.
_NAMES = {
    1e-4: "SignSGD Signum",
    2e-4: "Lion Sophia",
    3e-4: "Tiger",
    4e-4: "LaProp",
    2e-3: "Adamax AdamaxW",
    2.5e-3: "ScheduleFreeAdamW ScheduleFreeRAdam",
    3e-3: "MARS",
    0.01: "Yogi MADGRAD NovoGrad ConditionalGradient",
    0.03: "SGD SGDW Adagrad ProximalAdagrad",
    0.05: "Ftrl",
    0.3: "DAdaptLion",
    1.0: "QHM Adadelta LARS COCOB DoG LDoG DAdaptAdam DAdaptSGD Prodigy ScheduleFreeSGD",
}
CENTRES = {name: centre for centre, names in _NAMES.items() for name in names.split()}
USUAL_CENTRE = 1e-3
ARGUMENTS: dict[str, dict[str, Any]] = {
    **arguments.REQUIRED,
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


@dataclass(frozen=True)
class Competitor:
    """An optimizer with all of its arguments but the learning rate."""

    name: str
    make: Callable[..., keras.optimizers.Optimizer]
    centre: float
    schedule: Callable[[int], np.ndarray]
    note: str = ""

    @property
    def rate_is_what_is_replaced(self) -> bool:
        return self.name == "ConditionalGradient"


def _competitor(name: str) -> Competitor:
    plain = name.removesuffix(MOMENTUM)
    kind = plain.removeprefix("keras.")
    make = getattr(tf_optim_ext if plain == kind else keras.optimizers, kind)
    given = ARGUMENTS.get(kind, {}) | ({} if plain == name else {"momentum": 0.9})
    schedule = constant if kind in CONSTANT else warm_up_and_cosine
    if hasattr(make, "averaged_weights"):
        schedule = warm_up_only
    centre, note = CENTRES.get(kind, USUAL_CENTRE), NOTES.get(kind, "")
    return Competitor(name, functools.partial(make, **given), centre, schedule, note)


def select(wanted: Sequence[str] | None) -> list[Competitor]:
    """Ours, and the built-in ones of Keras that ours have the arguments of; or some of these."""
    ours = [kind.__name__ for kind in optimizers.ALL]
    ours.insert(1, "SGD" + MOMENTUM)
    built_in = [f"keras.{name}" for name in BUILT_IN]
    built_in.insert(1, "keras.SGD" + MOMENTUM)
    allowed = ours + built_in
    if unknown := [name for name in wanted or () if name not in allowed]:
        raise SystemExit(
            f"quality: there is no optimizer {', '.join(unknown)}; choose from {', '.join(allowed)}"
        )
    return [_competitor(name) for name in wanted or allowed]
