"""Rules of the literature that are in no optimizer, each with the same maths in plain NumPy.

They show what the rule language can say, and they go through all lowerings in `test_operations.py`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from tf_optim_ext.rule import (
    absolute,
    cbrt,
    exp,
    global_norm,
    global_sum,
    lerp,
    log,
    maximum,
    minimum,
    norm,
    reduce_max,
    reduce_mean,
    reduce_sum,
    rsqrt,
    sign,
    sqrt,
    square,
    where,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A rule and what it must compute.

    Attributes:
        rule: the function of the language.
        reference: function `(w, g, s, h)` on float64 arrays; `s` and `h` are dictionaries, and it
            returns the new weights and a dictionary of the new slots.
        slots: names of the slots, which start at zero.
        hyperparameters: their values.
        passes: over memory.
        roundings: how many (`precision.ROUNDING`) the result may be off after 12 steps in float32.
    """

    rule: Callable
    reference: Callable
    slots: tuple
    hyperparameters: dict
    passes: int
    roundings: float


def _cautious_adamw(w, g, s, h):
    s.m = lerp(g, s.m, h.beta_1)
    s.v = lerp(square(g), s.v, h.beta_2)
    u = s.m / (1 - h.beta_1**h.step) / (sqrt(s.v / (1 - h.beta_2**h.step)) + h.epsilon)
    mask = where(u * g > 0, 1.0, 0.0)
    mask = mask / maximum(reduce_mean(mask), 1e-3)
    return w - h.learning_rate * (mask * u) - h.learning_rate * h.decay * w


def _cautious_adamw_numpy(w, g, s, h):
    """Liang et al., arXiv:2411.16085, Algorithm 1 with AdamW."""
    m = h["beta_1"] * s["m"] + (1 - h["beta_1"]) * g
    v = h["beta_2"] * s["v"] + (1 - h["beta_2"]) * g**2
    m_hat = m / (1 - h["beta_1"] ** h["step"])
    v_hat = v / (1 - h["beta_2"] ** h["step"])
    u = m_hat / (np.sqrt(v_hat) + h["epsilon"])
    phi = (u * g > 0).astype(float)
    phi = phi / max(phi.mean(), 1e-3)
    w = w - h["learning_rate"] * h["decay"] * w - h["learning_rate"] * phi * u
    return w, {"m": m, "v": v}


def _mars(w, g, s, h):
    c = g + h.gamma * h.beta_1 / (1 - h.beta_1) * (g - s.previous)
    c = c / maximum(norm(c), 1.0)
    s.previous = g
    s.m = lerp(c, s.m, h.beta_1)
    s.v = lerp(square(c), s.v, h.beta_2)
    m = s.m / (1 - h.beta_1**h.step)
    v = s.v / (1 - h.beta_2**h.step)
    return w - h.learning_rate * (m / (sqrt(v) + h.epsilon) + h.decay * w)


def _mars_numpy(w, g, s, h):
    """Yuan et al., arXiv:2411.10438, Algorithm 2 (MARS-AdamW, approximate)."""
    c = g + h["gamma"] * h["beta_1"] / (1 - h["beta_1"]) * (g - s["previous"])
    if np.linalg.norm(c) > 1:
        c = c / np.linalg.norm(c)
    m = h["beta_1"] * s["m"] + (1 - h["beta_1"]) * c
    v = h["beta_2"] * s["v"] + (1 - h["beta_2"]) * c**2
    m_hat = m / (1 - h["beta_1"] ** h["step"])
    v_hat = v / (1 - h["beta_2"] ** h["step"])
    w = w - h["learning_rate"] * (m_hat / (np.sqrt(v_hat) + h["epsilon"]) + h["decay"] * w)
    return w, {"m": m, "v": v, "previous": g}


def _amsgrad(w, g, s, h):
    s.m = lerp(g, s.m, h.beta_1)
    s.v = lerp(square(g), s.v, h.beta_2)
    s.v_hat = maximum(s.v_hat, s.v)
    return w - h.learning_rate / sqrt(h.step) * s.m * rsqrt(s.v_hat + h.epsilon)


def _amsgrad_numpy(w, g, s, h):
    """Reddi et al., arXiv:1904.09237, Algorithm 2, with their alpha / sqrt(t)."""
    m = h["beta_1"] * s["m"] + (1 - h["beta_1"]) * g
    v = h["beta_2"] * s["v"] + (1 - h["beta_2"]) * g**2
    v_hat = np.maximum(s["v_hat"], v)
    alpha = h["learning_rate"] / np.sqrt(h["step"])
    return w - alpha * m / np.sqrt(v_hat + h["epsilon"]), {"m": m, "v": v, "v_hat": v_hat}


def _ftrl(w, g, s, h):
    before = s.n**h.power
    s.n = s.n + square(g)
    after = s.n**h.power
    s.z = s.z + g - (after - before) / h.learning_rate * w
    shrunk = (sign(s.z) * h.l1 - s.z) / ((h.beta + after) / h.learning_rate + h.l2)
    return where(absolute(s.z) <= h.l1, 0.0, shrunk)


def _ftrl_numpy(w, g, s, h):
    """McMahan et al., "Ad Click Prediction: a View from the Trenches", Algorithm 1."""
    n = s["n"] + g**2
    sigma = (np.sqrt(n) - np.sqrt(s["n"])) / h["learning_rate"]
    z = s["z"] + g - sigma * w
    eta = h["learning_rate"] / (h["beta"] + np.sqrt(n))
    w = -1 / (1 / eta + h["l2"]) * (z - np.sign(z) * h["l1"])
    return np.where(np.abs(z) <= h["l1"], 0, w), {"n": n, "z": z}


def _adan(w, g, s, h):
    d = where(h.step > 1, g - s.previous, 0.0)
    s.previous = g
    s.m = lerp(g, s.m, h.beta_1)
    s.v = lerp(d, s.v, h.beta_2)
    s.n = lerp(square(g + h.beta_2 * d), s.n, h.beta_3)
    u = (s.m + h.beta_2 * s.v) / (sqrt(s.n) + h.epsilon)
    return (w - h.learning_rate * u) / (1 + h.learning_rate * h.decay)


def _adan_numpy(w, g, s, h):
    """Xie et al., arXiv:2208.06677, Algorithm 1, whose betas are 1 minus these."""
    d = g - s["previous"] if h["step"] > 1 else np.zeros_like(g)
    m = h["beta_1"] * s["m"] + (1 - h["beta_1"]) * g
    v = h["beta_2"] * s["v"] + (1 - h["beta_2"]) * d
    n = h["beta_3"] * s["n"] + (1 - h["beta_3"]) * (g + h["beta_2"] * d) ** 2
    eta = h["learning_rate"] / (np.sqrt(n) + h["epsilon"])
    w = (w - eta * (m + h["beta_2"] * v)) / (1 + h["learning_rate"] * h["decay"])
    return w, {"m": m, "v": v, "n": n, "previous": g}


def _cocob(w, g, s, h):
    s.initial = where(h.step > 1, s.initial, w)
    s.scale = maximum(s.scale, absolute(g))
    s.total = s.total + absolute(g)
    s.reward = maximum(s.reward - (w - s.initial) * g, 0.0)
    s.theta = s.theta - g
    bound = s.scale * maximum(s.total + s.scale, h.alpha * s.scale)
    bet = s.theta / bound * (s.scale + s.reward)
    return s.initial + where(s.scale > 0, bet, 0.0)


def _cocob_numpy(w, g, s, h):
    """Orabona and Tommasi, arXiv:1705.07795, Algorithm 2; no bet before the first gradient."""
    w_1 = s["initial"] if h["step"] > 1 else w
    scale = np.maximum(s["scale"], np.abs(g))
    total = s["total"] + np.abs(g)
    reward = np.maximum(s["reward"] - (w - w_1) * g, 0)
    theta = s["theta"] - g
    with np.errstate(invalid="ignore"):
        beta = theta / (scale * np.maximum(total + scale, h["alpha"] * scale))
    new = {"initial": w_1, "scale": scale, "total": total, "reward": reward, "theta": theta}
    return w_1 + np.where(scale > 0, beta * (scale + reward), 0), new


def _three_passes(w, g, s, h):
    u = g / maximum(reduce_max(absolute(g)), 1e-30)
    u = u - reduce_mean(u)
    s.m = lerp(u, s.m, h.beta_1)
    length = norm(u)
    return w - where(length > 0, h.learning_rate / length, 0.0) * u * reduce_max(absolute(w))


def _three_passes_numpy(w, g, s, h):
    """A gradient scaled, centred and normalised: three reductions, each of the one before."""
    u = g / max(np.max(np.abs(g), initial=0), 1e-30)
    u = u - u.mean()
    m = h["beta_1"] * s["m"] + (1 - h["beta_1"]) * u
    length = np.sqrt(np.sum(u**2))
    factor = h["learning_rate"] / length if length > 0 else 0
    return w - factor * u * np.max(np.abs(w), initial=0), {"m": m}


def _swap(w, g, s, h):
    s.a, s.b = s.b, s.a + w
    s.c = s.c
    return g


def _swap_numpy(w, g, s, h):
    """What is read is the old value, wherever the new one goes."""
    return g, {"a": s["b"], "b": s["a"] + w, "c": s["c"]}


def _awkward_names(w, g, s, h):
    s.i = s.i + g
    s.n = s.n + s.double
    s.double = minimum(g, 0.5)
    s.sign = sign(g) * h.new
    return w + log(1.0 + exp(s.sign)) * h.c0


def _awkward_names_numpy(w, g, s, h):
    """Names that mean something in C++."""
    i, n, sgn = s["i"] + g, s["n"] + s["double"], np.sign(g) * h["new"]
    w = w + np.log(1 + np.exp(sgn)) * h["c0"]
    return w, {"i": i, "n": n, "double": np.minimum(g, 0.5), "sign": sgn}


def _rows(w, g, s, h):
    s.v = lerp(reduce_mean(square(g)), s.v, h.beta_2)
    s.largest = maximum(s.largest, reduce_max(absolute(g)))
    s.m = lerp(g, s.m, h.beta_1)
    scale = sqrt(s.v) + s.largest / sqrt(h.step)
    return w - h.learning_rate * s.m / (scale + h.epsilon) * sqrt(reduce_mean(square(w)))


def _rows_numpy(w, g, s, h):
    """Two numbers of each row: its average of mean squares, and its largest element so far."""
    axes = tuple(range(1, g.ndim))
    v = h["beta_2"] * s["v"] + (1 - h["beta_2"]) * np.mean(g**2, axis=axes)
    largest = np.maximum(s["largest"], np.max(np.abs(g), axis=axes))
    m = h["beta_1"] * s["m"] + (1 - h["beta_1"]) * g
    scale = np.sqrt(v) + largest / np.sqrt(h["step"]) + h["epsilon"]
    factor = h["learning_rate"] / scale * np.sqrt(np.mean(w**2, axis=axes))
    w = w - factor.reshape(-1, *(1,) * len(axes)) * m
    return w, {"m": m, "v": v, "largest": largest}


_BETAS = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "decay": 0.1}

# The tolerances are about three times what the worst lowering needs: some operations in each of
# 12 steps. Ftrl and COCOB take differences of nearly equal numbers.
CASES = {
    "cautious AdamW": Case(_cautious_adamw, _cautious_adamw_numpy, ("m", "v"), _BETAS, 2, 40),
    "MARS": Case(_mars, _mars_numpy, ("m", "v", "previous"), {**_BETAS, "gamma": 0.05}, 2, 40),
    "AMSGrad": Case(
        _amsgrad,
        _amsgrad_numpy,
        ("m", "v", "v_hat"),
        {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-6},
        1,
        40,
    ),
    "Ftrl": Case(
        _ftrl,
        _ftrl_numpy,
        ("n", "z"),
        {"power": 0.5, "beta": 1.0, "l1": 0.01, "l2": 0.02},
        1,
        100,
    ),
    "Adan": Case(_adan, _adan_numpy, ("m", "v", "n", "previous"), {**_BETAS, "beta_3": 0.9}, 1, 40),
    "COCOB": Case(
        _cocob,
        _cocob_numpy,
        ("initial", "scale", "total", "reward", "theta"),
        {"alpha": 4.0},
        1,
        400,
    ),
    "three passes": Case(_three_passes, _three_passes_numpy, ("m",), {"beta_1": 0.8}, 4, 40),
    "swap": Case(_swap, _swap_numpy, ("a", "b", "c"), {}, 1, 40),
    "awkward names": Case(
        _awkward_names,
        _awkward_names_numpy,
        ("i", "n", "double", "sign"),
        {"new": 0.5, "c0": 0.1},
        1,
        40,
    ),
}

BY_ROW = Case(_rows, _rows_numpy, ("m",), {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.01}, 2, 40)
NUMBERS_BY_ROW = ("v", "largest")
"""The numbers of each row that `BY_ROW` keeps, which start at zero as well."""


# Every operation, of two tensors `x` and `y`, with what NumPy computes.
OPERATIONS = {
    "add": (lambda x, y: x + y, np.add),
    "add_number": (lambda x, y: 1.5 + x, lambda x, y: 1.5 + x),
    "subtract": (lambda x, y: x - y, np.subtract),
    "subtract_from_number": (lambda x, y: 1.5 - x, lambda x, y: 1.5 - x),
    "multiply": (lambda x, y: x * y, np.multiply),
    "divide": (lambda x, y: x / y, np.divide),
    "divide_number": (lambda x, y: 1.5 / x, lambda x, y: 1.5 / x),
    "power": (lambda x, y: x**y, np.power),
    "power_2": (lambda x, y: x**2, lambda x, y: x**2),
    "power_of_number": (lambda x, y: 1.5**x, lambda x, y: 1.5**x),
    "negative": (lambda x, y: -x, lambda x, y: -x),
    "cbrt": (lambda x, y: cbrt(x), lambda x, y: np.cbrt(x)),
    "square": (lambda x, y: square(x), lambda x, y: np.square(x)),
    "sqrt": (lambda x, y: sqrt(x), lambda x, y: np.sqrt(x)),
    "rsqrt": (lambda x, y: rsqrt(x), lambda x, y: 1 / np.sqrt(x)),
    "absolute": (lambda x, y: absolute(x), lambda x, y: np.abs(x)),
    "sign": (lambda x, y: sign(x), lambda x, y: np.sign(x)),
    "exp": (lambda x, y: exp(x), lambda x, y: np.exp(x)),
    "log": (lambda x, y: log(x), lambda x, y: np.log(x)),
    "minimum": (minimum, np.minimum),
    "maximum": (maximum, np.maximum),
    "less": (lambda x, y: where(x < y, x, 2.0), lambda x, y: np.where(x < y, x, 2)),
    "less_equal": (lambda x, y: where(x <= y, 2.0, y), lambda x, y: np.where(x <= y, 2, y)),
    "greater": (lambda x, y: where(x > y, 1.0, 2.0), lambda x, y: np.where(x > y, 1, 2)),
    "greater_equal": (lambda x, y: where(x >= y, x, y), lambda x, y: np.where(x >= y, x, y)),
    "equal": (lambda x, y: where(x == y, 1.0, 0.0), lambda x, y: np.where(x == y, 1, 0)),
    "not_equal": (lambda x, y: where(x != y, x, 0.0), lambda x, y: np.where(x != y, x, 0)),
}
REDUCTIONS = {
    "sum": (reduce_sum, np.sum),
    "mean": (reduce_mean, np.mean),
    "max": (reduce_max, lambda x: np.max(x, initial=0)),
    "norm": (norm, lambda x: np.sqrt(np.sum(x**2))),
    "global_sum": (global_sum, np.sum),
    "global_norm": (global_norm, lambda x: np.sqrt(np.sum(x**2))),
}
