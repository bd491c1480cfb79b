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
    values = {}
    for i, node in enumerate(program.nodes):
        if node.tensor or node.stage > 0:
            continue
        if node.op == "scalar":
            values[i] = scalars[node.data]
        elif node.op == "constant":
            values[i] = node.data
        else:
            values[i] = operations[node.op](*(values[arg] for arg in node.args))
    return values


def evaluate(program, roots, arrays, computed, operations, scalar_operations, to_element):
    """Computes values of a program for one variable.

    Args:
        program: a `rule.Program`.
        roots: indices of the nodes to compute.
        arrays: dict of the values of "w", "g" and the slots.
        computed: what `scalars_before_reductions` returned, and the values of all `global_sum` that
            the roots need.
        operations: dict from the name of an operation to a function, for arrays.
        scalar_operations: likewise, for scalars.
        to_element: turns a scalar into something `operations` can combine with arrays.

    Returns:
        List of the values.
    """
    nodes, values = program.nodes, dict(computed)
    for i in program.cone(roots, lambda i: i not in computed):
        node = nodes[i]
        if node.op == "input":
            values[i] = arrays[node.data]
        elif node.tensor:
            args = [values[a] if nodes[a].tensor else to_element(values[a]) for a in node.args]
            values[i] = operations[node.op](*args)
        elif any(nodes[a].tensor for a in node.args):
            values[i] = operations[node.op](*(values[a] for a in node.args))
        else:
            values[i] = scalar_operations[node.op](*(values[a] for a in node.args))
    return [values[i] for i in roots]


def add_global_sums(program, computed, evaluate_roots):
    """Computes the sums over all variables, in the order in which they need each other.

    Args:
        program: a `rule.Program`.
        computed: list with the known values of each variable; the sums are added to them.
        evaluate_roots: function from the position of a variable and a list of nodes, all of them
            tensors, to the sums over their elements.
    """
    for stage in range(program.passes):
        sums = [i for i in program.reductions(stage) if program.nodes[i].op == "global_sum"]
        if not sums:
            continue
        summands = [program.nodes[i].args[0] for i in sums]
        parts = [evaluate_roots(v, summands) for v in range(len(computed))]
        for k, i in enumerate(sums):
            total = parts[0][k]
            for part in parts[1:]:
                total = total + part[k]
            for values in computed:
                values[i] = total
