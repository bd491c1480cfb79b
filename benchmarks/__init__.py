"""Benchmarks beside the built-in optimizers and others: `python -m benchmarks`.

Imports neither TensorFlow nor this package: processes with other libraries start from here, too.
"""

import importlib.util
import pathlib
import sys
from typing import Any

Json = dict[str, Any]
ROOT = pathlib.Path(__file__).parent.parent

# `python -m` looks into the current folder first, where `tf_optim_ext` may be the source without
# the native library, beside an installed one.
if sys.path and pathlib.Path(sys.path[0] or ".").resolve() == ROOT:
    _first = sys.path.pop(0)
    if importlib.util.find_spec("tf_optim_ext") is None:
        sys.path.insert(0, _first)
