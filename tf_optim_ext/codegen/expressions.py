"""Expressions of a program as source text, for the languages that look like C."""

from tf_optim_ext.rule.operations import OPERATIONS, REDUCTIONS

FLOAT_OPERATIONS = {name: each.c for name, each in OPERATIONS.items()}
DOUBLE_OPERATIONS = {name: each.double or each.c for name, each in OPERATIONS.items()}


def _literal(value, suffix):
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    return repr(value) + suffix if value >= 0 else f"({value!r}{suffix})"


class Body:
    """The statements of one function: shared nodes get a name, others are written in place."""

    def __init__(self, program, ctype, operations, leaves):
        self._program = program
        self._ctype = ctype
        self._operations = operations
        self._names = dict(leaves)
        self.statements = []

    def write(self, indices, shared):
        for i in indices:
            if i not in self._names and i in shared:
                node = self._program.nodes[i]
                text = self._inline(i)
                self._names[i] = f"t{i}"
                ctype = "bool" if node.is_condition else self._ctype
                self.statements.append(f"const {ctype} t{i} = {text};")

    def expression(self, i):
        return self._names[i] if i in self._names else self._inline(i)

    def _inline(self, i):
        nodes = self._program.nodes
        node = nodes[i]
        if node.op == "constant":
            return _literal(node.data, "f" if self._ctype == "float" else "")
        operation = self._operations[node.op]
        if node.op in ("minimum", "maximum") and node.tensor:
            # A bound that is one number takes fewer instructions.
            if not nodes[node.args[0]].tensor:
                operation = f"{node.op}_of({{1}}, {{0}})"
            elif not nodes[node.args[1]].tensor:
                operation = f"{node.op}_of({{0}}, {{1}})"
        return operation.format(*(self.expression(a) for a in node.args))


def shared_nodes(program, indices, roots):
    """The nodes among `indices` that are used more than once or that a `where` chooses from.

    Compilers turn a choice between two names into vector instructions, between expressions not
    always.
    """
    uses = list(roots)
    for i in indices:
        node = program.nodes[i]
        uses.extend(node.args * (2 if node.op == "where" else 1))
    return {i for i in indices if uses.count(i) > 1 and program.nodes[i].op != "constant"}


def handed_over(program, stage):
    """Scalars that the loop of a pass needs, in the order in which they are handed over."""
    found = []
    for i in program.needed(program.roots(stage)):
        for arg in program.nodes[i].args:
            node = program.nodes[arg]
            if not node.tensor and node.op != "constant" and arg not in found:
                found.append(arg)
    return found


def scalar_body(program, roots):
    """Statements that compute scalars, in double: from `h`, the step's, and `r`, the reductions."""
    cone = program.cone(roots, lambda i: not program.nodes[i].tensor)
    leaves, lines = {}, []
    reductions = [i for s in range(program.passes) for i in program.reductions(s)]
    for i in cone:
        node = program.nodes[i]
        if node.op == "scalar":
            leaves[i] = f"h_{node.data}"
            lines.append(f"const double {leaves[i]} = h[{program.scalars.index(node.data)}];")
        elif node.op in REDUCTIONS:
            leaves[i] = f"r[{reductions.index(i)}]"
    body = Body(program, "double", DOUBLE_OPERATIONS, leaves)
    body.write(cone, shared_nodes(program, cone, roots))
    return lines + body.statements, body


def array_names(program):
    """Names of weights, gradient and slots, in the order of the arrays."""
    return ("w", "g", *program.slots)


def local_name(program, position, i):
    """What a loop calls the scalar that node `i` is, which it is handed at a position."""
    node = program.nodes[i]
    return f"h_{node.data}" if node.op == "scalar" else f"c{position}"


def loop_body(program, stage, handed, operations=FLOAT_OPERATIONS):
    """What a pass does for an element, in float32.

    Args:
        program: a `rule.Program`.
        stage: number of the pass.
        handed: what `handed_over` returned; a scalar is called as `local_name` says.
        operations: templates of the operations.

    Returns:
        Names of the arrays that are read, an element of which is called `v_` and the name; and a
        `Body`.
    """
    needed = program.needed(program.roots(stage))
    leaves = {i: local_name(program, position, i) for position, i in enumerate(handed)}
    reads = []
    for i in needed:
        if program.nodes[i].op == "input":
            name = program.nodes[i].data
            leaves[i] = f"v_{name}"  # a slot may be called `i` or `double`
            reads.append(name)
    body = Body(program, "float", operations, leaves)
    body.write(needed, shared_nodes(program, needed, program.roots(stage)))
    return reads, body
