"""The same optimizers for Keras 2, the package `tf_keras`, in programs where `tf.keras` is Keras 3.

Has every name of `tf_optim_ext`. Where `tf.keras` is Keras 2, as TF_USE_LEGACY_KERAS=1 says, both
are the same.
"""

import functools

import tf_optim_ext
from tf_optim_ext import _keras
from tf_optim_ext._keras import keras2
from tf_optim_ext.base import keras_hooks
from tf_optim_ext.base.optimizer import Optimizer as _Optimizer
from tf_optim_ext.wrappers import callbacks

__all__ = list(tf_optim_ext.__all__)


class _OverKeras2(type):
    """Of classes over Keras 2's optimizer, in the place of the one that their bases are over."""

    def mro(cls):
        of_keras_2 = keras2.KerasOptimizer.__mro__
        replaced = {*_keras.KerasOptimizer.__mro__, *of_keras_2}
        return [base for base in super().mro() if base not in replaced] + [*of_keras_2]


@functools.cache
def over_keras_2(cls):
    """A subclass of an optimizer of this package that is one of Keras 2, and none of Keras 3."""
    if issubclass(cls, keras2.KerasOptimizer):
        return cls
    bases = [over_keras_2(base) for base in cls.__bases__ if issubclass(base, _Optimizer)]
    attributes = {"__doc__": cls.__doc__, "__module__": __name__}
    made = _OverKeras2(cls.__name__, (cls, *bases), attributes)
    if cls is _Optimizer:
        return made
    return keras2.KerasOptimizer._api.saving.register_keras_serializable("tf_optim_ext")(made)


def __getattr__(name):
    found = getattr(tf_optim_ext, name)
    if name == "AveragedWeights":
        return keras_hooks.averaged_weights(keras2.KerasOptimizer._api)
    if name == "AverageModelCheckpoint":
        return callbacks.average_model_checkpoint(keras2.KerasOptimizer._api)
    is_optimizer = isinstance(found, type) and issubclass(found, _Optimizer)
    return over_keras_2(found) if is_optimizer else found


def __dir__():
    return __all__
