"""The constructor arguments that all optimizers have: names, defaults, and what is allowed."""

from typing import Any

from tf_optim_ext import checks
from tf_optim_ext.engine import hyperparameters

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
    "centralize_gradients": False,
    "adaptive_clipping": None,
    "skip_nonfinite": False,
}
COMMON = {**OF_KERAS, **OWN}
INTERVALS = {
    "weight_decay": "[0, inf)",
    "clipnorm": "[0, inf)",
    "clipvalue": "[0, inf)",
    "global_clipnorm": "[0, inf)",
    "ema_momentum": "[0, 1]",
    "loss_scale_factor": "(0, inf)",
    "adaptive_clipping": "[0, inf)",
}
# At most one of these is set.
CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
WHOLE_NUMBERS_FROM = {"gradient_accumulation_steps": 2, "ema_overwrite_frequency": 1, "seed": 0}
BOOLEANS = (
    "use_ema",
    "cautious",
    "cautious_weight_decay",
    "fully_decoupled_weight_decay",
    "row_wise",
    "stochastic_rounding",
    "centralize_gradients",
    "skip_nonfinite",
)
# What TensorFlow's optimizers took once.
HINTS = {
    "lr": " The learning rate is `learning_rate`.",
    "decay": " Instead of `decay`, give a schedule as `learning_rate`, such as `InverseTimeDecay`.",
}
CHOICES = {"sparse": ("exact", "lazy", "catch_up")}


def take_common(owner, kwargs):
    """Moves the common arguments out of `kwargs`, with defaults for those that are not there.

    Raises:
        ValueError: an argument is outside its range.
    """
    taken = {**COMMON, **{name: kwargs.pop(name) for name in COMMON if name in kwargs}}
    for name, interval in INTERVALS.items():
        if taken[name] is not None or COMMON[name] is not None:
            taken[name] = hyperparameters.checked(owner, name, taken[name], interval)
    if len(clipping := [name for name in CLIPPING if taken[name] is not None]) > 1:
        raise ValueError(
            f"{owner}: only one of {', '.join(CLIPPING)} can be set. Received: "
            f"{', '.join(f'{name}={taken[name]!r}' for name in clipping)}"
        )
    for name in COMMON.keys() - {*INTERVALS, "name"}:
        taken[name] = _checked(owner, name, taken[name])
    return taken


def take_own(cls, kwargs):
    """The checked values of an optimizer's own arguments: hyperparameters, flags and choices.

    Raises:
        TypeError: an argument is unknown or missing.
        ValueError: an argument is not one of the values that it may have.
    """
    owner, declared = cls.__name__, cls.declaration().arguments
    unknown = [name for name in kwargs if name not in declared]
    missing = [name for name in declared if name not in kwargs]
    problems = [f"got unknown arguments {unknown}"] if unknown else []
    problems += [f"lacks {missing}"] if missing else []
    if problems:
        hint = "".join(text for name, text in HINTS.items() if name in unknown)
        raise TypeError(
            f"{owner} {' and '.join(problems)}.{hint} It takes: "
            f"{['learning_rate', *declared, *COMMON, 'groups']}"
        )
    if kwargs.get("epsilon", 0.0) is None:  # as `tf.keras` 2 and TensorFlow Addons had it
        kwargs["epsilon"] = cls._api.backend.epsilon()
    return {name: checked_option(cls, name, kwargs[name]) for name in declared}


def checked_option(cls, name, value):
    """Returns the checked value of an argument, common or the class' own.

    Raises:
        ValueError: it is not one of the values that the argument may have.
    """
    declared = cls.declaration()
    if name in declared.intervals:
        return hyperparameters.checked(cls.__name__, name, value, declared.intervals[name])
    if name in declared.choices:
        return checks.choice(cls.__name__, name, value, declared.choices[name])
    if name in declared.flags:
        return checks.boolean(cls.__name__, name, value)
    return _checked(cls.__name__, name, value)


def _checked(owner, name, value):
    if name in CHOICES:
        return checks.choice(owner, name, value, CHOICES[name])
    if name in BOOLEANS:
        return checks.boolean(owner, name, value)
    is_off = value is None and COMMON[name] is None
    return value if is_off else checks.whole_number(owner, name, value, WHOLE_NUMBERS_FROM[name])
