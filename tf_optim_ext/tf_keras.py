"""The same for Keras 2, the package `tf_keras`, in programs where `tf.keras` is Keras 3.

Has every name of `tf_optim_ext`, with optimizers and schedules of Keras 2. Where `tf.keras` is
Keras 2, as TF_USE_LEGACY_KERAS=1 says, both are the same.
"""

import functools
import types
from typing import Any

import tf_optim_ext
from tf_optim_ext import _keras
from tf_optim_ext._keras import keras2
from tf_optim_ext.base import keras_hooks
from tf_optim_ext.base.groups import has_one_axis
from tf_optim_ext.base.optimizer import Optimizer as _Optimizer
from tf_optim_ext.schedules import Schedule as _Schedule
from tf_optim_ext.wrappers import callbacks
from tf_optim_ext.wrappers.around import AroundAnother

__all__ = list(tf_optim_ext.__all__)


_ROOTS = (_Optimizer, AroundAnother, _Schedule)
# What these are over, and what takes its place.
_BASES = (
    (_keras.KerasOptimizer, keras2.KerasOptimizer),
    (_keras.KerasWrapper, keras2.KerasWrapper),
    (_keras.KerasSchedule, keras2.KerasSchedule),
)


class _OverKeras2(type):
    """Of classes over what Keras 2 has in the place of the class that their bases are over."""

    def mro(cls):
        found = super().mro()
        here, of_keras_2 = next(pair for pair in _BASES if any(base in found for base in pair))
        replaced = {*here.__mro__, *of_keras_2.__mro__}
        return [base for base in found if base not in replaced] + [*of_keras_2.__mro__]


@functools.cache
def over_keras_2(cls):
    """A subclass of a class of this package that is one of Keras 2, and none of Keras 3."""
    if issubclass(cls, tuple(of_keras_2 for _, of_keras_2 in _BASES)):
        return cls
    bases = [over_keras_2(base) for base in cls.__bases__ if issubclass(base, _ROOTS)]
    attributes = {"__doc__": cls.__doc__, "__module__": __name__}
    if issubclass(cls, _Schedule):
        attributes["__qualname__"] = f"schedules.{cls.__name__}"
    made = _OverKeras2(cls.__name__, (cls, *bases), attributes)
    if cls in _ROOTS:
        return made
    return keras2.KerasOptimizer._api.saving.register_keras_serializable("tf_optim_ext")(made)


def _schedules():
    """The module `tf_optim_ext.schedules` with classes over Keras 2."""
    given = tf_optim_ext.schedules
    names: dict[str, Any] = {name: getattr(given, name) for name in given.__all__}
    for name, found in names.items():
        is_schedule = isinstance(found, type) and issubclass(found, _Schedule)
        names[name] = over_keras_2(found) if is_schedule else found
    module = types.ModuleType(f"{__name__}.schedules", given.__doc__)
    vars(module).update(names, __all__=list(names))
    return module


# At once, so that Keras 2 knows the classes of the schedules in files.
schedules = _schedules()


keras2.KerasOptimizer._api.saving.register_keras_serializable("tf_optim_ext")(has_one_axis)


def __getattr__(name):
    found = getattr(tf_optim_ext, name)
    if name == "AveragedWeights":
        return keras_hooks.averaged_weights(keras2.KerasOptimizer._api)
    if name == "AverageModelCheckpoint":
        return callbacks.average_model_checkpoint(keras2.KerasOptimizer._api)
    is_optimizer = isinstance(found, type) and issubclass(found, _ROOTS)
    return over_keras_2(found) if is_optimizer else found


def __dir__():
    return __all__
