"""Optimizers known from TensorFlow Addons, and those that follow signs."""

from references import addons

import tf_optim_ext
from registry.entry import Entry

_MOMENTS = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}
# The threshold is passed within the first steps; the rate rises, falls, and is at its end before
# the last.
_RECTIFIED = {
    **_MOMENTS,
    "sma_threshold": 4.5,
    "total_steps": 0,
    "warmup_proportion": 0.1,
    "min_lr": 0.0,
}
_WARMED_UP = {**_RECTIFIED, "total_steps": 9, "warmup_proportion": 0.4, "min_lr": 0.005}
_PENALTIES = {"l1_regularization_strength": 0.1, "l2_regularization_strength": 0.2}
_YOGI = {
    "learning_rate": 0.02,
    "beta1": 0.8,
    "beta2": 0.95,
    **_PENALTIES,
    "epsilon": 0.01,
    "initial_accumulator_value": 0.05,
    "weight_decay": 0.1,
}
_BAD_MOMENTS = {"beta_1": 1.0, "beta_2": -0.1, "epsilon": -1e-7}
_BAD_WARM_UP = {"total_steps": -1, "warmup_proportion": 1.5, "min_lr": -0.1, "sma_threshold": 3.0}
_BAD_PENALTIES = {"l1_regularization_strength": -0.1, "l2_regularization_strength": -0.1}

ENTRIES = [
    # Steps that are not normalised may be far larger than the weights, and cancel.
    Entry(
        tf_optim_ext.RectifiedAdam,
        {**_RECTIFIED, "amsgrad": False, "weight_decay": 0.1},
        addons.rectifiedadam,
        ("momentum", "velocity"),
        None,
        _BAD_MOMENTS,
        looseness={"w": 12.0},
    ),
    Entry(
        tf_optim_ext.RectifiedAdam,
        {**_WARMED_UP, "amsgrad": True, "weight_decay": 0.1},
        addons.rectifiedadam,
        ("momentum", "velocity", "velocity_hat"),
        None,
        {**_BAD_WARM_UP, "amsgrad": "yes"},
        "amsgrad-warmup",
        looseness={"w": 12.0},
    ),
    Entry(
        tf_optim_ext.AdaBelief,
        {**_WARMED_UP, "rectify": True, "amsgrad": False, "weight_decay": 0.1},
        addons.adabelief,
        ("momentum", "velocity"),
        None,
        {**_BAD_MOMENTS, **_BAD_WARM_UP},
        "warmup",
    ),
    Entry(
        tf_optim_ext.AdaBelief,
        {**_RECTIFIED, "rectify": False, "amsgrad": True, "weight_decay": None},
        addons.adabelief,
        ("momentum", "velocity", "velocity_hat"),
        None,
        {"rectify": "no", "amsgrad": 2},
        "amsgrad-unrectified",
    ),
    Entry(
        tf_optim_ext.SGDW,
        {"weight_decay": 0.03, "learning_rate": 0.05, "momentum": 0.0, "nesterov": False},
        addons.sgdw,
        (),
        None,
        {"weight_decay": None, "momentum": 1.5},
    ),
    Entry(
        tf_optim_ext.SGDW,
        {"weight_decay": 0.03, "learning_rate": 0.05, "momentum": 0.7, "nesterov": True},
        addons.sgdw,
        ("momentum",),
        None,
        {"weight_decay": -0.1, "nesterov": "yes"},
        "nesterov",
    ),
    # The reward is a sum of gains and losses that cancel.
    Entry(
        tf_optim_ext.COCOB,
        {"alpha": 4.0, "epsilon": 1e-3, "learning_rate": 0.5, "weight_decay": 0.1},
        addons.cocob,
        ("lipschitz", "gradient_norm_sum", "reward", "gradient_sum", "initial_weights"),
        None,
        {"alpha": -1.0, "epsilon": -1e-8},
        looseness={"reward": 30000.0},
    ),
    # A weight is what is left of it beyond a threshold.
    Entry(
        tf_optim_ext.ProximalAdagrad,
        {
            "learning_rate": 0.05,
            "initial_accumulator_value": 0.3,
            **_PENALTIES,
            "weight_decay": 0.1,
        },
        addons.proximaladagrad,
        ("accumulator",),
        None,
        {"initial_accumulator_value": -0.1, **_BAD_PENALTIES},
        looseness={"w": 15.0},
    ),
    # A weight is what is left of it beyond a threshold: in places a thousandth of what it was.
    Entry(
        tf_optim_ext.Yogi,
        {**_YOGI, "activation": "sign"},
        addons.yogi,
        ("momentum", "velocity"),
        None,
        {"beta1": 1.0, "beta2": -0.1, **_BAD_PENALTIES},
        looseness={"w": 500.0},
    ),
    Entry(
        tf_optim_ext.Yogi,
        {**_YOGI, "activation": "tanh"},
        addons.yogi,
        ("momentum", "velocity"),
        None,
        {"activation": "relu", "initial_accumulator_value": -1.0},
        "tanh",
        looseness={"w": 500.0},
    ),
    # The gradient and the decay of the weights cancel in places.
    Entry(
        tf_optim_ext.LARS,
        {
            "learning_rate": 0.5,
            "momentum": 0.7,
            "trust_coefficient": 0.1,
            "epsilon": 0.01,
            "nesterov": False,
            "weight_decay": 0.1,
        },
        addons.lars,
        ("momentum",),
        None,
        {"momentum": 1.5, "trust_coefficient": -0.1, "epsilon": -1.0},
        looseness={"momentum": 300.0},
        underflow=1e-36,
    ),
    Entry(
        tf_optim_ext.LARS,
        {
            "learning_rate": 0.5,
            "momentum": 0.7,
            "trust_coefficient": 0.1,
            "epsilon": 0.01,
            "nesterov": True,
            "weight_decay": None,
        },
        addons.lars,
        ("momentum",),
        None,
        {"nesterov": "yes", "weight_decay": -0.1},
        "nesterov",
        underflow=1e-36,
    ),
    Entry(
        tf_optim_ext.Signum,
        {"learning_rate": 0.02, "momentum": 0.7, "weight_decay": 0.1},
        addons.signum,
        ("momentum",),
        None,
        {"momentum": 1.1},
    ),
    Entry(
        tf_optim_ext.SignSGD,
        {"learning_rate": 0.02, "weight_decay": 0.1},
        addons.signsgd,
        (),
        None,
        {"learning_rate": -1.0},
    ),
    Entry(
        tf_optim_ext.Tiger,
        {"learning_rate": 0.02, "beta": 0.8, "weight_decay": 0.2},
        addons.tiger,
        ("momentum",),
        None,
        {"beta": 1.1, "weight_decay": -0.1},
    ),
]
