"""Optimizers for TensorFlow: the whole interface, one fused update per step."""

from tf_optim_ext import native
from tf_optim_ext.optimizer import Optimizer
from tf_optim_ext.optimizers import SGD, Adam, AdamW, Lamb, Lion
from tf_optim_ext.route import portable
from tf_optim_ext.version import __version__

__all__ = ["SGD", "Adam", "AdamW", "Lamb", "Lion", "Optimizer", "__version__", "native", "portable"]
