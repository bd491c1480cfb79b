"""Steps that are left out because a gradient is not finite: `skip_nonfinite`."""

import tensorflow as tf

from tf_optim_ext.backends import replica
from tf_optim_ext.engine import call, clipping
from tf_optim_ext.engine.control import cond


def step_if_finite(optimizer, gradients, variables):
    """Takes and counts a step; counts it as skipped if a gradient holds NaN or infinity.

    Args:
        optimizer: the optimizer, which is built.
        gradients: list of prepared gradients, summed over replicas.
        variables: list of as many variables.
    """
    values = [getattr(g, "values", g) for g in gradients]
    norms = clipping.squared_norms(values, variables)
    are_clipped = not (optimizer.gradient_accumulation_steps or optimizer._changes_gradients)

    def take():
        # What is clipped needs the same norms, unless it is something else than these gradients.
        with call.arguments(optimizer, squared_norms=norms if are_clipped else None):
            optimizer._accumulate_or_update(gradients, variables)
        replica.add(optimizer._counter, 1)

    cond(_are_finite(values, norms), take, lambda: replica.add(optimizer.skipped_steps, 1))


def _are_finite(values, norms):
    """Whether tensors have neither NaN nor infinity; `norms`: their squared norms."""
    are_wide = [value.dtype == tf.float64 for value in values]
    if not any(are_wide):
        # As float64, no sum of squares of float32 overflows.
        return tf.math.is_finite(tf.reduce_sum(norms))
    return tf.reduce_all(
        [
            tf.reduce_all(tf.math.is_finite(value if is_wide else norm))
            for value, norm, is_wide in zip(values, tf.unstack(norms, len(values)), are_wide)
        ]
    )
