"""Optimizers with scalar state, and options."""

import references
from references import addons, descendants, parameter_free, schedule_free

import tf_optim_ext
from registry.entry import Entry

_ADAM = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}
_BAD_MOMENTS = {"beta_1": 1.0, "beta_2": -0.1, "epsilon": -1e-7}
_AVERAGE = {"r": 0.5, "weight_lr_power": 1.5}
_BAD_AVERAGE = {"r": -0.1, "weight_lr_power": -1.0}
_D = {"initial_d": 0.01, "growth_rate": 1.5}
_BAD_D = {"initial_d": 0.0, "growth_rate": 0.5}

ENTRIES = [
    Entry(
        tf_optim_ext.Nadam,
        {**_ADAM, "weight_decay": 0.1},
        references.nadam,
        ("momentum", "velocity"),
        "Nadam",
        _BAD_MOMENTS,
    ),
    Entry(
        tf_optim_ext.NAdamW,
        {**_ADAM, "momentum_decay": 0.1, "weight_decay": 0.1},
        descendants.nadamw,
        ("momentum", "velocity"),
        None,
        {**_BAD_MOMENTS, "momentum_decay": -0.1},
    ),
    # Updates of less than the bound are not normalised, and cancel.
    Entry(
        tf_optim_ext.Sophia,
        {
            "learning_rate": 0.02,
            "beta_1": 0.8,
            "beta_2": 0.95,
            "rho": 0.1,
            "epsilon": 1e-3,
            "weight_decay": 0.1,
        },
        descendants.sophia,
        ("momentum", "hessian"),
        None,
        {**_BAD_MOMENTS, "rho": 0.0},
        looseness={"w": 16.0},
    ),
    # The gradient and the decay of the weights cancel in places.
    Entry(
        tf_optim_ext.NovoGrad,
        {**_ADAM, "grad_averaging": True, "amsgrad": False, "weight_decay": 0.1},
        addons.novograd,
        ("momentum", "velocity"),
        None,
        {**_BAD_MOMENTS, "grad_averaging": "yes"},
        looseness={"momentum": 10.0},
    ),
    Entry(
        tf_optim_ext.NovoGrad,
        {**_ADAM, "grad_averaging": False, "amsgrad": True, "weight_decay": None},
        addons.novograd,
        ("momentum", "velocity", "velocity_hat"),
        None,
        {"amsgrad": "yes"},
        "amsgrad",
    ),
    Entry(
        tf_optim_ext.ConditionalGradient,
        {
            "learning_rate": 0.9,
            "lambda_": 0.5,
            "epsilon": 1e-3,
            "ord": "fro",
            "weight_decay": 0.1,
        },
        addons.conditionalgradient,
        (),
        None,
        {"lambda_": -1.0, "epsilon": -1e-7, "ord": "l2"},
    ),
    Entry(
        tf_optim_ext.LAMB,
        {**_ADAM, "weight_decay": 0.1},
        references.lamb,
        ("momentum", "velocity"),
        None,
        _BAD_MOMENTS,
    ),
    Entry(
        tf_optim_ext.AdamW,
        {**_ADAM, "weight_decay": 0.1},
        descendants.cautious_adamw,
        ("momentum", "velocity"),
        None,
        {"cautious": "yes"},
        "cautious",
        {"cautious": True},
    ),
    Entry(
        tf_optim_ext.Lion,
        {"learning_rate": 0.01, "beta_1": 0.7, "beta_2": 0.85, "weight_decay": 0.2},
        descendants.cautious_lion,
        ("momentum",),
        None,
        {"cautious": 2},
        "cautious",
        {"cautious": True},
    ),
    Entry(
        tf_optim_ext.AdamW,
        {**_ADAM, "weight_decay": 0.1},
        descendants.cautious_decay_adamw,
        ("momentum", "velocity"),
        None,
        {"cautious_weight_decay": "yes"},
        "cautious-decay",
        {"cautious_weight_decay": True},
    ),
    Entry(
        tf_optim_ext.ScheduleFreeSGD,
        {
            "learning_rate": 0.05,
            "momentum": 0.8,
            "warmup_steps": 3,
            **_AVERAGE,
            "weight_decay": 0.1,
        },
        schedule_free.schedulefreesgd,
        ("z",),
        None,
        {"momentum": 0.0, "warmup_steps": -1, **_BAD_AVERAGE},
    ),
    Entry(
        tf_optim_ext.ScheduleFreeAdamW,
        {**_ADAM, "warmup_steps": 3, **_AVERAGE, "weight_decay": 0.1},
        schedule_free.schedulefreeadamw,
        ("z", "velocity"),
        None,
        {"beta_1": 0.0, "beta_2": 1.0, "epsilon": -1.0, "warmup_steps": -1, **_BAD_AVERAGE},
    ),
    Entry(
        tf_optim_ext.ScheduleFreeRAdam,
        {**_ADAM, "silent_sgd_phase": False, **_AVERAGE, "weight_decay": 0.1},
        schedule_free.schedulefreeradam,
        ("z", "velocity"),
        None,
        {"beta_1": 0.0, "silent_sgd_phase": "yes", **_BAD_AVERAGE},
    ),
    Entry(
        tf_optim_ext.DoG,
        {"learning_rate": 0.7, "reps_rel": 1e-3, "epsilon": 1e-3, "weight_decay": 0.1},
        parameter_free.dog,
        ("initial_weights",),
        None,
        {"reps_rel": 0.0, "epsilon": 0.0},
    ),
    # The distance from the initial weights is a small difference.
    Entry(
        tf_optim_ext.LDoG,
        {"learning_rate": 0.7, "reps_rel": 0.05, "epsilon": 1e-3, "weight_decay": 0.1},
        parameter_free.ldog,
        ("initial_weights", "max_distance", "squared_norm_sum"),
        None,
        {"reps_rel": 0.0, "epsilon": 0.0},
        looseness={"max_distance": 20.0},
    ),
    Entry(
        tf_optim_ext.DAdaptAdam,
        {
            **_ADAM,
            "learning_rate": 0.7,
            **_D,
            "use_bias_correction": True,
            "weight_decay": 0.1,
        },
        parameter_free.dadaptadam,
        ("momentum", "velocity", "s"),
        None,
        {**_BAD_MOMENTS, **_BAD_D, "use_bias_correction": "yes"},
    ),
    # The gradient and the decay of the weights cancel in places.
    Entry(
        tf_optim_ext.DAdaptSGD,
        {"learning_rate": 0.7, "momentum": 0.6, **_D, "weight_decay": 0.1},
        parameter_free.dadaptsgd,
        ("s", "initial_weights"),
        None,
        {"momentum": 1.0, **_BAD_D},
        looseness={"s": 300.0},
    ),
    Entry(
        tf_optim_ext.DAdaptLion,
        {
            "learning_rate": 0.7,
            "beta_1": 0.7,
            "beta_2": 0.85,
            "initial_d": 0.01,
            "weight_decay": 0.1,
        },
        parameter_free.dadaptlion,
        ("momentum", "s"),
        None,
        {"beta_1": 1.0, "beta_2": -0.1, "initial_d": 0.0},
    ),
    # The estimate of d is the distance from the initial weights, a small difference; and squares of
    # gradients times d are too small.
    Entry(
        tf_optim_ext.Prodigy,
        {
            **_ADAM,
            "learning_rate": 0.7,
            "beta_3": 0.9,
            **_D,
            "d_coefficient": 1.3,
            "use_bias_correction": True,
            "safeguard_warmup": True,
            "weight_decay": 0.1,
        },
        parameter_free.prodigy,
        ("momentum", "velocity", "s", "initial_weights"),
        None,
        {**_BAD_MOMENTS, **_BAD_D, "beta_3": 1.0, "d_coefficient": 0.0},
        looseness={"w": 10.0, "momentum": 60.0, "velocity": 80.0, "s": 120.0},
        underflow=1e-29,
    ),
]
