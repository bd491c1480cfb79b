"""Optimizers that libraries share, with Keras' arguments, and options around their updates."""

from collections.abc import Sequence

from benchmarks import Json

_ADAM = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
ARGUMENTS: dict[str, Json] = {
    "AdamW": {**_ADAM, "weight_decay": 4e-3},
    "Adam": _ADAM,
    "Adamax": _ADAM,
    "Lamb": _ADAM,
    "SGD": {"learning_rate": 1e-2, "momentum": 0.9},
    "Lion": {"learning_rate": 1e-4, "beta_1": 0.9, "beta_2": 0.99},
    "RMSprop": {"learning_rate": 1e-3, "rho": 0.9, "epsilon": 1e-7},
    "Adagrad": {"learning_rate": 1e-3, "initial_accumulator_value": 0.1, "epsilon": 1e-7},
    "Adadelta": {"learning_rate": 1e-1, "rho": 0.95, "epsilon": 1e-7},
}
REQUIRED: dict[str, Json] = {"SGDW": {"weight_decay": 1e-4}}

NORM, EMA_MOMENTUM, ACCUMULATED = 1.0, 0.99, 4
# Of Keras' constructors and ours. "mask" leaves variables of less than two axes without decay.
OPTIONS: dict[str, Json] = {
    "clip": {"global_clipnorm": NORM},
    "ema": {"use_ema": True, "ema_momentum": EMA_MOMENTUM},
    "accumulate": {"gradient_accumulation_steps": ACCUMULATED},
    "mask": {},
}
# How ours treats the sparse gradient of an embedding table.
SPARSE: dict[str, Json] = {
    "lazy": {"sparse": "lazy"},
    "exact": {"sparse": "exact"},
    "catch_up": {"sparse": "catch_up"},
    "row_wise": {"sparse": "lazy", "row_wise": True},
}


def of(optimizer: str) -> Json:
    """Arguments of a class, with Keras' names; the required ones of those without baselines."""
    return dict(ARGUMENTS.get(optimizer) or REQUIRED.get(optimizer, {}))


def with_options(optimizer: str, options: Sequence[str]) -> Json:
    given = of(optimizer)
    for name in options:
        given |= {**OPTIONS, **SPARSE}[name]
    return given


def parsed(text: str) -> tuple[str, ...]:
    """Options of a text such as "clip+ema"; "none" has none.

    Raises:
        ValueError: one of them does not exist.
    """
    names = () if text == "none" else tuple(text.split("+"))
    if unknown := [name for name in names if name not in OPTIONS]:
        raise ValueError(f"no option {unknown[0]!r}; choose from none, {', '.join(OPTIONS)}")
    return names


def updates_every(options: Sequence[str]) -> int:
    """How many gradients an update takes."""
    return ACCUMULATED if "accumulate" in options else 1


def bytes_per_weight(bare: int, options: Sequence[str]) -> float:
    """What a step has to move of each weight, on average over the gradients of an update."""
    # A norm reads the gradient once more; an average is read and written.
    update = bare + 4 * ("clip" in options) + 8 * ("ema" in options)
    if "accumulate" not in options:
        return update
    # Others read the gradient, and read and write the sum; the update also reads and resets that.
    return (12 * (ACCUMULATED - 1) + update + 8) / ACCUMULATED
