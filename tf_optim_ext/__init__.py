"""Optimizers for TensorFlow: the whole interface, one fused update per step."""

from tf_optim_ext import (
    _keras,  # noqa: F401 (refuses versions that do not work)
    optimizers,
)
from tf_optim_ext.backends import native
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
from tf_optim_ext.base.keras_hooks import AveragedWeights
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.engine.route import portable
from tf_optim_ext.optimizers import *  # noqa: F403
from tf_optim_ext.version import __version__

native.load()

__all__ = [
    *optimizers.__all__,
    "AveragedWeights",
    "Boolean",
    "Choice",
    "Computed",
    "Derived",
    "Hyperparameter",
    "Optimizer",
    "OptimizerScalar",
    "Slot",
    "VariableScalar",
    "__version__",
    "native",
    "portable",
]
