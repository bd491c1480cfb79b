"""Private names of the callback `SwapEMAWeights`, which Keras 2 has not."""


def wrap_swap(callback, swap, finalize):
    """Puts functions around those that exchange weights and averages.

    Args:
        callback: the class `SwapEMAWeights`.
        swap, finalize: functions from the method of Keras to what replaces it.
    """
    callback._tf_swap_variables = swap(callback._tf_swap_variables)
    callback._tf_finalize_ema_values = finalize(callback._tf_finalize_ema_values)


def has_swapped(callback):
    """Whether the model of a `SwapEMAWeights` holds the averages."""
    return callback._ema_weights_in_model
