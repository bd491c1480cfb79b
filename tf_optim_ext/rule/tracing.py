"""Runs a rule once, on symbols, and numbers the distinct operations."""

import dataclasses

from tf_optim_ext.rule.language import Expr, expression
from tf_optim_ext.rule.operations import COMPARISONS
from tf_optim_ext.rule.program import RESERVED, VARYING, Node, Program


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
        self._values[name] = expression(value)

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

    def scalars(self):
        """Names of the scalar state."""
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
            declared = sorted({*self._names, *self._flags})
            raise AttributeError(
                f"The rule uses {name!r}, which is not a declared hyperparameter or flag. "
                f"Known: {declared}"
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
        variable_scalars: names of the scalar state of each variable that it may use.
        optimizer_scalars: names of the scalar state of all variables that it may use.
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
    # A slot and a hyperparameter may share a name (SGD's momentum): `s` and `h` tell them apart.
    # Scalar state and hyperparameters are both scalars, and may not.
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
                f"The new value of {name!r} must be a scalar, for example a `reduce_sum`. "
                f"Received: {value!r}"
            )
    for name, value in of_optimizer.items():
        _check_common(name, value, of_variables)
    program = _number(tensors, of_variables, of_optimizer)
    if by_row and program.is_joint:
        raise TypeError("A rule that runs by row cannot sum over all variables.")
    return dataclasses.replace(program, by_row=by_row)


def _check_common(name, value, variable_scalars):
    """Refuses a value that all variables share but that depends on one of them."""
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
                f"All variables share the scalar {name!r}, but its new value depends on {expr!r}, "
                "which differs between variables: use `global_sum`."
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
