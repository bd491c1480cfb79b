"""What a row missed while it had no gradient, for `sparse="catch_up"`.

Steps without gradient multiply most slots by a constant. That constant is found in the rule itself,
by tracing it with a gradient of zero; a row that returns gets its power.
"""

from tf_optim_ext.rule import maximum, where
from tf_optim_ext.rule.language import Expr
from tf_optim_ext.rule.program import RESERVED

LAST_STEP = "last_step"
"""State of each row: the latest step that updated it."""

_ZERO = Expr("constant", data=0.0, tensor=True)
# What is zero if all arguments are.
_KEEP_ZERO = ("sqrt", "cbrt", "absolute", "sign", "minimum", "maximum", "reduce_sum", "reduce_max")


def catch_up(rule, decay, w, s, h):
    """Assigns to the slots what they would be before this step; returns the weights, decayed.

    Weights get the decay that they missed, at the current learning rate; what momentum would have
    moved them they do not get.

    Args:
        rule, w, s, h: as of `transforms.complete`.
        decay: function of `w` and `h`.

    Raises:
        NotConstant: a slot changes by other than a constant factor.
    """
    missed = maximum(h.step - 1 - getattr(s, LAST_STEP), 0.0)
    probe = s.fresh()
    # From step to step: the learning rate and weight decay may be schedules.
    varying = {*RESERVED, "weight_decay", *s.scalars()} - {"size"}
    rule(w, _ZERO, probe, h)
    for name, value in probe.assigned().items():
        factor = _factor(value, getattr(s.fresh(), name))
        if factor is None or _depends(factor, lambda e: e.data in varying):
            raise NotConstant(f"its {name!r} changes by more than a constant factor in such steps")
        if not _is(factor, 1.0):
            setattr(s, name, getattr(s, name) * factor**missed)
    setattr(s, LAST_STEP, h.step)
    factor = _factor(decay(w, h), w)
    if factor is None:
        raise NotConstant("its weight decay is no constant part of the weights")
    return w if _is(factor, 1.0) else w * factor**missed


class NotConstant(TypeError):
    """A step without gradient is no multiplication of the slots by constants."""


def _factor(expr, base):
    """The scalar that `expr` is times `base`, or None if it is no multiple."""
    if (expr.op, expr.data) == (base.op, base.data) and base.op in ("input", "scalar"):
        return Expr("constant", data=1.0)
    if _is(expr, 0.0):
        return Expr("constant", data=0.0)
    factors = [_factor(arg, base) for arg in expr.args]
    zero = [factor is not None and _is(factor, 0.0) for factor in factors]
    if expr.op in ("add", "subtract"):
        return _sum(expr.op, *factors)
    if expr.op == "multiply":
        return _product(expr.args, factors, zero, base)
    if expr.op == "divide":
        by = _scale(expr.args[1], base)
        if factors[0] is None or by is None:
            return factors[0] if zero[0] else None
        return factors[0] / by
    if expr.op == "negative":
        return None if factors[0] is None else -factors[0]
    if expr.op == "where":
        if all(zero[1:]):
            return factors[1]
        condition = _scale(expr.args[0], base)
        if condition is None or any(factor is None for factor in factors[1:]):
            return None
        return where(condition, *factors[1:])
    return factors[0] if expr.op in _KEEP_ZERO and all(zero) else None


def _sum(op, x, y):
    if x is None or y is None:
        return None
    if _is(y, 0.0):
        return x
    if _is(x, 0.0):
        return y if op == "add" else -y
    return x + y if op == "add" else x - y


def _product(args, factors, zero, base):
    for this, other in ((0, 1), (1, 0)):
        if zero[this]:
            return factors[this]
        by = _scale(args[other], base)
        if factors[this] is not None and by is not None:
            return by if _is(factors[this], 1.0) else factors[this] * by
    return None


def _scale(expr, base):
    """A scalar that is the same for all missed steps, or None if `expr` is none."""
    if expr.tensor or _depends(expr, lambda e: e.data == base.data and base.op == "scalar"):
        return None
    return expr


def _depends(expr, holds):
    return (expr.op == "scalar" and holds(expr)) or any(_depends(a, holds) for a in expr.args)


def _is(expr, value):
    return expr.op == "constant" and expr.data == value
