"""Runs a program, operation by operation, on the arrays of some library."""


def scalars_before_reductions(program, scalars, operations):
    """Computes every scalar that depends on no array.

    Args:
        program: a `rule.Program`.
        scalars: dict of the values of `program.scalars`.
        operations: dict from the name of an operation to a function.

    Returns:
        Dict from the index of a node to its value.
    """
    known = {}
    for i, node in enumerate(program.nodes):
        if node.tensor or node.stage > 0:
            continue
        if node.op == "scalar":
            known[i] = scalars[node.data]
        elif node.op == "constant":
            known[i] = node.data
        else:
            known[i] = operations[node.op](*(known[arg] for arg in node.args))
    return known


def evaluate(program, arrays, known, operations, scalar_operations, to_element):
    """Computes what a program writes.

    Args:
        program: a `rule.Program`.
        arrays: dict of the values of "w", "g" and the slots.
        known: what `scalars_before_reductions` returned.
        operations: dict from the name of an operation to a function, for arrays.
        scalar_operations: likewise, for scalars.
        to_element: turns a scalar into something `operations` can combine with arrays.

    Returns:
        Dict of the new values of what the program writes ("w", slots).
    """
    nodes, values = program.nodes, dict(known)
    for i, node in enumerate(nodes):
        if i in known:
            continue
        if node.op == "input":
            values[i] = arrays[node.data]
        elif node.tensor:
            args = [values[a] if nodes[a].tensor else to_element(values[a]) for a in node.args]
            values[i] = operations[node.op](*args)
        elif any(nodes[a].tensor for a in node.args):
            values[i] = operations[node.op](*(values[a] for a in node.args))
        else:
            values[i] = scalar_operations[node.op](*(values[a] for a in node.args))
    return {name: values[i] for name, i in program.outputs.items()}
