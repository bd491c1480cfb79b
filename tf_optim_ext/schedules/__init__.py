"""Schedules for learning rates and other hyperparameters, pictures of them, and a range test.

Each is a `LearningRateSchedule` of Keras, for optimizers of this package and for Keras' own. All
hyperparameters of the optimizers of this package may be schedules.
"""

from tf_optim_ext.schedules.cyclical import (
    CyclicalLearningRate,
    ExponentialCyclicalLearningRate,
    Triangular2CyclicalLearningRate,
    TriangularCyclicalLearningRate,
)
from tf_optim_ext.schedules.decays import REX, Cosine, Linear, Polynomial
from tf_optim_ext.schedules.inverse_square_root import InverseSquareRoot
from tf_optim_ext.schedules.one_cycle import OneCycle
from tf_optim_ext.schedules.plotting import plot
from tf_optim_ext.schedules.range_test import RangeTest, find_learning_rate
from tf_optim_ext.schedules.schedule import Schedule
from tf_optim_ext.schedules.warmup import Warmup
from tf_optim_ext.schedules.warmup_stable_decay import WarmupStableDecay

__all__ = [
    "REX",
    "Cosine",
    "CyclicalLearningRate",
    "ExponentialCyclicalLearningRate",
    "InverseSquareRoot",
    "Linear",
    "OneCycle",
    "Polynomial",
    "RangeTest",
    "Schedule",
    "Triangular2CyclicalLearningRate",
    "TriangularCyclicalLearningRate",
    "Warmup",
    "WarmupStableDecay",
    "find_learning_rate",
    "plot",
]
