"""All optimizers, by family; docs, tests and kernels follow this list."""

from tf_optim_ext.base.optimizer import Optimizer

# isort: off

# Signs and momentum
from tf_optim_ext.optimizers.sgd import SGD as SGD
from tf_optim_ext.optimizers.sgdw import SGDW as SGDW
from tf_optim_ext.optimizers.qhm import QHM as QHM
from tf_optim_ext.optimizers.sign_sgd import SignSGD as SignSGD
from tf_optim_ext.optimizers.signum import Signum as Signum
from tf_optim_ext.optimizers.lion import Lion as Lion
from tf_optim_ext.optimizers.tiger import Tiger as Tiger

# Adam and its kin
from tf_optim_ext.optimizers.adam import Adam as Adam
from tf_optim_ext.optimizers.adamw import AdamW as AdamW
from tf_optim_ext.optimizers.lazy_adam import LazyAdam as LazyAdam
from tf_optim_ext.optimizers.nadam import Nadam as Nadam
from tf_optim_ext.optimizers.nadamw import NAdamW as NAdamW
from tf_optim_ext.optimizers.adamax import Adamax as Adamax
from tf_optim_ext.optimizers.adamaxw import AdamaxW as AdamaxW
from tf_optim_ext.optimizers.rmsprop import RMSprop as RMSprop
from tf_optim_ext.optimizers.adagrad import Adagrad as Adagrad
from tf_optim_ext.optimizers.adadelta import Adadelta as Adadelta
from tf_optim_ext.optimizers.proximal_adagrad import ProximalAdagrad as ProximalAdagrad
from tf_optim_ext.optimizers.ftrl import Ftrl as Ftrl
from tf_optim_ext.optimizers.adabelief import AdaBelief as AdaBelief
from tf_optim_ext.optimizers.rectified_adam import RectifiedAdam as RectifiedAdam
from tf_optim_ext.optimizers.yogi import Yogi as Yogi
from tf_optim_ext.optimizers.adabound import AdaBound as AdaBound
from tf_optim_ext.optimizers.amsbound import AMSBound as AMSBound

# Descendants of Adam
from tf_optim_ext.optimizers.adan import Adan as Adan
from tf_optim_ext.optimizers.adopt import ADOPT as ADOPT
from tf_optim_ext.optimizers.ademamix import AdEMAMix as AdEMAMix
from tf_optim_ext.optimizers.grams import Grams as Grams
from tf_optim_ext.optimizers.laprop import LaProp as LaProp
from tf_optim_ext.optimizers.madgrad import MADGRAD as MADGRAD
from tf_optim_ext.optimizers.mars import MARS as MARS
from tf_optim_ext.optimizers.qhadam import QHAdam as QHAdam
from tf_optim_ext.optimizers.sophia import Sophia as Sophia
from tf_optim_ext.optimizers.stable_adamw import StableAdamW as StableAdamW

# Norms of layers
from tf_optim_ext.optimizers.lamb import Lamb as Lamb
from tf_optim_ext.optimizers.addons_lamb import LAMB as LAMB
from tf_optim_ext.optimizers.lars import LARS as LARS
from tf_optim_ext.optimizers.novograd import NovoGrad as NovoGrad
from tf_optim_ext.optimizers.conditional_gradient import ConditionalGradient as ConditionalGradient

# Without a learning rate
from tf_optim_ext.optimizers.cocob import COCOB as COCOB
from tf_optim_ext.optimizers.dog import DoG as DoG
from tf_optim_ext.optimizers.ldog import LDoG as LDoG
from tf_optim_ext.optimizers.dadapt_adam import DAdaptAdam as DAdaptAdam
from tf_optim_ext.optimizers.dadapt_lion import DAdaptLion as DAdaptLion
from tf_optim_ext.optimizers.dadapt_sgd import DAdaptSGD as DAdaptSGD
from tf_optim_ext.optimizers.prodigy import Prodigy as Prodigy

# Without a schedule
from tf_optim_ext.optimizers.schedule_free_adamw import ScheduleFreeAdamW as ScheduleFreeAdamW
from tf_optim_ext.optimizers.schedule_free_radam import ScheduleFreeRAdam as ScheduleFreeRAdam
from tf_optim_ext.optimizers.schedule_free_sgd import ScheduleFreeSGD as ScheduleFreeSGD

# For any optimizer
from tf_optim_ext.optimizers.decoupled_weight_decay import (
    DecoupledWeightDecayExtension as DecoupledWeightDecayExtension,
    extend_with_decoupled_weight_decay as extend_with_decoupled_weight_decay,
)

ALL = tuple(
    each
    for each in list(globals().values())
    if isinstance(each, type) and issubclass(each, Optimizer) and each is not Optimizer
)
"""Every optimizer."""

__all__ = [
    *(cls.__name__ for cls in ALL),
    "DecoupledWeightDecayExtension",
    "extend_with_decoupled_weight_decay",
]
