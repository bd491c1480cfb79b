"""Optimizers for TensorFlow: the whole interface, one fused update per step."""

import importlib

from tf_optim_ext import _keras, optimizers, schedules, wrappers
from tf_optim_ext.backends import native
from tf_optim_ext.base import keras_hooks
from tf_optim_ext.base.declaration import (
    Boolean,
    Choice,
    Computed,
    Derived,
    Hyperparameter,
    OptimizerScalar,
    Slot,
    VariableScalar,
)
from tf_optim_ext.base.groups import Group, layerwise_learning_rates, no_decay_of_biases_and_norms
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.engine.route import portable
from tf_optim_ext.optimizers import *  # noqa: F403
from tf_optim_ext.version import __version__
from tf_optim_ext.wrappers import *  # noqa: F403
from tf_optim_ext.wrappers import callbacks

AveragedWeights = keras_hooks.averaged_weights(_keras.KerasOptimizer._api)
AverageModelCheckpoint = callbacks.average_model_checkpoint(_keras.KerasOptimizer._api)

native.load()

__all__ = [
    *optimizers.__all__,
    *wrappers.__all__,
    "AverageModelCheckpoint",
    "AveragedWeights",
    "Boolean",
    "Choice",
    "Computed",
    "Derived",
    "Group",
    "Hyperparameter",
    "Optimizer",
    "OptimizerScalar",
    "Slot",
    "VariableScalar",
    "__version__",
    "layerwise_learning_rates",
    "native",
    "no_decay_of_biases_and_norms",
    "portable",
    "schedules",
]


def __getattr__(name):
    if name == "tf_keras":  # not before it is asked for, as it imports Keras 2
        return importlib.import_module("tf_optim_ext.tf_keras")
    raise AttributeError(f"module 'tf_optim_ext' has no attribute {name!r}")
