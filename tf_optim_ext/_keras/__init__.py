"""Every private name of TensorFlow and Keras that the package uses, and the versions tried.

Checked with TensorFlow 2.19, 2.20 and 2.21, and Keras 3.10 to 3.15 (`tests/versions.py`).
There is one module for each generation of Keras; `KerasOptimizer` is that of `tf.keras`.
"""

from typing import Any

import tensorflow as tf

from tf_optim_ext._keras import versions
from tf_optim_ext._keras.adapter import NOT_CALLED, DecayHooks
from tf_optim_ext._keras.checkpoint import checkpoint_with_context
from tf_optim_ext._keras.schedules import is_schedule
from tf_optim_ext._keras.swap import has_swapped, wrap_swap
from tf_optim_ext._keras.tensorflow import (
    are_dense,
    exporting_saved_model,
    has_dtype,
    has_gpus,
    hidden_from_debuggers,
    inside_xla,
    keeps_order,
    local_task,
    maybe_merge_call,
    objects_being_saved,
)

__all__ = [
    "NOT_CALLED",
    "VARIABLES",
    "DecayHooks",
    "KerasOptimizer",
    "are_dense",
    "checkpoint_with_context",
    "exporting_saved_model",
    "has_dtype",
    "has_gpus",
    "has_swapped",
    "hidden_from_debuggers",
    "inside_xla",
    "is_schedule",
    "keeps_order",
    "local_task",
    "maybe_merge_call",
    "objects_being_saved",
    "tensorflow_variable",
    "wrap_swap",
]

if versions.uses_keras_2():
    from tf_optim_ext._keras.keras2 import KerasOptimizer

    VARIABLES: Any = (tf.Variable,)

    def tensorflow_variable(variable):
        """The `tf.Variable` inside a `keras.Variable`, or the variable itself."""
        return variable
else:
    from tf_optim_ext._keras.keras3 import KerasOptimizer  # type: ignore[assignment]

    VARIABLES = (tf.keras.Variable, tf.Variable)
    _KerasVariable = tf.keras.Variable

    def tensorflow_variable(variable):
        """The `tf.Variable` inside a `keras.Variable`, or the variable itself."""
        return variable.value if isinstance(variable, _KerasVariable) else variable
