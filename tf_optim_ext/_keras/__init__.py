"""Every private name of TensorFlow and Keras that the package uses, and the versions tried.

Checked with TensorFlow 2.19, 2.20 and 2.21, and Keras 3.10 to 3.15 (`tests/versions.py`).
There is one module for each generation of Keras; `KerasOptimizer` and `KerasSchedule` are those of
`tf.keras`.
"""

from typing import Any

import tensorflow as tf

from tf_optim_ext._keras import versions
from tf_optim_ext._keras.adapter import NOT_CALLED, DecayHooks
from tf_optim_ext._keras.checkpoint import checkpoint_with_context
from tf_optim_ext._keras.schedules import (
    generation_of,
    hidden_generators,
    is_schedule,
    rate_replaced,
)
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
    "KerasSchedule",
    "KerasWrapper",
    "are_dense",
    "checkpoint_with_context",
    "exporting_saved_model",
    "generation_of",
    "has_dtype",
    "has_gpus",
    "has_swapped",
    "hidden_from_debuggers",
    "hidden_generators",
    "inside_xla",
    "is_schedule",
    "keeps_order",
    "local_task",
    "maybe_merge_call",
    "objects_being_saved",
    "rate_replaced",
    "tensorflow_variable",
    "wrap_swap",
]

if versions.uses_keras_2():
    from tf_optim_ext._keras.keras2 import KerasOptimizer, KerasSchedule, KerasWrapper

    VARIABLES: Any = (tf.Variable,)

    def tensorflow_variable(variable):
        """The `tf.Variable` inside a `keras.Variable`, or the variable itself."""
        return variable
else:
    from tf_optim_ext._keras.keras3 import (  # type: ignore[assignment]
        KerasOptimizer,
        KerasSchedule,
        KerasWrapper,
    )

    VARIABLES = (tf.keras.Variable, tf.Variable)
    _KerasVariable = tf.keras.Variable

    def tensorflow_variable(variable):
        """The `tf.Variable` inside a `keras.Variable`, or the variable itself."""
        return variable.value if isinstance(variable, _KerasVariable) else variable
