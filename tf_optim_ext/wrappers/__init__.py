"""Optimizers around others."""

from tf_optim_ext.wrappers.average_wrapper import AveragedOptimizerWrapper
from tf_optim_ext.wrappers.lookahead import Lookahead
from tf_optim_ext.wrappers.moving_average import MovingAverage
from tf_optim_ext.wrappers.multi_optimizer import MultiOptimizer
from tf_optim_ext.wrappers.sam import ASAM, GSAM, SAM
from tf_optim_ext.wrappers.swa import SWA

ALL = (Lookahead, MovingAverage, SWA, MultiOptimizer)

__all__ = [*(cls.__name__ for cls in ALL), "ASAM", "GSAM", "SAM", "AveragedOptimizerWrapper"]
