"""The optimizers, one file each."""

from tf_optim_ext.optimizers.adabelief import AdaBelief
from tf_optim_ext.optimizers.adabound import AdaBound
from tf_optim_ext.optimizers.adadelta import Adadelta
from tf_optim_ext.optimizers.adagrad import Adagrad
from tf_optim_ext.optimizers.adam import Adam
from tf_optim_ext.optimizers.adamax import Adamax
from tf_optim_ext.optimizers.adamaxw import AdamaxW
from tf_optim_ext.optimizers.adamw import AdamW
from tf_optim_ext.optimizers.adan import Adan
from tf_optim_ext.optimizers.addons_lamb import LAMB
from tf_optim_ext.optimizers.ademamix import AdEMAMix
from tf_optim_ext.optimizers.adopt import ADOPT
from tf_optim_ext.optimizers.amsbound import AMSBound
from tf_optim_ext.optimizers.cocob import COCOB
from tf_optim_ext.optimizers.conditional_gradient import ConditionalGradient
from tf_optim_ext.optimizers.dadapt_adam import DAdaptAdam
from tf_optim_ext.optimizers.dadapt_lion import DAdaptLion
from tf_optim_ext.optimizers.dadapt_sgd import DAdaptSGD
from tf_optim_ext.optimizers.decoupled_weight_decay import (
    DecoupledWeightDecayExtension,
    extend_with_decoupled_weight_decay,
)
from tf_optim_ext.optimizers.dog import DoG
from tf_optim_ext.optimizers.ftrl import Ftrl
from tf_optim_ext.optimizers.grams import Grams
from tf_optim_ext.optimizers.lamb import Lamb
from tf_optim_ext.optimizers.laprop import LaProp
from tf_optim_ext.optimizers.lars import LARS
from tf_optim_ext.optimizers.lazy_adam import LazyAdam
from tf_optim_ext.optimizers.ldog import LDoG
from tf_optim_ext.optimizers.lion import Lion
from tf_optim_ext.optimizers.madgrad import MADGRAD
from tf_optim_ext.optimizers.mars import MARS
from tf_optim_ext.optimizers.nadam import Nadam
from tf_optim_ext.optimizers.nadamw import NAdamW
from tf_optim_ext.optimizers.novograd import NovoGrad
from tf_optim_ext.optimizers.prodigy import Prodigy
from tf_optim_ext.optimizers.proximal_adagrad import ProximalAdagrad
from tf_optim_ext.optimizers.qhadam import QHAdam
from tf_optim_ext.optimizers.qhm import QHM
from tf_optim_ext.optimizers.rectified_adam import RectifiedAdam
from tf_optim_ext.optimizers.rmsprop import RMSprop
from tf_optim_ext.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from tf_optim_ext.optimizers.schedule_free_radam import ScheduleFreeRAdam
from tf_optim_ext.optimizers.schedule_free_sgd import ScheduleFreeSGD
from tf_optim_ext.optimizers.sgd import SGD
from tf_optim_ext.optimizers.sgdw import SGDW
from tf_optim_ext.optimizers.sign_sgd import SignSGD
from tf_optim_ext.optimizers.signum import Signum
from tf_optim_ext.optimizers.sophia import Sophia
from tf_optim_ext.optimizers.stable_adamw import StableAdamW
from tf_optim_ext.optimizers.tiger import Tiger
from tf_optim_ext.optimizers.yogi import Yogi

ALL = (
    SGD,
    SGDW,
    QHM,
    SignSGD,
    Signum,
    Lion,
    Tiger,
    Adam,
    AdamW,
    LazyAdam,
    Nadam,
    NAdamW,
    Adamax,
    AdamaxW,
    RMSprop,
    Adagrad,
    Adadelta,
    ProximalAdagrad,
    Ftrl,
    AdaBelief,
    RectifiedAdam,
    Yogi,
    AdaBound,
    AMSBound,
    Adan,
    ADOPT,
    AdEMAMix,
    Grams,
    LaProp,
    MADGRAD,
    MARS,
    QHAdam,
    Sophia,
    StableAdamW,
    Lamb,
    LAMB,
    LARS,
    NovoGrad,
    ConditionalGradient,
    COCOB,
    DoG,
    LDoG,
    DAdaptAdam,
    DAdaptLion,
    DAdaptSGD,
    Prodigy,
    ScheduleFreeAdamW,
    ScheduleFreeRAdam,
    ScheduleFreeSGD,
)
"""Every optimizer; what is built, documented and tested is a loop over this."""

__all__ = [
    "ADOPT",
    "ALL",
    "COCOB",
    "LAMB",
    "LARS",
    "MADGRAD",
    "MARS",
    "QHM",
    "SGD",
    "SGDW",
    "AMSBound",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "AdamaxW",
    "Adan",
    "ConditionalGradient",
    "DAdaptAdam",
    "DAdaptLion",
    "DAdaptSGD",
    "DecoupledWeightDecayExtension",
    "DoG",
    "Ftrl",
    "Grams",
    "LDoG",
    "LaProp",
    "Lamb",
    "LazyAdam",
    "Lion",
    "NAdamW",
    "Nadam",
    "NovoGrad",
    "Prodigy",
    "ProximalAdagrad",
    "QHAdam",
    "RMSprop",
    "RectifiedAdam",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "SignSGD",
    "Signum",
    "Sophia",
    "StableAdamW",
    "Tiger",
    "Yogi",
    "extend_with_decoupled_weight_decay",
]
