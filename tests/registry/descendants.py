"""Optimizers that descend from Adam, and others that average gradients or their squares."""

from references import descendants

import tf_optim_ext
from registry.entry import Entry

_MOMENTS = {"beta_1": 1.5, "beta_2": -0.1, "epsilon": -1e-7}
_ADAM = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}
_MOMENTUM_VELOCITY = ("momentum", "velocity")
_BOUND = {**_ADAM, "final_learning_rate": 0.05, "gamma": 0.1}
_BAD_BOUND = {**_MOMENTS, "final_learning_rate": 0.0, "gamma": 0.0}
_ADEMAMIX = {**_ADAM, "beta_3": 0.98, "alpha": 3.0}
_BAD_ADEMAMIX = {
    **_MOMENTS,
    "beta_3": 1.0,
    "alpha": -1.0,
    "alpha_warmup_steps": -1,
    "beta_3_warmup_steps": "long",
}

ENTRIES = [
    Entry(
        tf_optim_ext.Adan,
        {**_ADAM, "beta_2": 0.7, "beta_3": 0.9, "weight_decay": 0.1},
        descendants.adan,
        ("momentum", "difference", "velocity", "previous_gradient"),
        None,
        {**_MOMENTS, "beta_3": 1.0, "weight_decay": -0.1},
    ),
    Entry(
        tf_optim_ext.ADOPT,
        {**_ADAM, "clipped": True, "weight_decay": 0.1},
        descendants.adopt,
        _MOMENTUM_VELOCITY,
        None,
        {**_MOMENTS, "clipped": "yes"},
    ),
    Entry(
        tf_optim_ext.ADOPT,
        {**_ADAM, "clipped": False, "weight_decay": None},
        descendants.adopt,
        _MOMENTUM_VELOCITY,
        None,
        {"clipped": 2},
        "unclipped",
    ),
    Entry(
        tf_optim_ext.AdEMAMix,
        {**_ADEMAMIX, "alpha_warmup_steps": 0, "beta_3_warmup_steps": 0, "weight_decay": None},
        descendants.ademamix,
        ("momentum", "slow_momentum", "velocity"),
        None,
        _BAD_ADEMAMIX,
    ),
    # The warm-ups end within the steps of a test, one after the other.
    Entry(
        tf_optim_ext.AdEMAMix,
        {**_ADEMAMIX, "alpha_warmup_steps": 5, "beta_3_warmup_steps": 8, "weight_decay": 0.1},
        descendants.ademamix,
        ("momentum", "slow_momentum", "velocity"),
        None,
        _BAD_ADEMAMIX,
        "warmup",
    ),
    Entry(
        tf_optim_ext.LaProp,
        {**_ADAM, "weight_decay": 0.1},
        descendants.laprop,
        _MOMENTUM_VELOCITY,
        None,
        _MOMENTS,
    ),
    Entry(
        tf_optim_ext.QHAdam,
        {**_ADAM, "nu_1": 0.6, "nu_2": 0.9, "weight_decay": None},
        descendants.qhadam,
        _MOMENTUM_VELOCITY,
        None,
        {**_MOMENTS, "nu_1": 1.1, "nu_2": -0.1},
    ),
    Entry(
        tf_optim_ext.QHM,
        {"learning_rate": 0.05, "beta": 0.9, "nu": 0.6, "weight_decay": 0.03},
        descendants.qhm,
        ("momentum",),
        None,
        {"beta": 1.0, "nu": 1.1},
    ),
    # The bounds cut off on both sides.
    Entry(
        tf_optim_ext.AdaBound,
        {**_BOUND, "amsgrad": False, "weight_decay": None},
        descendants.adabound,
        _MOMENTUM_VELOCITY,
        None,
        _BAD_BOUND,
    ),
    Entry(
        tf_optim_ext.AdaBound,
        {**_BOUND, "amsgrad": True, "weight_decay": 0.1},
        descendants.adabound,
        ("momentum", "velocity", "velocity_hat"),
        None,
        {"amsgrad": 3},
        "amsgrad",
    ),
    Entry(
        tf_optim_ext.AMSBound,
        {**_BOUND, "weight_decay": 0.1},
        descendants.amsbound,
        ("momentum", "velocity", "velocity_hat"),
        None,
        _BAD_BOUND,
    ),
    Entry(
        tf_optim_ext.StableAdamW,
        {**_ADAM, "weight_decay": 0.1},
        descendants.stableadamw,
        _MOMENTUM_VELOCITY,
        None,
        _MOMENTS,
    ),
    Entry(
        tf_optim_ext.MADGRAD,
        {"learning_rate": 0.02, "momentum": 0.7, "epsilon": 1e-3, "weight_decay": 0.1},
        descendants.madgrad,
        ("gradient_sum", "squared_sum", "initial_weights"),
        None,
        {"momentum": 1.0, "epsilon": -1e-7},
    ),
    # Its norm is that of elements of very different magnitudes.
    Entry(
        tf_optim_ext.MARS,
        {**_ADAM, "gamma": 0.1, "weight_decay": 0.1},
        descendants.mars,
        ("momentum", "velocity", "previous_gradient"),
        None,
        {**_MOMENTS, "gamma": -0.1},
        looseness={"w": 2.0, "velocity": 1.5},
    ),
    Entry(
        tf_optim_ext.Grams,
        {**_ADAM, "weight_decay": 0.1},
        descendants.grams,
        _MOMENTUM_VELOCITY,
        None,
        _MOMENTS,
    ),
]
