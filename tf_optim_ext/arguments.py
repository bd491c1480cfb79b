"""The constructor arguments that all optimizers have: names, defaults, and what is allowed."""

from typing import Any

import tensorflow as tf

from tf_optim_ext import checks

# Keras' names and defaults.
OF_KERAS: dict[str, Any] = {
    "weight_decay": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "name": None,
}
OWN: dict[str, Any] = {
    "cautious": False,
    "cautious_weight_decay": False,
    "fully_decoupled_weight_decay": False,
    "sparse": "exact",
    "row_wise": False,
    "stochastic_rounding": False,
    "seed": 0,
}
COMMON = {**OF_KERAS, **OWN}
INTERVALS = {
    "weight_decay": "[0, inf)",
    "clipnorm": "[0, inf)",
    "clipvalue": "[0, inf)",
    "global_clipnorm": "[0, inf)",
    "ema_momentum": "[0, 1]",
    "loss_scale_factor": "(0, inf)",
}
WHOLE_NUMBERS_FROM = {"gradient_accumulation_steps": 2, "ema_overwrite_frequency": 1, "seed": 0}
BOOLEANS = (
    "use_ema",
    "cautious",
    "cautious_weight_decay",
    "fully_decoupled_weight_decay",
    "row_wise",
    "stochastic_rounding",
)
CHOICES = {"sparse": ("exact", "lazy", "catch_up")}


def take_common(owner, kwargs):
    """Moves the common arguments out of `kwargs`, with defaults for those that are not there.

    Raises:
        ValueError: an argument is outside of its range.
    """
    taken = {**COMMON, **{name: kwargs.pop(name) for name in COMMON if name in kwargs}}
    for name, interval in INTERVALS.items():
        is_schedule = name == "weight_decay" and callable(taken[name])
        if taken[name] is not None and not is_schedule:
            taken[name] = checks.number(owner, name, taken[name], interval)
    for name, lowest in WHOLE_NUMBERS_FROM.items():
        if taken[name] is not None or COMMON[name] is not None:
            taken[name] = checks.whole_number(owner, name, taken[name], lowest)
    for name in BOOLEANS:
        taken[name] = checks.boolean(owner, name, taken[name])
    for name, allowed in CHOICES.items():
        taken[name] = checks.choice(owner, name, taken[name], allowed)
    return taken


def take_own(cls, kwargs):
    """The checked values of an optimizer's own arguments: hyperparameters, flags and choices.

    Raises:
        TypeError: an argument is unknown or missing.
        ValueError: an argument is not one of the values that it may have.
    """
    owner, declared = cls.__name__, cls.declared_arguments()
    unknown = [name for name in kwargs if name not in declared]
    missing = [name for name in declared if name not in kwargs]
    if unknown or missing:
        raise TypeError(
            f"{owner} got unknown arguments {unknown} and lacks {missing}. It takes: "
            f"{['learning_rate', *declared, *COMMON]}"
        )
    if kwargs.get("epsilon", 0.0) is None:  # as `tf.keras` 2 and TensorFlow Addons had it
        kwargs["epsilon"] = tf.keras.config.epsilon()
    values = {}
    for name in declared:
        interval = cls.hyperparameters.get(name, "boolean")
        if interval != "boolean":
            values[name] = checks.number(owner, name, kwargs[name], interval)
        elif name in cls.choices:
            values[name] = checks.choice(owner, name, kwargs[name], cls.choices[name])
        else:
            values[name] = checks.boolean(owner, name, kwargs[name])
    return values
