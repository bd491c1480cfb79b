"""The rule language: an optimizer's maths, written once.

A *rule* is a short Python function over one weight tensor `w`, its gradient `g`, its slots `s` and
the step's numbers `h`. It assigns new values to slots and returns the new weight::

    from tf_optim_ext.rule import lerp, sign

    def rule(w, g, s, h):
        update = sign(lerp(g, s.momentum, h.beta_1))
        s.momentum = lerp(g, s.momentum, h.beta_2)
        return w - h.learning_rate * update

The function runs once, on symbols (`trace`), and becomes a `Program`: a list of operations without
duplicates that each file in `lowering/` turns into something that runs. A rule therefore cannot
branch on a value (use `where`); it may branch on the *flags* of its optimizer, which are plain
Python values in `h` while it is traced.

Two kinds of values exist. A *tensor* has one element per weight. A *scalar* is one number: a
hyperparameter, the step count, the result of a reduction over one variable (`reduce_sum`) or over
all of them (`global_sum`), or state of the optimizer that is one number for each variable or one
for all. Scalars are computed in float64, once per step (those that differ between variables: once
per variable), and handed to the loop over the elements as float32; `1 - h.beta_2 ** h.step`
therefore costs nothing and loses nothing. State that is a scalar is read and assigned like a slot.

What depends on a reduction needs one more pass over memory. Nothing is stored between passes: what
a later pass needs from an earlier one is computed again, which is cheaper than a temporary.

A slot that starts with the first update of its variable, from the weights or the gradient, is NaN
until then: `unless_set` reads it.

A program can be traced to run *by row*: every row of a variable then is a variable of its own, with
its own reductions and its own state of one number. That is how embedding tables keep one
accumulator for each row.
"""

import dataclasses
import functools
import hashlib

RESERVED = ("step", "learning_rate", "gradient_scale", "size")
"""Scalars that every step has: the count of this step (from 1), the learning rate, the factor that
unscales and clips gradients, and the number of elements of the variable."""

VARYING = ("gradient_scale", "size", "weight_decay", "layer_adaptation")
"""Those scalars, hyperparameters included, that may differ between the variables of a step."""

REDUCTIONS = ("reduce_sum", "reduce_max", "global_sum")
COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")


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


def _expr(value):
    if isinstance(value, Expr):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Expr("constant", data=float(value))
    raise TypeError(
        f"A rule computes with its arguments and with Python numbers. Received: {value!r} "
        f"of type {type(value).__name__}"
    )


def _apply(op, *args):
    args = tuple(_expr(a) for a in args)
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
    x = _expr(x)
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
    condition = _expr(condition)
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
    return weight * _expr(y) + (1.0 - _expr(weight)) * _expr(x)


def _reduce(op, x):
    x = _expr(x)
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


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation of a `Program`; `args` are indices of earlier nodes."""

    op: str
    args: tuple = ()
    data: object = None
    tensor: bool = False
    stage: int = 0

    @property
    def is_condition(self):
        return self.op in COMPARISONS


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced rule.

    Attributes:
        nodes: the operations, arguments before uses, without duplicates. The leaves are
            `input` ("w", "g" or the name of a slot), `scalar` (a name in `scalars`) and `constant`.
        outputs: name of what is written ("w" or a slot) -> index of the node that holds its value.
        slots: names of the slots the rule touches, in the order of their declaration.
        hyperparameters: names of the numbers that the optimizer provides.
        variable_scalars: names of the state it touches that is one number for each variable.
        optimizer_scalars: names of the state it touches that is one number for all variables.
        scalar_outputs: name of such state that is written -> index of the node with its value.
        by_row: whether "variable", in everything above, means one row of a variable.
    """

    nodes: tuple
    outputs: dict
    slots: tuple
    hyperparameters: tuple
    variable_scalars: tuple = ()
    optimizer_scalars: tuple = ()
    scalar_outputs: dict = dataclasses.field(default_factory=dict)
    by_row: bool = False

    @property
    def scalars(self):
        """Names of all numbers it is handed, in order."""
        return (*RESERVED, *self.hyperparameters, *self.state_scalars)

    @property
    def state_scalars(self):
        return (*self.variable_scalars, *self.optimizer_scalars)

    @property
    def passes(self):
        """Passes over memory: one, and one more for each level of reductions.

        Reductions that only the state needs are computed in the last pass, beside the weights.
        """
        of_tensors = max((self.nodes[i].stage for i in self.outputs.values()), default=0)
        of_scalars = max((self.nodes[i].stage for i in self.scalar_outputs.values()), default=0)
        return max(1 + of_tensors, of_scalars)

    @property
    def is_joint(self):
        """Whether the update of a variable depends on the other variables of the step."""
        return bool(self.optimizer_scalars) or any(n.op == "global_sum" for n in self.nodes)

    @property
    def treats_rows_alone(self):
        """Whether the update of a row depends on that row only."""
        return self.by_row or (self.passes == 1 and not self.state_scalars)

    @property
    def uses_size(self):
        return any(n.op == "scalar" and n.data == "size" for n in self.nodes)

    @functools.cached_property
    def fingerprint(self):
        """Digest of the maths: equal for rules that compute the same, whatever they are called."""
        text = repr((self.nodes, sorted(self.outputs.items()), self.slots, self.scalars))
        if self.state_scalars:
            text += repr((len(self.variable_scalars), sorted(self.scalar_outputs.items())))
        if self.by_row:
            text += "by row"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def may_be_unset(self):
        """Names of the state that may be NaN for "nothing yet": it compares that with itself.

        See `is_set`.
        """
        compared = [n.args for n in self.nodes if n.op == "not_equal" and n.args[0] == n.args[1]]
        leaves = [self.nodes[i] for i, _ in compared]
        return {node.data for node in leaves if node.op in ("input", "scalar")}

    def reductions(self, stage):
        """Indices of the reductions that pass number `stage` computes."""
        return [i for i, n in enumerate(self.nodes) if n.op in REDUCTIONS and n.stage == stage + 1]

    def roots(self, stage):
        """Indices of the nodes that pass number `stage` must deliver."""
        reduced = [self.nodes[i].args[0] for i in self.reductions(stage)]
        return reduced + (list(self.outputs.values()) if stage == self.passes - 1 else [])

    def needed(self, roots):
        """Indices, ascending, of the tensor nodes that `roots` need, the roots included."""
        return self.cone(roots, lambda i: self.nodes[i].tensor)

    def cone(self, roots, follow):
        """Indices, ascending, of the nodes that `roots` need, as far as `follow(index)` holds."""
        found, todo = set(), list(roots)
        while todo:
            i = todo.pop()
            if i not in found and follow(i):
                found.add(i)
                todo.extend(self.nodes[i].args)
        return sorted(found)

    def accesses(self, stage):
        """Names of the arrays that pass number `stage` reads, and those that it writes."""
        needed = self.needed(self.roots(stage))
        reads = {self.nodes[i].data for i in needed if self.nodes[i].op == "input"}
        return reads, set(self.outputs) if stage == self.passes - 1 else set()


class _State:
    """The `s` of a rule: reading gives the current value, assigning sets the new one."""

    def __init__(self, slots, scalars):
        values = {name: Expr("input", data=name, tensor=True) for name in slots}
        values.update({name: Expr("scalar", data=name) for name in scalars})
        object.__setattr__(self, "_names", (slots, scalars))
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_touched", set())
        object.__setattr__(self, "_assigned", set())

    def __getattr__(self, name):
        self._check(name)
        return self._values[name]

    def __setattr__(self, name, value):
        self._check(name)
        self._assigned.add(name)
        self._values[name] = _expr(value)

    def _check(self, name):
        if name not in self._values:
            raise AttributeError(
                f"The rule uses the slot {name!r}, which is not declared. "
                f"Declared slots: {sorted(self._values)}"
            )
        self._touched.add(name)

    def fresh(self):
        """The state as it was before the rule."""
        return _State(*self._names)

    def numbers(self):
        """Names of the state that is numbers."""
        return self._names[1]

    def assigned(self):
        """Dict of the new values."""
        return {name: self._values[name] for name in self._values if name in self._assigned}

    def _used(self, names):
        return {name: self._values[name] for name in names if name in self._touched}


class _Scalars:
    """The `h` of a rule: flags as Python values, everything else as symbols."""

    def __init__(self, names, flags):
        self._names = names
        self._flags = flags

    def __getattr__(self, name):
        if name in self._flags:
            return self._flags[name]
        if name not in self._names:
            known = sorted({*self._names, *self._flags})
            raise AttributeError(
                f"The rule uses {name!r}, which is not a declared hyperparameter or flag. "
                f"Known: {known}"
            )
        return Expr("scalar", data=name)


def trace(
    rule,
    slots=(),
    hyperparameters=(),
    flags=None,
    variable_scalars=(),
    optimizer_scalars=(),
    by_row=False,
):
    """Runs `rule(w, g, s, h)` on symbols.

    Args:
        rule: the function.
        slots: names of the slots it may use.
        hyperparameters: names it may use beside `RESERVED`.
        flags: dict of the Python values it may branch on.
        variable_scalars: names of the state it may use that is one number for each variable.
        optimizer_scalars: names of the state it may use that is one number for all variables.
        by_row: whether every row of a variable is to be treated as a variable of its own.

    Returns:
        A `Program`.

    Raises:
        TypeError, AttributeError: the rule does what the language does not have; the message says
            what and what there is instead.
    """
    names = (*slots, *variable_scalars, *optimizer_scalars, *hyperparameters)
    for name in (*names, *(flags or {})):
        if name in ("w", "g", *RESERVED) or not name.isidentifier():
            raise ValueError(f"{name!r} cannot be the name of a slot, hyperparameter or flag.")
    # A slot and a hyperparameter may share a name (SGD's momentum): both are told apart by `s` and
    # `h`. A number of the state and a hyperparameter are both scalars.
    for name in (*variable_scalars, *optimizer_scalars):
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is declared twice.")
    state = _State(slots, (*variable_scalars, *optimizer_scalars))
    weight = rule(
        Expr("input", data="w", tensor=True),
        Expr("input", data="g", tensor=True),
        state,
        _Scalars((*RESERVED, *hyperparameters), flags or {}),
    )
    if not isinstance(weight, Expr) or not weight.tensor:
        raise TypeError(f"A rule must return the new weight. Received: {weight!r}")
    tensors = {"w": weight, **state._used(slots)}
    for name, value in tensors.items():
        if not value.tensor or value.op in COMPARISONS:
            raise TypeError(f"The new value of {name!r} must be a tensor. Received: {value!r}")
    of_variables, of_optimizer = state._used(variable_scalars), state._used(optimizer_scalars)
    for name, value in {**of_variables, **of_optimizer}.items():
        if value.tensor or value.op in COMPARISONS:
            raise TypeError(
                f"The new value of {name!r} must be one number, for example a `reduce_sum`. "
                f"Received: {value!r}"
            )
    for name, value in of_optimizer.items():
        _check_common(name, value, of_variables)
    program = _number(tensors, of_variables, of_optimizer)
    if by_row and program.is_joint:
        raise TypeError("A rule that runs by row cannot sum over all variables.")
    return dataclasses.replace(program, by_row=by_row)


def _check_common(name, value, variable_scalars):
    """Refuses a value for all variables that depends on one of them."""
    todo, done = [value], set()
    while todo:
        expr = todo.pop()
        if id(expr) in done or expr.op == "global_sum":
            continue
        done.add(id(expr))
        todo.extend(expr.args)
        varies = expr.op == "scalar" and expr.data in (*VARYING, *variable_scalars)
        if varies or expr.op in ("reduce_sum", "reduce_max"):
            raise TypeError(
                f"{name!r} is one number for all variables, but its new value depends on {expr!r}, "
                "which each variable has its own of: use `global_sum`."
            )


def _number(tensors, of_variables, of_optimizer):
    """Gives every distinct expression an index, arguments first."""
    nodes: list[Node] = []
    index_of: dict[str, int] = {}
    done: dict[int, int] = {}

    def visit(expr):
        if id(expr) not in done:
            args = tuple(visit(a) for a in expr.args)
            node = Node(expr.op, args, expr.data, expr.tensor, expr.stage)
            # By text: 0.0 == -0.0, but they are two constants.
            if repr(node) not in index_of:
                index_of[repr(node)] = len(nodes)
                nodes.append(node)
            done[id(expr)] = index_of[repr(node)]
        return done[id(expr)]

    outputs = {name: visit(expr) for name, expr in tensors.items()}
    for name in [n for n, i in outputs.items() if nodes[i] == Node("input", (), n, True)]:
        del outputs[name]
    scalar_outputs = {name: visit(expr) for name, expr in {**of_variables, **of_optimizer}.items()}
    for name in [n for n, i in scalar_outputs.items() if nodes[i] == Node("scalar", (), n)]:
        del scalar_outputs[name]
    state = (*of_variables, *of_optimizer)
    named = {str(n.data) for n in nodes if n.op == "scalar"} - {*RESERVED, *state}
    slots = tuple(name for name in tensors if name != "w")
    return Program(
        tuple(nodes),
        outputs,
        slots,
        tuple(sorted(named)),
        tuple(of_variables),
        tuple(of_optimizer),
        scalar_outputs,
    )
