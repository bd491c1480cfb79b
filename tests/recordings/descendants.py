"""Recordings of descendants of Adam and of momentum, which Keras does not have.

Sources are, where they have one, the authors' packages, else the collections optax,
pytorch_optimizer and timm. They disagree about some optimizers; what is recorded follows the
papers, see the references.
"""

import numpy as np

from recordings.builtin import record_torch, version_torch
from recordings.format import MATRIX, SCALAR, SMALL, TENSOR, VECTOR, Recording
from recordings.packages import (
    INNER_EPSILON,
    record_adabound,
    record_heavyball,
    record_madgrad,
    record_optax,
    record_pytorch_optimizer,
    record_qhoptim,
    record_timm,
    version_adabound,
    version_heavyball,
    version_madgrad,
    version_optax,
    version_pytorch_optimizer,
    version_qhoptim,
    version_timm,
)

__all__ = [
    "RECORDINGS",
    "record_adabound",
    "record_heavyball",
    "record_madgrad",
    "record_optax",
    "record_pytorch_optimizer",
    "record_qhoptim",
    "record_timm",
    "record_torch",
    "version_adabound",
    "version_heavyball",
    "version_madgrad",
    "version_optax",
    "version_pytorch_optimizer",
    "version_qhoptim",
    "version_timm",
    "version_torch",
]

_ADAM = ("momentum", "velocity")
_AMSGRAD = ("momentum", "velocity", "velocity_hat")
_ADAN = ("momentum", "difference", "velocity", "previous_gradient")
_ADEMAMIX = ("momentum", "slow_momentum", "velocity")
_MADGRAD = ("gradient_sum", "squared_sum", "initial_weights")
_MARS = ("momentum", "velocity", "previous_gradient")

_EARLY_EPSILON = "eps, which is added to the square root before bias correction, is negligible"
_LATE_EPSILON = "eps, which is added to the square root after bias correction, is negligible"
_MADGRAD_RATE = "the implementation adds eps to the learning rate"


def _sophia_estimates():
    # Some are negative, as those of Hutchinson's method are.
    rng = np.random.default_rng(0)
    shape = (len(range(1, 25, 3)), *MATRIX)
    exponents = rng.uniform(-4, 4, size=shape)
    estimates = rng.choice([-1.0, 1.0, 1.0], size=shape) * 10**exponents
    estimates = estimates.astype(np.float32).astype(np.float64)
    return {str(t): h.tolist() for t, h in zip(range(1, 25, 3), estimates, strict=True)}


RECORDINGS = (
    Recording(
        name="torch_nadamw",
        implementation="torch.optim.NAdam",
        call={
            "lr": 0.03,
            "betas": (0.85, 0.95),
            "eps": 1e-2,
            "momentum_decay": 0.02,
            "weight_decay": 0.2,
            "decoupled_weight_decay": True,
            "foreach": False,
        },
        reference="nadamw",
        arguments={
            "learning_rate": 0.03,
            "beta_1": 0.85,
            "beta_2": 0.95,
            "epsilon": 1e-2,
            "momentum_decay": 0.02,
            "weight_decay": 0.2,
        },
        slots=_ADAM,
        shapes=(SCALAR, VECTOR, MATRIX),
    ),
    Recording(
        name="optax_adamaxw",
        implementation="optax.adamaxw",
        call={
            "learning_rate": 0.04,
            "b1": 0.8,
            "b2": 0.9,
            "eps": 1e-30,
            "weight_decay": 0.3,
        },
        reference="adamaxw",
        arguments={
            "learning_rate": 0.04,
            "beta_1": 0.8,
            "beta_2": 0.9,
            "epsilon": 1e-30,
            "weight_decay": 0.3,
        },
        slots=("momentum", "norm"),
        shapes=(SCALAR, VECTOR, SMALL),
        conversion=(
            "eps, which optax adds to the absolute gradients, is subtracted from nu to give the"
            " slot norm; it is negligible unless all gradients so far are zero"
        ),
    ),
    Recording(
        name="optax_adan",
        implementation="optax.adan",
        call={
            "learning_rate": 0.02,
            "b1": 0.9,
            "b2": 0.5,
            "b3": 0.95,
            "eps": 1e-3,
            "eps_root": 0.0,
            "weight_decay": 0.0,
        },
        reference="adan",
        arguments={
            "learning_rate": 0.02,
            "beta_1": 0.9,
            "beta_2": 0.5,
            "beta_3": 0.95,
            "epsilon": 1e-3,
            "weight_decay": None,
        },
        slots=_ADAN,
        shapes=(SCALAR, VECTOR, SMALL),
        conversion=(
            "optax has the average's factor b2 in one convention and 1 - b2, where the paper has"
            " one minus its own beta_2, in the other; both are the same if b2 is 0.5. No decay, as"
            " that of optax is not proximal"
        ),
    ),
    Recording(
        name="pytorch_optimizer_adan",
        implementation="pytorch_optimizer.Adan",
        call={
            "lr": 0.03,
            "betas": (0.85, 0.8, 0.9),
            "weight_decay": 0.4,
            "weight_decouple": False,
            "eps": 1e-2,
            "foreach": False,
        },
        reference="adan",
        arguments={
            "learning_rate": 0.03,
            "beta_1": 0.85,
            "beta_2": 0.8,
            "beta_3": 0.9,
            "epsilon": 1e-2,
            "weight_decay": 0.4,
        },
        slots=_ADAN,
        shapes=(SCALAR, VECTOR, TENSOR),
        conversion="its previous_grad is -1 times the slot previous_gradient",
    ),
    Recording(
        name="optax_adopt",
        implementation="optax.contrib.adopt",
        call={
            "learning_rate": 0.02,
            "b1": 0.8,
            "b2": 0.9,
            "eps": 1e-3,
            "use_clipping": True,
        },
        reference="adopt",
        arguments={
            "learning_rate": 0.02,
            "beta_1": 0.8,
            "beta_2": 0.9,
            "epsilon": 1e-3,
            "clipped": True,
            "weight_decay": None,
        },
        slots=_ADAM,
        shapes=(SCALAR, VECTOR, MATRIX),
    ),
    Recording(
        name="optax_adopt_unclipped",
        implementation="optax.contrib.adopt",
        call={
            "learning_rate": 0.01,
            "b1": 0.7,
            "b2": 0.95,
            "eps": 1e-2,
            "use_clipping": False,
        },
        reference="adopt",
        arguments={
            "learning_rate": 0.01,
            "beta_1": 0.7,
            "beta_2": 0.95,
            "epsilon": 1e-2,
            "clipped": False,
            "weight_decay": None,
        },
        slots=_ADAM,
        shapes=(VECTOR, SMALL),
    ),
    Recording(
        name="timm_adopt",
        implementation="timm.optim.adopt.Adopt",
        call={
            "lr": 0.03,
            "betas": (0.85, 0.97),
            "eps": 1e-3,
            "clip_exp": 0.25,
            "weight_decay": 0.3,
            "decoupled": True,
            "foreach": False,
        },
        reference="adopt",
        arguments={
            "learning_rate": 0.03,
            "beta_1": 0.85,
            "beta_2": 0.97,
            "epsilon": 1e-3,
            "clipped": True,
            "weight_decay": 0.3,
        },
        slots=_ADAM,
        shapes=(SCALAR, VECTOR, TENSOR),
    ),
    Recording(
        name="optax_ademamix",
        implementation="optax.contrib.ademamix",
        call={
            "learning_rate": 0.01,
            "b1": 0.8,
            "b2": 0.95,
            "b3": 0.98,
            "alpha": 4.0,
            "eps": 1e-3,
            "weight_decay": 0.3,
        },
        reference="ademamix",
        arguments={
            "learning_rate": 0.01,
            "beta_1": 0.8,
            "beta_2": 0.95,
            "beta_3": 0.98,
            "alpha": 4.0,
            "epsilon": 1e-3,
            "weight_decay": 0.3,
        },
        slots=_ADEMAMIX,
        shapes=(SCALAR, VECTOR, SMALL),
    ),
    Recording(
        name="pytorch_optimizer_ademamix",
        implementation="pytorch_optimizer.AdEMAMix",
        call={
            "lr": 0.02,
            "betas": (0.7, 0.9, 0.99),
            "weight_decay": 0.2,
            "weight_decouple": True,
            "alpha": 3.0,
            "t_alpha_beta3": 16,
            "eps": 1e-2,
            "foreach": False,
        },
        reference="ademamix",
        arguments={
            "learning_rate": 0.02,
            "beta_1": 0.7,
            "beta_2": 0.9,
            "beta_3": 0.99,
            "alpha": 3.0,
            "epsilon": 1e-2,
            "alpha_warmup_steps": 16,
            "beta_3_warmup_steps": 16,
            "weight_decay": 0.2,
        },
        slots=_ADEMAMIX,
        shapes=(VECTOR, TENSOR),
    ),
    Recording(
        name="timm_laprop",
        implementation="timm.optim.laprop.LaProp",
        call={
            "lr": 0.02,
            "betas": (0.85, 0.95),
            "eps": 1e-2,
            "weight_decay": 0.0,
            "foreach": False,
        },
        reference="laprop",
        arguments={
            "learning_rate": 0.02,
            "beta_1": 0.85,
            "beta_2": 0.95,
            "epsilon": 1e-2,
            "weight_decay": None,
        },
        slots=_ADAM,
        shapes=(SCALAR, VECTOR, MATRIX),
        conversion=(
            "its exp_avg is lr times the slot momentum; no decay, as it comes after the update"
        ),
    ),
    Recording(
        name="pytorch_optimizer_laprop",
        implementation="pytorch_optimizer.LaProp",
        call={
            "lr": 0.03,
            "betas": (0.7, 0.9),
            "weight_decay": 0.0,
            "eps": 1e-30,
            "foreach": False,
        },
        reference="laprop",
        arguments={
            "learning_rate": 0.03,
            "beta_1": 0.7,
            "beta_2": 0.9,
            "epsilon": 1e-30,
            "weight_decay": None,
        },
        slots=_ADAM,
        shapes=(VECTOR, SMALL),
        conversion=(
            "its exp_avg is lr times the slot momentum; no decay, as it comes after the update;"
            f" {INNER_EPSILON}; {_EARLY_EPSILON}"
        ),
    ),
    Recording(
        name="qhoptim_qhadam",
        implementation="qhoptim.pyt.QHAdam",
        call={
            "lr": 0.03,
            "betas": (0.9, 0.95),
            "nus": (0.6, 0.8),
            "weight_decay": 0.3,
            "decouple_weight_decay": True,
            "eps": 1e-2,
        },
        reference="qhadam",
        arguments={
            "learning_rate": 0.03,
            "beta_1": 0.9,
            "beta_2": 0.95,
            "nu_1": 0.6,
            "nu_2": 0.8,
            "epsilon": 1e-2,
            "weight_decay": 0.3,
        },
        slots=_ADAM,
        shapes=(SCALAR, VECTOR, MATRIX),
        conversion="its averages are those after bias correction, which is undone for the slots",
    ),
    Recording(
        name="qhoptim_qhm",
        implementation="qhoptim.pyt.QHM",
        call={
            "lr": 0.02,
            "momentum": 0.9,
            "nu": 0.7,
            "weight_decay": 0.4,
            "weight_decay_type": "direct",
        },
        reference="qhm",
        arguments={"learning_rate": 0.02, "beta": 0.9, "nu": 0.7, "weight_decay": 0.4},
        slots=("momentum",),
        shapes=(SCALAR, VECTOR, TENSOR),
    ),
    Recording(
        name="adabound_adabound",
        implementation="adabound.AdaBound",
        call={
            "lr": 0.01,
            "betas": (0.8, 0.95),
            "final_lr": 0.1,
            "gamma": 0.05,
            "eps": 1e-3,
            "weight_decay": 0,
            "amsbound": False,
        },
        reference="adabound",
        arguments={
            "learning_rate": 0.01,
            "final_learning_rate": 0.1,
            "beta_1": 0.8,
            "beta_2": 0.95,
            "gamma": 0.05,
            "epsilon": 1e-3,
            "amsgrad": False,
            "weight_decay": None,
        },
        slots=_ADAM,
        shapes=(SCALAR, VECTOR, MATRIX),
        conversion="no decay, as its decay is part of the gradient",
    ),
    Recording(
        name="adabound_amsbound",
        implementation="adabound.AdaBound",
        call={
            "lr": 0.02,
            "betas": (0.7, 0.6),
            "final_lr": 0.05,
            "gamma": 0.02,
            "eps": 1e-2,
            "weight_decay": 0,
            "amsbound": True,
        },
        reference="amsbound",
        arguments={
            "learning_rate": 0.02,
            "final_learning_rate": 0.05,
            "beta_1": 0.7,
            "beta_2": 0.6,
            "gamma": 0.02,
            "epsilon": 1e-2,
            "weight_decay": None,
        },
        slots=_AMSGRAD,
        shapes=(SCALAR, VECTOR, TENSOR),
        conversion="no decay, as its decay is part of the gradient",
    ),
    Recording(
        name="pytorch_optimizer_adabound",
        implementation="pytorch_optimizer.AdaBound",
        call={
            "lr": 0.03,
            "final_lr": 0.2,
            "betas": (0.85, 0.9),
            "gamma": 0.03,
            "weight_decay": 0.3,
            "weight_decouple": True,
            "ams_bound": False,
            "eps": 1e-2,
            "foreach": False,
        },
        reference="adabound",
        arguments={
            "learning_rate": 0.03,
            "final_learning_rate": 0.2,
            "beta_1": 0.85,
            "beta_2": 0.9,
            "gamma": 0.03,
            "epsilon": 1e-2,
            "amsgrad": False,
            "weight_decay": 0.3,
        },
        slots=_ADAM,
        shapes=(VECTOR, SMALL),
        conversion=INNER_EPSILON,
    ),
    Recording(
        name="pytorch_optimizer_stableadamw",
        implementation="pytorch_optimizer.StableAdamW",
        call={
            "lr": 0.04,
            "betas": (0.8, 0.95),
            "weight_decay": 0.3,
            "weight_decouple": True,
            "eps": 1e-2,
            "foreach": False,
        },
        reference="stableadamw",
        arguments={
            "learning_rate": 0.04,
            "beta_1": 0.8,
            "beta_2": 0.95,
            "epsilon": 1e-2,
            "weight_decay": 0.3,
        },
        slots=_ADAM,
        shapes=(SCALAR, VECTOR, MATRIX, TENSOR),
    ),
    Recording(
        name="madgrad_madgrad",
        implementation="madgrad.MADGRAD",
        call={
            "lr": 0.03,
            "momentum": 0.8,
            "weight_decay": 0.3,
            "eps": 1e-3,
            "decouple_decay": True,
        },
        reference="madgrad",
        arguments={
            "learning_rate": 0.03 + 1e-3,
            "momentum": 0.8,
            "epsilon": 1e-3,
            "weight_decay": 0.3,
        },
        slots=_MADGRAD,
        shapes=(SCALAR, VECTOR, SMALL),
        conversion=_MADGRAD_RATE,
    ),
    Recording(
        name="optax_madgrad",
        implementation="optax.contrib.madgrad",
        call={"learning_rate": 0.01, "momentum": 0.7, "weight_decay": 0.0, "eps": 1e-2},
        reference="madgrad",
        arguments={
            "learning_rate": 0.01 + 1e-2,
            "momentum": 0.7,
            "epsilon": 1e-2,
            "weight_decay": None,
        },
        slots=_MADGRAD,
        shapes=(VECTOR, TENSOR),
        dtype="float32",
        conversion=(
            f"{_MADGRAD_RATE}; no decay, as its decay is part of the gradient; in float32, as it"
            " computes the square root of the step in that"
        ),
    ),
    Recording(
        name="pytorch_optimizer_mars",
        implementation="pytorch_optimizer.MARS",
        call={
            "lr": 0.03,
            "betas": (0.8, 0.95),
            "gamma": 0.1,
            "mars_type": "adamw",
            "optimize_1d": True,
            "weight_decay": 0.3,
            "weight_decouple": True,
            "eps": 1e-30,
            "foreach": False,
        },
        reference="mars",
        arguments={
            "learning_rate": 0.03,
            "beta_1": 0.8,
            "beta_2": 0.95,
            "gamma": 0.1,
            "epsilon": 1e-30,
            "weight_decay": 0.3,
        },
        slots=_MARS,
        shapes=(SCALAR, VECTOR, SMALL, TENSOR),
        conversion=f"{INNER_EPSILON}; {_EARLY_EPSILON}",
    ),
    Recording(
        name="pytorch_optimizer_grams",
        implementation="pytorch_optimizer.Grams",
        call={
            "lr": 0.02,
            "betas": (0.85, 0.95),
            "weight_decay": 0.3,
            "weight_decouple": True,
            "eps": 1e-2,
            "foreach": False,
        },
        reference="grams",
        arguments={
            "learning_rate": 0.02,
            "beta_1": 0.85,
            "beta_2": 0.95,
            "epsilon": 1e-2,
            "weight_decay": 0.3,
        },
        slots=_ADAM,
        shapes=(SCALAR, VECTOR, MATRIX),
    ),
    # One variable, as all would have the same estimates.
    Recording(
        name="pytorch_optimizer_sophia",
        implementation="pytorch_optimizer.SophiaH",
        call={
            "lr": 0.5,
            "betas": (0.8, 0.7),
            "weight_decay": 0.25,
            "weight_decouple": True,
            "p": 0.0625,
            "update_period": 1000,
            "eps": 1e-3,
            "foreach": False,
        },
        reference="sophia",
        arguments={
            "learning_rate": 0.5 * 0.0625,
            "beta_1": 0.8,
            "beta_2": 0.7,
            "rho": 0.0625,
            "epsilon": 0.0625 * 1e-3,
            "weight_decay": 0.25 / 0.0625,
            "hessian_estimates": _sophia_estimates(),
        },
        slots=("momentum", "hessian"),
        shapes=(MATRIX,),
        conversion=(
            "it clips m / max(h, eps) to p, which is p times m / max(p h, p eps) clipped to 1, so"
            " that rho = p, learning_rate = lr p, weight_decay = its / p and epsilon = p eps"
        ),
    ),
    Recording(
        name="timm_cautious_adamw",
        implementation="timm.optim.adamw.AdamWLegacy",
        call={
            "lr": 0.02,
            "betas": (0.9, 0.95),
            "eps": 1e-30,
            "weight_decay": 0.3,
            "caution": True,
            "foreach": False,
        },
        reference="cautious_adamw",
        arguments={
            "learning_rate": 0.02,
            "beta_1": 0.9,
            "beta_2": 0.95,
            "epsilon": 1e-30,
            "weight_decay": 0.3,
        },
        slots=_ADAM,
        shapes=(SCALAR, VECTOR, MATRIX, TENSOR),
        conversion=_LATE_EPSILON,
    ),
    Recording(
        name="timm_cautious_lion",
        implementation="timm.optim.lion.Lion",
        call={
            "lr": 0.03,
            "betas": (0.9, 0.95),
            "weight_decay": 0.3,
            "caution": True,
            "foreach": False,
        },
        reference="cautious_lion",
        arguments={
            "learning_rate": 0.03,
            "beta_1": 0.9,
            "beta_2": 0.95,
            "weight_decay": 0.3,
        },
        slots=("momentum",),
        shapes=(SCALAR, VECTOR, MATRIX, TENSOR),
    ),
    Recording(
        name="heavyball_cautious_decay_adamw",
        implementation="heavyball.AdamW",
        call={
            "lr": 0.05,
            "betas": (0.9, 0.95),
            "eps": 1e-30,
            "weight_decay": 0.9,
            "cautious_weight_decay": True,
            "storage_dtype": "float64",
        },
        reference="cautious_decay_adamw",
        arguments={
            "learning_rate": 0.05,
            "beta_1": 0.9,
            "beta_2": 0.95,
            "epsilon": 1e-30,
            "weight_decay": 0.9,
        },
        slots=_ADAM,
        # Vectors start at zero: heavyball compares sign bits, and so does not decay negative
        # weights whose update is zero, as it is up to the first gradient that is not.
        shapes=(VECTOR,) * 5,
        conversion=(
            "eps is negligible; its averages are those after bias correction, which is undone for"
            " the slots"
        ),
    ),
)
