"""Runs the packages that `recordings.descendants` names: their steps, slots and versions."""

import importlib
import importlib.machinery
import importlib.metadata
import sys
import types

import numpy as np

from recordings.builtin import version_torch

INNER_EPSILON = "exp_avg_sq_eps, which is by default added within the square root, too, is set to 0"


def _record_with_torch(recording, initial, gradients, optimizer_class, convert, hessians=None):
    """Runs an optimizer of PyTorch's interface.

    `convert` has for each slot a function of the state, the number of the step and the arguments.
    """
    import torch

    # The type of scalars in the state, whatever the type of the weights.
    torch.set_default_dtype(getattr(torch, recording.dtype))
    parameters = [torch.nn.Parameter(torch.tensor(theta)) for theta in initial]
    optimizer = optimizer_class(parameters, **recording.call)
    for t, gs in enumerate(gradients, 1):
        for parameter, g in zip(parameters, gs, strict=True):
            parameter.grad = torch.tensor(g)
        if hessians is None:
            optimizer.step()
        else:
            hessian = hessians.get(t)
            optimizer.step(hessian=hessian and [torch.tensor(hessian)])
        slots = [
            [
                np.array(convert[slot](optimizer.state[parameter], t, recording.call))
                for parameter in parameters
            ]
            for slot in recording.slots
        ]
        yield [parameter.detach().numpy() for parameter in parameters], slots


_ADAM_STATE = {
    "momentum": lambda state, t, call: state["exp_avg"],
    "velocity": lambda state, t, call: state["exp_avg_sq"],
    "velocity_hat": lambda state, t, call: state["max_exp_avg_sq"],
}

_CORRECTED_STATE = {
    "momentum": lambda state, t, call: state["exp_avg"] * (1 - call["betas"][0] ** t),
    "velocity": lambda state, t, call: state["exp_avg_sq"] * (1 - call["betas"][1] ** t),
}

_LAPROP_STATE = _ADAM_STATE | {
    "momentum": lambda state, t, call: state["exp_avg"] / call["lr"],
}

_MADGRAD_STATE = {
    "gradient_sum": lambda state, t, call: state["s"],
    "squared_sum": lambda state, t, call: state["grad_sum_sq"],
    "initial_weights": lambda state, t, call: state["x0"],
}


def record_pytorch_optimizer(recording, initial, gradients):
    import pytorch_optimizer

    name = recording.implementation.split(".")[-1]
    base = getattr(pytorch_optimizer, name)

    class WithoutInnerEpsilon(base):
        @staticmethod
        def apply_ams_bound(*arguments, **keywords):
            return base.apply_ams_bound(*arguments, **keywords, exp_avg_sq_eps=0.0)

    convert = {
        "Adan": _ADAM_STATE
        | {
            "difference": lambda state, t, call: state["exp_avg_diff"],
            "previous_gradient": lambda state, t, call: -state["previous_grad"],
        },
        "AdEMAMix": _ADAM_STATE | {"slow_momentum": lambda state, t, call: state["exp_avg_slow"]},
        "LaProp": _LAPROP_STATE,
        "MARS": _ADAM_STATE | {"previous_gradient": lambda state, t, call: state["last_grad"]},
        "SophiaH": {
            "momentum": lambda state, t, call: state["momentum"],
            "hessian": lambda state, t, call: state["hessian_moment"],
        },
    }.get(name, _ADAM_STATE)
    hessians = recording.arguments.get("hessian_estimates")
    if hessians is not None:
        hessians = {int(t): hessian for t, hessian in hessians.items()}
    optimizer_class = WithoutInnerEpsilon if INNER_EPSILON in recording.conversion else base
    return _record_with_torch(recording, initial, gradients, optimizer_class, convert, hessians)


def record_timm(recording, initial, gradients):
    # The modules of the optimizers alone: all of timm needs torchvision.
    for package in ("timm", "timm.optim"):
        parent = package.rpartition(".")[0]
        path = sys.modules[parent].__path__ if parent else None
        spec = importlib.machinery.PathFinder.find_spec(package, path)
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = spec.submodule_search_locations
    module, _, name = recording.implementation.rpartition(".")
    optimizer_class = getattr(importlib.import_module(module), name)
    convert = _LAPROP_STATE if name == "LaProp" else _ADAM_STATE
    return _record_with_torch(recording, initial, gradients, optimizer_class, convert)


def record_qhoptim(recording, initial, gradients):
    import qhoptim.pyt

    name = recording.implementation.split(".")[-1]
    convert = {
        "QHAdam": _CORRECTED_STATE,
        "QHM": {"momentum": lambda state, t, call: state["momentum_buffer"]},
    }[name]
    return _record_with_torch(recording, initial, gradients, getattr(qhoptim.pyt, name), convert)


def record_adabound(recording, initial, gradients):
    import adabound

    return _record_with_torch(recording, initial, gradients, adabound.AdaBound, _ADAM_STATE)


def record_madgrad(recording, initial, gradients):
    import madgrad

    return _record_with_torch(recording, initial, gradients, madgrad.MADGRAD, _MADGRAD_STATE)


def record_heavyball(recording, initial, gradients):
    import heavyball

    heavyball.utils.compile_mode = None

    # The state is that of the parameter's only view, under the name of the transformation.
    convert = {
        "momentum": lambda state, t, call: (
            state[0]["update_by_adam_exp_avg_0"] * (1 - call["betas"][0] ** t)
        ),
        "velocity": lambda state, t, call: (
            state[0]["update_by_adam_exp_avg_sq_0"] * (1 - call["betas"][1] ** t)
        ),
    }
    return _record_with_torch(recording, initial, gradients, heavyball.AdamW, convert)


def record_optax(recording, initial, gradients):
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    name = recording.implementation.split(".")[-1]
    optimizer = getattr(optax, name, None) or getattr(optax.contrib, name)
    optimizer = optimizer(**recording.call)
    convert = {
        "adamaxw": {
            "momentum": lambda state: state.mu,
            "norm": lambda state: [nu - recording.call["eps"] for nu in state.nu],
        },
        "adan": {
            "momentum": lambda state: state.m,
            "difference": lambda state: state.v,
            "velocity": lambda state: state.n,
            "previous_gradient": lambda state: state.g,
        },
        "adopt": {
            "momentum": lambda state: state.mu,
            "velocity": lambda state: state.nu,
        },
        "ademamix": {
            "momentum": lambda state: state.m1,
            "slow_momentum": lambda state: state.m2,
            "velocity": lambda state: state.nu,
        },
        "madgrad": {
            "gradient_sum": lambda state: state.s,
            "squared_sum": lambda state: state.grad_sum_sq,
            "initial_weights": lambda state: state.x0,
        },
    }[name]
    thetas = [jax.numpy.asarray(theta) for theta in initial]
    state = optimizer.init(thetas)
    for gs in gradients:
        updates, state = optimizer.update([jax.numpy.asarray(g) for g in gs], state, thetas)
        thetas = optax.apply_updates(thetas, updates)
        # The decay comes after the rest, but in MADGRAD before.
        rule = state[1 if name == "madgrad" else 0]
        yield thetas, [convert[slot](rule) for slot in recording.slots]


def _with_torch(package):
    return f"{package} {importlib.metadata.version(package)}, {version_torch()}"


def version_pytorch_optimizer():
    return _with_torch("pytorch_optimizer")


def version_timm():
    return _with_torch("timm")


def version_qhoptim():
    return _with_torch("qhoptim")


def version_adabound():
    return _with_torch("adabound")


def version_madgrad():
    return _with_torch("madgrad")


def version_heavyball():
    return _with_torch("heavyball")


def version_optax():
    return f"optax {importlib.metadata.version('optax')}, jax {importlib.metadata.version('jax')}"
