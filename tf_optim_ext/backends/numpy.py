"""NumPy, in float64: what the other backends are tested against."""

import numpy as np

from tf_optim_ext.backends import interpreter
from tf_optim_ext.rule import operations

OPERATIONS = {
    **{name: each.numpy for name, each in operations.OPERATIONS.items()},
    **operations.REDUCTIONS,
}


def run(program, arrays, scalars):
    """Computes one update in float64.

    Args:
        program: a `rule.Program`.
        arrays: dict of "w", "g" and every slot in `program.slots`, of one shape.
        scalars: dict of `program.scalars`, without "size"; the state of a program by row as arrays
            with an element for each row.

    Returns:
        Dict of the new values of "w", every slot and all scalar state.
    """
    if not program.by_row:
        return run_all(program, [arrays], [scalars])[0]
    rows = len(arrays["w"])
    rows_of_arrays = [{name: array[i] for name, array in arrays.items()} for i in range(rows)]
    state_of_rows = program.variable_scalars
    rows_of_scalars = [
        {**scalars, **{name: scalars[name][i] for name in state_of_rows}} for i in range(rows)
    ]
    new = run_all(program, rows_of_arrays, rows_of_scalars)
    before = {**arrays, **scalars}
    return {
        name: np.reshape([row[name] for row in new], np.shape(before[name]))
        for name in ("w", *program.slots, *state_of_rows)
    }


def run_all(program, arrays, scalars):
    """Computes one update of several variables: a list for each argument and result of `run`."""
    arrays = [
        {k: np.asarray(v, np.float64) for k, v in of_variable.items()} for of_variable in arrays
    ]
    computed = [
        interpreter.scalars_before_reductions(
            program,
            {**{k: np.float64(v) for k, v in h.items()}, "size": np.float64(of_variable["w"].size)},
            OPERATIONS,
        )
        for of_variable, h in zip(arrays, scalars, strict=True)
    ]

    def evaluate(v, roots):
        return interpreter.evaluate(
            program, roots, arrays[v], computed[v], OPERATIONS, OPERATIONS, lambda x: x
        )

    def sums(v, roots):
        return [np.sum(value) for value in evaluate(v, roots)]

    interpreter.add_global_sums(program, computed, sums)
    outputs = {**program.outputs, **program.scalar_outputs}
    results = []
    for v, (of_variable, h) in enumerate(zip(arrays, scalars, strict=True)):
        before = {name: of_variable[name] for name in ("w", *program.slots)}
        before.update({name: h[name] for name in program.state_scalars})
        new = dict(zip(outputs, evaluate(v, list(outputs.values())), strict=True))
        results.append({**before, **new})
    return results
