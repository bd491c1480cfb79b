"""Every operation that a rule is made of: in C, in NumPy, and on Python's numbers."""

import dataclasses
import math
import operator
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Operation:
    """What an operation is.

    Attributes:
        c: expression of C, for floats.
        numpy: function of arrays.
        python: function of numbers, which may raise errors where the result is no finite number;
            None: there is none.
        double: expression of C, for doubles; the same by default.
    """

    c: str
    numpy: Callable
    python: Callable | None
    double: str = ""


OPERATIONS = {
    "add": Operation("({} + {})", np.add, operator.add),
    "subtract": Operation("({} - {})", np.subtract, operator.sub),
    "multiply": Operation("({} * {})", np.multiply, operator.mul),
    "divide": Operation("({} / {})", np.divide, operator.truediv),
    "power": Operation("power({}, {})", np.power, math.pow, "pow({}, {})"),
    "negative": Operation("(-{})", np.negative, operator.neg),
    "sqrt": Operation("__builtin_sqrtf({})", np.sqrt, math.sqrt, "sqrt({})"),
    "cbrt": Operation("cube_root({})", np.cbrt, lambda x: float(np.cbrt(x)), "cbrt({})"),
    "absolute": Operation("__builtin_fabsf({})", np.abs, abs, "fabs({})"),
    "sign": Operation("sign({})", np.sign, None),
    "exp": Operation("exponential({})", np.exp, math.exp, "exp({})"),
    "log": Operation("logarithm({})", np.log, math.log, "log({})"),
    # NaN if either is.
    "minimum": Operation("minimum({}, {})", np.minimum, lambda x, y: float(np.minimum(x, y))),
    "maximum": Operation("maximum({}, {})", np.maximum, lambda x, y: float(np.maximum(x, y))),
    "less": Operation("({} < {})", np.less, operator.lt),
    "less_equal": Operation("({} <= {})", np.less_equal, operator.le),
    "greater": Operation("({} > {})", np.greater, operator.gt),
    "greater_equal": Operation("({} >= {})", np.greater_equal, operator.ge),
    "equal": Operation("({} == {})", np.equal, operator.eq),
    "not_equal": Operation("({} != {})", np.not_equal, operator.ne),
    "where": Operation("({} ? {} : {})", np.where, lambda c, x, y: x if c else y),
}
COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
REDUCTIONS: dict[str, Callable] = {
    "reduce_sum": np.sum,
    "reduce_max": lambda x: np.max(x, initial=0.0),
    "global_sum": np.sum,
}
"""Functions of arrays."""
