"""A callback that saves averaged weights."""

# mypy: disable-error-code="call-arg, misc"
# A mixin: what it calls is that of the callback beside it, of which mypy knows nothing.

import contextlib
import functools
from typing import Any

from tf_optim_ext import _keras
from tf_optim_ext.base import keras_hooks


class _AverageModelCheckpoint:
    """`ModelCheckpoint` that saves models with averaged weights.

    For models that are compiled with `MovingAverage`, `SWA` or another optimizer that keeps
    averages, also inside a `LossScaleOptimizer` or a `MultiOptimizer`. To validate with the
    averages as well, put the callback `AveragedWeights` before it.

    Args:
        update_weights: whether the model keeps the averages, and trains on from there; otherwise it
            has them only while it is saved.
        filepath, monitor, verbose, save_best_only, save_weights_only, mode, save_freq, **kwargs:
            see `keras.callbacks.ModelCheckpoint`.

    Raises:
        TypeError: when a training begins: the optimizer keeps no averages.
    """

    model: Any

    def __init__(
        self,
        update_weights,
        filepath,
        monitor="val_loss",
        verbose=0,
        save_best_only=False,
        save_weights_only=False,
        mode="auto",
        save_freq="epoch",
        **kwargs,
    ):
        self.update_weights = bool(update_weights)
        super().__init__(
            filepath,
            monitor=monitor,
            verbose=verbose,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only,
            mode=mode,
            save_freq=save_freq,
            **kwargs,
        )

    def set_model(self, model):
        super().set_model(model)
        if not keras_hooks.optimizers_with_averages(model):
            raise TypeError(
                "`AverageModelCheckpoint` needs an optimizer that keeps averages of the weights, "
                f"such as `MovingAverage`. Received: {getattr(model, 'optimizer', None)!r}"
            )

    def _saved_within(self):
        """The context in which the model is saved."""
        optimizers = keras_hooks.optimizers_with_averages(self.model)
        stack = contextlib.ExitStack()
        for optimizer in optimizers:
            if self.update_weights:
                optimizer.use_averaged_weights()
            else:
                stack.enter_context(optimizer.averaged_weights())
        return stack


@functools.cache
def average_model_checkpoint(keras):
    """The class `AverageModelCheckpoint`, a callback of a generation of Keras."""
    bases = (_AverageModelCheckpoint, _keras.checkpoint_with_context(keras))
    attributes = {"__doc__": _AverageModelCheckpoint.__doc__, "__module__": "tf_optim_ext"}
    return type("AverageModelCheckpoint", bases, attributes)
