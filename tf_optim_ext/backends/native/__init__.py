"""The native library: loading it, and calling its ops."""

from tf_optim_ext.backends.native.loader import (
    built_for,
    has,
    instruction_set,
    library,
    load,
    use,
    why_not,
)
from tf_optim_ext.backends.native.operations import (
    FORMATS,
    Group,
    squared_norms,
    step,
    stream,
    sum_rows,
)
from tf_optim_ext.backends.native.self_test import (
    why_not_inside_xla,
    why_not_inside_xla_on_gpu,
    why_not_on_gpu,
)

__all__ = [
    "FORMATS",
    "Group",
    "built_for",
    "has",
    "instruction_set",
    "library",
    "load",
    "squared_norms",
    "step",
    "stream",
    "sum_rows",
    "use",
    "why_not",
    "why_not_inside_xla",
    "why_not_inside_xla_on_gpu",
    "why_not_on_gpu",
]
