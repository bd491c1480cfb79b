"""The schedules of learning rates in float64, one step at a time, in the letters of the papers."""

import math
from fractions import Fraction


def linear(η0, T, ηT):
    """arXiv:1905.04753."""
    return lambda t: η0 + (ηT - η0) * min(t, T) / T


def cosine(η_max, T, η_min):
    """arXiv:1608.03983, equation 5, without restarts."""
    return lambda t: η_min + 0.5 * (η_max - η_min) * (1 + math.cos(math.pi * min(t, T) / T))


def polynomial(η0, T, ηT, p):
    """arXiv:1506.04579: the rate "poly", here with an end value."""
    return lambda t: (η0 - ηT) * (1 - min(t, T) / T) ** p + ηT


def rex(η0, T, ηT=0.0):
    """arXiv:2107.04197, here with an end value."""

    def rate(t):
        z = 1 - min(t, T) / T
        return ηT + (η0 - ηT) * (z / (1 / 2 + z / 2))

    return rate


def transformer(d_model, warmup_steps):
    """arXiv:1706.03762, equation 3; its first step has the number 1."""
    return lambda t: d_model**-0.5 * min((t + 1) ** -0.5, (t + 1) * warmup_steps**-1.5)


def t5(k, scale=1.0):
    """arXiv:1910.10683, section 3.1.2, with n counted from 1."""
    return lambda t: scale / math.sqrt(max(t + 1, k))


def warmup_stable_decay(η_max, warmup, stable, decay, f, η0, η_end):
    """arXiv:2405.18392, equation 1; `f` is 1 at the beginning of the decay and 0 at its end."""

    def rate(n):
        if n < warmup:
            return η0 + (η_max - η0) * n / warmup
        if n <= warmup + stable:
            return η_max
        if n >= warmup + stable + decay:
            return η_end
        return η_end + (η_max - η_end) * f((n - warmup - stable) / decay)

    return rate


WSD_SHAPES = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    "1-sqrt": lambda x: 1 - math.sqrt(x),
}


def warmed_up(rate, W, η0, shape):
    """arXiv:1706.02677: a schedule after a warm-up."""
    shapes = {
        "linear": lambda x: η0 + (rate(0) - η0) * x,
        "cosine": lambda x: η0 + (rate(0) - η0) * 0.5 * (1 - math.cos(math.pi * x)),
        "exponential": lambda x: math.exp((1 - x) * math.log(η0) + x * math.log(rate(0))),
        "constant": lambda x: η0,
    }
    return lambda t: shapes[shape](t / W) if t < W else rate(t - W)


def one_cycle(η_max, T, start, strategy, div, final_div, three_phase):
    """As the documentation of PyTorch's `OneCycleLR` describes it."""
    lowest, last = η_max / div, η_max / div / final_div
    if three_phase:
        ends, values = [start * T - 1, 2 * start * T - 2, T - 1], [lowest, η_max, lowest, last]
    else:
        ends, values = [start * T - 1, T - 1], [lowest, η_max, last]

    def anneal(a, b, x):
        return (
            a + (b - a) * x
            if strategy == "linear"
            else b + (a - b) / 2 * (1 + math.cos(math.pi * x))
        )

    def rate(t):
        t, begin = min(t, T - 1), 0.0
        for end, a, b in zip(ends, values, values[1:], strict=False):
            if t <= end or end == ends[-1]:
                return anneal(a, b, (t - begin) / (end - begin))
            begin = end
        raise AssertionError

    return rate


def cyclical(η_min, η_max, stepsize, scale, mode):
    """arXiv:1506.01186, section 3.2: its lines of code; `scale` gets the cycle or the step."""

    def rate(t):
        position = Fraction(t) / Fraction(stepsize)  # what is left of a large number is exact
        cycle = math.floor(1 + position / 2)
        x = float(abs(position - 2 * cycle + 1))
        s = scale(cycle if mode == "cycle" else t)
        return η_min + (η_max - η_min) * max(0, 1 - x) * s

    return rate
