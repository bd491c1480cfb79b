"""Makes compiled Keras models use averaged weights by themselves.

Keras does not tell an optimizer when a model is evaluated or saved, so this module wraps methods of
`keras.Model`: once, when the first optimizer with averaged weights is made. Other programs are not
affected. It wraps the callback `SwapEMAWeights` likewise, for `use_ema`.
"""

import contextlib
import functools
import inspect
from typing import Any

import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.state.state import State

WITH_AVERAGED_WEIGHTS = (
    "evaluate",
    "predict",
    "test_on_batch",
    "predict_on_batch",
    "save",
    "save_weights",
    "export",
)


class _AveragedWeights:
    """Switches the model's variables between training weights and averaged weights.

    For optimizers that keep both, such as `ScheduleFreeAdamW` and `MovingAverage`: training weights
    while batches are trained on; averaged weights for evaluation, at the end of every epoch (put
    this callback before those that save the model then) and after the training. For the
    schedule-free optimizers, `fit` of a compiled model adds it by itself.
    """

    model: Any

    def __init__(self):
        super().__init__()
        self._contexts = []

    def _forget_contexts(self):
        for context in self._contexts:
            context.forget()
        self._contexts = []

    def on_train_begin(self, logs=None):
        self._forget_contexts()  # of a training that an exception ended

    def on_epoch_begin(self, epoch, logs=None):
        self._leave_contexts()
        # They hold averaged weights also if a callback restored a backup.
        _use_training_weights(self.model)

    def on_epoch_end(self, epoch, logs=None):
        self._enter_contexts()

    def on_test_begin(self, logs=None):
        self._leave_contexts()
        self._enter_contexts()

    def on_test_end(self, logs=None):
        self._leave_contexts()

    def on_train_end(self, logs=None):
        self._forget_contexts()
        for optimizer in optimizers_with_averages(self.model):
            optimizer.use_averaged_weights()

    def _enter_contexts(self):
        self._contexts = [o.averaged_weights() for o in optimizers_with_averages(self.model)]
        for context in self._contexts:
            context.__enter__()

    def _leave_contexts(self):
        for context in self._contexts:
            # Unless a callback loaded other weights at the end of the epoch.
            if context.undisturbed():
                context.__exit__()
        self._forget_contexts()


@functools.cache
def averaged_weights(keras):
    """The class `AveragedWeights`, a callback of a generation of Keras."""
    attributes = {"__doc__": _AveragedWeights.__doc__, "__module__": "tf_optim_ext"}
    return type("AveragedWeights", (_AveragedWeights, keras.callbacks.Callback), attributes)


def averaging_optimizers(model):
    """The optimizers of a compiled model that train at other weights than the averaged ones.

    What uses the model must switch by itself, as those others are of no use to anybody else.
    """
    return _averaging(getattr(model, "optimizer", None))


def optimizers_with_averages(model):
    """The optimizers of a compiled model that keep averaged weights, for those who ask for them."""
    return _averaging(getattr(model, "optimizer", None), "averaged_weights")


def _averaging(optimizer, method="use_training_weights"):
    if hasattr(optimizer, method):
        return [optimizer]
    # Of `LossScaleOptimizer`, `MultiOptimizer` and others around one.
    inner = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "optimizers", ())]
    return [found for each in inner if each is not None for found in _averaging(each, method)]


def _use_training_weights(model):
    optimizers = averaging_optimizers(model)
    if optimizers:
        _build(model)
    for optimizer in optimizers:
        optimizer.use_training_weights()


def _build(model):
    """Builds the optimizer: only then it is known of loaded weights whether they are averaged."""
    if model.built and not all(each.built for each in averaging_optimizers(model)):
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


def _averaged(method):
    @functools.wraps(method)
    def run(model, *args, **kwargs):
        with contextlib.ExitStack() as stack:
            optimizers = averaging_optimizers(model)
            if any(optimizer._has_pending_state for optimizer in optimizers):
                _build(model)
            for optimizer in optimizers:
                stack.enter_context(optimizer.averaged_weights())
            return method(model, *args, **kwargs)

    return run


def _fit(method, keras):
    @functools.wraps(method)
    def fit(model, *args, **kwargs):
        if averaging_optimizers(model):
            bound = inspect.signature(method).bind(model, *args, **kwargs)
            callbacks = bound.arguments.get("callbacks")
            bound.arguments["callbacks"] = _with_averages(callbacks, model, keras)
            return method(*bound.args, **bound.kwargs)
        return method(model, *args, **kwargs)

    return fit


def _with_averages(callbacks, model, keras):
    """Callbacks with `AveragedWeights` first, so that the others find the weights they want."""
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    members = callbacks.callbacks if is_list else tf.nest.flatten(callbacks or [])
    if any(isinstance(callback, _AveragedWeights) for callback in members):
        return callbacks
    added = averaged_weights(keras)()
    if not is_list:
        return [added, *members]
    added.set_model(model)
    members.insert(0, added)
    return callbacks


def _train_on_batch(method):
    @functools.wraps(method)
    def train_on_batch(model, *args, **kwargs):
        _use_training_weights(model)
        return method(model, *args, **kwargs)

    return train_on_batch


@functools.cache
def install(keras):
    """Wraps the methods of the models of a generation of Keras."""
    model = keras.Model
    for name in WITH_AVERAGED_WEIGHTS:
        setattr(model, name, _averaged(getattr(model, name)))
    model.fit = _fit(model.fit, keras)
    model.train_on_batch = _train_on_batch(model.train_on_batch)


def _swap(method):
    @functools.wraps(method)
    def swap(callback, optimizer):
        if not isinstance(optimizer, State):
            method(callback, optimizer)
            return
        if _averaging(optimizer):
            raise ValueError(
                f"`SwapEMAWeights` was given for {optimizer.name!r}, which averages its weights "
                "itself: leave out this callback, and `use_ema`."
            )
        optimized, kept = optimizer._optimized, _kept_weights(callback)
        variables = [_keras.tensorflow_variable(v) for v in optimized]
        if _keras.has_swapped(callback):
            for variable, value in zip(variables, kept.pop(id(optimizer), ())):
                variable.assign(value)
        else:
            kept[id(optimizer)] = [tf.identity(v) for v in variables]
            optimizer._assign_averages(optimized)

    return swap


def _finalize(method):
    @functools.wraps(method)
    def finalize(callback, optimizer):
        if isinstance(optimizer, State):
            # The averages are still in their slots; another training begins with them.
            _kept_weights(callback)[id(optimizer)] = ()
        else:
            method(callback, optimizer)

    return finalize


def _kept_weights(callback):
    """The weights that averages replaced: dict from the `id` of an optimizer to a list."""
    return vars(callback).setdefault("_kept_weights", {})


@functools.cache
def install_swap(keras):
    """Makes `SwapEMAWeights` keep the weights aside while the model has the averages.

    Keras exchanges the two by sums and differences, which needs equal dtypes, and rounds; but
    averages are float32 also for 16-bit weights, which could not hold them. Keras 2 has no such
    callback.
    """
    callback = getattr(keras.callbacks, "SwapEMAWeights", None)
    if callback is not None:
        _keras.wrap_swap(callback, _swap, _finalize)
