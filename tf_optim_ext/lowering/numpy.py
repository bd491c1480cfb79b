"""NumPy, in float64: what the other lowerings are tested against."""

import numpy as np

from tf_optim_ext.lowering import interpreter

OPERATIONS = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "negative": np.negative,
    "sqrt": np.sqrt,
    "absolute": np.abs,
    "sign": np.sign,
    "exp": np.exp,
    "log": np.log,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "where": np.where,
    "reduce_sum": np.sum,
    "reduce_max": lambda x: np.max(x, initial=0.0),
}


def run(program, arrays, scalars):
    """Computes one update in float64.

    Args:
        program: a `rule.Program`.
        arrays: dict of "w", "g" and every slot in `program.slots`, of one shape.
        scalars: dict of `program.scalars`, without "size".

    Returns:
        Dict of the new arrays of "w" and every slot.
    """
    arrays = {name: np.asarray(value, np.float64) for name, value in arrays.items()}
    scalars = {name: np.float64(value) for name, value in scalars.items()}
    known = interpreter.scalars_before_reductions(
        program, {**scalars, "size": np.float64(arrays["w"].size)}, OPERATIONS
    )
    new = interpreter.evaluate(program, arrays, known, OPERATIONS, OPERATIONS, lambda x: x)
    return {name: new.get(name, arrays[name]) for name in ("w", *program.slots)}
