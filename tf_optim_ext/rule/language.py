"""What a rule is written in: expressions, and functions of them."""

from tf_optim_ext.rule.operations import COMPARISONS


class Expr:
    """A value of a rule: the result of `op` on `args`, or a leaf that `data` identifies."""

    __slots__ = ("args", "data", "op", "stage", "tensor")

    def __init__(self, op, args=(), data=None, *, tensor=False, stage=0):
        self.op = op
        self.args = args
        self.data = data
        self.tensor = tensor or any(a.tensor for a in args)
        self.stage = max([stage, *(a.stage for a in args)])

    def __add__(self, other):
        return _apply("add", self, other)

    def __radd__(self, other):
        return _apply("add", other, self)

    def __sub__(self, other):
        return _apply("subtract", self, other)

    def __rsub__(self, other):
        return _apply("subtract", other, self)

    def __mul__(self, other):
        return _apply("multiply", self, other)

    def __rmul__(self, other):
        return _apply("multiply", other, self)

    def __truediv__(self, other):
        return _apply("divide", self, other)

    def __rtruediv__(self, other):
        return _apply("divide", other, self)

    def __pow__(self, other):
        if isinstance(other, (int, float)) and other == 2:
            return square(self)
        return _apply("power", self, other)

    def __rpow__(self, other):
        return _apply("power", other, self)

    def __neg__(self):
        return _apply("negative", self)

    def __lt__(self, other):
        return _apply("less", self, other)

    def __le__(self, other):
        return _apply("less_equal", self, other)

    def __gt__(self, other):
        return _apply("greater", self, other)

    def __ge__(self, other):
        return _apply("greater_equal", self, other)

    def __eq__(self, other):
        return _apply("equal", self, other)

    def __ne__(self, other):
        return _apply("not_equal", self, other)

    __hash__ = object.__hash__

    def __bool__(self):
        raise TypeError(
            "A rule is traced once and cannot branch on a value: use `where(condition, a, b)`. "
            "(Flags of the optimizer are Python values and may be used in `if`.)"
        )

    def __repr__(self):
        if self.op in ("input", "scalar", "constant"):
            return str(self.data)
        return f"{self.op}({', '.join(map(repr, self.args))})"


def expression(value):
    if isinstance(value, Expr):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Expr("constant", data=float(value))
    raise TypeError(
        f"A rule computes with its arguments and with Python numbers. Received: {value!r} "
        f"of type {type(value).__name__}"
    )


def _apply(op, *args):
    args = tuple(expression(a) for a in args)
    for arg in args[1:] if op == "where" else args:
        if arg.op in COMPARISONS:
            raise TypeError(
                f"A comparison is no number: use `where(condition, 1.0, 0.0)`. Received: {arg!r}"
            )
    return Expr(op, args)


def sqrt(x):
    return _apply("sqrt", x)


def rsqrt(x):
    return 1.0 / sqrt(x)


def cbrt(x):
    """Cube root."""
    return _apply("cbrt", x)


def absolute(x):
    """Absolute value."""
    return _apply("absolute", x)


def sign(x):
    """-1, 0 or 1; NaN stays NaN."""
    return _apply("sign", x)


def square(x):
    x = expression(x)
    return x * x


def exp(x):
    return _apply("exp", x)


def log(x):
    return _apply("log", x)


def minimum(x, y):
    """The smaller one; NaN if either is."""
    return _apply("minimum", x, y)


def maximum(x, y):
    """The larger one; NaN if either is."""
    return _apply("maximum", x, y)


def where(condition, x, y):
    """`x` where `condition` (a comparison) holds, `y` elsewhere."""
    condition = expression(condition)
    if condition.op not in COMPARISONS:
        raise TypeError(f"The condition of `where` must be a comparison. Received: {condition!r}")
    return _apply("where", condition, x, y)


def is_set(slot, h):
    """1 where an update has assigned `slot` before, 0 in the first update of an element.

    For slots that start as NaN, which is "nothing yet". Variables have their first updates in
    different steps: gradients may be missing, rows rare, layers frozen at first.
    """
    # In the first step of all, whatever old files and other optimizers stored.
    return where(h.step > 1, where(slot != slot, 0.0, 1.0), 0.0)


def unless_set(slot, first, h):
    """`slot`, or `first` in the first update of an element; see `is_set`."""
    return where(h.step > 1, where(slot != slot, first, slot), first)


def divide_no_nan(x, y):
    """`x / y`, and 0 where `y` is 0."""
    return where(y == 0, 0.0, x / y)


def clip(x, lowest, highest):
    return minimum(maximum(x, lowest), highest)


def lerp(x, y, weight):
    """`weight * y + (1 - weight) * x`: from `x` at 0 to `y` at 1.

    `lerp(new, average, beta)` is the exponential moving average. Both factors are formed in float64
    and nothing is subtracted, so that a tiny average next to a huge new value keeps its digits.
    """
    return weight * expression(y) + (1.0 - expression(weight)) * expression(x)


def _reduce(op, x):
    x = expression(x)
    if not x.tensor or x.op in COMPARISONS:
        what = "comparison" if x.op in COMPARISONS else "scalar"
        raise TypeError(f"Reductions take a tensor. Received the {what} {x!r}")
    reduced = Expr(op, (x,), stage=x.stage + 1)
    reduced.tensor = False
    return reduced


def reduce_sum(x):
    """Sum over all elements of the variable."""
    return _reduce("reduce_sum", x)


def reduce_max(x):
    """Largest element of the variable, NaN if there is one; 0 for an empty variable.

    Meant for values that are not negative: it starts at 0.
    """
    return _reduce("reduce_max", x)


def reduce_mean(x):
    """Mean over all elements of the variable."""
    return reduce_sum(x) / Expr("scalar", data="size")


def norm(x):
    """Euclidean norm over all elements of the variable."""
    return sqrt(reduce_sum(square(x)))


def global_sum(x):
    """Sum over all elements of all variables that have a gradient in this step."""
    return _reduce("global_sum", x)


def global_norm(x):
    """Euclidean norm over all elements of all variables."""
    return sqrt(global_sum(square(x)))
