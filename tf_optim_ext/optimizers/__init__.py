"""The optimizers, one file each."""

from tf_optim_ext.optimizers.adam import Adam
from tf_optim_ext.optimizers.adamw import AdamW
from tf_optim_ext.optimizers.lamb import Lamb
from tf_optim_ext.optimizers.lion import Lion
from tf_optim_ext.optimizers.sgd import SGD

ALL = (SGD, Adam, AdamW, Lion, Lamb)
"""Every optimizer; what is built, documented and tested is a loop over this."""
