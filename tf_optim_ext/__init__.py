"""Optimizers for TensorFlow: the whole interface, one fused update per step."""

from tf_optim_ext import native
from tf_optim_ext.optimizer import Optimizer
from tf_optim_ext.optimizers import SGD, Adam, AdamW, Lamb, Lion
from tf_optim_ext.route import portable

__version__ = "0.1.0"
__all__ = ["SGD", "Adam", "AdamW", "Lamb", "Lion", "Optimizer", "native", "portable"]
