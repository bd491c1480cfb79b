"""The rule language: an optimizer's maths, written once.

A *rule* is a short Python function over one weight tensor `w`, its gradient `g`, its slots `s` and
the step's scalars `h`. It assigns new values to slots and returns the new weight::

    from tf_optim_ext.rule import lerp, sign

    def rule(w, g, s, h):
        update = sign(lerp(g, s.momentum, h.beta_1))
        s.momentum = lerp(g, s.momentum, h.beta_2)
        return w - h.learning_rate * update

The function runs once, on symbols (`trace`), and becomes a `Program`: a list of operations without
duplicates that each backend runs in its own way. A rule therefore cannot
branch on a value (use `where`); it may branch on the *flags* of its optimizer, which are plain
Python values in `h` while it is traced.

There are two kinds of values. A *tensor* has one element per weight. A *scalar* is a
hyperparameter, the step count, the result of a reduction over one variable (`reduce_sum`) or over
all of them (`global_sum`), or scalar state, which each variable has for itself or all share.
Scalars are computed in float64, once per step (those that differ between variables: once per
variable), and passed to the loop over the elements as float32; `1 - h.beta_2 ** h.step` therefore
costs nothing and loses nothing. Rules read and assign scalar state like a slot.

What depends on a reduction needs one more pass over memory. Nothing is stored between passes: what
a later pass needs from an earlier one is computed again, which is cheaper than a temporary.

A slot that starts with the first update of its variable, from the weights or the gradient, is NaN
until then: `unless_set` reads it.

A program can be traced to run *by row*: every row of a variable is then a variable of its own, with
its own reductions and scalar state. That is how embedding tables keep one accumulator for each row.
"""

from tf_optim_ext.rule.language import (
    absolute,
    cbrt,
    clip,
    divide_no_nan,
    exp,
    global_norm,
    global_sum,
    is_set,
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
    unless_set,
    where,
)
from tf_optim_ext.rule.program import Node, Program
from tf_optim_ext.rule.tracing import trace

__all__ = [
    "Node",
    "Program",
    "absolute",
    "cbrt",
    "clip",
    "divide_no_nan",
    "exp",
    "global_norm",
    "global_sum",
    "is_set",
    "lerp",
    "log",
    "maximum",
    "minimum",
    "norm",
    "reduce_max",
    "reduce_mean",
    "reduce_sum",
    "rsqrt",
    "sign",
    "sqrt",
    "square",
    "trace",
    "unless_set",
    "where",
]
