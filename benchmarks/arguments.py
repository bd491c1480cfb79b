"""Optimizers that libraries share: their arguments, and their maths in float64 NumPy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Json = dict[str, Any]
Array = np.ndarray
# Takes weights, gradient, state (a dict that is empty at first), number of the step and arguments.
Update = Callable[[Array, Array, dict[str, Any], int, Json], Array]

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
    "Adam (row_wise)": {**_ADAM, "row_wise": True},
    "Adagrad (row_wise)": {"learning_rate": 1e-3, "row_wise": True},
}


def of(optimizer: str) -> Json:
    """Arguments of a class, with Keras' names; none for those that are not compared."""
    return dict(ARGUMENTS.get(optimizer, {}))


def class_of(optimizer: str) -> str:
    """The name of the class: without what is in brackets, which names a variant of it."""
    return optimizer.partition(" (")[0]


def _moments(g: Array, state: dict, h: Json) -> tuple[Array, Array]:
    m = state["m"] = h["beta_1"] * state.get("m", 0.0) + (1 - h["beta_1"]) * g
    v = state["v"] = h["beta_2"] * state.get("v", 0.0) + (1 - h["beta_2"]) * g**2
    return m, v


def _adam(w: Array, g: Array, state: dict, t: int, h: Json) -> Array:
    m, v = _moments(g, state, h)
    m_hat, v_hat = m / (1 - h["beta_1"] ** t), v / (1 - h["beta_2"] ** t)
    return w - h["learning_rate"] * m_hat / (np.sqrt(v_hat) + h["epsilon"])


def _adamw(w: Array, g: Array, state: dict, t: int, h: Json) -> Array:
    return _adam(w * (1 - h["learning_rate"] * h["weight_decay"]), g, state, t, h)


def _adamax(w: Array, g: Array, state: dict, t: int, h: Json) -> Array:
    m = state["m"] = h["beta_1"] * state.get("m", 0.0) + (1 - h["beta_1"]) * g
    u = state["u"] = np.maximum(h["beta_2"] * state.get("u", 0.0), np.abs(g))
    return w - h["learning_rate"] / (1 - h["beta_1"] ** t) * m / (u + h["epsilon"])


def _lamb(w: Array, g: Array, state: dict, t: int, h: Json) -> Array:
    m, v = _moments(g, state, h)
    m_hat, v_hat = m / (1 - h["beta_1"] ** t), v / (1 - h["beta_2"] ** t)
    r = m_hat / (np.sqrt(v_hat) + h["epsilon"])
    norm_w, norm_r = np.linalg.norm(w), np.linalg.norm(r)
    ratio = norm_w / norm_r if norm_w > 0 and norm_r > 0 else 1.0
    return w - h["learning_rate"] * ratio * r


def _sgd(w: Array, g: Array, state: dict, t: int, h: Json) -> Array:
    m = state["m"] = h["momentum"] * state.get("m", 0.0) - h["learning_rate"] * g
    return w + m


def _lion(w: Array, g: Array, state: dict, t: int, h: Json) -> Array:
    m = state.get("m", 0.0)
    state["m"] = h["beta_2"] * m + (1 - h["beta_2"]) * g
    return w - h["learning_rate"] * np.sign(h["beta_1"] * m + (1 - h["beta_1"]) * g)


def _rmsprop(w: Array, g: Array, state: dict, t: int, h: Json) -> Array:
    v = state["v"] = h["rho"] * state.get("v", 0.0) + (1 - h["rho"]) * g**2
    return w - h["learning_rate"] * g / np.sqrt(v + h["epsilon"])


def _adagrad(w: Array, g: Array, state: dict, t: int, h: Json) -> Array:
    v = state["v"] = state.get("v", h["initial_accumulator_value"]) + g**2
    return w - h["learning_rate"] * g / np.sqrt(v + h["epsilon"])


def _adadelta(w: Array, g: Array, state: dict, t: int, h: Json) -> Array:
    v = state["v"] = h["rho"] * state.get("v", 0.0) + (1 - h["rho"]) * g**2
    d = state.get("d", 0.0)
    step = np.sqrt(d + h["epsilon"]) / np.sqrt(v + h["epsilon"]) * g
    state["d"] = h["rho"] * d + (1 - h["rho"]) * step**2
    return w - h["learning_rate"] * step


UPDATES: dict[str, Update] = {
    "AdamW": _adamw,
    "Adam": _adam,
    "Adamax": _adamax,
    "Lamb": _lamb,
    "SGD": _sgd,
    "Lion": _lion,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
}
# Relative to the whole change of the weights. Libraries add epsilon at different places, which is
# not what the check is for.
TOLERANCE = 2e-3


def changes(
    optimizer: str, weights: Sequence[Array], gradients: Sequence[Array], steps: int
) -> list[Array]:
    """What some steps with the same gradients add to the weights."""
    h, found = of(optimizer), []
    for weight, gradient in zip(weights, gradients, strict=True):
        w, g, state = weight.astype(np.float64), gradient.astype(np.float64), {}
        for t in range(1, steps + 1):
            w = UPDATES[optimizer](w, g, state, t, h)
        found.append(w - weight)
    return found


def what_is_wrong(
    optimizer: str,
    weights: Sequence[Array],
    gradients: Sequence[Array],
    found: Sequence[Array],
    steps: int,
) -> str | None:
    """How weights are off after some steps, None if they are not.

    Args:
        optimizer: name of a class.
        weights: before the first step.
        gradients: of every step.
        found: after the last step.
        steps: how many there were.
    """
    wanted = changes(optimizer, weights, gradients, steps)
    # NumPy's maximum, as NaN in one variable must not be lost.
    worst = np.max(
        [
            np.max(np.abs(after - before - change)) / np.max(np.abs(change))
            for before, after, change in zip(weights, found, wanted, strict=True)
        ]
    )
    if worst <= TOLERANCE:
        return None
    return f"void: its steps are off by {100 * worst:.2g} % from those of {optimizer}"
